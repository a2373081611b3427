"""Recurrence: the occurrences of a schedule, by its cron expression or its interval alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from djjp import recurrence

NEW_YORK, BERLIN = "America/New_York", "Europe/Berlin"


def cron(expression: str, tz: str = "UTC") -> recurrence.Timing:
    return recurrence.timing(expression, tz, None, "UTC")


def every(span: Any) -> recurrence.Timing:
    return recurrence.timing(None, None, span, "UTC")


def at(text: str, tz: str = "UTC") -> float:
    """The instant of an ISO text with an offset, or else of a time in a zone."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(tz))).timestamp()


def shown(moments: Iterator[float], tz: str, count: int) -> list[str]:
    """As `08 03:00 -0400`: the day, the time, and what the clocks are set to."""
    return [
        f"{datetime.fromtimestamp(m, ZoneInfo(tz)):%d %H:%M %z}" for m in islice(moments, count)
    ]


# The clocks put forward and back

CHANGES = [
    # A time that does not exist: the next one that does.
    ("30 2 * * *", NEW_YORK, "2026-03-07T12:00", ["08 03:00 -0400", "09 02:30 -0400"]),
    ("0 2 * * *", BERLIN, "2026-03-28T12:00", ["29 03:00 +0200", "30 02:00 +0200"]),
    ("30 2 * * SUN", BERLIN, "2026-03-28T12:00", ["29 03:00 +0200", "05 02:30 +0200"]),
    ("59 2 * * *", BERLIN, "2026-03-28T12:00", ["29 03:00 +0200", "30 02:59 +0200"]),
    # Several of them: once, also beside the one that is there in any case.
    (
        "0,20,40 2,3 * * *",
        NEW_YORK,
        "2026-03-08T00:00",
        ["08 03:00 -0400", "08 03:20 -0400", "08 03:40 -0400", "09 02:00 -0400"],
    ),
    ("*/15 2 * * *", BERLIN, "2026-03-29T00:00", ["29 03:00 +0200", "30 02:00 +0200"]),
    # The times beside the gap are as they were.
    ("59 1 * * *", NEW_YORK, "2026-03-08T00:00", ["08 01:59 -0500", "09 01:59 -0400"]),
    ("0 3 * * *", BERLIN, "2026-03-29T00:00", ["29 03:00 +0200", "30 03:00 +0200"]),
    # A midnight that does not exist.
    ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00", ["24 01:00 +0300", "25 00:00 +0300"]),
    # A whole day that does not.
    ("0 9 30 12 *", "Pacific/Apia", "2011-12-29T12:00", ["31 00:00 +1400"]),
    # A time that comes twice: the first time.
    ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", ["01 01:30 -0400", "02 01:30 -0500"]),
    ("0 2 * * *", BERLIN, "2026-10-24T12:00", ["25 02:00 +0200", "26 02:00 +0100"]),
    ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["25 02:30 +0200", "26 02:30 +0100"]),
    (
        "*/30 1-2 * * *",
        NEW_YORK,
        "2026-11-01T00:00",
        ["01 01:00 -0400", "01 01:30 -0400", "01 02:00 -0500", "01 02:30 -0500", "02 01:00 -0500"],
    ),
    ("0 3 * * *", BERLIN, "2026-10-24T12:00", ["25 03:00 +0100", "26 03:00 +0100"]),
    # Where no hour is named, real time goes on.
    (
        "*/30 * * * *",
        NEW_YORK,
        "2026-11-01T00:45",
        ["01 01:00 -0400", "01 01:30 -0400", "01 01:00 -0500", "01 01:30 -0500", "01 02:00 -0500"],
    ),
    (
        "15 * * * *",
        BERLIN,
        "2026-10-25T01:30",
        ["25 02:15 +0200", "25 02:15 +0100", "25 03:15 +0100"],
    ),
    ("0 0-23 * * *", BERLIN, "2026-10-25T01:30", ["25 02:00 +0200", "25 02:00 +0100"]),
    ("*/30 * * * *", BERLIN, "2026-03-29T01:15", ["29 01:30 +0100", "29 03:00 +0200"]),
    ("15 * * * *", NEW_YORK, "2026-03-08T01:00", ["08 01:15 -0500", "08 03:15 -0400"]),
    (
        "*/20 * * * *",
        "Australia/Lord_Howe",
        "2026-04-05T01:30",
        ["05 01:40 +1100", "05 01:40 +1030"],
    ),
]


