"""Totals: what has ended, how long it waited and how long it ran: exact figures, not samples.

They are those of the transactions that ended the jobs, up to the last commit: what maintenance has not added
up yet is read too. Figures of single minutes are kept for two days, of hours for 35 days, of days for good.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from math import isfinite
from typing import Literal, NamedTuple

from djjp import engine
from djjp.durations import to_seconds, to_utc
from djjp.engine import Engine
from djjp.engine.history import HISTOGRAMS, Group
from djjp.engine.sums import FIRST_BUCKET
from djjp.engine.tiles import DAY, EVER, HOUR, MINUTE, Tile, tiles
from djjp.models import Span

By = Literal["none", "queue", "name", "minute", "hour", "day"]

_SPANS = {"minute": (Span.MINUTE, MINUTE), "hour": (Span.HOUR, HOUR), "day": (Span.DAY, DAY)}
_COLUMNS: dict[str, tuple[str, ...]] = {"none": (), "queue": ("queue",), "name": ("queue", "name")}


@dataclass(frozen=True)
class Histogram:
    """Durations, counted by powers of two.

    Attributes:
        seconds: their sum.
        buckets: the number of durations by their bucket: bucket e has those from 2^(e-1) s up to 2^e s; -10,
            the first one, also has the shorter ones.
    """

    seconds: float = 0.0
    buckets: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        """The mean in seconds; None without a duration."""
        return self.seconds / self.count if self.count else None

    def percentile(self, q: float) -> float | None:
        """Return the duration in seconds that a percentage of them does not exceed; None without a duration.

        It is in the right bucket, so it is right to a factor of two.

        Args:
            q: from 0 to 100.
        """
        if not 0 <= q <= 100:
            raise ValueError(f"a percentile is from 0 to 100, not {q!r}")
        rank = q / 100 * self.count
        before = 0
        for bucket, number in sorted(self.buckets.items()):
            if number and before + number >= rank:
                lower = 0.0 if bucket <= FIRST_BUCKET else 2.0 ** (bucket - 1)
                return lower + (2.0**bucket - lower) * max(0.0, rank - before) / number
            before += number
        return None


@dataclass(frozen=True)
class Figures:
    """The ends of some jobs.

    Attributes:
        queue, name: "" where they are those of all.
        starts_at: the start of their minute, hour or day; None where they are of the whole time.
        failed: the jobs that failed for good.
        retried: the attempts that failed, or asked for it, and were followed by another one.
        rescued: the attempts that ended with the death of their consumer and were followed by another one.
        late: the outcomes that the fence refused.
        waits: the waiting times of jobs before their first start, from when they were due. Not known of jobs
            that waited for others of their pipeline, and of jobs that were claimed before: retried or
            released, or over a limit or rate.
        runs: the running times of attempts.
    """

    queue: str = ""
    name: str = ""
    starts_at: datetime | None = None
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    cancelled: int = 0
    rescued: int = 0
    late: int = 0
    waits: Histogram = field(default_factory=Histogram)
    runs: Histogram = field(default_factory=Histogram)

    @property
    def ended(self) -> int:
        """The number of jobs that have ended."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def wait_seconds(self) -> float:
        """The sum of the waiting times."""
        return self.waits.seconds

    @property
    def run_seconds(self) -> float:
        """The sum of the running times."""
        return self.runs.seconds


def totals(
    since: float | datetime,
    until: float | datetime | None = None,
    *,
    queue: str | None = None,
    name: str | None = None,
    by: By = "none",
) -> list[Figures]:
    """Return what has ended in a time, by queue and name.

    Args:
        since: the minute in which it begins; as seconds since the epoch or an aware time. Where the figures of
            minutes are gone, it begins with the next whole hour or day that has figures.
        until: the end of the time, with the whole of its minute; None for now.
        queue, name: only of this queue, or of this name.
        by: "none" for one sum, which there always is; "queue"; "name" for each name in each queue; "minute",
            "hour" or "day" for each one that has figures.
    """
    query = _Query.of(since, until, queue, name, by)
    return query.results(engine.run(query.read))


