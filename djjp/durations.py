"""Durations and times: seconds from numbers and timedeltas, the end of time, datetimes from seconds and back."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from django.conf import settings
from django.utils import timezone

#: The end of the year 9998, in seconds since the epoch: the latest time that djjp writes. Every database can hold
#: it, in every time zone; the year 9999 has ended in some zones before it has in others.
END_OF_TIME = 253_370_764_799.0
#: The beginning of the year 2, which every time zone has after the beginning of the year 1.
START_OF_TIME = -62_104_060_800.0


def seconds(option: str, value: object) -> float:
    """Return a duration in seconds, 0 or more; a whole number that no float can hold is infinite.

    Args:
        option: the name of the value in the message of an error.
        value: seconds as a number, or a timedelta.

    Raises:
        ValueError: the value is no such duration.
    """
    number = unchecked_seconds(value)
    # "not … >= 0" is true for NaN too.
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not number >= 0:
        raise ValueError(f"{option} is {value!r}; it must be seconds, 0 or more, or a timedelta")
    try:
        return float(number)
    except OverflowError:
        return inf


def unchecked_seconds(value: Any) -> Any:
    """Return a timedelta as seconds, and any other value as it is."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def spelled(seconds: float) -> str:
    """Return a duration as a person reads it: 300 ms, 2.5 s, 45 s, 12 min, 3 h, 4 days."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    for unit, longest, length in (("s", 119.5, 1), ("min", 7170, 60), ("h", 171_000, 3600)):
        if seconds < longest:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days" if seconds != inf else "for ever"


def ago(value: datetime | float | None, now: float | None = None) -> str:
    """Return a time in relation to now: "3 min ago" or "in 3 min"; "-" for None."""
    if value is None:
        return "-"
    at = to_seconds(value) if isinstance(value, datetime) else value
    distance = at - (time.time() if now is None else now)
    if abs(distance) < 1:
        return "now"
    return f"in {spelled(distance)}" if distance > 0 else f"{spelled(-distance)} ago"


def to_datetime(seconds: float) -> datetime:
    """Return seconds since the epoch as the ORM takes them: aware with `USE_TZ`, else naive in `TIME_ZONE`.

    Of a time that no row of djjp has it is the earliest or the latest one that has a place in all time zones.
    """
    aware = to_utc(seconds)
    return aware if settings.USE_TZ else timezone.make_naive(aware, timezone.get_default_timezone())


def to_utc(seconds: float) -> datetime:
    """Return seconds since the epoch as an aware time in UTC, within the same bounds as `to_datetime`."""
    # In this order NaN is the earliest time.
    return datetime.fromtimestamp(min(max(START_OF_TIME, seconds), END_OF_TIME), UTC)


def to_seconds(moment: datetime) -> float:
    """Return the seconds since the epoch of a datetime that the ORM returned; a naive one is in `TIME_ZONE`."""
    if timezone.is_naive(moment):
        moment = moment.replace(tzinfo=timezone.get_default_timezone())
    return moment.timestamp()