@pytest.mark.parametrize(("expression", "tz", "start", "expected"), CHANGES)
def test_where_clocks_change(expression: str, tz: str, start: str, expected: list[str]) -> None:
    assert shown(cron(expression, tz).occurrences(at(start, tz)), tz, len(expected)) == expected


@pytest.mark.parametrize("tz", [NEW_YORK, BERLIN, "Australia/Lord_Howe", "Africa/Cairo"])
@pytest.mark.parametrize(
    "expression",
    [
        "* * * * *",
        "*/7 * * * *",
        "45 * * * *",
        "30 2 * * *",
        "*/20 0-3 * * *",
        "0 */2 * * SUN",
        "5,50 1,2 * * *",
    ],
)
def test_occurrences_are_those_that_a_check_of_every_minute_finds(expression: str, tz: str) -> None:
    """Around each change of 2026's clocks, from any minute."""
    zone, timing = ZoneInfo(tz), cron(expression, tz)
    hours = [at("2026-01-01") + 3600 * n for n in range(365 * 24)]
    offsets = [datetime.fromtimestamp(m, zone).utcoffset() for m in hours]
    changes = [n for n in range(1, len(hours)) if offsets[n] != offsets[n - 1]]
    assert len(changes) == 2
    for change in changes:
        window = [hours[change] + 60 * n for n in range(-30 * 60, 30 * 60)]
        expected = looked_for(expression, zone, window)
        assert recurrence.between(timing, window[0] - 1, window[-1], 10_000) == expected
        beyond = recurrence.first(timing, window[-1])
        for begin in window[::53]:
            for after in (begin, begin + 0.5, begin + 59.5):
                following = next(
                    (occurrence for occurrence in expected if occurrence > after), beyond
                )
                assert recurrence.first(timing, after) == following


def looked_for(expression: str, zone: ZoneInfo, window: list[float]) -> list[float]:
    shows = [datetime.fromtimestamp(m, zone).replace(tzinfo=None) for m in window]
    matching = set()
    for time in CronSim(expression, shows[0] - timedelta(minutes=1)):
        if time > shows[-1]:
            break
        matching.add(time)
    both = list(zip(window, shows, strict=True))
    if expression.split()[1] == "*":
        return [m for m, time in both if time in matching]
    there = set(shows)
    # The first minute that shows it, or, where the clocks leave it out, something later.
    return sorted(
        {
            next(m for m, show in both if show == time or (time not in there and show > time))
            for time in matching
        }
    )


# Intervals


def test_the_occurrences_of_an_interval_are_its_multiples_since_1970() -> None:
    assert list(islice(every(timedelta(minutes=5)).occurrences(1_000_000_000.0), 2)) == [
        1_000_000_200.0,
        1_000_000_500.0,
    ]
    week = every(timedelta(weeks=1))
    assert shown(week.occurrences(at("2026-05-04")), "UTC", 2) == [
        "07 00:00 +0000",
        "14 00:00 +0000",
    ]


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1, 1.5, 7.7, 3600, 86_400 * 366])
@pytest.mark.parametrize("year", [1971, 2026, 2199])
def test_each_occurrence_of_an_interval_leads_to_the_next(seconds: float, year: int) -> None:
    timing, moment = every(seconds), at(f"{year}-03-01T00:00:00.1")
    seen = list(islice(timing.occurrences(moment), 200))
    for before, occurrence in pairwise(seen):
        assert recurrence.first(timing, before) == occurrence
        assert occurrence - before == pytest.approx(seconds, abs=1e-5)
        assert recurrence.latest(timing, before, occurrence) == occurrence
    assert timing == every(timedelta(seconds=seconds))


# Latest occurrences


@pytest.mark.parametrize(
    ("expression", "until", "expected"),
    [
        ("0 9 * * *", "2026-05-04T12:00", "2026-05-04T09:00"),
        ("0 9 * * *", "2026-05-04T09:00", "2026-05-04T09:00"),
        ("0 9 * * *", "2026-05-04T08:59:59", "2026-05-03T09:00"),
        ("* * * * *", "2026-05-04T08:59:59", "2026-05-04T08:59"),
        ("* * 1 1 *", "2026-05-04T12:00", "2026-01-01T23:59"),
        ("0 0 29 2 *", "2026-05-04T12:00", "2024-02-29T00:00"),
    ],
)
def test_the_latest_occurrence_is_found_without_a_walk_through_all(
    expression: str, until: str, expected: str
) -> None:
    timing = cron(expression)
    assert recurrence.latest(timing, 0.0, at(until)) == at(expected)
    assert recurrence.latest(timing, at(expected), at(until)) is None
    assert recurrence.latest(timing, at(expected) - 1, at(until)) == at(expected)


