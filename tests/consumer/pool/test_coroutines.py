"""The asyncio pool: hundreds of coroutines on one loop and functions on threads; none affects another."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import sys
import threading
import time
import traceback
import uuid
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction

from djjp import codec, current_job, job, run_many
from djjp.consumer.consumer import Consumer
from djjp.consumer.execution import Execution as ExecutionOf
from djjp.consumer.pool import Hooks, loop_watchdog, sync_threads, threads
from djjp.consumer.pool.coroutines import AsyncPool
from djjp.engine import Claimed, Engine, Outcome
from djjp.exceptions import JobFailed, JobStopped
from djjp.ids import new_id
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from tests.project.shop.jobs import add, anap, nap
from tests.project.shop.models import Execution
from tests.support import consumers
from tests.support.processes import Processes, eventually
from tests.support.recorder import GATE, SEEN

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch, recorder: list[Any]) -> None:
    monkeypatch.setattr(threads, "COROUTINE_GRACE", 0.5)
    monkeypatch.setattr(sync_threads, "IDLE", 0.5)


def drain(slots: int = 4, **options: Any) -> Consumer:
    return consumers.drain(slots, concurrency="asyncio", **options)


def consuming(slots: int = 4, **options: Any) -> Any:
    return consumers.consuming(slots, concurrency="asyncio", **options)


def states() -> dict[str, int]:
    found = list(Job.objects.values_list("state", flat=True))
    return {state: found.count(state) for state in set(found)}


def database_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "djjp-sync"]


def sync_threads_end() -> None:
    """Wait for the end of all threads for databases, also those of tests before this one."""
    try:
        eventually(lambda: not database_threads())
    except AssertionError:
        frames = sys._current_frames()
        stacks = [
            "".join(traceback.format_stack(frames[thread.ident]))
            for thread in database_threads()
            if thread.ident in frames
        ]
        pytest.fail("threads for databases do not end:\n" + "\n".join(stacks))


async def until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.005)


@job(name="async.together")
async def together(count: int) -> int:
    """End once `count` of these jobs run at the same time."""
    SEEN.append("here")
    await until(lambda: len(SEEN) >= count)
    return threading.get_ident()


@job(name="async.wait")
def wait() -> str:
    SEEN.append("waits")
    GATE.wait()
    return "done"


@job(name="async.open_gate")
async def open_gate() -> None:
    GATE.set()


@job(name="async.rest")
async def rest() -> None:
    SEEN.append("rests")
    try:
        await asyncio.sleep(60)
    finally:
        SEEN.append("cleaned up")


@job(name="async.rest_briefly", timeout=0.1)
async def rest_briefly() -> None:
    await asyncio.sleep(60)


@job(name="async.stubborn", timeout=0.1)
async def stubborn(seconds: float) -> str:
    """Swallow cancellations."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not GATE.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            SEEN.append("swallowed")
    return "done"


