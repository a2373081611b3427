"""Slowest: of the newest jobs of a name those that ran for longest.

No index has jobs by name, so the newest jobs of all names are read back for a limited time.
"""

from __future__ import annotations

import time
from datetime import datetime
from math import inf
from typing import NamedTuple
from uuid import UUID

from djjp import engine
from djjp.durations import to_datetime, to_seconds
from djjp.engine import Engine
from djjp.ids import made_at
from djjp.models import FINISHED, Job
from djjp.monitoring.filters import Filter
from djjp.monitoring.search import SECONDS, conditions_of, steps

#: The jobs of the name that are compared at most.
MOST = 1_000


class Run(NamedTuple):
    """The last attempt of a job that has ended.

    Attributes:
        seconds: how long it ran.
    """

    id: UUID
    queue: str
    state: str
    consumer: str | None
    started_at: datetime
    seconds: float


class Slowest(NamedTuple):
    """The longest runs among the newest jobs of a name, the longest first.

    Attributes:
        compared: the number of jobs that were compared, of those that have ended.
        oldest: when the oldest of the jobs that were read was enqueued; None without any.
        looked_back_to: the time to which the search had come when it ended before its end; None if it has not.
    """

    runs: list[Run]
    compared: int
    oldest: datetime | None
    looked_back_to: datetime | None


def slowest(name: str, *, limit: int = 20, time_limit: float = inf) -> Slowest:
    """Return the longest runs among the newest jobs of a name.

    Args:
        limit: the number of runs to return at most.
        time_limit: the seconds after which the search begins no further step, if they are fewer than 0.2.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(
        lambda engine: _slowest(engine, name, limit, time.monotonic() + min(SECONDS, time_limit))
    )


def _slowest(engine: Engine, name: str, limit: int, deadline: float) -> Slowest:
    # As a condition it is a name, not a pattern: a name by hand can have these characters.
    wanted = conditions_of(Filter(name=name))
    ids: list[UUID] = []
    stopped = None
    for found, stopped in steps(engine, wanted, (None, None), newest_first=True, deadline=deadline):
        ids += found
        if len(ids) >= MOST or stopped is not None:
            break
    ids = ids[:MOST]
    runs = _runs(engine, name, ids)
    return Slowest(
        sorted(runs, key=lambda run: run.seconds, reverse=True)[:limit],
        len(runs),
        _made(ids[-1]) if ids else None,
        _made(stopped) if stopped is not None and len(ids) < MOST else None,
    )


def _runs(engine: Engine, name: str, ids: list[UUID]) -> list[Run]:
    columns = ("pk", "queue", "state", "consumer", "started_at", "finished_at")
    rows = Job.objects.using(engine.db.alias).filter(pk__in=ids, name=name, state__in=FINISHED)
    return [
        Run(id, queue, state, consumer, started, max(0.0, to_seconds(end) - to_seconds(started)))
        for id, queue, state, consumer, started, end in rows.order_by().values_list(*columns)
        if started is not None and end is not None
    ]


def _made(id: UUID) -> datetime:
    """Return when a job was enqueued by its id, which by hand can be of any version."""
    return to_datetime(min(made_at(id), time.time()))
