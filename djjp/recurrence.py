"""Slots: the instants at which a schedule is due, computed from its cron expression or its interval alone.

No slot depends on when anybody began to look. An interval's slots are its multiples since 1970 in UTC. A
cron expression's follow the clocks of a time zone, and where these are put forward or back:

* a time that does not exist is due at the next instant that does;
* a time that comes twice is due the first time;
* but an expression that names no hour (`*`) means real time: it goes on through the hour that comes twice,
  and has nothing to make up for in the one that is left out.

Instants are seconds since the epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from djjp import durations

#: An interval's bounds, in seconds.
SHORTEST, LONGEST = 0.1, 100 * 366 * 86_400.0
#: Characters of a cron expression.
LONGEST_CRON = 200

# What the parser calls a field when it refuses it, where that stands, and what it may hold.
_FIELDS = {
    "minute": (0, "0 to 59"),
    "hour": (1, "0 to 23"),
    "day-of-month": (
        2,
        "1 to 31 as the months have them, L for the last or LW for the last weekday",
    ),
    "month": (3, "1 to 12 or JAN to DEC"),
    "day-of-week": (
        4,
        "0 to 7 or SUN to SAT, with 0 and 7 for Sunday; 1#2 is the second Monday, 5L the last Friday",
    ),
}
_SOMETIME = datetime(2000, 1, 1)  # noqa: DTZ001  (the clocks of no zone in particular)
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Every:
    """An interval, in microseconds."""

    interval: int

    def after(self, moment: float) -> Iterator[float]:
        """The slots after a moment."""
        number = int(moment * _MICROSECONDS) // self.interval
        while True:
            number += 1
            yield number * self.interval / _MICROSECONDS


@dataclass(frozen=True)
class Cron:
    """A cron expression of five fields, and the time zone whose clocks it follows."""

    expression: str
    tz: str

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.tz)

    @cached_property
    def _names_hours(self) -> bool:
        return len(CronSim(self.expression, _SOMETIME).hours) < 24

    def after(self, moment: float) -> Iterator[float]:
        """The slots after a moment."""
        return self._by_the_clocks(moment) if self._names_hours else self._in_real_time(moment)

    def _by_the_clocks(self, moment: float) -> Iterator[float]:
        last = moment
        for time in CronSim(self.expression, self._shown(moment)):
            slot = self._instant(time)
            # Of those that a gap has put together there is one; and what comes twice may have been.
            if slot > last:
                last = slot
                yield slot

    def _in_real_time(self, moment: float) -> Iterator[float]:
        """From one change of the clocks to the next, each stretch with an offset of its own."""
        since, start = moment, self._shown(moment)
        while True:
            offset = self._offset(since)
            for time in CronSim(self.expression, start):
                slot = (time - offset).replace(tzinfo=UTC).timestamp()
                if self._offset(slot) != offset:
                    break
                since = slot
                yield slot
            else:
                return
            since = self._change(since, slot)
            start = self._shown(since) - timedelta(seconds=1)

    def _shown(self, moment: float) -> datetime:
        """What the clocks show at a moment."""
        return datetime.fromtimestamp(moment, self._zone).replace(tzinfo=None)

    def _offset(self, moment: float) -> timedelta:
        return datetime.fromtimestamp(moment, self._zone).utcoffset() or timedelta(0)

    def _change(self, before: float, after: float) -> float:
        """The first second with another offset than one moment has, up to a later one that has another."""
        offset, first, last = self._offset(before), int(before), int(after)
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (middle, last) if self._offset(middle) == offset else (first, middle)
        return float(last)

    def _instant(self, time: datetime) -> float:
        """When the clocks show this for the first time, or the next that they do show."""
        while True:
            instant = time.replace(tzinfo=self._zone).timestamp()
            if self._shown(instant) == time:
                return instant
            time += timedelta(minutes=1)


Timing = Every | Cron


def timing(cron: Any, tz: Any, every: Any, default_tz: str) -> Timing:
    """What `cron`, `tz` and `every` of `@job` say.

    Args:
        default_tz: the time zone of a cron expression that comes without.

    Raises:
        ValueError, TypeError: they are not what they must be; the message says what they must be.
    """
    if cron is not None and every is not None:
        raise ValueError(f"cron is {cron!r} and every is {every!r}; a schedule has one of them")
    if cron is not None:
        return _cron(cron, default_tz if tz is None else tz)
    if tz is not None:
        raise ValueError(f"tz is {tz!r}, but only a cron expression has a time zone")
    if every is None:
        raise ValueError("a schedule needs a cron expression or an interval")
    seconds = durations.seconds("every", every)
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(f"every is {every!r}; it must be from {SHORTEST} seconds to 100 years")
    return Every(round(seconds * _MICROSECONDS))


@lru_cache(maxsize=1000)
def first(timing: Timing, after: float) -> float | None:
    """The first slot after a moment; None where there is none in 50 years."""
    return next(timing.after(after), None)


def latest(timing: Timing, after: float, until: float) -> float | None:
    """The last slot after one moment and up to another.

    It looks back from there, ever further: a year of slots that nobody wants is not walked through.
    """
    back = 60.0
    while True:
        begin = max(after, until - back)
        found = deque(takewhile(lambda slot: slot <= until, timing.after(begin)), maxlen=1)
        if found or begin <= after:
            return found[0] if found else None
        back *= 2


def between(timing: Timing, after: float, until: float, most: int) -> list[float]:
    """The first slots, so many at most, after one moment and up to another."""
    return list(islice(takewhile(lambda slot: slot <= until, timing.after(after)), most))


def _cron(expression: Any, tz: Any) -> Cron:
    given = f"cron is {expression!r}"
    if not isinstance(expression, str):
        raise TypeError(f"{given}; it must be a text such as '0 9 * * MON-FRI'")
    fields = expression.split()
    if len(fields) != len(_FIELDS) or len(expression) > LONGEST_CRON:
        raise ValueError(
            f"{given}, with {len(fields)} fields; it must have 5: minute, hour, day of the month, month and "
            f"day of the week, in up to {LONGEST_CRON} characters"
        )
    try:
        comes = next(CronSim(expression, _SOMETIME), None)
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        place, allowed = _FIELDS[name]
        raise ValueError(
            f"{given}, with {fields[place]!r} for the {name}; it must be {allowed}, or a list (1,2), a range "
            "(1-5), a step (*/5) or * of them"
        ) from None
    if comes is None:
        raise ValueError(f"{given}, which never comes")
    try:
        ZoneInfo(tz)
    except (TypeError, ValueError, LookupError, OSError, AttributeError):
        raise ValueError(
            f"tz is {tz!r}; it must be the name of a time zone, such as 'Europe/Berlin'"
        ) from None
    return Cron(" ".join(fields), tz)
