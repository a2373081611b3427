"""Timeline: what has happened to a job, in order, as far as its row and its failed attempts show it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from djjp.durations import to_seconds
from djjp.models import Attempt, Job, State
from djjp.monitoring.timeline import Event, timeline
from tests.support.admin import NOW

pytestmark = pytest.mark.one_database

LATER = to_seconds(NOW) + 3600


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def attempt(number: int, start: float, end: float) -> Attempt:
    return Attempt(
        number=number,
        consumer="here",
        started_at=at(start),
        finished_at=at(end),
        exception_class="E",
    )


def shown(events: list[Event]) -> list[tuple[str, float | None]]:
    return [
        (each.kind, None if each.at is None else (each.at - NOW).total_seconds()) for each in events
    ]


def test_a_plain_job_was_enqueued_started_and_ended() -> None:
    job = Job(state=State.SUCCEEDED, created_at=NOW, attempts=1, consumer="here")
    job.started_at, job.finished_at = at(4), at(6)
    events = timeline(job, [], now=LATER)
    assert shown(events) == [("enqueued", 0), ("started", 4), ("ended", 6)]
    assert [each.after for each in events] == [None, 4, 2]
    assert (events[1].attempt, events[1].consumer) == (1, "here")


def test_each_failed_attempt_has_its_start_and_its_end_and_the_last_one_comes_once() -> None:
    job = Job(state=State.FAILED, created_at=NOW, attempts=2, consumer="here", run_after=at(20))
    job.started_at, job.finished_at = at(21), at(22)
    events = timeline(job, [attempt(1, 1, 2), attempt(2, 21, 22)], now=LATER)
    assert shown(events) == [
        *[("enqueued", 0), ("started", 1), ("failed", 2), ("due", 20)],
        *[("started", 21), ("failed", 22), ("ended", 22)],
    ]
    assert [each.attempt for each in events] == [0, 1, 1, 0, 2, 2, 0]


def test_a_success_after_failures_starts_once_more() -> None:
    job = Job(state=State.SUCCEEDED, created_at=NOW, attempts=2, consumer="here")
    job.started_at, job.finished_at = at(21), at(22)
    assert shown(timeline(job, [attempt(1, 1, 2)], now=LATER))[-2:] == [
        ("started", 21),
        ("ended", 22),
    ]


def test_a_job_that_waits_for_its_time_shows_it_as_the_future() -> None:
    job = Job(state=State.SCHEDULED, created_at=NOW, attempts=1, run_after=at(9999))
    job.started_at = at(1)
    events = timeline(job, [attempt(1, 1, 2)], now=LATER)
    assert shown(events)[-1] == ("due", 9999)
    assert [each.is_future for each in events] == [False, False, False, True]


def test_a_retry_on_request_is_recognized_by_the_numbers_of_attempts() -> None:
    job = Job(state=State.READY, created_at=NOW, attempts=0)
    tried = [attempt(1, 1, 2), attempt(2, 3, 4)]
    assert shown(timeline(job, tried, now=LATER))[-1] == ("retried", None)
    again = [*tried, attempt(1, 30, 31)]
    job = Job(state=State.READY, created_at=NOW, attempts=1)
    kinds = [each.kind for each in timeline(job, again, now=LATER)]
    assert kinds == ["enqueued", *["started", "failed"] * 2, "retried", "started", "failed"]


def test_rescues_are_counted_and_have_no_time() -> None:
    job = Job(state=State.RUNNING, created_at=NOW, attempts=3, rescues=2, started_at=at(9))
    events = timeline(job, [], now=LATER)
    assert shown(events) == [("enqueued", 0), ("rescued", None), ("started", 9)]
    assert events[1].attempt == 2
    assert events[2].after is None


def test_a_row_by_hand_without_times_has_what_is_there() -> None:
    by_hand: dict[str, Any] = {"created_at": None, "attempts": None, "rescues": None}
    job = Job(state="dormant", **by_hand)
    assert shown(timeline(job, [], now=LATER)) == [("enqueued", None)]
