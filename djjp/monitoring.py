"""Counts of jobs, consumers with their running jobs, and the latest jobs; and pruning on request."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, Min

from djjp import conf, engine
from djjp.durations import seconds
from djjp.engine import Engine
from djjp.models import Consumer, Job, State

#: How many rows a step of pruning looks at.
PRUNE_ROWS = 1000


class RunningJobs(NamedTuple):
    """Jobs of one name that a consumer holds: running jobs, and jobs that it has claimed ahead."""

    name: str
    jobs: int
    since: datetime


class ConsumerInfo(NamedTuple):
    """A consumer that is registered: alive, or not yet found dead."""

    name: str
    queues: list[str] | None
    limit: int
    started_at: datetime
    heartbeat_at: datetime
    runs: list[RunningJobs]


def counts() -> dict[str, dict[State, int]]:
    """Return the number of jobs in each queue by state; every row of the queue is read once."""
    rows = engine.run(
        lambda engine: list(
            Job.objects.using(engine.db.alias)
            .order_by()
            .values_list("queue", "state")
            .annotate(Count("pk"))
        )
    )
    found: dict[str, dict[State, int]] = {}
    for name, state, count in sorted(rows):
        found.setdefault(name, {})[State(state)] = count
    return found


def consumers() -> list[ConsumerInfo]:
    """Return the consumers, ordered by name, with their running jobs."""
    return engine.run(_consumers)


def _consumers(engine: Engine) -> list[ConsumerInfo]:
    runs: dict[str | None, list[RunningJobs]] = defaultdict(list)
    running = Job.objects.using(engine.db.alias).filter(state=State.RUNNING).order_by()
    rows = running.values_list("consumer", "name").annotate(Count("pk"), Min("started_at"))
    for consumer, name, count, since in sorted(rows):
        runs[consumer].append(RunningJobs(name, count, since))
    return [
        ConsumerInfo(
            row.name,
            None if row.queues is None else json.loads(row.queues),
            row.concurrency_limit,
            row.started_at,
            row.heartbeat_at,
            runs[row.name],
        )
        for row in Consumer.objects.using(engine.db.alias).order_by("pk")
    ]


def latest_jobs(
    *, state: str | None = None, queue: str | None = None, name: str | None = None, limit: int
) -> list[Job]:
    """Return the newest matching jobs, without their arguments and results."""
    wanted = {"state": state, "queue": queue, "name": name}
    given = {field: value for field, value in wanted.items() if value is not None}
    return engine.run(
        lambda engine: list(
            Job.objects.using(engine.db.alias)
            .filter(**given)
            .defer("arguments", "result")
            .order_by("-pk")[:limit]
        )
    )


def prune(keep_succeeded: float | None = None, keep_failed: float | None = None) -> int:
    """Delete the jobs that ended long enough ago, in small batches; returns how many there were.

    Args:
        keep_succeeded: seconds for which succeeded jobs are kept; by default as the settings say.
        keep_failed: likewise for failed and cancelled ones.
    """
    settings = conf.current()
    kept = [
        ((State.SUCCEEDED,), keep_succeeded, settings.keep_succeeded),
        ((State.FAILED, State.CANCELLED), keep_failed, settings.keep_failed),
    ]
    total = 0
    for states, given, usual in kept:
        keep = usual if given is None else given
        if keep is not None:
            total += _prune(states, time.time() - seconds("keep", keep))
    return total


def _prune(states: Sequence[State], before: float) -> int:
    total, after = 0, None
    while True:
        count, after = engine.run(partial(_prune_some, states, before, after))
        total += count
        if after is None:
            return total


def _prune_some(
    states: Sequence[State], before: float, after: UUID | None, engine: Engine
) -> tuple[int, UUID | None]:
    return engine.pruning.prune(states, before, after, PRUNE_ROWS)
