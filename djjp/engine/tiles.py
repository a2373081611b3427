"""Tiles: the rows of the totals that have the figures of a time."""

from __future__ import annotations

from typing import NamedTuple

from djjp.models import Span

#: The seconds of spans.
MINUTE, HOUR, DAY = 60, 3600, 86_400
#: The lengths of the periods of rows, in seconds.
LENGTHS = {Span.MINUTE: MINUTE, Span.HOUR: HOUR, Span.DAY: DAY}
#: For how long rows are kept, in seconds.
KEPT = {Span.MINUTE: 2 * DAY, Span.HOUR: 35 * DAY}
#: The spans of the rows that have all queues and names.
OF_ALL = {Span.MINUTE: Span.ALL_MINUTE, Span.HOUR: Span.ALL_HOUR}
#: The number of starts up to which a read names each of them.
MOST_STARTS = 5_000


class Tile(NamedTuple):
    """The rows of a span that start at a time or later, and before another."""

    span: Span
    start: int
    end: int | None

    def start_of(self, minute: int) -> int | None:
        """Return when the row starts that has the figures of a minute; None if it is not among these."""
        if minute < self.start or (self.end is not None and minute >= self.end):
            return None
        length = LENGTHS.get(self.span)
        return 0 if length is None else minute // length * length

    def starts(self, now: float) -> list[int] | None:
        """Return the starts of its rows up to now; None if they are too many to be named."""
        length = LENGTHS.get(self.span)
        if length is None:
            return None
        first, end = -(-self.start // length) * length, self.end
        last = int(now) // length * length if end is None else end - 1
        if (last - first) // length >= MOST_STARTS:
            return None
        return list(range(first, last + 1, length))


#: All rows that have the figures of all times.
EVER = Tile(Span.EVER, 0, None)


def tiles(since: float, until: float | None, now: float) -> list[Tile]:
    """Return the rows that have the figures of a time, as few as possible: whole days, whole hours, and minutes.

    Where rows of minutes or hours are deleted, only the whole hours or days of that time have figures.
    """
    start, end = int(since) // MINUTE * MINUTE, int(now if until is None else until)
    first_hour, last_hour = -(-start // HOUR) * HOUR, end // HOUR * HOUR
    if first_hour >= last_hour:
        return [Tile(Span.MINUTE, start, None if until is None else end)]
    first_day, last_day = -(-first_hour // DAY) * DAY, last_hour // DAY * DAY
    if first_day >= last_day:
        longer = [Tile(Span.HOUR, first_hour, last_hour)]
    else:
        longer = [
            Tile(Span.HOUR, first_hour, first_day),
            Tile(Span.DAY, first_day, last_day),
            Tile(Span.HOUR, last_day, last_hour),
        ]
    before = Tile(Span.MINUTE, start, first_hour)
    after = Tile(Span.MINUTE, last_hour, None if until is None else end)
    return [tile for tile in (before, *longer, after) if tile.start != tile.end]
