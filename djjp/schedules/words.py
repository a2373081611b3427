"""Recurrences in words: "daily at 02:00 Berlin", "every 15 min", "Mon–Fri at 09:00 New York".

The forms that schedules commonly have are put into words, as they mean them: an expression of any other form is
returned as it is, because words as long as a sentence are harder to read, and wrong words worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from djjp.recurrence import Cron, Every, Timing

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_LONG_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_LONG_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
# Of each field of an expression its values, and the first number of its names.
_VALUES = (range(60), range(24), range(1, 32), range(1, 13), range(8))
_NAMES: tuple[dict[str, int], ...] = ({}, {}, {}, dict(zip(map(str.upper, _MONTHS), range(1, 13), strict=True)),
          dict(zip(map(str.upper, _DAYS), range(7), strict=True)))  # fmt: skip
_UNITS = (
    *((7 * 86_400_000_000, "week"), (86_400_000_000, "day"), (3_600_000_000, "h")),
    *((60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"), (1, "µs")),
)
# The times of a day, the days, and the months that are listed at most.
_MOST_LISTED = 4
_PART = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


class _Unusual(Exception):
    """An expression of a form that is not put into words."""


@lru_cache(maxsize=1000)
def in_words(timing: Timing) -> str:
    """Return when a recurrence is due, in words; for an unusual expression this, with its time zone."""
    if isinstance(timing, Every):
        return _interval(timing.interval)
    try:
        return _cron(timing)
    except _Unusual:
        return f"{timing.expression} {zone_in_words(timing.tz)}"


def zone_in_words(tz: str) -> str:
    """Return the last part of the name of a time zone, as it is written: "New York"."""
    return tz.rpartition("/")[2].replace("_", " ")


def _interval(microseconds: int) -> str:
    parts = []
    rest = microseconds
    for length, unit in _UNITS:
        count, rest = divmod(rest, length)
        if count:
            parts.append((count, unit))
    if len(parts) > 2:
        return f"every {microseconds / 1_000_000:,.6f}".rstrip("0").rstrip(".") + " s"
    if len(parts) == 1 and parts[0][0] == 1 and parts[0][1] in _ALONE:
        return f"every {_ALONE[parts[0][1]]}{_in_utc(parts[0][1])}"
    unit = parts[0][1]
    return f"every {' '.join(map(_counted, parts))}{_in_utc(unit) if len(parts) == 1 else ''}"


_ALONE = {"week": "week", "day": "day", "h": "hour", "min": "minute", "s": "second"}


def _in_utc(unit: str) -> str:
    """Return the time of day of an interval of days: intervals count from 1970 in UTC."""
    return {"day": " at 00:00 UTC", "week": " on Thursday at 00:00 UTC"}.get(unit, "")


def _counted(part: tuple[int, str]) -> str:
    count, unit = part
    return f"{count:,} {unit}{'s' if unit in ('day', 'week') and count > 1 else ''}"


def _cron(timing: Cron) -> str:
    fields = timing.expression.split()
    minutes, hours = (_numbers(fields[at], at) for at in (0, 1))
    when, is_of_day = _time(minutes, hours)
    days = _days(fields[2], fields[4])
    months = _months(fields[3])
    zone = zone_in_words(timing.tz)
    if is_of_day:
        if (date := _one_date(fields)) is not None:
            return f"{date} {when} {zone}"
        text = f"{days or 'daily'} {when}"
        return f"{text} {zone}{months}"
    days = f", {days}" if days else ""
    if " from " in when:
        return f"{when} {zone}{days}{months}"
    is_always = len(hours) == 24 and not days and not months
    return when if is_always else f"{when}{days}{months} ({zone})"


def _numbers(field: str, at: int) -> list[int]:
    """Return the values of a field, in order."""
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise _Unusual
        first, last, step = match.groups()
        if first == "*":
            values = list(_VALUES[at])[: 7 if at == 4 else None]
        else:
            low = _number(first, at)
            # "5/10" is "from 5 on, in steps of 10".
            high = _number(last, at) if last else _VALUES[at][-1] if step else low
            values = list(range(low, high + 1))
        found |= {*values[:: int(step or 1)]}
    if not found:
        raise _Unusual
    return sorted({value % 7 for value in found} if at == 4 else found)


def _number(text: str, at: int) -> int:
    named = _NAMES[at].get(text.upper())
    if named is not None:
        return named
    if not text.isdecimal():
        raise _Unusual
    return int(text)


# The time of day


def _time(minutes: Sequence[int], hours: Sequence[int]) -> tuple[str, bool]:
    """Return the times of a day in words, and whether these are single times of the day."""
    all_hours = len(hours) == 24
    if len(minutes) * len(hours) <= _MOST_LISTED:
        times = [f"{hour:02}:{minute:02}" for hour in hours for minute in minutes]
        return f"at {_listed(times)}", True
    every = _every(minutes, 60)
    if every is not None:
        often = "every minute" if every == 1 else f"every {every} min"
        if all_hours:
            return often, False
        return f"{often} {_span(hours, minutes)}", False
    if all_hours:
        if minutes == [0]:
            return "every hour", False
        _require_few(minutes)
        return f"every hour at {_listed([f':{minute:02}' for minute in minutes])}", False
    if len(minutes) > 1:
        raise _Unusual
    step = _every(hours, 24)
    if step is not None:
        at = f" at :{minutes[0]:02}" if minutes[0] else ""
        return f"every {step} h{at}", False
    return f"every hour {_span(hours, minutes)}", False


def _every(values: Sequence[int], whole: int) -> int | None:
    """Return the step of values that are a whole cycle in equal steps from 0; None for others."""
    step = whole // len(values)
    is_cycle = len(values) > 1 and whole % len(values) == 0
    return step if is_cycle and list(values) == list(range(0, whole, step)) else None


def _span(hours: Sequence[int], minutes: Sequence[int]) -> str:
    if not _is_row(hours):
        raise _Unusual
    return f"from {hours[0]:02}:{minutes[0]:02} to {hours[-1]:02}:{minutes[-1]:02}"


# The day


def _days(of_month: str, of_week: str) -> str:
    """Return the days in words; "" for every day."""
    if of_week == "*":
        return "" if of_month == "*" else _of_month(of_month)
    if of_month != "*":  # either is enough, or both are needed: it depends on how they are written
        raise _Unusual
    return _of_week(of_week)


def _of_week(field: str) -> str:
    if (match := re.fullmatch(r"(\w+)#([1-5])", field)) is not None:
        day = _LONG_DAYS[_number(match[1], 4) % 7]
        return f"on the {_ordinal(int(match[2]))} {day} of the month"
    if (match := re.fullmatch(r"([0-7])L", field)) is not None:
        return f"on the last {_LONG_DAYS[int(match[1]) % 7]} of the month"
    days = _numbers(field, 4)
    if len(days) == 7:
        return ""
    if len(days) == 1:
        return f"every {_LONG_DAYS[days[0]]}"
    from_monday = sorted(days, key=lambda day: (day - 1) % 7)
    if len(days) > 2 and _is_row([(day - 1) % 7 for day in from_monday]):
        return f"{_DAYS[from_monday[0]]}–{_DAYS[from_monday[-1]]}"
    return _listed([_DAYS[day] for day in from_monday])


def _of_month(field: str) -> str:
    if field == "L":
        return "on the last day of the month"
    if field == "LW":
        return "on the last weekday of the month"
    days = _numbers(field, 2)
    if len(days) == 31:
        return ""
    _require_few(days)
    return f"on the {_listed([_ordinal(day) for day in days])} of the month"


def _months(field: str) -> str:
    months = _numbers(field, 3)
    if len(months) == 12:
        return ""
    if len(months) == 1:
        return f", in {_LONG_MONTHS[months[0] - 1]}"
    if len(months) > 2 and _is_row(months):
        return f", {_MONTHS[months[0] - 1]}–{_MONTHS[months[-1] - 1]}"
    _require_few(months)
    return f", in {_listed([_MONTHS[month - 1] for month in months])}"


def _one_date(fields: Sequence[str]) -> str | None:
    """Return the one date in the year on which an expression is due; None if there are others."""
    if fields[4] != "*" or not fields[2].isdecimal():
        return None
    months = _numbers(fields[3], 3)
    return f"on {int(fields[2])} {_LONG_MONTHS[months[0] - 1]}" if len(months) == 1 else None


def _require_few(values: Collection[int]) -> None:
    if len(values) > _MOST_LISTED:
        raise _Unusual


def _is_row(values: Sequence[int]) -> bool:
    return list(values) == list(range(values[0], values[-1] + 1))


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number // 10 != 1 else "th"
    return f"{number}{ending}"


def _listed(texts: Sequence[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last
