"""Schedules in words: common forms as a person says them, any other expression as it is written; never wrong."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from djjp import recurrence, schedules
from djjp.models import Schedule
from djjp.schedules.words import in_words

IN_WORDS = {
    "0 2 * * *": "daily at 02:00 Berlin",
    "30 2 * * *": "daily at 02:30 Berlin",
    "0 8,20 * * *": "daily at 08:00 and 20:00 Berlin",
    "0,30 8 * * *": "daily at 08:00 and 08:30 Berlin",
    "0 0,6,12,18 * * *": "daily at 00:00, 06:00, 12:00 and 18:00 Berlin",
    "0 9 * * MON-FRI": "Mon–Fri at 09:00 Berlin",
    "0 9 * * 1-5": "Mon–Fri at 09:00 Berlin",
    "0 9 * * mon,wed,fri": "Mon, Wed and Fri at 09:00 Berlin",
    "0 9 * * 6,0": "Sat and Sun at 09:00 Berlin",
    "0 9 * * 5-7": "Fri–Sun at 09:00 Berlin",
    "0 9 * * 7": "every Sunday at 09:00 Berlin",
    "0 9 * * 0": "every Sunday at 09:00 Berlin",
    "0 9 * * SUN-SAT": "daily at 09:00 Berlin",
    "0 9 * * 1#2": "on the 2nd Monday of the month at 09:00 Berlin",
    "0 9 * * 5L": "on the last Friday of the month at 09:00 Berlin",
    "0 0 1 * *": "on the 1st of the month at 00:00 Berlin",
    "0 0 1,15 * *": "on the 1st and 15th of the month at 00:00 Berlin",
    "0 0 22,23,11 * *": "on the 11th, 22nd and 23rd of the month at 00:00 Berlin",
    "0 0 L * *": "on the last day of the month at 00:00 Berlin",
    "0 0 LW * *": "on the last weekday of the month at 00:00 Berlin",
    "0 0 1 1 *": "on 1 January at 00:00 Berlin",
    "0 0 29 FEB *": "on 29 February at 00:00 Berlin",
    "0 0 1 */3 *": "on the 1st of the month at 00:00 Berlin, in Jan, Apr, Jul and Oct",
    "0 7 * 6-8 *": "daily at 07:00 Berlin, Jun–Aug",
    "0 7 * DEC 1-5": "Mon–Fri at 07:00 Berlin, in December",
    "* * * * *": "every minute",
    "*/15 * * * *": "every 15 min",
    "0-59/15 * * * *": "every 15 min",
    "0,15,30,45 * * * *": "every 15 min",
    "0/20 * * * *": "every 20 min",
    "0 * * * *": "every hour",
    "5 * * * *": "every hour at :05",
    "5,35 * * * *": "every hour at :05 and :35",
    "0 */2 * * *": "every 2 h (Berlin)",
    "15 */6 * * *": "daily at 00:15, 06:15, 12:15 and 18:15 Berlin",
    "15 */4 * * *": "every 4 h at :15 (Berlin)",
    "0 8-18 * * *": "every hour from 08:00 to 18:00 Berlin",
    "*/10 8-17 * * 1-5": "every 10 min from 08:00 to 17:50 Berlin, Mon–Fri",
    "*/15 * * 1 *": "every 15 min, in January (Berlin)",
    "*/15 * * * 1-5": "every 15 min, Mon–Fri (Berlin)",
}


@pytest.mark.parametrize(("expression", "words"), IN_WORDS.items())
def test_common_expressions_are_put_into_words(expression: str, words: str) -> None:
    assert in_words(recurrence.Cron(expression, "Europe/Berlin")) == words


@pytest.mark.parametrize(
    "expression",
    [
        "0 9 1 * MON",  # either is enough
        "0 9 */2 * MON",  # both are needed
        "1-5 9 * * *",
        "*/7 * * * *",
        "0 9,11,14,16,18 * * *",
        "0 0 1,2,3,4,5 * *",
        "0 0 * * MON#1,TUE#2",
        "0 0 L,15 * *",
        "1,2,3,4,5 * * * *",
        "*/15 8,10 * * *",
        "3 1-23/5 * * *",
    ],
)
def test_unusual_expressions_stay_as_they_are(expression: str) -> None:
    assert in_words(recurrence.Cron(expression, "Europe/Berlin")) == f"{expression} Berlin"


@pytest.mark.parametrize(
    ("every", "words"),
    [
        (timedelta(minutes=15), "every 15 min"),
        (timedelta(minutes=1), "every minute"),
        (timedelta(seconds=1), "every second"),
        (timedelta(seconds=90), "every 1 min 30 s"),
        (timedelta(hours=1), "every hour"),
        (timedelta(hours=36), "every 1 day 12 h"),
        (timedelta(days=1), "every day at 00:00 UTC"),
        (timedelta(days=2), "every 2 days at 00:00 UTC"),
        (timedelta(weeks=1), "every week on Thursday at 00:00 UTC"),
        (timedelta(milliseconds=500), "every 500 ms"),
        (timedelta(hours=1, minutes=1, seconds=1), "every 3,661 s"),
        (timedelta(days=36_600), "every 5,228 weeks 4 days"),
    ],
)
def test_intervals_are_put_into_words(every: timedelta, words: str) -> None:
    assert in_words(recurrence.timing(None, None, every, "UTC")) == words


def test_an_interval_of_days_is_due_when_its_words_say() -> None:
    for every in (timedelta(days=1), timedelta(days=2), timedelta(weeks=1), timedelta(weeks=2)):
        timing = recurrence.timing(None, None, every, "UTC")
        occurrence = datetime.fromtimestamp(next(timing.occurrences(1_767_225_600.0)), UTC)
        assert (occurrence.hour, occurrence.minute) == (0, 0)
        if every.days % 7 == 0:
            assert f"{occurrence:%A}" in in_words(timing)


@pytest.mark.parametrize(
    ("tz", "zone"),
    [("UTC", "UTC"), ("Etc/UTC", "UTC"), ("America/Argentina/Buenos_Aires", "Buenos Aires")],
)
def test_a_time_zone_is_named_by_its_place(tz: str, zone: str) -> None:
    assert in_words(recurrence.Cron("0 2 * * *", tz)) == f"daily at 02:00 {zone}"


def test_the_values_that_words_are_made_of_are_those_of_the_recurrence() -> None:
    """Expressions with the same words have the same occurrences, however they are written."""
    pick = random.Random(17)
    by_words: dict[str, list[float]] = {}
    minutes = ["0", "30", "*/15", "0,15,30,45", "*/30", "0,30", "5/30", "*"]
    hours = ["*", "0", "9", "8-17", "*/6", "0,6,12,18", "0-23", "0/12", "0,12", "9-10", "9,10"]
    days = ["*", "1", "1-31", "*/1", "L", "1,15", "1-15/14"]
    months = ["*", "1", "JAN", "*/3", "1,4,7,10", "1-12", "6-8", "JUN,JUL,AUG"]
    weekdays = ["*", "0", "7", "SUN", "1-5", "MON-FRI", "MON,TUE,WED,THU,FRI", "0-6", "6,7", "*/7"]
    for _ in range(300):
        fields = [pick.choice(each) for each in (minutes, hours, days, months, weekdays)]
        timing = recurrence.Cron(" ".join(fields), "UTC")
        found = list(islice(timing.occurrences(1_767_225_600.0), 40))
        words = in_words(timing)
        assert by_words.setdefault(words, found) == found, (words, fields)


def test_a_row_that_has_no_times_is_shown_as_it_is() -> None:
    row = Schedule(name="x", job="y", cron="61 * * * *", tz="UTC")
    assert schedules.words(row) == "61 * * * * UTC"
    assert schedules.words(Schedule(cron="0 9 * * *", tz="UTC")) == "daily at 09:00 UTC"
    assert schedules.words(Schedule(cron="", tz="")) == "every None"


def test_the_next_occurrences_of_a_row_follow_those_that_are_handled() -> None:
    row = Schedule(every=timedelta(hours=1), fired_until=7200.0)
    assert schedules.following(row, 0.0, 3) == [10800.0, 14400.0, 18000.0]
    assert schedules.following(row, 20_000.0, 2) == [21600.0, 25200.0]