async def atotals(
    since: float | datetime,
    until: float | datetime | None = None,
    *,
    queue: str | None = None,
    name: str | None = None,
    by: By = "none",
) -> list[Figures]:
    """Do what `totals` does, for a coroutine."""
    query = _Query.of(since, until, queue, name, by)
    return query.results(await engine.arun(query.read))


def ever(name: str | None = None) -> list[Figures]:
    """Return all that has ever ended, by queue and name. These figures never fall.

    Args:
        name: only of this name.
    """
    query = _ever(name)
    return query.results(engine.run(query.read))


async def aever(name: str | None = None) -> list[Figures]:
    """Do what `ever` does, for a coroutine."""
    query = _ever(name)
    return query.results(await engine.arun(query.read))


class _Query(NamedTuple):
    """The rows to read, the queue or name of them, and the columns by which their figures are apart."""

    tiles: list[Tile]
    only: dict[str, str]
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls,
        since: float | datetime,
        until: float | datetime | None,
        queue: str | None,
        name: str | None,
        by: By,
    ) -> _Query:
        start, end = _seconds(since), None if until is None else _seconds(until)
        only = {key: each for key, each in (("queue", queue), ("name", name)) if each is not None}
        if by in _SPANS:
            span, length = _SPANS[by]
            last = None if end is None else int(end) + 1
            return cls([Tile(span, int(start) // length * length, last)], only, ("starts_at",))
        if by not in _COLUMNS:
            raise ValueError(f"by is none, queue, name, minute, hour or day, not {by!r}")
        return cls(tiles(start, end, time.time()), only, _COLUMNS[by])

    def read(self, engine: Engine, histograms: Collection[str] = HISTOGRAMS) -> list[Group]:
        return engine.history.read(self.tiles, self.only, self.columns, histograms=histograms)

    def results(self, groups: list[Group]) -> list[Figures]:
        if not self.columns and not groups:
            return [Figures(self.only.get("queue", ""), self.only.get("name", ""))]
        return sorted((of_group(group, self.only, self.columns) for group in groups), key=_order)


def _ever(name: str | None) -> _Query:
    return _Query([EVER], {} if name is None else {"name": name}, _COLUMNS["name"])


def ends_by_queue(since: float, *, in_hours: bool = False) -> list[Figures]:
    """Return what has ended in each queue since a time, without the times that jobs waited and ran.

    Args:
        since: as `totals` takes it.
        in_hours: begin with the hour that has this time: the rows are few then, where very many names are.
    """
    query = _Query.of(since, None, None, None, "queue")
    if in_hours:
        hours = Tile(Span.HOUR, int(since) // HOUR * HOUR, None)
        query = query._replace(tiles=[hours])
    return query.results(engine.run(partial(query.read, histograms=())))


def without_runs(since: float, *, queue: str | None, name: str | None, by: By) -> list[Figures]:
    """Return what `totals` does, without the times that jobs ran: half the work where many rows are read."""
    query = _Query.of(since, None, queue, name, by)
    return query.results(engine.run(partial(query.read, histograms=("waits",))))


def _order(figures: Figures) -> tuple[float, str, str]:
    start = figures.starts_at
    return 0.0 if start is None else start.timestamp(), figures.queue, figures.name


def of_group(group: Group, only: Mapping[str, str], columns: tuple[str, ...]) -> Figures:
    """Return the figures of a group that was read by these columns."""
    sums = group.sums
    return Figures(
        queue=group.queue or only.get("queue", ""),
        name=group.name or only.get("name", ""),
        starts_at=to_utc(group.starts_at) if "starts_at" in columns else None,
        waits=_histogram(sums.waited, sums.waits),
        runs=_histogram(sums.ran, sums.runs),
        **sums.counts,
    )


def _histogram(seconds: float, buckets: Mapping[str, int]) -> Histogram:
    """Return a histogram; no JSON has the NaN or the infinity that a row by hand can have in place of seconds."""
    numbers = {int(bucket): number for bucket, number in buckets.items()}
    return Histogram(seconds if isfinite(seconds) else 0.0, numbers)


def _seconds(at: float | datetime) -> float:
    return to_seconds(at) if isinstance(at, datetime) else float(at)
