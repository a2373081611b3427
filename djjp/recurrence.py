"""Recurrence: the occurrences of a schedule, computed from its cron expression or its interval alone.

An occurrence is an instant at which a schedule is due; instants are seconds since the epoch. No occurrence
depends on when a consumer started. An interval's occurrences are its multiples since 1970 in UTC. A cron
expression's follow the clocks of a time zone, and where these are put forward or back:

* a time that does not exist is due at the next instant that does;
* a time that comes twice is due the first time;
* but an expression that names no hour (`*`) means real time: it continues through the hour that comes
  twice, and makes up for nothing in the hour that is skipped.

cronsim parses the expressions and computes times; it is always given times without a zone, because its own
handling of clock changes, which is Debian cron's, is not enough for this promise. It decides by a leading
`*` in the field of the minute or of the hour, so that `* 2 * * *`, which does name an hour, would run in
real time, and `0 0-23 * * *` would be handled unlike the same `0 * * * *`. Here the set of hours decides.
And several times of a gap are moved to one instant, which must be one occurrence, not several.
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
# What other programs write for some expressions.
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
#: Characters of a cron expression.
LONGEST_CRON = 200

# The parser's name of a field in its errors; the field's position in an expression; its allowed values.
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
_ANY_TIME = datetime(2000, 1, 1)  # noqa: DTZ001  (a time without a zone, as the parser must get it)
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Every:
    """An interval, in microseconds."""

    interval: int

    def occurrences(self, after: float) -> Iterator[float]:
        """Return the occurrences after an instant."""
        number = int(after * _MICROSECONDS) // self.interval
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
        return len(CronSim(self.expression, _ANY_TIME).hours) < 24

    def occurrences(self, after: float) -> Iterator[float]:
        """Return the occurrences after an instant."""
        return self._by_local_time(after) if self._names_hours else self._in_real_time(after)

    def _by_local_time(self, after: float) -> Iterator[float]:
        last = after
        for time in CronSim(self.expression, self._local(after)):
            occurrence = self._instant(time)
            # Times of a gap are moved to one instant, which is yielded once; and of a time that comes
            # twice, the first instant may lie before `after`.
            if occurrence > last:
                last = occurrence
                yield occurrence

    def _in_real_time(self, after: float) -> Iterator[float]:
        """Walk from one change of the clocks to the next; each stretch has one offset from UTC."""
        since, start = after, self._local(after)
        while True:
            offset = self._offset(since)
            for time in CronSim(self.expression, start):
                occurrence = (time - offset).replace(tzinfo=UTC).timestamp()
                if self._offset(occurrence) != offset:
                    break
                since = occurrence
                yield occurrence
            else:
                return
            since = self._change(since, occurrence)
            start = self._local(since) - timedelta(seconds=1)

    def _local(self, instant: float) -> datetime:
        """Return the local time at an instant, without its zone."""
        return datetime.fromtimestamp(instant, self._zone).replace(tzinfo=None)

    def _offset(self, instant: float) -> timedelta:
        return datetime.fromtimestamp(instant, self._zone).utcoffset() or timedelta(0)

    def _change(self, before: float, after: float) -> float:
        """Return the first second whose offset from UTC differs from `before`'s; `after`'s differs too."""
        offset, first, last = self._offset(before), int(before), int(after)
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (middle, last) if self._offset(middle) == offset else (first, middle)
        return float(last)

    def _instant(self, time: datetime) -> float:
        """Return the first instant of a local time or, if it does not exist, of the next one that does."""
        while True:
            instant = time.replace(tzinfo=self._zone).timestamp()
            if self._local(instant) == time:
                return instant
            time += timedelta(minutes=1)


#: The recurrence of a schedule.
Timing = Every | Cron


def timing(cron: Any, tz: Any, every: Any, default_tz: str) -> Timing:
    """Return the recurrence that `cron`, `tz` and `every` of `@job` stand for.

    Args:
        default_tz: the time zone of a cron expression without `tz`.

    Raises:
        ValueError, TypeError: a value is invalid; the message names what would be valid.
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
    """Return the first occurrence after an instant; None if there is none in 50 years."""
    return next(timing.occurrences(after), None)


def latest(timing: Timing, after: float, until: float) -> float | None:
    """Return the last occurrence after one instant and up to another; None if there is none.

    The search goes back from `until` in steps that double, so that a year of missed occurrences is not
    walked through.
    """
    back = 60.0
    while True:
        begin = max(after, until - back)
        found = deque(
            takewhile(lambda instant: instant <= until, timing.occurrences(begin)), maxlen=1
        )
        if found or begin <= after:
            return found[0] if found else None
        back *= 2


def between(timing: Timing, after: float, until: float, most: int) -> list[float]:
    """Return the first `most` occurrences after one instant and up to another."""
    instants = takewhile(lambda instant: instant <= until, timing.occurrences(after))
    return list(islice(instants, most))


def _cron(expression: Any, tz: Any) -> Cron:
    given = f"cron is {expression!r}"
    if not isinstance(expression, str):
        raise TypeError(f"{given}; it must be a text such as '0 9 * * MON-FRI'")
    fields = expression.split()
    if written_out := _NICKNAMES.get(expression.strip().lower()):
        raise ValueError(
            f"{given}, with 1 fields; it must have 5: write cron={written_out!r} instead"
        )
    if len(fields) != len(_FIELDS) or len(expression) > LONGEST_CRON:
        raise ValueError(
            f"{given}, with {len(fields)} fields; it must have 5: minute, hour, day of the month, month and "
            f"day of the week, in up to {LONGEST_CRON} characters"
        )
    try:
        next_time = next(CronSim(expression, _ANY_TIME), None)
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        position, allowed = _FIELDS[name]
        raise ValueError(
            f"{given}, with {fields[position]!r} for the {name}; it must be {allowed}, or a list (1,2), a range "
            "(1-5), a step (*/5) or * of them"
        ) from None
    if next_time is None:
        raise ValueError(f"{given}, which never comes")
    try:
        ZoneInfo(tz)
    except (TypeError, ValueError, LookupError, OSError, AttributeError):
        raise ValueError(
            f"tz is {tz!r}; it must be the name of a time zone, such as 'Europe/Berlin'"
        ) from None
    return Cron(" ".join(fields), tz)
