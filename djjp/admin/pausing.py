"""Pauses of queues as a form has them: for a time from a list, for a time of one's own, or until a time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

#: The times of the list: a value, and its label. "" is for good.
CHOICES: tuple[tuple[str, Promise], ...] = (
    ("15m", _("15 min")),
    ("1h", _("1 h")),
    ("4h", _("4 h")),
    ("1d", _("1 day")),
    ("", _("for good")),
)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,9})\s*(s|min|m|h|d)")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")


def seconds_of(chosen: str, own: str, now: datetime) -> float | None:
    """Return the seconds of a pause; None for one that ends only when the queue is resumed.

    Args:
        chosen: a value of `CHOICES`.
        own: a span such as 45m, a clock time such as 18:30, or a date and time; it takes precedence. Times are in
            the current time zone.
        now: the present, as an aware time.

    Raises:
        ValueError: `own` is none of these, or in the past; the message is for the user.
    """
    text = own.strip() or chosen
    if not text:
        return None
    if (span := _SPAN.fullmatch(text.lower())) is not None:
        seconds = float(int(span[1]) * _UNITS[span[2]])
    else:
        seconds = (_moment(text, now) - now).total_seconds()
    if seconds <= 0:
        raise ValueError(gettext("“%s” is not in the future.") % text)
    return seconds


def _moment(text: str, now: datetime) -> datetime:
    """Return a time of the day, the next one of it, or a date and time, as an aware time."""
    zone = timezone.get_current_timezone()
    try:
        if (clock := _CLOCK.fullmatch(text)) is not None:
            local = now.astimezone(zone)
            moment = local.replace(
                hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0
            )
            return moment if moment > local else moment + timedelta(days=1)
        moment = datetime.fromisoformat(text)
        return moment if timezone.is_aware(moment) else moment.replace(tzinfo=zone)
    except (ValueError, OverflowError):
        raise ValueError(
            gettext("“%s” is no time: give one such as 45m, 2h, 18:30 or 2026-01-31 18:30.")
            % text[:100]
        ) from None
