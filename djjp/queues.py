"""Pause and resume queues: the jobs of a paused queue wait, and keep their order, until it is resumed."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from djjp import engine
from djjp.bounds import LONGEST_QUEUE, require_text
from djjp.durations import END_OF_TIME, to_datetime, unchecked_seconds
from djjp.models import Queue

__all__ = ["pause", "paused", "resume"]


def pause(name: str, duration: float | timedelta | None = None) -> datetime | None:
    """Pause a queue: its jobs wait, running jobs continue. Any name can be paused, even without jobs.

    Args:
        duration: seconds, or a timedelta, after which the queue resumes automatically; None for no end
            before `resume()`.

    Returns:
        The time at which it resumes automatically.

    Raises:
        ValueError: the name is invalid, or the duration is not above 0, or ends after the year 9998.
        QueueUnavailable: the queue's database does not answer.
    """
    validate_name(name)
    now = time.time()
    until = None if duration is None else now + float(unchecked_seconds(duration))
    if until is not None and not now < until <= END_OF_TIME:
        raise ValueError(
            f"duration is {duration!r}; it must be above 0 and end before the year 9999, or None for no end"
        )
    engine.run(lambda engine: engine.queues.pause(name, now, until))
    return None if until is None else to_datetime(until)


def validate_name(name: str) -> None:
    """Raise ValueError, with the reason, if this is no name of a queue."""
    require_text("the queue", name, LONGEST_QUEUE)
    if "*" in name:
        raise ValueError(f"the queue is {name!r}; queues are paused by their names, one by one")


def resume(name: str) -> bool:
    """Resume a paused queue; return whether it was paused.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    now = time.time()
    try:
        validate_name(name)
    except ValueError:
        return False
    return engine.run(lambda engine: engine.queues.resume(name, now))


def paused() -> dict[str, datetime | None]:
    """Return the paused queues by name, each with the time at which it resumes automatically."""
    now = to_datetime(time.time())

    def load(engine: engine.Engine) -> dict[str, datetime | None]:
        rows = Queue.objects.using(engine.db.alias).order_by("pk").values_list("pk", "paused_until")
        return {name: until for name, until in rows if until is None or until > now}

    return engine.run(load)
