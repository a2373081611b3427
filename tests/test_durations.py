"""Durations and times, from what options and the ORM give, and back."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from djjp.durations import END_OF_TIME, seconds, to_datetime, to_seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        (timedelta(minutes=5), 300.0),
        (10**400, math.inf),
    ],
)
def test_a_duration_is_seconds_or_a_timedelta(value: Any, expected: float) -> None:
    assert seconds("timeout", value) == expected


@pytest.mark.parametrize("value", [-1, math.nan, "5", None, True, timedelta(seconds=-1), [1], b""])
def test_the_error_names_the_option_that_is_no_duration(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^timeout is .*; it must be seconds, 0 or more"):
        seconds("timeout", value)


@pytest.mark.parametrize("use_tz", [True, False])
def test_a_time_is_the_same_on_the_way_back_with_and_without_time_zones(use_tz: bool) -> None:
    now = float(int(time.time()))
    with override_settings(USE_TZ=use_tz):
        value = to_datetime(now)
        assert timezone.is_aware(value) is use_tz
        assert to_seconds(value) == now


def test_the_end_of_time_is_a_datetime_in_every_time_zone() -> None:
    end = datetime.fromtimestamp(END_OF_TIME, UTC)
    assert end.isoformat() == "9998-12-31T23:59:59+00:00"
    assert end + timedelta(days=1) < datetime.max.replace(tzinfo=UTC)
