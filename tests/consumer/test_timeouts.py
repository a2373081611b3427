"""Timeouts: a job that runs for too long is stopped, and no other job is affected."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction

from djjp import bounds, current_job, job, run_many
from djjp.consumer import execution as running
from djjp.consumer import pool as pool_package
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.pool import threads
from djjp.consumer.wakeup import Wakeup
from djjp.engine import Claimed, Engine, Outcome
from djjp.exceptions import JobFailed, JobInterrupted
from djjp.models import Job
from tests.project.shop.jobs import add, record
from tests.project.shop.models import Execution
from tests.support.consumers import consuming, drain
from tests.support.processes import Processes, eventually
from tests.support.recorder import GATE, SEEN

pytestmark = pytest.mark.usefixtures("recorder")


def spin(seconds: float = 60.0) -> None:
    """Go on in Python for this long, in steps that leave the core to other tests."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(50))
        time.sleep(0.0005)


@job(name="timeouts.loop", timeout=0.2)
def loop() -> None:
    try:
        spin()
    finally:
        SEEN.append("cleaned up")


@job(name="timeouts.stubborn", timeout=timedelta(seconds=0.2))
def stubborn() -> str:
    try:
        spin()
    except Exception:  # noqa: BLE001  (a timeout is no Exception, so this does not hold it up)
        SEEN.append("caught")
    return "done"


@job(name="timeouts.coroutine", timeout=0.2)
async def coroutine() -> None:
    try:
        BEGUN.set()
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        SEEN.append("cleaned up")


@job(name="timeouts.blocked", timeout=0.2)
def blocked() -> str:
    try:
        GATE.wait()
    finally:
        SEEN.append(threading.current_thread())
    return "done"


@job(name="timeouts.asleep", timeout=0.2)
def asleep(seconds: float) -> None:
    time.sleep(seconds)


@job(name="timeouts.slow_once", timeout=1.0, max_attempts=2, backoff=0, retry_on=KeyError)
def slow_once() -> int:
    current = current_job()
    if current.attempt == 1:
        spin()
    return current.attempt


@job(name="timeouts.always_slow", timeout=0.1, max_attempts=3, backoff=0)
def always_slow() -> None:
    spin()


@job(name="timeouts.fast", timeout=60)
def fast(number: int) -> int:
    return number


@job(name="timeouts.close", timeout=0.02)
def close(number: int, seconds: float) -> int:
    spin(seconds)
    return number


@job(name="timeouts.innocent")
def innocent(number: int) -> int:
    spin(0.002)
    return number


@job(name="timeouts.opened", timeout=0.2)
def opened(number: int) -> int:
    GATE.wait()
    return number


@job(name="timeouts.lasting")
def lasting(number: int) -> int:
    spin(0.6)
    return number


@job(name="timeouts.together")
def together() -> bool:
    """Return once two of these jobs run at the same time."""
    SEEN.append("here")
    eventually(lambda: SEEN.count("here") == 2)
    return True


@job(name="timeouts.in_a_transaction", timeout=1.0)
def in_a_transaction(key: str) -> None:
    with transaction.atomic():
        Execution.objects.create(key=key, process=0, at=0.0)
        SEEN.append(connections["default"].connection)
        spin()


@job(name="timeouts.amid_a_transaction", timeout=0.2)
def amid_a_transaction() -> None:
    """Leave a transaction open, as an exception just before the `with` block starts or during its end does."""
    transaction.atomic().__enter__()
    spin()


@job(name="timeouts.connection")
def connection() -> bool:
    SEEN.append(connections["default"].connection)
    return connections["default"].in_atomic_block


@job(name="timeouts.numbers", timeout=0.2)
async def numbers() -> list[int]:
    return [1, 2, 3]


def outcome(handle: Any) -> tuple[str, list[str]]:
    handle.refresh()
    return handle.state, [error.exception_class for error in handle.errors]


#: Set by a coroutine that is where its timeout must find it.
BEGUN = threading.Event()
#: The functions in which the threads of jobs compute or wait until their timeouts.
_LASTING = {spin.__code__, threading.Condition.wait.__code__}


class OnceBegun(running.Execution):
    """Its interruption waits until the job is where its timeout must find it.

    On a busy machine the time can be over before the function has begun.
    """

    def interrupt(self, kind: type[JobInterrupted], thread: int, looks: int = 0) -> bool:
        assert self.job is not None
        eventually(BEGUN.is_set if self.job.is_coroutine else lambda: self._lasts(thread))
        return super().interrupt(kind, thread, looks)

    def _lasts(self, thread: int) -> bool:
        frame = sys._current_frames().get(thread)
        return any(each.f_code in _LASTING for each, _ in traceback.walk_stack(frame))


@pytest.fixture
def once_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    BEGUN.clear()
    monkeypatch.setattr(pool_package, "Execution", OnceBegun)


TIMED_OUT = ("failed", ["djjp.exceptions.JobTimedOut"])


