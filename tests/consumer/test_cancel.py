"""Cancelling waiting and running jobs, from anywhere; and the progress that running jobs report."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp import current_job, get_job, job, run_many
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.pool import threads
from djjp.consumer.pool.threads import ThreadPool
from djjp.consumer.wakeup import Wakeup
from djjp.engine import Claimed, Engine, Outcome
from djjp.exceptions import JobCancelled
from djjp.jobs.current import CurrentJob
from djjp.models import Job, State
from tests.project.shop.jobs import add, anap, hog, nap
from tests.project.shop.models import Execution
from tests.support.consumers import consuming, drain
from tests.support.processes import Processes, eventually
from tests.support.recorder import GATE, SEEN

pytestmark = pytest.mark.usefixtures("recorder")


def me() -> CurrentJob:
    return current_job()


@job(name="cancel.waits")
def waits() -> str:
    """Poll `cancelled`, clean up and return."""
    SEEN.append("started")
    while not me().cancelled:
        time.sleep(0.005)
    SEEN.append("cleaned up")
    return "half a result"


@job(name="cancel.coroutine")
async def coroutine() -> None:
    SEEN.append("started")
    try:
        await asyncio.sleep(60)
    finally:
        SEEN.append("cleaned up")


@job(name="cancel.ignores")
def ignores() -> None:
    SEEN.append("started")
    try:
        while True:
            sum(range(50))
            time.sleep(0.0005)
    finally:
        SEEN.append("interrupted")


@job(name="cancel.fails_when_cancelled", max_attempts=5, backoff=0)
def fails_when_cancelled() -> None:
    SEEN.append("started")
    while not me().cancelled:
        time.sleep(0.005)
    raise ConnectionError("broken off")


@job(name="cancel.fails_at_once", max_attempts=5, backoff=0)
def fails_at_once() -> None:
    """Cancel itself and fail before the request can come back."""
    SEEN.append("started")
    get_job(me().id).cancel()
    raise ConnectionError("broken off")


@job(name="cancel.fails_for_long", max_attempts=5, backoff=3600)
def fails_for_long() -> None:
    raise ConnectionError("try again later")


@job(name="cancel.gate")
def gate() -> None:
    SEEN.append("started")
    GATE.wait(60)


@job(name="cancel.cancels")
def cancels(ids: list[Any]) -> None:
    for id in ids:
        get_job(id).cancel()


@job(name="cancel.steps")
def steps(count: int) -> None:
    for number in range(1, count + 1):
        me().progress(number, count)


@job(name="cancel.climbs")
def climbs() -> None:
    me().progress(3)
    GATE.wait(60)
    me().progress(7, 9)


@job(name="cancel.asteps")
async def asteps(count: int) -> None:
    for number in range(1, count + 1):
        me().progress(number, count)
        await asyncio.sleep(0)


@job(name="cancel.oversteps", max_attempts=1)
def oversteps(number: int) -> None:
    me().progress(number)


def started() -> None:
    eventually(lambda: "started" in SEEN)


# Jobs that wait


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.BLOCKED])
def test_a_waiting_job_is_cancelled_at_once_and_never_runs(engine: Engine, state: State) -> None:
    handle = add.run_later(1)
    Job.objects.update(state=state)

    handle.cancel()

    assert (handle.state, handle.reason, handle.attempts) == (
        "cancelled",
        "cancelled on request",
        0,
    )
    assert Job.objects.get().finished_at is not None
    with pytest.raises(JobCancelled, match="cancelled on request"):
        handle.join(0)
    assert drain().executed == 0


def test_a_job_between_two_attempts_is_cancelled_and_keeps_its_errors(
    engine: Engine,
) -> None:
    handle = fails_for_long.run_later()
    drain()

    handle.cancel()

    assert (handle.state, len(handle.errors)) == ("cancelled", 1)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_finished_job_is_not_cancelled(engine: Engine, state: State) -> None:
    handle = add.run_later(1)
    drain()
    Job.objects.update(state=state)
    before = Job.objects.values().get()

    handle.cancel()

    assert Job.objects.values().get() == before


def test_a_cancelled_job_can_be_retried_and_then_runs(engine: Engine) -> None:
    handle = add.run_later(1)
    handle.cancel()

    handle.retry()

    assert (handle.state, handle.reason) == ("ready", None)
    drain()
    assert handle.join(0) == 1


def test_acancel_does_the_same(engine: Engine) -> None:
    handle = add.run_later(1)

    asyncio.run(handle.acancel())

    assert handle.state == "cancelled"


# Jobs that run


def test_a_running_function_polls_cancelled_and_ends_as_cancelled(engine: Engine) -> None:
    handle = waits.run_later()
    with consuming():
        started()
        handle.cancel()
        with pytest.raises(JobCancelled, match="cancelled on request"):
            handle.join(30)

    assert SEEN == ["started", "cleaned up"]
    assert (handle.state, handle.attempts, handle.errors) == ("cancelled", 1, [])


def test_a_running_coroutine_is_cancelled_where_it_awaits(engine: Engine) -> None:
    handle = coroutine.run_later()
    with consuming():
        started()
        handle.cancel()
        with pytest.raises(JobCancelled):
            handle.join(30)

    assert SEEN == ["started", "cleaned up"]
    assert handle.errors == []


@pytest.mark.sqlite_only
def test_a_function_that_does_not_poll_is_interrupted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "INTERRUPT_GRACE", 30.0)
    handle = ignores.run_later()
    with consuming(1) as consumer:
        started()
        handle.cancel()
        with pytest.raises(JobCancelled):
            handle.join(30)
        assert add.run_later(1).join(30) == 1
        assert consumer._pool.abandoned == 0

    assert SEEN == ["started", "interrupted"]


@pytest.mark.sqlite_only
def test_a_function_that_blocks_is_abandoned_as_cancelled(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    handle = gate.run_later()
    with caplog.at_level(logging.ERROR, "djjp"), consuming(2) as consumer:
        started()
        handle.cancel()
        with pytest.raises(JobCancelled):
            handle.join(30)
        assert consumer._pool.abandoned == 1
    assert "cannot be stopped" in caplog.text


@pytest.mark.parametrize("work", [anap, hog], ids=["coroutine", "function"])
def test_a_job_of_another_process_is_cancelled(
    processes: Processes, engine: Engine, work: Any
) -> None:
    handle, other = work.run_later(600.0), nap.run_later(0.01)
    consumer = processes.consumer("--concurrency-limit", "2")
    assert other.join(60)
    eventually(lambda: Job.objects.get(pk=handle.id).state == "running")

    handle.cancel()

    with pytest.raises(JobCancelled):
        handle.join(60)
    assert processes.end(consumer)[0] == 0


@pytest.mark.parametrize("work", [fails_when_cancelled, fails_at_once], ids=["later", "at-once"])
def test_an_attempt_that_fails_after_the_cancel_is_not_retried(engine: Engine, work: Any) -> None:
    handle = work.run_later()
    with consuming():
        started()
        handle.cancel()
        with pytest.raises(JobCancelled, match="cancelled on request"):
            handle.join(30)
        assert add.run_later(1).join(30) == 1

    handle.refresh()
    assert (handle.state, handle.attempts, SEEN) == ("cancelled", 1, ["started"])


def test_a_job_that_succeeds_before_the_request_arrives_has_succeeded(engine: Engine) -> None:
    """And the request does not persist: a retried job runs again."""
    handle = add.run_later(1)
    with engine.db.transaction():
        (claimed,) = engine.jobs.claim("here", 1, time.time())
    handle.cancel()
    with engine.db.transaction():
        assert not engine.jobs.finish("here", [Outcome(claimed, State.SUCCEEDED, 1.0, 2.0, "1")])

    handle.refresh()
    assert (handle.state, handle.result, handle.reason) == ("succeeded", 1, None)
    handle.retry()
    assert not Job.objects.get().cancel_requested
    drain()
    assert (handle.join(0), handle.state) == (1, "succeeded")


def test_a_cancelled_job_is_not_released_at_a_shutdown(engine: Engine) -> None:
    handle = gate.run_later()
    with consuming() as consumer:
        started()
        Job.objects.update(cancel_requested=True, reason="not any more")
        consumer.stop()
        consumer.stop()
        eventually(lambda: Job.objects.get().state != "running")

    handle.refresh()
    assert (handle.state, handle.reason) == ("cancelled", "not any more")


# Claimed jobs that have not started


@pytest.mark.one_database
def test_claimed_jobs_that_have_not_started_are_cancelled_too(engine: Engine) -> None:
    """It has learnt that jobs are tiny, and has claimed all of these ahead."""
    run_many(add.bind(i) for i in range(500))
    victims = run_many(add.using(priority=-2).bind(i) for i in range(100))
    canceller = cancels.using(priority=-1).run_later([handle.id for handle in victims])

    drain(1)

    assert canceller.join(0) is None
    rows = Job.objects.filter(pk__in=[handle.id for handle in victims])
    assert set(rows.values_list("state", flat=True)) <= {"cancelled", "succeeded"}
    assert rows.filter(state="cancelled").exists()
    assert not rows.filter(state="cancelled", result__isnull=False).exists()


def test_a_job_that_is_cancelled_in_the_pools_queue_does_not_start() -> None:
    def claimed(name: str) -> Claimed:
        return Claimed(uuid.uuid4(), name, '{"args":[],"kwargs":{}}', 1, 0)

    ended: list[Outcome] = []
    began: list[Claimed] = []
    wakeup = Wakeup()
    pool = ThreadPool(
        1, on_outcome=ended.append, on_progress=SEEN.append, call_queue=CallQueue(wakeup)
    )
    pool.assign("", began.append)
    first, victim, last = claimed(gate.name), claimed(waits.name), claimed("cancel.nothing")
    pool.submit([first, victim, last])
    started()

    pool.cancel([victim])
    GATE.set()
    eventually(lambda: len(ended) == 3)
    pool.close()
    wakeup.close()

    assert began == [first, last]
    assert [outcome.state for outcome in ended] == ["succeeded", "cancelled", "succeeded"]
    assert SEEN == ["started"]


@job(name="cancel.nothing")
def nothing() -> None: ...


# Progress


def test_progress_is_shown_while_the_job_runs_and_the_last_one_is_kept(engine: Engine) -> None:
    handle = climbs.run_later()
    assert [handle.progress] == [None]
    with consuming():
        eventually(lambda: Job.objects.get().progress_done is not None)
        handle.refresh()
        assert (handle.state, handle.progress) == ("running", (3, None))
        GATE.set()
        handle.join(30)

    assert handle.progress == (7, 9)


@pytest.mark.parametrize("work", [steps, asteps], ids=["function", "coroutine"])
def test_progress_costs_no_statement_of_its_own(engine: Engine, work: Any) -> None:
    """On the consumer's connection a report rides on a turn; the job's thread has none at all."""
    handle = work.run_later(5000)
    with CaptureQueriesContext(connections[engine.db.alias]) as seen:
        drain()

    handle.join(0)
    assert handle.progress == (5000, 5000)
    written = [query["sql"] for query in seen.captured_queries if "progress_done" in query["sql"]]
    assert 1 <= len([sql for sql in written if sql.startswith("UPDATE")]) < 100


def test_a_manual_retry_clears_the_progress(engine: Engine) -> None:
    handle = steps.run_later(3)
    drain()
    handle.join(0)

    handle.retry()

    assert handle.progress is None


def test_the_largest_numbers_are_kept_and_larger_ones_fail_the_job(engine: Engine) -> None:
    large, too_large, other = (
        oversteps.run_later(2**63 - 1),
        oversteps.run_later(2**63),
        add.run_later(1),
    )

    drain(1)

    large.refresh()
    too_large.refresh()
    assert large.progress == (2**63 - 1, None)
    assert (too_large.state, too_large.progress) == ("failed", None)
    assert other.join(0) == 1


def test_progress_in_a_table_of_the_application_needs_no_support(engine: Engine) -> None:
    with CaptureQueriesContext(connections["default"]) as seen:
        steps.run_later(10)
        drain()

    assert not seen.captured_queries
    assert not Execution.objects.exists()