@job(name="async.stubborn_once", timeout=0.1)
async def stubborn_once() -> str:
    """Swallow one cancellation, and end."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        SEEN.append("swallowed")
    return "done"


@job(name="async.hog")
async def hog(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  (that is the point)


@job(name="async.child_hog")
async def child_hog(seconds: float) -> None:
    """Block the loop in a task that the job has started."""

    async def child() -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    await asyncio.create_task(child())


@job(name="async.fail")
async def fail() -> None:
    raise ValueError("no luck")


@job(name="async.leave")
async def leave() -> None:
    raise SystemExit(3)


@job(name="async.child_leaves")
async def child_leaves() -> None:
    async def child() -> None:
        raise SystemExit(3)

    await asyncio.create_task(child())


@job(name="async.paint")
async def paint(colour: str) -> tuple[str, str, bool]:
    before = COLOUR.get()
    COLOUR.set(colour)
    await asyncio.sleep(0.01)
    return before, COLOUR.get(), current_job().name == "async.paint"


@job(name="async.write")
async def write(key: str) -> bool:
    """Return whether its two queries ran on one thread."""
    threads: set[int] = set()

    def here() -> None:
        threads.add(threading.get_ident())

    await sync_to_async(here)()
    await Execution.objects.acreate(key=key, process=0, at=0.0)
    await asyncio.sleep(0.01)
    await sync_to_async(here)()
    return len(threads) == 1 and await Execution.objects.filter(key=key).aexists()


@job(name="async.query_together")
async def query_together(count: int) -> None:
    """Query the database, and wait for the queries of the other jobs."""

    def query() -> None:
        connections["default"].ensure_connection()
        SEEN.append(None)
        eventually(lambda: len(SEEN) >= count)

    await sync_to_async(query)()


@job(name="async.stuck_query", timeout=3.0)
async def stuck_query() -> None:
    def query() -> None:
        with transaction.atomic():
            Execution.objects.create(key="stuck", process=0, at=0.0)
            try:
                while not GATE.is_set():
                    time.sleep(0.01)
            finally:
                SEEN.append("stopped")

    await sync_to_async(query)()


@job(name="async.enqueue")
async def enqueue(count: int) -> int:
    await asyncio.gather(*(add.arun_later(n) for n in range(count)))
    return len(database_threads())


@job(name="async.enqueue_now")
async def enqueue_now() -> str:
    return str(add.run_later(1).id)


@job(name="async.enqueue_and_fail")
async def enqueue_and_fail() -> None:
    """Enqueue in a transaction of the job and fail: the enqueued job vanishes with the transaction."""

    @sync_to_async
    def begin() -> Any:
        block = transaction.atomic()
        block.__enter__()
        return block

    block = await begin()
    await add.arun_later(1)
    error = ValueError("no luck")
    await sync_to_async(block.__exit__)(ValueError, error, None)


@job(name="async.there_and_back")
async def there_and_back() -> int:
    """Call a thread from the loop, and the loop from there."""
    return await sync_to_async(async_to_sync(inner))()


async def inner() -> int:
    return await Execution.objects.acount()


@job(name="async.leave_behind")
async def leave_behind() -> None:
    async def late() -> None:
        await until(lambda: len(SEEN) == 1)
        try:
            await Execution.objects.acount()
        except RuntimeError as error:
            SEEN.append(str(error))

    SEEN_TASKS.append(asyncio.create_task(late()))


SEEN_TASKS: list[asyncio.Task[None]] = []


@job(name="async.see")
async def see() -> None:
    SEEN.append("seen")
    await until(lambda: len(SEEN) == 2)


# Slots


@pytest.mark.sqlite_only
def test_hundreds_run_at_once_on_one_thread(engine: Engine) -> None:
    handles = run_many(together.bind(300) for _ in range(300))

    drain(300)

    assert len({handle.join(0) for handle in handles}) == 1


@pytest.mark.sqlite_only
def test_the_limit_holds_for_functions_and_coroutines_together(engine: Engine) -> None:
    most, running, lock = [0], [0], threading.Lock()

    def enter(step: int) -> None:
        with lock:
            running[0] += step
            most[0] = max(most[0], running[0])

    def is_full() -> bool:
        """Return whether all slots were in use once: on a busy machine the first jobs must wait for that."""
        return most[0] >= 7

    @job(name="async.count")
    async def count() -> None:
        enter(1)
        async with asyncio.timeout(60):
            await until(is_full)
        await asyncio.sleep(0.005)
        enter(-1)

    @job(name="async.count_in_thread")
    def count_in_thread() -> None:
        enter(1)
        eventually(is_full)
        time.sleep(0.005)
        enter(-1)

    run_many(each.bind() for _ in range(60) for each in (count, count_in_thread))
    drain(7)

    assert most == [7]
    assert states() == {"succeeded": 120}


@pytest.mark.sqlite_only
def test_a_function_that_waits_delays_no_coroutine(engine: Engine) -> None:
    waiting = run_many(wait.bind() for _ in range(3))
    opened = open_gate.run_later()

    drain(4)

    assert opened.join(0) is None
    assert [handle.join(0) for handle in waiting] == ["done"] * 3


@pytest.mark.sqlite_only
def test_a_coroutine_that_blocks_the_loop_delays_no_function(engine: Engine) -> None:
    with consuming(2):
        hog.using(priority=1).run_later(1.0)
        eventually(lambda: Job.objects.filter(state="running").exists())
        assert add.run_later(1).join(30) == 1


@pytest.mark.parametrize("slots", [1, 50])
def test_max_jobs_is_exact(engine: Engine, slots: int) -> None:
    run_many(call for _ in range(60) for call in (anap.bind(0.001), add.bind(1)))

    consumer = Consumer(slots, max_jobs=71, concurrency="asyncio")
    consumer.run()

    assert consumer.executed == 71
    assert states() == {"succeeded": 71, "ready": 49}


@pytest.mark.sqlite_only
def test_a_thousand_coroutines_keep_their_context(engine: Engine) -> None:
    handles = run_many(paint.bind(str(n)) for n in range(1000))

    drain(50)

    assert [h.join(0) for h in handles] == [("none", str(n), True) for n in range(1000)]


# Ends


@pytest.mark.sqlite_only
def test_errors_of_coroutines_are_their_own(engine: Engine) -> None:
    handles = [each.run_later() for each in (fail, leave, child_leaves)]
    beside_them = run_many(anap.bind(0.01) for _ in range(20))

    drain(3)

    assert [handle.errors[0].exception_class for handle in handles] == [
        "builtins.ValueError",
        "builtins.SystemExit",
        "builtins.SystemExit",
    ]
    assert all(handle.join(0) for handle in beside_them)


@pytest.mark.sqlite_only
def test_a_coroutine_that_takes_too_long_is_cancelled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "COROUTINE_GRACE", 30.0)
    handles = run_many(rest_briefly.bind() for _ in range(5))
    others = run_many(anap.bind(0.01) for _ in range(5))

    consumer = drain(3)

    assert [handle.errors[0].exception_class for handle in handles] == [
        "djjp.exceptions.JobTimedOut"
    ] * 5
    assert all(other.join(0) for other in others)
    assert consumer._pool.abandoned == 0


@pytest.mark.sqlite_only
def test_a_coroutine_that_swallows_its_cancellation_is_abandoned_and_its_slot_freed(
    engine: Engine,
) -> None:
    handle = stubborn.run_later(60.0)
    others = run_many(anap.bind(0.01) for _ in range(5))

    consumer = Consumer(1, drain=True, concurrency="asyncio")
    # It is the only slot: without it the consumer has none left, and it ends.
    consumer.run()
    assert consumer._pool.abandoned == 1
    with pytest.raises(JobFailed, match="timeout"):
        handle.join(0)
    drain(1)
    assert all(other.join(0) for other in others)


@pytest.mark.sqlite_only
def test_an_abandoned_coroutine_that_ends_after_all_counts_no_more(engine: Engine) -> None:
    with consuming(2) as consumer:
        handle = stubborn.run_later(60.0)
        eventually(lambda: consumer._pool.abandoned == 1)
        GATE.set()
        eventually(lambda: consumer._pool.abandoned == 0)
        assert add.run_later(1).join(30) == 1
    handle.refresh()
    assert handle.state == "failed"


@pytest.mark.sqlite_only
def test_a_coroutine_that_swallows_its_cancellation_and_ends_in_time_has_succeeded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "COROUTINE_GRACE", 30.0)
    handle = stubborn_once.run_later()

    drain(1)

    assert handle.join(0) == "done"
    assert SEEN == ["swallowed"]


@pytest.mark.sqlite_only
def test_a_cancelled_coroutine_stops_at_once(engine: Engine) -> None:
    with consuming(2):
        handle = rest.run_later()
        eventually(lambda: SEEN == ["rests"])
        handle.cancel()
        eventually(lambda: Job.objects.get().state == "cancelled")
    assert SEEN == ["rests", "cleaned up"]


def test_a_coroutine_that_is_interrupted_before_its_start_does_not_run() -> None:
    arguments = codec.encode_arguments((), {}, None)
    execution = ExecutionOf(Claimed(uuid.uuid4(), "async.rest", arguments, 1, 0))
    execution.interrupt(JobStopped, 0)

    outcome = asyncio.run(execution.arun())

    assert outcome is not None
    assert outcome.state == "failed"
    assert SEEN == []


def test_a_consumer_that_must_end_releases_coroutines_that_still_run(engine: Engine) -> None:
    ran = run_many(rest.bind() for _ in range(4))
    with consuming(2, shutdown_timeout=0.1):
        eventually(lambda: SEEN.count("rests") == 2)
    for handle in ran:
        handle.refresh()
    assert [(handle.state, handle.attempts) for handle in ran] == [("ready", 0)] * 4
    eventually(lambda: SEEN.count("cleaned up") == 2)


# Databases


@pytest.mark.one_database
@pytest.mark.borrowed
def test_coroutines_share_threads_and_connections_and_leave_none_open(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_threads, "IDLE", 60.0)
    before = {thread.ident for thread in threading.enumerate()}
    most: list[int] = []
    handles = run_many(write.bind(f"k{n}") for n in range(200))

    class Counting(sync_threads._Thread):
        def work(self) -> None:
            most.append(1)
            super().work()

    monkeypatch.setattr(sync_threads, "_Thread", Counting)
    drain(5)

    assert all(handle.join(0) for handle in handles)
    assert len(most) <= 5
    eventually(
        lambda: not [t for t in threading.enumerate() if t.ident not in before and "djjp" in t.name]
    )


@pytest.mark.sqlite_only
def test_no_query_waits_for_that_of_another_job(engine: Engine) -> None:
    handles = run_many(query_together.bind(8) for _ in range(8))

    drain(8)

    assert [handle.join(0) for handle in handles] == [None] * 8


@pytest.mark.sqlite_only
def test_coroutines_without_queries_need_no_thread(engine: Engine) -> None:
    sync_threads_end()
    [handle] = run_many([enqueue.bind(20)])
    run_many(anap.bind(0.001) for _ in range(20))

    drain(10)

    assert handle.join(0) == 0


@pytest.mark.sqlite_only
def test_an_idle_thread_ends(engine: Engine) -> None:
    with consuming(3):
        assert write.run_later("k").join(30) is True
        sync_threads_end()
        assert write.run_later("l").join(30) is True


@pytest.mark.sqlite_only
def test_a_query_that_outlasts_its_job_is_stopped_and_rolled_back(engine: Engine) -> None:
    handle = stuck_query.run_later()

    consumer = drain(1)

    with pytest.raises(JobFailed, match="timeout"):
        handle.join(0)
    eventually(lambda: SEEN == ["stopped"])
    assert not Execution.objects.filter(key="stuck").exists()
    eventually(lambda: consumer._pool.abandoned == 0)


@pytest.mark.sqlite_only
def test_a_job_can_go_from_the_loop_to_a_thread_and_back(engine: Engine) -> None:
    handle = there_and_back.run_later()

    drain(1)

    assert handle.join(0) == 0


@pytest.mark.sqlite_only
def test_a_task_that_outlives_its_job_cannot_use_another_jobs_thread(engine: Engine) -> None:
    leave_behind.run_later()
    see.run_later()

    drain(1)

    assert "the job has ended" in SEEN[1]
    SEEN_TASKS.clear()


# The queue, from coroutines


def test_a_coroutine_enqueues_without_a_thread(engine: Engine) -> None:
    sync_threads_end()
    handle = enqueue.run_later(30)

    consumer = drain(4)

    assert handle.join(0) == 0
    assert consumer.executed == 31


def test_a_coroutine_can_enqueue_by_the_blocking_call_too(engine: Engine) -> None:
    handle = enqueue_now.run_later()

    drain(1)

    assert Job.objects.get(pk=handle.join(0)).state == "succeeded"


@pytest.mark.sqlite_only
def test_jobs_enqueued_in_a_coroutines_transaction_vanish_with_it(engine: Engine) -> None:
    handle = enqueue_and_fail.run_later()

    drain(1)

    assert handle.join(0) is None
    assert states() == {"succeeded": 1}


# The watchdog


def blocks(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """Return what the watchdog has logged about a job; a busy machine delays other jobs too."""
    messages = [record.getMessage() for record in caplog.records]
    return [text for text in messages if text.startswith(f"{name} ") and "blocked" in text]


@pytest.mark.borrowed
@pytest.mark.sqlite_only
@pytest.mark.parametrize("culprit", [hog, child_hog], ids=["itself", "a task of it"])
def test_the_watchdog_names_the_job_that_blocks_the_loop_and_where_it_is(
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    culprit: Any,
) -> None:
    # It is logged again after ten times as long, which on a busy machine the block must not reach.
    monkeypatch.setattr(loop_watchdog, "LONGEST", 0.3)
    run_many(anap.bind(0.5) for _ in range(5))
    handle = culprit.run_later(1.5)

    with caplog.at_level(logging.WARNING, "djjp"):
        drain(10)

    [message] = blocks(caplog, culprit.name)
    assert message.startswith(f"{culprit.name} {handle.id} has blocked the event loop for ")
    assert "time.sleep(seconds)" in message
    assert str(loop_watchdog.__file__) not in message


@pytest.mark.sqlite_only
def test_the_watchdog_logs_a_job_that_blocks_repeatedly_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watchdog, "LONGEST", 0.3)
    run_many(hog.bind(0.5) for _ in range(4))

    with caplog.at_level(logging.WARNING, "djjp"):
        drain(1)

    assert len(blocks(caplog, hog.name)) == 1


@pytest.mark.sqlite_only
def test_the_watchdog_logs_nothing_about_coroutines_that_await(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine can keep the loop from the processor for longer than a job may block it.
    monkeypatch.setattr(loop_watchdog, "LONGEST", 0.6)
    run_many(call for _ in range(10) for call in (anap.bind(0.9), nap.bind(0.9)))

    with caplog.at_level(logging.WARNING, "djjp"):
        drain(20)

    assert caplog.records == []


@pytest.mark.sqlite_only
def test_a_process_whose_loop_is_blocked_for_good_ends(
    processes: Processes, engine: Engine
) -> None:
    """The culprit has failed; the others, which could not even be cancelled, are released."""
    program = """
