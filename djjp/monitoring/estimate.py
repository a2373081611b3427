"""Estimates: how fast jobs start, and when the turn of one of them comes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from django.db.models import Min, Sum

from djjp.engine import Engine
from djjp.engine.line import End
from djjp.models import Job, Span, Total

#: The last seconds whose ends count.
LOOK_BACK = 300.0
#: The number of ends from which a rate is measured.
_FEWEST = 3


def starts_at(now: float, before: int, rate: float | None, *, busy: bool) -> float | None:
    """Return when a job starts, in seconds since the epoch; None if it is unknown.

    Args:
        before: the number of jobs that start before it.
        rate: the number of jobs that end in a second.
        busy: whether all slots are taken, so that one must become free for it.
    """
    if not busy and not before:
        return now
    return None if rate is None else now + (before + busy) / rate


def rate(engine: Engine, job: Job, now: float, *, in_queue: bool, totals: bool) -> float | None:
    """Return the number of jobs that end in a second, by the last minutes; None if hardly any did.

    Args:
        in_queue: count the jobs of its queue only.
        totals: read the totals too, where the rows show nothing.
    """
    ends = engine.line.recent_ends(job, in_queue=in_queue)
    measured = of_ends(ends, now)
    if measured is None and totals:
        measured = _of_totals(engine, job.queue if in_queue else None, now)
    return measured


def of_ends(ends: Sequence[End], now: float) -> float | None:
    """Return the rate of the last executions that have ended, in any order.

    The span ends now: tiny jobs end in batches, and the last batch says little.
    """
    recent = [each for each in ends if now - LOOK_BACK <= each.finished <= now + 1]
    if len(recent) < _FEWEST:
        return None
    # Half of them take longer than the median: one long job does not stretch the span.
    usual = median(max(0.0, each.finished - each.started) for each in recent)
    first, last = min(each.finished for each in recent), max(each.finished for each in recent)
    return len(recent) / max(max(last, now) - first + usual, 1e-3)


def _of_totals(engine: Engine, queue: str | None, now: float) -> float | None:
    """Return the rate of the last whole minutes, from the first one of them in which jobs ended."""
    minute = int(now // 60) * 60
    rows = Total.objects.using(engine.db.alias).filter(
        span=Span.MINUTE, starts_at__gte=minute - int(LOOK_BACK), starts_at__lt=minute
    )
    if queue is not None:
        rows = rows.filter(queue=queue)
    found = rows.aggregate(Min("starts_at"), Sum("succeeded"), Sum("failed"))
    ended = (found["succeeded__sum"] or 0) + (found["failed__sum"] or 0)
    return ended / (minute - found["starts_at__min"]) if ended >= _FEWEST else None


def rate_frees_at(starts: Sequence[tuple[float, int]], most: int) -> float | None:
    """Return when a start under a rate is free again; None if one is free now.

    Args:
        starts: the counted starts, by the time until which they count, the earliest first.
        most: the number of starts that the rate allows.
    """
    left = sum(count for _, count in starts)
    if left < most:
        return None
    for until, count in starts:
        left -= count
        if left < most:
            return until
    return None
