"""Names: the job names of a time with their figures, from totals alone.

A name has many rows of minutes: a longer time is read from those of hours or days, and begins with a whole one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from djjp import engine
from djjp.durations import to_utc
from djjp.engine.tiles import DAY, HOUR, MINUTE, Tile
from djjp.models import Span
from djjp.monitoring.totals import Figures, Histogram, of_group

#: The orders of a list of names; each but "name" begins with the largest.
ORDERS = (
    *("ended", "name", "succeeded", "failed", "retried", "share"),
    *("run_p50", "run_p95", "run_p99", "wait_p50", "wait_p95", "wait_p99", "last"),
)
# The longest times that are read from the rows of minutes and of hours, in seconds.
_MINUTES_UP_TO, _HOURS_UP_TO = 2 * HOUR, 3 * DAY


class NameInfo(NamedTuple):
    """A job name with its figures of a time, in all queues.

    Attributes:
        last: the minute, hour or day of its last end in this time, at its start.
    """

    name: str
    figures: Figures
    last: datetime

    @property
    def share_failed(self) -> float | None:
        """The part of its ends that failed for good: see `share_failed`."""
        return share_failed(self.figures)


class Names(NamedTuple):
    """Some job names of a time.

    Attributes:
        matching: the number of names that match the search; not all need to be in `names`.
        since: when the time begins.
    """

    names: list[NameInfo]
    matching: int
    since: datetime


def share_failed(figures: Figures) -> float | None:
    """Return the part of the ends that failed for good, of those that succeeded or failed; None without any."""
    ended = figures.succeeded + figures.failed
    return figures.failed / ended if ended else None


def names(seconds: float, *, search: str = "", order: str = "ended", limit: int = 100) -> Names:
    """Return the job names that had an end, or a failed attempt, in the last seconds.

    Args:
        search: only names that have this text in any case; with `*` or `?` only those that match it as a pattern.
        order: one of `ORDERS`.
        limit: the number of names to return at most.

    Raises:
        ValueError: there is no such order.
        QueueUnavailable: the queue's database does not answer.
    """
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}, not {order!r}")
    tile = _tile(seconds, time.time())
    groups = engine.run(lambda engine: engine.history.read([tile], {}, ("name",)))
    found = [
        NameInfo(group.name, of_group(group, {}, ("name",)), to_utc(group.last))
        for group in groups
        if _matches(group.name, search)
    ]
    found.sort(key=lambda each: each.name)
    if order != "name":
        found.sort(key=lambda each: _rank(each, order), reverse=True)
    return Names(found[:limit], len(found), to_utc(tile.start))


def _rank(each: NameInfo, order: str) -> float:
    """Return the value by which a name is ordered; names without it come last."""
    key = _KEYS.get(order)
    value = getattr(each.figures, order) if key is None else key(each)
    return -1.0 if value is None else float(value)


def _tile(seconds: float, now: float) -> Tile:
    """Return the rows of a time up to now, of one span: a name has few of them."""
    spans = ((_MINUTES_UP_TO, Span.MINUTE, MINUTE), (_HOURS_UP_TO, Span.HOUR, HOUR))
    span, length = next(
        ((span, length) for longest, span, length in spans if seconds <= longest), (Span.DAY, DAY)
    )
    return Tile(span, int(now - seconds) // length * length, None)


def _matches(name: str, search: str) -> bool:
    if {"*", "?"} & {*search}:
        return fnmatchcase(name, search.replace("[", "[[]"))
    return search.casefold() in name.casefold()


def _quantile(histogram: str, q: int) -> Callable[[NameInfo], float | None]:
    def key(each: NameInfo) -> float | None:
        found: Histogram = getattr(each.figures, histogram)
        return found.percentile(q)

    return key


_KEYS: dict[str, Callable[[NameInfo], float | None]] = {
    "share": lambda each: each.share_failed,
    "last": lambda each: each.last.timestamp(),
    **{f"run_p{q}": _quantile("runs", q) for q in (50, 95, 99)},
    **{f"wait_p{q}": _quantile("waits", q) for q in (50, 95, 99)},
}
