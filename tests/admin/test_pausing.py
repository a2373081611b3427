"""A pause ends after a time from the list, after a time of one's own, or at a time of the day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from djjp.admin.pausing import CHOICES, seconds_of

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("chosen", "own", "seconds"),
    [
        ("15m", "", 900),
        ("1h", "", 3600),
        ("4h", "", 14_400),
        ("1d", "", 86_400),
        ("", "", None),
        ("15m", "90s", 90),
        ("", " 45 min ", 2700),
        ("1h", "2H", 7200),
        ("1h", "12:30", 1800),
        ("1h", "11:30", 84_600),
        ("1h", "12:00", 86_400),
        ("1h", "2026-05-04 13:00", 3600),
        ("1h", "2026-05-04T15:00+02:00", 3600),
        ("1h", "2026-05-05", 43_200),
    ],
)
def test_each_form_of_a_time_is_understood(chosen: str, own: str, seconds: float | None) -> None:
    with timezone.override("UTC"):
        assert seconds_of(chosen, own, NOON) == seconds


def test_times_are_those_of_the_viewer() -> None:
    with timezone.override("Europe/Berlin"):  # where it is 14:00
        assert seconds_of("", "15:00", NOON) == 3600
        assert seconds_of("", "2026-05-04 15:00", NOON) == 3600


@pytest.mark.parametrize(
    "own", ["x", "-5m", "5 weeks", "25:00", "12:61", "2026-13-01", "<b>", "1e3", "\u0663m"]
)
def test_anything_else_is_refused_with_the_text(own: str) -> None:
    with timezone.override("UTC"), pytest.raises(ValueError, match="is no time") as error:
        seconds_of("15m", own, NOON)
    assert own in str(error.value)


def test_each_choice_is_a_time() -> None:
    assert all(seconds_of(value, "", NOON) is None or value for value, _ in CHOICES)


@pytest.mark.parametrize("own", ["0s", "2026-05-04 11:59", "0001-01-01", "2026-05-04T14:00+02:00"])
def test_a_time_that_is_over_is_refused(own: str) -> None:
    with timezone.override("UTC"), pytest.raises(ValueError, match="is not in the future"):
        seconds_of("15m", own, NOON)
