"""Backoff: the pause after a failure, and invalid pauses."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from djjp.exceptions import Retry
from djjp.jobs.backoff import LONGEST, exponential, pause, validate_backoff, validate_retry_on


@pytest.mark.parametrize(("attempt", "around"), [(1, 1), (2, 2), (3, 4), (6, 32), (11, 1024)])
def test_the_default_doubles_from_one_second_give_or_take_a_quarter(
    attempt: int, around: int
) -> None:
    pauses = [exponential(attempt) for _ in range(200)]

    assert around * 0.75 <= min(pauses)
    assert max(pauses) <= around * 1.25


def test_the_default_spreads_jobs_that_failed_together() -> None:
    pauses = [exponential(5) for _ in range(200)]

    assert len(set(pauses)) > 190
    assert max(pauses) - min(pauses) > 4


@pytest.mark.parametrize("attempt", [13, 30, 10_000])
def test_the_default_stays_within_an_hour_and_its_spread(attempt: int) -> None:
    assert LONGEST * 0.75 <= exponential(attempt) <= LONGEST * 1.25


@pytest.mark.parametrize(
    ("backoff", "pauses"),
    [
        (0, [0, 0, 0, 0]),
        (1.5, [1.5, 1.5, 1.5, 1.5]),
        (timedelta(minutes=2), [120, 120, 120, 120]),
        ([1, timedelta(seconds=5), 60], [1, 5, 60, 60]),
        ((7,), [7, 7, 7, 7]),
        (lambda attempt: attempt * 10, [10, 20, 30, 40]),
        (lambda attempt: timedelta(hours=attempt), [3600, 7200, 10_800, 14_400]),
    ],
    ids=["none", "seconds", "timedelta", "list", "tuple", "function", "function-of-timedeltas"],
)
def test_the_backoff_gives_the_pause_for_the_attempt(backoff: Any, pauses: list[float]) -> None:
    validate_backoff(backoff)

    assert [pause(backoff, attempt) for attempt in range(1, 5)] == pauses


@pytest.mark.parametrize("backoff", [-1, math.nan, "5", None, True, [], (), [1, -1], [None]])
def test_an_invalid_backoff_is_refused(backoff: Any) -> None:
    with pytest.raises(ValueError, match="backoff"):
        validate_backoff(backoff)


def test_a_function_that_returns_no_pause_fails_when_called() -> None:
    with pytest.raises(ValueError, match="the backoff's value is 'soon'"):
        pause(lambda attempt: "soon", 1)  # type: ignore[arg-type,return-value]  # that is the point


@pytest.mark.parametrize("kind", [int, "ValueError", ValueError("an instance"), None])
def test_retry_on_refuses_values_that_are_no_exception_classes(kind: Any) -> None:
    with pytest.raises(TypeError, match="retry_on"):
        validate_retry_on((ValueError, kind))


@pytest.mark.parametrize("after", [-1, math.nan, "5", True, timedelta(seconds=-1), [1]])
def test_a_retry_after_an_invalid_duration_is_refused_where_it_is_raised(after: Any) -> None:
    with pytest.raises(ValueError, match="after is"):
        raise Retry(after=after)


@pytest.mark.parametrize(
    ("after", "seconds"), [(None, None), (0, 0), (2.5, 2.5), (timedelta(minutes=1), 60)]
)
def test_a_retry_holds_its_reason_and_its_seconds(after: Any, seconds: float | None) -> None:
    retry = Retry("the mail server is busy", after=after)

    assert (str(retry), retry.after) == ("the mail server is busy", seconds)
