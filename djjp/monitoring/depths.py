"""Depths: how many jobs waited or ran in each queue, sampled once a minute while a consumer lived.

Samples of each minute are kept for two days, those of full hours for 35 days. A count of 100,000 means that
many, or more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Max

from djjp import engine, models
from djjp.durations import to_seconds, to_utc
from djjp.engine import Engine


class QueueDepth(NamedTuple):
    """The live jobs of a queue at the start of a minute.

    Attributes:
        ready, scheduled, blocked, running: at most 100,000, which means as many, or more.
        oldest_wait: the seconds for which the job that was due first had waited; None without one, or where its
            row does not show it.
    """

    queue: str
    minute: datetime
    ready: int
    scheduled: int
    blocked: int
    running: int
    oldest_wait: float | None


def depths(since: float | datetime, queue: str | None = None) -> list[QueueDepth]:
    """Return the samples since a time, the oldest first; queues without jobs have none.

    Args:
        since: as seconds since the epoch or an aware time.
        queue: only those of this queue.
    """
    start = to_seconds(since) if isinstance(since, datetime) else since
    only = {} if queue is None else {"queue": queue}
    return engine.run(lambda engine: _read(engine, minute__gte=start, **only))


def latest_depths() -> list[QueueDepth]:
    """Return the latest sample of each queue that had jobs then."""

    def verb(engine: Engine) -> list[QueueDepth]:
        latest = models.Depth.objects.using(engine.db.alias).aggregate(latest=Max("minute"))
        return [] if latest["latest"] is None else _read(engine, minute=latest["latest"])

    return engine.run(verb)


def _read(engine: Engine, **conditions: Any) -> list[QueueDepth]:
    rows = models.Depth.objects.using(engine.db.alias).filter(**conditions).exclude(queue="")
    return [
        QueueDepth._make((queue, to_utc(minute), *others))
        for queue, minute, *others in rows.order_by("minute", "queue").values_list(
            "queue", "minute", "ready", "scheduled", "blocked", "running", "oldest_wait"
        )
    ]