@pytest.mark.borrowed
@pytest.mark.parametrize("slow", [loop, coroutine], ids=["function", "coroutine"])
@pytest.mark.sqlite_only
@pytest.mark.usefixtures("once_begun")
def test_a_job_that_exceeds_its_timeout_is_stopped_and_can_clean_up(
    engine: Engine, slow: Any
) -> None:
    handle, other = slow.run_later(), add.run_later(1)

    drain(1)

    with pytest.raises(JobFailed, match=r"it ran for longer than its timeout of 0\.2 s"):
        handle.join(0)
    assert outcome(handle) == TIMED_OUT
    assert SEEN == ["cleaned up"]
    assert other.join(0) == 1


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("once_begun")
def test_the_traceback_shows_where_the_job_was(engine: Engine) -> None:
    handle = loop.run_later()

    drain()

    assert "in spin" in handle.errors[0].traceback


@pytest.mark.sqlite_only
def test_except_exception_does_not_catch_a_timeout(engine: Engine) -> None:
    handle = stubborn.run_later()

    drain()

    assert outcome(handle) == TIMED_OUT
    assert SEEN == []


def test_a_job_that_ends_in_time_is_not_interrupted(engine: Engine) -> None:
    handles = run_many(fast.bind(n) for n in range(200))

    drain()

    assert [handle.join(0) for handle in handles] == list(range(200))


def test_a_timed_out_job_is_retried_whatever_retry_on_contains(engine: Engine) -> None:
    handle = slow_once.run_later()

    drain()

    assert handle.join(0) == 2
    assert [error.exception_class for error in handle.errors] == ["djjp.exceptions.JobTimedOut"]


@pytest.mark.sqlite_only
def test_a_timed_out_job_is_retried_up_to_max_attempts(engine: Engine) -> None:
    handle = always_slow.run_later()

    assert drain().executed == 3

    assert outcome(handle) == ("failed", ["djjp.exceptions.JobTimedOut"] * 3)


#: Counts the results that are being encoded, and the interruptions that were sent meanwhile.
ENCODING, INTERRUPTED = threading.Semaphore(0), threading.Semaphore(0)


class OnceReturned(running.Execution):
    """Its time is up while the value that its function has returned is encoded."""

    def interrupt(self, kind: type[JobInterrupted], thread: int, looks: int = 0) -> bool:
        assert ENCODING.acquire(timeout=60)
        is_done = super().interrupt(kind, thread, looks)
        INTERRUPTED.release()
        return is_done


@pytest.mark.sqlite_only
def test_the_encoding_of_a_coroutines_result_is_not_interrupted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No coroutine is left to cancel when the time is up, and the consumer continues."""
    encode = bounds.encoded_result

    def encode_for_long(value: object) -> str:
        ENCODING.release()
        assert INTERRUPTED.acquire(timeout=60)
        return encode(value)

    monkeypatch.setattr(bounds, "encoded_result", encode_for_long)
    monkeypatch.setattr(pool_package, "Execution", OnceReturned)
    handles = run_many(numbers.bind() for _ in range(3))

    drain(1)

    assert [handle.join(0) for handle in handles] == [[1, 2, 3]] * 3


# What cannot be stopped


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("once_begun")
def test_a_thread_that_blocks_is_abandoned_and_replaced(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    handle = blocked.run_later()
    with caplog.at_level(logging.WARNING, "djjp"), consuming(2) as consumer:
        eventually(lambda: Job.objects.get().state == "failed")
        assert outcome(handle) == TIMED_OUT
        assert consumer._pool.abandoned == 1
        assert "cannot be stopped; its thread is abandoned" in caplog.text

        # Two slots are there as before …
        for other in run_many(together.bind() for _ in range(2)):
            assert other.join(30) is True

        # … and what the thread does in the end is of no interest.
        SEEN.clear()
        before = Job.objects.get(pk=handle.id)
        GATE.set()
        eventually(lambda: SEEN and not SEEN[0].is_alive())
        assert add.run_later(1).join(30) == 1

    assert consumer.executed == 4
    after = Job.objects.get(pk=handle.id)
    assert (after.state, after.result) == ("failed", None)
    assert after.finished_at == before.finished_at
    assert len(handle.errors) == 1
    assert "no longer ours" not in caplog.text


@pytest.mark.sqlite_only
def test_a_job_that_cannot_be_stopped_is_retried_while_it_still_runs(engine: Engine) -> None:
    """The next attempt does not wait for the end of the one before, which may never come."""
    handle = asleep_once.run_later()
    with consuming(2):
        assert handle.join(30) == 2

    assert [error.exception_class for error in handle.errors] == ["djjp.exceptions.JobTimedOut"]


@job(name="timeouts.asleep_once", timeout=1.0, max_attempts=2, backoff=0)
def asleep_once() -> int:
    current = current_job()
    if current.attempt == 1:
        GATE.wait()
    return current.attempt


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("once_begun")
def test_a_consumer_that_has_abandoned_all_its_threads_ends(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    handles = run_many(blocked.bind() for _ in range(2))
    run_many(innocent.using(priority=-1).bind(n) for n in range(5000))
    with caplog.at_level(logging.ERROR, "djjp"), consuming(2) as consumer:
        eventually(lambda: consumer._pool.abandoned == 2)
        eventually(lambda: consumer._call_queue._closed)

    assert "2 threads are abandoned: their jobs do not stop; ending" in caplog.text
    assert [outcome(handle) for handle in handles] == [TIMED_OUT] * 2
    assert not Job.objects.filter(state="running").exists()
    left = Job.objects.filter(state="ready").values_list("attempts", "consumer")
    assert set(left) == {(0, None)}


BLOCKED = """
import django; django.setup()
import asyncio, sys, time
from djjp import job
from djjp.consumer.pool import threads
from djjp.consumer.process import consume
threads.COROUTINE_GRACE = 1.0
__name__ = "tests.project.settings"  # a job of `__main__` is refused

