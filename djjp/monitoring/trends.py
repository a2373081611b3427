"""Trends: what has ended, how long jobs waited, and how deep the queues were, over an hour, a day or a week."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from django.db.models import Sum

from djjp import engine
from djjp.durations import to_datetime, to_seconds
from djjp.engine import Engine
from djjp.engine.tiles import DAY, HOUR, MINUTE
from djjp.models import Depth, Release, Total
from djjp.models import Span as Rows
from djjp.monitoring.totals import By, Figures, Histogram, without_runs

#: The rows of totals from which on a long span is read from those of hours.
MOST_ROWS = 20_000


class Span(NamedTuple):
    """A span of time up to now, and the length of its intervals, in seconds."""

    name: str
    seconds: int
    step: int


SPANS = {
    each.name: each
    for each in (Span("1h", HOUR, MINUTE), Span("24h", DAY, 10 * MINUTE), Span("7d", 7 * DAY, HOUR))
}


class Live(NamedTuple):
    """The live jobs of all queues at one time, as `depths` counts them."""

    ready: int
    scheduled: int
    blocked: int
    running: int


class Interval(NamedTuple):
    """The figures of an interval.

    Attributes:
        starts_at: in seconds since the epoch.
        seconds: its length; that of the last one is the time that has passed, one minute at least.
        wait_p50, wait_p95: the seconds that half, or 95 %, of the jobs waited at most; None if none started.
        live: the live jobs when it began; None if no consumer counted them.
    """

    starts_at: float
    seconds: float
    succeeded: int
    failed: int
    cancelled: int
    wait_p50: float | None
    wait_p95: float | None
    live: Live | None

    @property
    def ended(self) -> int:
        """The number of jobs that ended."""
        return self.succeeded + self.failed + self.cancelled

    def per_minute(self, number: int) -> float:
        """Return a number of this interval as one of each minute."""
        return number * 60 / self.seconds


class Appearance(NamedTuple):
    """A release, and when the first consumer that has it started, in seconds since the epoch."""

    release: str
    at: float


class Trend(NamedTuple):
    """The intervals of a span, the oldest first, and the releases that appeared in it."""

    span: Span
    step: int
    intervals: list[Interval]
    releases: list[Appearance]


def trend(span: Span, *, queue: str | None = None, name: str | None = None) -> Trend:
    """Return the figures of a span.

    Of a day with very many names the intervals are hours, so that it is read from fewer rows.

    Args:
        queue: only of this queue.
        name: only of this job name; the live jobs are not known then.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    now = time.time()
    step = span.step
    if MINUTE < step < HOUR and engine.run(lambda engine: _has_many(engine, now - span.seconds)):
        step = HOUR
    starts = _starts(span, step, now)
    by: By = "minute" if step < HOUR else "hour"
    ended: dict[int, list[Figures]] = defaultdict(list)
    for figures in without_runs(starts[0], queue=queue, name=name, by=by):
        if figures.starts_at is not None:
            ended[int(figures.starts_at.timestamp()) // step * step].append(figures)
    live = {} if name is not None else engine.run(lambda engine: _live(engine, starts, queue))
    intervals = [
        _interval(start, min(step, max(now - start, 60.0)), ended[start], live.get(start))
        for start in starts
    ]
    return Trend(span, step, intervals, appearances(starts[0]))


def appearances(since: float = 0.0) -> list[Appearance]:
    """Return the changes of the release of the consumers since a time, the oldest first: the last 200 are kept.

    Args:
        since: in seconds since the epoch.
    """

    def read(engine: Engine) -> list[Appearance]:
        rows = Release.objects.using(engine.db.alias).filter(appeared_at__gte=to_datetime(since))
        return [
            Appearance(name or "", to_seconds(at))
            for name, at in rows.order_by("pk").values_list("name", "appeared_at")
        ]

    found = engine.run(read)
    # Two consumers that start at one moment can both note it.
    return [
        each
        for number, each in enumerate(found)
        if not number or found[number - 1].release != each.release
    ]


def _starts(span: Span, step: int, now: float) -> list[int]:
    last = int(now) // step * step
    return list(range(last - span.seconds + step, last + 1, step))


def _has_many(engine: Engine, since: float) -> bool:
    rows = Total.objects.using(engine.db.alias).filter(span=Rows.MINUTE, starts_at__gte=int(since))
    return rows[:MOST_ROWS].count() >= MOST_ROWS


def _live(engine: Engine, starts: Iterable[int], queue: str | None) -> dict[int, Live]:
    """Return the live jobs at these minutes; those of a minute in which there were none have a row too."""
    counted = Depth.objects.using(engine.db.alias).filter(minute__in=[*starts])
    if queue is not None:
        counted = counted.filter(queue__in=["", queue])  # "" marks each minute that is counted
    rows = counted.values("minute")
    sums = rows.annotate(*(Sum(each) for each in Live._fields)).order_by()
    return {minute: Live(*counts) for minute, *counts in sums.values_list("minute", *_SUMS)}


_SUMS = [f"{each}__sum" for each in Live._fields]


def _interval(start: int, seconds: float, ended: Iterable[Figures], live: Live | None) -> Interval:
    each = list(ended)
    waits: Counter[int] = Counter()
    for figures in each:
        waits.update(figures.waits.buckets)
    waited = Histogram(buckets=waits)
    return Interval(
        float(start),
        seconds,
        sum(figures.succeeded for figures in each),
        sum(figures.failed for figures in each),
        sum(figures.cancelled for figures in each),
        waited.percentile(50),
        waited.percentile(95),
        live,
    )
