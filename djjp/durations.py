"""Durations and times: seconds from numbers and timedeltas, the end of time, datetimes from seconds and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

#: The end of the year 9998, in seconds since the epoch: the latest time that djjp writes. Every database can hold
#: it, in every time zone; the year 9999 has ended in some zones before it has in others.
END_OF_TIME = 253_370_764_799.0


def seconds(option: str, value: object) -> float:
    """Return a duration in seconds, 0 or more.

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
    return float(number)


def unchecked_seconds(value: Any) -> Any:
    """Return a timedelta as seconds, and any other value as it is."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def to_datetime(time: float) -> datetime:
    """Return seconds since the epoch as the ORM takes them: aware with `USE_TZ`, else naive in local time."""
    aware = datetime.fromtimestamp(time, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware)


def to_seconds(time: datetime) -> float:
    """Return the seconds since the epoch of a datetime that the ORM returned; a naive one is in local time."""
    aware = timezone.make_aware(time) if timezone.is_naive(time) else time
    return aware.timestamp()