@job(name="timeouts.blocked", timeout=2.0)  # by then it sleeps, also on a busy machine
{function}
    time.sleep(600)

sys.exit(consume(concurrency_limit=1))
"""


@pytest.mark.sqlite_only
@pytest.mark.parametrize("function", ["def blocked():", "async def blocked():"])
def test_the_process_ends_although_the_threads_do_not(
    processes: Processes, engine: Engine, function: str
) -> None:
    handle = blocked.run_later()
    process = processes.python(BLOCKED.format(function=function))

    _, err = process.communicate(timeout=60)

    assert "cannot be stopped" in err
    assert "Traceback" not in err
    assert process.returncode == 0
    assert outcome(handle) == TIMED_OUT


# No other job is affected


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_timeout_interrupts_its_own_job_and_no_other(engine: Engine) -> None:
    """Hundreds of jobs end about at their timeouts, next to others without a timeout."""
    calls = [
        call
        for n in range(300)
        for call in (close.bind(n, 0.016 + 0.00002 * n), innocent.bind(n), innocent.bind(n))
    ]
    handles = run_many(calls)

    consumer = drain(3)

    assert consumer.executed == 900
    assert consumer._pool.abandoned == 0
    ends = {True: 0, False: 0}
    for number, handle in enumerate(handles):
        handle.refresh()
        kept = [error.exception_class for error in handle.errors]
        if handle.state == "succeeded":
            assert (handle.result, kept) == (number // 3, [])
        else:
            assert number % 3 == 0, f"an innocent job has failed: {handle.errors[0].traceback}"
            assert (handle.state, kept) == TIMED_OUT
        ends[handle.state == "succeeded"] += 1
    assert ends[True] >= 600
    assert ends[False] > 0
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}


class JustTooLate(running.Execution):
    """The interruption is sent when the job has ended, while the thread could start the next one."""

    def interrupt(self, kind: type[JobInterrupted], thread: int, looks: int = 0) -> bool:
        GATE.set()
        time.sleep(0.2)
        return super().interrupt(kind, thread, looks)


def test_an_interruption_that_comes_as_its_job_ends_does_not_hit_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_package, "Execution", JustTooLate)
    ended: list[Outcome] = []
    wakeup = Wakeup()
    pool = threads.ThreadPool(
        1, on_outcome=ended.append, on_progress=SEEN.append, call_queue=CallQueue(wakeup)
    )
    first, second = (
        Claimed(uuid.uuid4(), name, '{"args":[1],"kwargs":{}}', 1, 0)
        for name in (opened.name, lasting.name)
    )

    pool.submit([first, second])
    eventually(lambda: pool.enforce() and len(ended) == 2)
    pool.close()
    wakeup.close()

    assert [outcome.claimed for outcome in ended] == [first, second]
    assert ended[1].state == "succeeded"
    assert pool.abandoned == 0


@pytest.mark.usefixtures("once_begun")
def test_an_interrupted_thread_gets_new_connections_and_its_transaction_is_rolled_back(
    engine: Engine,
) -> None:
    run_many([in_a_transaction.bind("lost"), connection.bind(), record.bind("kept")])

    drain(1)

    interrupted, next_one = SEEN
    assert interrupted is not next_one
    assert list(Execution.objects.values_list("key", flat=True)) == ["kept"]


@pytest.mark.usefixtures("once_begun")
def test_a_thread_that_was_interrupted_inside_a_transaction_can_start_another(
    engine: Engine,
) -> None:
    """The exception can be raised in Django's own code for transactions, and leave it in a wrong state."""
    interrupted, then = run_many([amid_a_transaction.bind(), record.bind("next")])

    drain(1)

    assert outcome(interrupted) == TIMED_OUT
    assert outcome(then) == ("succeeded", [])
    assert Execution.objects.get().key == "next"
