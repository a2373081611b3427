"""Clocks: times that a clock wrote while it was ahead hold no job and no queue back."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from djjp.durations import to_datetime
from djjp.engine import Engine, Failure, Outcome
from djjp.engine.queues import Queues
from djjp.models import Attempt, Job, State
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.engine_calls import claim, enqueue, finish
from tests.support.processes import eventually

YEAR = 366 * 86_400.0
ONE = '{"args":[1],"kwargs":{}}'
WHY = Failure("builtins.ValueError", "it broke", "")


def failed_at(engine: Engine, at: float, pause: float, **given: Any) -> UUID:
    """Return a job whose attempt failed at a time, and which waits for its next one."""
    [id] = enqueue(engine, **given)
    [job] = claim(engine)
    finish(
        engine,
        "one",
        Outcome(job, State.SCHEDULED, at - 1, at, failure=WHY, run_after=at + pause),
    )
    return id


def wait(id: UUID) -> float:
    """Return the seconds until a scheduled job is due."""
    due: datetime | None = Job.objects.get(pk=id, state="scheduled").run_after
    assert due is not None
    return due.timestamp() - time.time()


@pytest.mark.parametrize("pause", [0.5, 600.0])
def test_a_retry_that_was_scheduled_by_a_clock_ahead_waits_for_its_backoff_from_now(
    engine: Engine, pause: float
) -> None:
    id = failed_at(engine, time.time() + YEAR, pause)

    assert engine.clocks.put_right_retries(0.0, 100) == (1, None)

    assert pause - 20 < wait(id) <= pause
    error = Attempt.objects.get()
    assert error.finished_at <= timezone.now()
    assert error.started_at <= timezone.now()
    assert engine.clocks.put_right_retries(0.0, 100) == (0, None)
    assert pause - 20 < wait(id) <= pause


def test_jobs_that_wait_for_their_own_time_are_left_alone(engine: Engine) -> None:
    now = time.time()
    enqueue(engine, 3, state=State.SCHEDULED, run_after=now + YEAR)
    failed_at(engine, now, YEAR)
    # Failed under a clock ahead, retried on request, failed anew.
    again = failed_at(engine, now + YEAR, 5.0)
    Job.objects.filter(pk=again).update(state=State.READY, attempts=0)
    [job] = claim(engine)
    finish(engine, "one", Outcome(job, State.SCHEDULED, now, now, failure=WHY, run_after=now + 99))
    before = list(Job.objects.order_by("pk").values())

    assert engine.clocks.put_right_retries(0.0, 100) == (0, None)

    assert list(Job.objects.order_by("pk").values()) == before


def test_the_search_for_retries_reads_a_bounded_number_of_jobs_at_a_time(engine: Engine) -> None:
    now = time.time()
    for i in range(5):
        enqueue(engine, state=State.SCHEDULED, run_after=now + 3_600 + i)
    id = failed_at(engine, now + YEAR, 5.0)

    count, last = engine.clocks.put_right_retries(0.0, 4)
    assert count == 0
    assert last is not None
    assert abs(last - (now + 3_603)) < 0.01
    assert engine.clocks.put_right_retries(last, 4) == (1, None)
    assert wait(id) <= 5


def test_a_pause_that_began_under_a_clock_ahead_begins_now(engine: Engine) -> None:
    now = time.time()
    Queues(engine.db).pause("ahead", now + YEAR, now + YEAR + 600)
    Queues(engine.db).pause("ahead.for.ever", now + YEAR, None)
    Queues(engine.db).pause("right", now, now + YEAR)

    assert engine.clocks.put_right_pauses() == ["ahead"]
    assert engine.clocks.put_right_pauses() == []

    assert engine.queues.paused(now + 500) == {"ahead", "ahead.for.ever", "right"}
    assert engine.queues.paused(now + 700) == {"ahead.for.ever", "right"}


@pytest.mark.parametrize("behind", [-YEAR, 0.0])
def test_a_machine_whose_clock_is_behind_puts_nothing_right(
    engine: Engine, behind: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock takes the times of the others for times of the future; the queue's database does not."""
    id = failed_at(engine, time.time(), 600.0)
    clock, now = time.time, engine.db.clock()
    monkeypatch.setattr(time, "time", lambda: clock() + behind)
    monkeypatch.setattr(engine.db, "clock", lambda: now)

    assert engine.clocks.put_right_retries(0.0, 100) == (0, None)
    monkeypatch.undo()
    assert 580 < wait(id) <= 600


def test_a_consumer_puts_right_what_a_clock_ahead_has_written(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Retry, throttled jobs and pause: nobody enqueues anything."""
    ahead = time.time() + YEAR
    throttled = add.using(run_after=to_datetime(ahead)).run_later(1, 1)
    Job.objects.filter(pk=throttled.id).update(
        state="scheduled",
        run_after=to_datetime(ahead),
        limit_key="k",
        limit_max=1,
        limit_per=9.0,
        flags=8 | 512,
    )
    retry = failed_at(engine, ahead, 0.1, name=add.name, arguments=ONE)
    paused = add.using(queue="paused").run_later(1, 2)
    Queues(engine.db).pause("paused", ahead, ahead + 0.1)

    with consuming():
        for handle in (throttled, paused):
            handle.join(30)
        eventually(lambda: Job.objects.get(pk=retry).state == "succeeded")

    lines = [record.getMessage() for record in caplog.records]
    assert sum("by a clock that was ahead" in line for line in lines) == 3