def test_no_more_occurrences_are_computed_than_requested() -> None:
    assert recurrence.between(every(1), 0.0, 1e9, 3) == [1.0, 2.0, 3.0]
    assert recurrence.between(every(1), 0.0, 2.0, 3) == [1.0, 2.0]


# Valid and invalid expressions


@pytest.mark.parametrize(
    "expression",
    [
        "0 9 * * MON-FRI",
        "  */5   8-18 *\t* 1,3,5 ",
        "0 0 L * *",
        "0 0 LW * *",
        "0 0 * * 1#2",
        "0 0 * * 5L",
        "0 0 1 jan *",
    ],
)
def test_a_valid_expression_is_accepted(expression: str) -> None:
    timing = cron(expression)
    assert recurrence.first(timing, at("2026-01-01")) is not None
    assert timing == cron(" ".join(expression.split()))


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "with 0 fields; it must have 5: minute, hour, day of the month"),
        ("0 9 * *", "with 4 fields"),
        ("0 0 9 * * *", "with 6 fields"),
        ("@daily", "with 1 fields; it must have 5: write cron='0 0 * * *' instead"),
        (f"{','.join(['1'] * 150)} * * * *", "in up to 200 characters"),
        ("60 * * * *", "with '60' for the minute; it must be 0 to 59"),
        ("*/0 * * * *", "with '*/0' for the minute"),
        ("٣ * * * *", "with '٣' for the minute"),
        ("0 24 * * *", "with '24' for the hour; it must be 0 to 23"),
        ("0 9-8 * * *", "with '9-8' for the hour"),
        ("0 0 32 * *", "with '32' for the day-of-month"),
        (
            "0 0 30 2 *",
            "with '30' for the day-of-month; it must be 1 to 31 as the months have them",
        ),
        ("0 0 LW * */7", "which never comes"),  # a last weekday that is a Sunday
        ("0 0 * 13 *", "with '13' for the month; it must be 1 to 12 or JAN to DEC"),
        ("0 0 * * MOON", "with 'MOON' for the day-of-week; it must be 0 to 7 or SUN to SAT"),
    ],
)
def test_an_invalid_expression_is_refused_with_what_is_wrong(
    expression: str, complaint: str
) -> None:
    with pytest.raises(ValueError) as caught:
        cron(expression)
    assert str(caught.value).startswith(f"cron is {expression!r}, ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ((None, None, None), "a schedule needs a cron expression or an interval"),
        (("* * * * *", None, 5), "cron is '* * * * *' and every is 5; a schedule has one of them"),
        ((None, "UTC", 5), "tz is 'UTC', but only a cron expression has a time zone"),
        (("* * * * *", "Mars/X", None), "tz is 'Mars/X'; it must be the name of a time zone"),
        (("* * * * *", "../etc/passwd", None), "tz is '../etc/passwd'; it must be"),
        (("* * * * *", UTC, None), "tz is datetime.timezone.utc; it must be the name"),
        ((None, None, 0), "every is 0; it must be from 0.1 seconds to 100 years"),
        ((None, None, timedelta(milliseconds=99)), "it must be from 0.1 seconds"),
        ((None, None, timedelta.max), "it must be from 0.1 seconds"),
        ((None, None, float("inf")), "every is inf"),
        ((None, None, float("nan")), "every is nan; it must be seconds"),
        ((None, None, -5), "every is -5; it must be seconds"),
        ((None, None, True), "every is True; it must be seconds"),
        ((None, None, "5m"), "every is '5m'; it must be seconds"),
    ],
)
def test_options_that_make_no_schedule_are_refused(
    given: tuple[Any, Any, Any], complaint: str
) -> None:
    with pytest.raises(ValueError) as caught:
        recurrence.timing(*given, default_tz="UTC")
    assert complaint in str(caught.value)


def test_an_expression_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="cron is 5; it must be a text such as"):
        recurrence.timing(5, None, None, "UTC")


def test_a_given_time_zone_overrides_the_default() -> None:
    assert recurrence.timing("0 9 * * *", None, None, BERLIN) == cron("0 9 * * *", BERLIN)
    assert recurrence.timing("0 9 * * *", NEW_YORK, None, BERLIN) == cron("0 9 * * *", NEW_YORK)