import django; django.setup()
import asyncio, sys, time
from djjp import job
from djjp.consumer.pool import threads
from djjp.consumer.process import consume
threads.COROUTINE_GRACE = 1.0
__name__ = "tests.project.settings"  # a job of `__main__` is refused

@job(name="async.rest_briefly", timeout=0.1)
async def rest_briefly():
    time.sleep(600)

@job(name="async.rest", timeout=0.1)
async def rest():
    await asyncio.sleep(600)

sys.exit(consume(concurrency="asyncio", concurrency_limit=2))
"""
    other, culprit = rest.run_later(), rest_briefly.run_later()
    process = processes.python(program.replace("django.setup()", SETTINGS, 1))

    _, err = process.communicate(timeout=60)

    assert "async.rest_briefly" in err
    assert "blocks the event loop for good" in err
    assert process.returncode == 1
    for handle in (other, culprit):
        handle.refresh()
    assert (culprit.state, other.state, other.attempts) == ("failed", "ready", 0)


SETTINGS = (
    "django.setup(); from django.conf import settings; settings.DJJP['shutdown_timeout'] = 1.0"
)


# The command and the settings


def test_the_command_selects_the_pool_and_the_consumers_row_shows_it(
    processes: Processes, engine: Engine
) -> None:
    handles = run_many(anap.bind(0.3) for _ in range(20))
    process = processes.consumer("--concurrency", "asyncio", "--concurrency-limit", "20")
    try:
        eventually(lambda: ConsumerRow.objects.filter(concurrency="asyncio").exists())
        ends = [handle.join(30) for handle in handles]
        # Twenty on one loop, each after the start of all: not one after the other.
        assert max(ends) - min(ends) < 20 * 0.3
    finally:
        code, _ = processes.end(process)
    assert code == 0


# Coroutines on threads


@pytest.mark.sqlite_only
def test_a_thread_keeps_its_loop_for_the_next_coroutine(engine: Engine) -> None:
    @job(name="async.which_loop")
    async def which_loop() -> int:
        SEEN.append(asyncio.get_running_loop())
        return threading.get_ident()

    handles = run_many(which_loop.bind() for _ in range(20))
    consumers.drain(1, concurrency="threads")

    assert len({id(loop) for loop in SEEN}) == 1
    assert len({handle.join(0) for handle in handles}) == 1
    eventually(SEEN[0].is_closed)


@pytest.mark.sqlite_only
def test_coroutines_on_threads_use_databases_outside_their_loop(engine: Engine) -> None:
    handles = run_many(
        call for n in range(20) for call in (write.bind(f"k{n}"), there_and_back.bind())
    )
    consumers.drain(4, concurrency="threads")

    assert [handle.join(0) for handle in handles[::2]] == [True] * 20
    sync_threads_end()


@pytest.mark.sqlite_only
def test_a_task_that_raises_systemexit_ends_neither_thread_nor_loop(engine: Engine) -> None:
    handles = [child_leaves.run_later(), leave.run_later()]
    other = anap.run_later(0.01)

    consumers.drain(1, concurrency="threads")

    assert [h.errors[0].exception_class for h in handles] == ["builtins.SystemExit"] * 2
    assert other.join(0)


# Between the dispatch and the first step


@job(name="async.block")
async def block() -> None:
    """Block the loop until the test opens the gate."""
    SEEN.append("blocks")
    GATE.wait(60)


class Unstarted:
    """An asyncio pool in which one job blocks the event loop, and others wait for their first steps."""

    def __init__(self, *others: Claimed) -> None:
        self.outcomes: list[Outcome] = []
        hooks = {"on_outcome": self.outcomes.append, "on_progress": print, "call_queue": None}
        self.pool = AsyncPool(len(others) + 1, **cast("Hooks", hooks))
        self.pool.submit([claimed(block), *others])
        eventually(lambda: SEEN == ["blocks"])

    def end(self) -> dict[str, str]:
        """Open the gate and wait until all slots are free; return the state of each job that has an outcome."""

        def is_over() -> bool:
            self.pool.enforce()
            return self.pool._in_use == 0

        GATE.set()
        eventually(is_over)
        assert (self.pool._runs, self.pool._limited, self.pool.abandoned) == ({}, set(), 0)
        self.pool.close()
        return {outcome.claimed.name: str(outcome.state) for outcome in self.outcomes}


def claimed(registered: Any, *args: Any) -> Claimed:
    arguments = json.dumps({"args": args, "kwargs": {}})
    return Claimed(new_id(), registered.name, arguments, 1, 0)


@job(name="async.hog_for_long", timeout=0.3)
async def hog_for_long() -> None:
    time.sleep(0.5)  # noqa: ASYNC251  (that is the point)


def test_a_coroutine_that_waits_for_the_loop_can_be_taken_out_of_the_pool() -> None:
    waiting = claimed(see)
    unstarted = Unstarted(waiting)
    assert unstarted.pool.drain_queue(keep_slots=True) == []
    assert unstarted.pool.drain_queue() == [waiting]
    assert unstarted.end() == {block.name: "succeeded"}
    assert SEEN == ["blocks"]


def test_a_coroutine_that_waits_for_the_loop_does_not_run_and_has_no_start_yet() -> None:
    unstarted = Unstarted(claimed(see))
    assert [run.execution.claimed.name for run in unstarted.pool.running()] == [block.name]
    opened = time.time()
    unstarted.end()
    started = {outcome.claimed.name: outcome.started_at for outcome in unstarted.outcomes}
    assert started[block.name] < opened <= started[see.name]


def test_a_coroutine_that_is_cancelled_while_it_waits_for_the_loop_does_not_begin() -> None:
    waiting = claimed(see)
    unstarted = Unstarted(waiting)
    unstarted.pool.cancel([waiting])
    assert unstarted.end() == {block.name: "succeeded", see.name: "cancelled"}
    assert SEEN == ["blocks"]


def test_the_timeout_of_a_coroutine_begins_with_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted from its dispatch it was over before, and the job seemed to block the loop for good."""
    monkeypatch.setattr(threads, "COROUTINE_GRACE", 2.0)
    unstarted = Unstarted(claimed(hog_for_long))
    time.sleep(2.5)
    assert unstarted.end() == {block.name: "succeeded", hog_for_long.name: "succeeded"}
    assert not unstarted.pool.loop_blocked
