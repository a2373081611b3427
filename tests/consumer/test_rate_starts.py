"""Jobs under a rate start in time or not at all: a late job is counted anew, and only once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import pytest
from django.conf import settings
from django.test import override_settings

from djjp import Rate, codec, current_job, job, run_many
from djjp.consumer import maintenance, raising
from djjp.consumer.consumer import Consumer
from djjp.consumer.pool import Hooks
from djjp.consumer.pool.coroutines import AsyncPool
from djjp.consumer.pool.threads import ThreadPool
from djjp.consumer.rate_starts import LONGEST_MARGIN, StartDeadlines
from djjp.engine import START_MARGIN, Claimed, Engine, Outcome
from djjp.exceptions import JobTimedOut
from djjp.ids import new_id
from djjp.instruments import JobRun
from djjp.models import Flag, Job, RateStart
from djjp.signals import job_finished, job_started
from tests.project.shop.jobs import SPANS, acall_api, acall_blocking_api, add, anap, call_api, nap
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually

JOB = Claimed(new_id(), "test.job", "[]", 1, 0, Flag.RATE_LIMITED)
OTHER = Claimed(new_id(), "test.other", "[]", 1, 0, Flag.RATE_LIMITED)


def is_late(starts: StartDeadlines, seconds: float, job: Claimed = JOB) -> bool:
    """Claim a job, and return whether it is too late for its start these seconds afterwards."""
    starts.add(time.monotonic() - seconds, starts.margin([job]), [job], {job.id: 1.5})
    return starts.missed(job)


def test_a_job_can_start_within_half_of_the_margin() -> None:
    starts = StartDeadlines()
    assert not is_late(starts, -60)
    assert is_late(starts, START_MARGIN / 2)
    assert not starts.missed(OTHER)
    starts.forget([JOB])
    assert not starts.missed(JOB)


def test_a_job_that_was_too_late_has_time_enough_when_it_is_claimed_again() -> None:
    starts = StartDeadlines()
    assert is_late(starts, 4)
    assert not is_late(starts, 4)


def test_the_margin_stays_long_enough_for_a_job_that_always_needs_as_long() -> None:
    starts = StartDeadlines()
    is_late(starts, 4)
    assert not any(is_late(starts, 4) for _ in range(100))


def test_the_margin_of_a_job_shrinks_when_it_starts_sooner() -> None:
    starts = StartDeadlines()
    is_late(starts, 4)
    for _ in range(20):
        is_late(starts, 0)
    assert starts.margin([JOB]) == START_MARGIN


def test_a_job_that_was_too_late_is_remembered_until_it_is_released() -> None:
    """Others of its name are claimed meanwhile, and start sooner."""
    starts = StartDeadlines()
    other = JOB._replace(id=new_id())
    assert is_late(starts, 4)
    for _ in range(20):
        is_late(starts, 0, other)
    starts.unused([JOB])
    assert not is_late(starts, 4)
    assert is_late(starts, 60)
    starts.forget([JOB, other])
    assert (starts._starts, starts._late) == ({}, {})


def test_several_late_jobs_of_one_claim_make_the_margin_as_long_as_one() -> None:
    starts = StartDeadlines()
    jobs = [JOB._replace(id=new_id()) for _ in range(10)]
    starts.add(time.monotonic() - 1, starts.margin(jobs), jobs, {job.id: 1.5 for job in jobs})
    assert all(starts.missed(job) for job in jobs)
    assert starts.margin([JOB]) < 3


def test_the_starts_of_one_job_change_nothing_for_another() -> None:
    starts = StartDeadlines()
    is_late(starts, 4)
    assert starts.margin([OTHER]) == START_MARGIN
    for _ in range(20):
        is_late(starts, 0, OTHER)
    assert not is_late(starts, 4)


def test_jobs_that_are_given_back_while_they_wait_make_no_margin_grow() -> None:
    starts = StartDeadlines()
    starts.add(time.monotonic() - 60, START_MARGIN, [JOB], {JOB.id: 1.5})
    assert starts.unused([JOB, OTHER]) == [(JOB.id, 1.5)]
    assert starts.margin([JOB]) == START_MARGIN


def test_a_margin_has_a_bound_and_a_start_for_which_it_is_too_short_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts = StartDeadlines()
    for seconds, logged in ((20, 0), (23, 1), (60, 1)):
        assert is_late(starts, seconds)
        assert starts.margin([JOB]) == LONGEST_MARGIN
        starts.unused([JOB])
        assert len(caplog.records) == logged
    assert caplog.messages == [
        f"test.job {JOB.id}, under a rate, was not started: 23 s after its claim is too late; the limit is 22.5 s"
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
    Consumer(2, drain=True, concurrency="asyncio").run()
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
    assert row.claim > 1  # on a busy machine it can be late before its hooks, too
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


@job(name="rates.often", limit=Rate("often", 1000, per=1))
def often() -> None:
    pass


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
@pytest.mark.parametrize("called", [under, aunder])
def test_a_job_whose_hooks_always_take_long_starts_beside_many_others(
    engine: Engine, called: Any, concurrency: str
) -> None:
    def delay(**_: Any) -> None:
        time.sleep(0.3)

    job_started.connect(delay, sender=called)
    try:
        with consuming(4, concurrency=concurrency):
            called.run_later()
            for _ in range(200):
                often.run_later()
                time.sleep(0.03)
                if STARTED:
                    break
    finally:
        job_started.disconnect(delay, sender=called)
    assert len(STARTED) == 1


class SlowToLeave:
    """An instrument that takes long to be entered for the first time, and to be left by a run that is put off."""

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        if job.name != often.name:
            delay()
        yield
        OUTCOMES.append(job.outcome)
        if job.outcome == "retry":
            time.sleep(1.0)
            LEFT.append(job.outcome)


LEFT: list[str | None] = []


@pytest.fixture
def slow_to_leave() -> Iterator[None]:
    for noted in (ENTERED, OUTCOMES, LEFT):
        noted.clear()
    with instruments([f"{__name__}.SlowToLeave"]):
        yield


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
@pytest.mark.parametrize("called", [under, aunder])
def test_a_job_that_is_put_off_keeps_its_slot_until_its_instruments_are_left(
    engine: Engine, slow_to_leave: None, called: Any, concurrency: str
) -> None:
    """Without it, the next ones would be claimed and given back again and again meanwhile."""
    called.using(priority=1).run_later()
    run_many(often.bind() for _ in range(3))
    Consumer(1, drain=True, concurrency=concurrency).run()
    assert len(ENTERED) > 1
    # A thousand times a second, without the slot. On a busy machine a job is put off more than once.
    assert max(Job.objects.values_list("claim", flat=True)) < 50


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
@pytest.mark.parametrize("called", [under, aunder])
def test_a_consumer_that_ends_waits_until_the_instruments_of_a_job_that_is_put_off_are_left(
    engine: Engine, slow_to_leave: None, called: Any, concurrency: str
) -> None:
    run = called.run_later()
    with consuming(1, concurrency=concurrency) as consumer:
        eventually(lambda: OUTCOMES)  # from here on it is stopped
    assert LEFT == ["retry"]
    assert (Job.objects.get(pk=run.id).state, consumer.executed) == ("ready", 0)


@pytest.mark.parametrize("concurrency", [ThreadPool, AsyncPool])
def test_an_interruption_of_a_job_that_is_put_off_is_its_only_end(
    concurrency: type[ThreadPool | AsyncPool],
) -> None:
    ends: list[Any] = []
    asked: list[Claimed] = []

    def may_start(job: Claimed) -> bool:
        asked.append(job)
        if len(asked) == 2:
            raising._send(threading.get_ident(), JobTimedOut)  # at the next step in Python
        return len(asked) == 1

    hooks = {"on_outcome": ends.append, "on_put_off": ends.append, "on_progress": ends.append}
    pool = concurrency(1, **cast("Hooks", hooks | {"call_queue": None}))
    pool.assign("host:7:one", may_start)
    arguments = codec.encode_arguments((), {}, None)
    pool.submit([Claimed(new_id(), under.name, arguments, 1, 0, Flag.RATE_LIMITED)])
    eventually(lambda: ends)
    pool.submit([claimed := Claimed(new_id(), free.name, arguments, 1, 0)])
    eventually(lambda: [job for job in asked if job is claimed])
    pool.submit([Claimed(new_id(), often.name, arguments, 1, 0)])
    eventually(lambda: len(ends) == 3)
    assert [type(end) for end in ends] == [Outcome, Claimed, Claimed]
    assert ends[0].failure.exception_class == "djjp.exceptions.JobTimedOut"
    pool.close()
