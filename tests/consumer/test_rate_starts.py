"""Jobs under a rate start in time or not at all: a late job is counted anew, and only once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import pytest
from django.conf import settings
from django.test import override_settings

from djjp import Rate, current_job, job, run_many
from djjp.consumer import maintenance
from djjp.consumer.consumer import Consumer
from djjp.consumer.pool.threads import ThreadPool
from djjp.consumer.rate_starts import LONGEST_MARGIN, StartDeadlines
from djjp.engine import START_MARGIN, Claimed, Engine
from djjp.ids import new_id
from djjp.instruments import JobRun
from djjp.models import Flag, Job, RateStart
from djjp.signals import job_finished, job_started
from tests.project.shop.jobs import SPANS, acall_api, acall_blocking_api, add, anap, call_api, nap
from tests.support.processes import Processes, eventually

JOB = Claimed(new_id(), "test.job", "[]", 1, 0, Flag.RATE_LIMITED)
OTHER = Claimed(new_id(), "test.job", "[]", 1, 0, Flag.RATE_LIMITED)


def test_a_job_can_start_within_half_of_the_margin() -> None:
    starts = StartDeadlines()
    now = time.monotonic()
    starts.add(now + 60, [JOB], {JOB.id: 1.5})
    assert not starts.missed(JOB)
    starts.add(now - START_MARGIN / 2, [JOB], {JOB.id: 1.5})
    assert starts.missed(JOB)
    assert not starts.missed(OTHER)
    starts.forget([JOB])
    assert not starts.missed(JOB)


def test_the_margin_grows_when_deadlines_are_missed_and_shrinks_again() -> None:
    starts = StartDeadlines()
    for _ in range(20):
        starts.add(time.monotonic() - 60, [JOB], {JOB.id: 1.5})
        assert starts.missed(JOB)
        assert starts.unused([JOB, OTHER]) == [(JOB.id, 1.5)]
    assert START_MARGIN < starts.margin <= LONGEST_MARGIN
    for _ in range(100):
        starts.add(time.monotonic() + 60, [JOB], {JOB.id: 1.5})
        starts.unused([JOB])
    assert starts.margin == START_MARGIN


def test_jobs_that_are_given_back_while_they_wait_make_no_margin_grow() -> None:
    starts = StartDeadlines()
    for _ in range(20):
        starts.add(time.monotonic() - 60, [JOB], {JOB.id: 1.5})
        assert starts.unused([JOB]) == [(JOB.id, 1.5)]
    assert starts.margin == START_MARGIN


def test_the_margin_stays_long_enough_for_jobs_that_always_need_as_long() -> None:
    starts = StartDeadlines()
    starts.margin = 10.0
    for _ in range(100):
        starts.add(time.monotonic() - 4, [JOB], {JOB.id: 1.5})
        assert not starts.missed(JOB)
    assert starts.margin < 11


def test_jobs_that_miss_the_longest_margin_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts = StartDeadlines()
    for seconds, logged in ((LONGEST_MARGIN / 2 - 1, 0), (LONGEST_MARGIN / 2 + 1, 1), (60, 1)):
        starts.add(time.monotonic() - seconds, [JOB], {JOB.id: 1.5})
        assert starts.missed(JOB)
        starts.unused([JOB])
        assert len(caplog.records) == logged
    assert caplog.messages == [
        "a job under a rate was not started: 16 s after its claim is too late; the limit is 15 s"
    ]


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_job_that_missed_its_start_deadline_is_released_and_counts_once(
    engine: Engine, concurrency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        maintenance, "TIDY_EVERY", 3600.0
    )  # which deletes starts that no longer count
    SPANS.unlink(missing_ok=True)
    quick, slow, job = (add, nap, call_api) if concurrency == "threads" else (add, anap, acall_api)
    # Many instant jobs, so that the consumer claims ahead; then a job for which the others wait.
    run_many(quick.using(priority=1).bind(1) for _ in range(100))
    slow.run_later(0.3)
    handle = job.run_later(7)
    Consumer(1, drain=True, concurrency=concurrency).run()
    handle.join(0)
    assert handle.attempts == 1
    assert len(SPANS.read_text().splitlines()) == 1
    # Counted from its first claim, it would count for too short a time. Its start is noted before its deadline is
    # looked at: the time of its first line can be later, by what a busy machine takes in between.
    started = Job.objects.get(pk=handle.id).started_at
    assert started is not None
    assert RateStart.objects.get().until >= started.timestamp() + 0.5


def test_a_job_that_waited_for_the_event_loop_is_counted_anew(
    engine: Engine, processes: Processes
) -> None:
    """The first job blocks the loop for longer than the margin while two more are dispatched to it."""
    handles = run_many(acall_blocking_api.bind(0.45 * (number == 0)) for number in range(3))
    processes.consumer("--concurrency", "asyncio")
    eventually(lambda: Job.objects.filter(state="succeeded").count() == 3)
    blocking, *others = (Job.objects.get(pk=handle.id) for handle in handles)
    assert blocking.finished_at is not None
    for other in others:
        assert other.started_at is not None
        assert other.started_at >= blocking.finished_at


@job(name="rates.hog")
async def hog(laps: int) -> int:
    """Block the event loop again and again until a job under a rate has started; return the laps that are left."""
    while laps and not STARTED:
        time.sleep(1.5)  # noqa: ASYNC251  (that is the point)
        await asyncio.sleep(0)
        laps -= 1
    return laps


@job(name="rates.under", limit=Rate("rates", 1, per=0.5))
def under() -> None:
    STARTED.append(time.time())


@job(name="rates.aunder", limit=Rate("rates", 1, per=0.5))
async def aunder() -> None:
    STARTED.append(time.time())


STARTED: list[float] = []


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    STARTED.clear()


@job(name="rates.free")
async def free() -> None:
    STARTED.append(time.time())


@pytest.mark.parametrize("other", [free, aunder])
def test_a_coroutine_starts_on_an_event_loop_that_is_blocked_again_and_again(
    engine: Engine, other: Any
) -> None:
    blocking = hog.run_later(15)
    other.run_later()
    consumer = Consumer(2, drain=True, concurrency="asyncio")
    consumer._ledger.deadlines.margin = 4.0  # where four misses would lead
    consumer.run()
    assert blocking.join(0) > 0


ENTERED: list[float] = []
OUTCOMES: list[str | None] = []


def delay() -> None:
    """Take longer than the margin, the first time."""
    if not ENTERED:
        time.sleep(0.2)
    ENTERED.append(time.time())


class Slow:
    """An instrument."""

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        delay()
        yield
        OUTCOMES.append(job.outcome)


def receiver(**_: Any) -> None:
    delay()


async def areceiver(**_: Any) -> None:
    delay()


@contextmanager
def received_by(receiver: Any) -> Iterator[None]:
    job_started.connect(receiver)
    try:
        yield
    finally:
        job_started.disconnect(receiver)


@contextmanager
def instruments(paths: list[str]) -> Iterator[None]:
    with override_settings(DJJP={**settings.DJJP, "instruments": paths}):
        yield


HOOKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "instrument": lambda: instruments([f"{__name__}.Slow"]),
    "receiver": lambda: received_by(receiver),
    "coroutine as a receiver": lambda: received_by(areceiver),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
@pytest.mark.parametrize("called", [under, aunder])
def test_a_job_whose_hooks_take_longer_than_the_margin_is_counted_anew(
    engine: Engine, called: Any, concurrency: str, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "TIDY_EVERY", 3600.0)
    ENTERED.clear()
    OUTCOMES.clear()
    finished: list[str | None] = []

    def note(job: JobRun, **_: Any) -> None:
        finished.append(job.outcome)

    job_finished.connect(note)
    try:
        with HOOKS[hook]():
            handle = called.run_later()
            consumer = Consumer(1, drain=True, concurrency=concurrency)
            consumer.run()
    finally:
        job_finished.disconnect(note)
    row = Job.objects.get(pk=handle.id)
    assert (row.state, row.attempts, consumer.executed) == ("succeeded", 1, 1)
    *put_off, entered = ENTERED
    assert put_off  # on a busy machine more than once
    assert len(STARTED) == 1
    # It was let go after its hooks, at a time from which its start counts for the whole span.
    assert RateStart.objects.get().until >= entered + 0.5
    assert finished == ["succeeded"]
    if hook == "instrument":
        *earlier, last = OUTCOMES
        assert (earlier, last) == (["retry" for _ in put_off], "succeeded")


def test_a_job_that_is_cancelled_and_too_late_ends_as_cancelled_and_leaves_nothing(
    engine: Engine,
) -> None:
    def cancel(**_: Any) -> None:
        handle.cancel()
        eventually(lambda: current_job().cancelled)
        time.sleep(0.1)

    handle = under.run_later()
    consumer = Consumer(1, drain=True)
    with received_by(cancel):
        consumer.run()
    row = Job.objects.get(pk=handle.id)
    assert (row.state, row.attempts, STARTED) == ("cancelled", 0, [])
    assert cast("ThreadPool", consumer._pool)._unwanted == {}
    assert not RateStart.objects.exists()
