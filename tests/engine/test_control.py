"""Manual retry and cancel, also of jobs that consumers run at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Claimed, ClaimKey, Engine, Outcome, Progress
from djjp.ids import new_id
from djjp.models import FINISHED, Attempt, Job, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    everything,
    failed,
    finish,
    one,
    release,
    row,
)
from tests.support.processes import eventually


def cancel(engine: Engine, *ids: UUID, reason: str = "no longer needed") -> int:
    return engine.control.cancel(ids, NOW + 5, reason)


def again(job: Claimed, state: State = State.READY) -> Outcome:
    """Return the outcome of an attempt that will be repeated."""
    due = None if state == State.READY else NOW + 60
    return Outcome(job, state, NOW, NOW + 1, run_after=due)


@pytest.mark.parametrize("state", [State.SCHEDULED, State.BLOCKED, State.READY])
def test_a_waiting_job_is_cancelled_at_once(engine: Engine, state: State) -> None:
    [id] = enqueue(engine, state=state, run_after=NOW)
    before = row(id)
    assert cancel(engine, id) == 1
    assert row(id) == before | {
        "state": "cancelled",
        "reason": "no longer needed",
        "finished_at": datetime.fromtimestamp(NOW + 5, UTC),
    }
    assert claim(engine) == []
    assert engine.jobs.promote(NOW + 60) == 0


def test_a_running_job_is_marked_and_continues(engine: Engine) -> None:
    job = one(engine)
    before = row(job.id)
    assert cancel(engine, job.id) == 1
    assert row(job.id) == before | {"cancel_requested": True, "reason": "no longer needed"}


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_job_is_not_cancelled(engine: Engine, state: State) -> None:
    job = one(engine)
    finish(engine, "one", failed(job))
    Job.objects.filter(pk=job.id).update(state=state)
    before = everything()
    assert cancel(engine, job.id) == 0
    assert everything() == before


def test_many_jobs_are_cancelled_and_counted(engine: Engine) -> None:
    ids = enqueue(engine, 30)
    jobs = claim(engine, limit=20)
    finish(engine, "one", *map(done, jobs[:10]))
    assert cancel(engine, *ids, new_id()) == 20
    assert cancel(engine) == 0
    told = Job.objects.values_list("state", "cancel_requested")
    assert sorted(told) == sorted(
        [("succeeded", False), ("running", True), ("cancelled", False)] * 10
    )


def test_without_a_reason_the_reason_is_a_request(engine: Engine) -> None:
    [id] = enqueue(engine)
    engine.control.cancel([id], NOW)
    assert row(id)["reason"] == "cancelled on request"


@pytest.mark.parametrize("end", ["ready", "scheduled", "release"])
def test_a_marked_job_does_not_run_again_and_keeps_the_reason(engine: Engine, end: str) -> None:
    job = one(engine)
    cancel(engine, job.id)
    if end == "release":
        assert release(engine, "one", job) == {job.id}
    else:
        assert finish(engine, "one", again(job, State(end))) == {job.id}
    found = row(job.id)
    assert (found["state"], found["reason"]) == ("cancelled", "no longer needed")
    assert found["finished_at"] is not None
    assert claim(engine) == []
    assert engine.jobs.promote(NOW + 3600) == 0


@pytest.mark.parametrize("report", [done, failed])
def test_a_marked_job_that_ends_keeps_its_outcome(
    engine: Engine, report: Callable[[Claimed], Outcome]
) -> None:
    job = one(engine)
    cancel(engine, job.id)
    outcome = report(job)
    assert finish(engine, "one", outcome) == {job.id}
    assert (row(job.id)["state"], row(job.id)["reason"]) == (outcome.state, None)


def test_a_retry_clears_an_earlier_cancel_request(engine: Engine) -> None:
    job = one(engine)
    engine.jobs.record_progress("one", [Progress(job, 3, 10)])
    cancel(engine, job.id)
    finish(engine, "one", failed(job))
    assert engine.control.retry([job.id]) == 1
    found = row(job.id)
    assert (found["cancel_requested"], found["reason"]) == (False, None)
    assert (found["progress_done"], found["progress_total"]) == (None, None)

    [taken] = claim(engine, "two")
    assert engine.jobs.to_cancel("two") == []
    assert finish(engine, "two", again(taken)) == {job.id}
    assert row(job.id)["state"] == "ready"


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_idle_consumers_are_woken(engine: Engine, verb: str) -> None:
    job = one(engine)
    if verb == "retry":
        finish(engine, "one", done(job))
    listener = engine.db.listener()
    listener.woken()
    at_once(
        lambda engine: (
            cancel(engine, job.id) if verb == "cancel" else engine.control.retry([job.id])
        )
    )
    eventually(listener.woken)


# Against a consumer: each cancel begins while the other has written and not committed, and the other
# way round. Whichever comes first, no cancel request is lost.


def in_the_middle(engine: Engine, first: Callable[[], Any], second: Callable[[Engine], Any]) -> Any:
    """Do the first in a turn, and start the second before that turn has committed."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(at_once(second)))
    with engine.db.transaction():
        first()
        thread.start()
        time.sleep(0.1)
    thread.join()
    return results[0]


def test_a_job_that_is_claimed_meanwhile_is_marked(engine: Engine) -> None:
    [id] = enqueue(engine)
    assert (
        in_the_middle(
            engine, lambda: engine.jobs.claim("one", 1, NOW), lambda engine: cancel(engine, id)
        )
        == 1
    )
    assert (row(id)["state"], row(id)["cancel_requested"]) == ("running", True)
    assert row(id)["finished_at"] is None


def test_a_job_that_is_cancelled_meanwhile_is_not_claimed(engine: Engine) -> None:
    [id] = enqueue(engine)
    assert in_the_middle(engine, lambda: cancel(engine, id), claim) == []
    assert (row(id)["state"], row(id)["cancel_requested"]) == ("cancelled", False)


ENDS: dict[str, Callable[[Engine, Claimed], set[ClaimKey]]] = {
    "release": lambda engine, job: engine.jobs.release("one", [job]),
    "ready": lambda engine, job: engine.jobs.finish("one", [again(job)]),
    "scheduled": lambda engine, job: engine.jobs.finish("one", [again(job, State.SCHEDULED)]),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_job_that_is_released_meanwhile_is_cancelled_in_either_order(
    engine: Engine, end: Callable[[Engine, Claimed], set[ClaimKey]]
) -> None:
    job = one(engine)
    assert (
        in_the_middle(engine, lambda: end(engine, job), lambda engine: cancel(engine, job.id)) == 1
    )
    assert (row(job.id)["state"], row(job.id)["cancel_requested"]) == ("cancelled", False)
    assert row(job.id)["finished_at"] is not None

    def ends(engine: Engine) -> set[ClaimKey]:
        with engine.db.transaction():
            return end(engine, job)

    job = one(engine)
    assert in_the_middle(engine, lambda: cancel(engine, job.id), ends) == set()
    assert row(job.id)["state"] == "cancelled"
    assert row(job.id)["finished_at"] is not None


def test_a_job_that_ends_meanwhile_keeps_its_outcome_in_either_order(engine: Engine) -> None:
    job = one(engine)
    assert (
        in_the_middle(
            engine,
            lambda: engine.jobs.finish("one", [failed(job)]),
            lambda engine: cancel(engine, job.id),
        )
        == 0
    )
    job_too = one(engine)
    assert in_the_middle(
        engine,
        lambda: cancel(engine, job_too.id),
        lambda engine: finish(engine, "one", failed(job_too)),
    ) == {job_too.id}
    assert [row(id)["state"] for id in (job.id, job_too.id)] == ["failed", "failed"]
    assert Attempt.objects.count() == 2


def test_of_two_concurrent_retries_one_counts(engine: Engine) -> None:
    job = one(engine)
    finish(engine, "one", done(job))
    assert (
        in_the_middle(
            engine,
            lambda: engine.control.retry([job.id]),
            lambda engine: engine.control.retry([job.id]),
        )
        == 0
    )
    assert (row(job.id)["state"], row(job.id)["attempts"]) == ("ready", 0)


def test_a_retry_finds_a_job_that_ends_meanwhile_finished_or_running(engine: Engine) -> None:
    """One thread retries while one consumer finishes the job and another claims it."""
    job = one(engine)
    retried = in_the_middle(
        engine,
        lambda: engine.jobs.finish("one", [failed(job)]),
        lambda engine: engine.control.retry([job.id]),
    )
    # A statement reads the rows as they were at its start: on PostgreSQL the job still ran.
    assert (retried, row(job.id)["state"]) in [(1, "ready"), (0, "failed")]
    engine.control.retry([job.id])
    assert (
        in_the_middle(
            engine,
            lambda: engine.jobs.claim("two", 1, NOW),
            lambda engine: engine.control.retry([job.id]),
        )
        == 0
    )
    assert (row(job.id)["state"], row(job.id)["consumer"]) == ("running", "two")


@pytest.mark.end_to_end
def test_no_cancel_is_lost_beside_claims_and_releases(engine: Engine) -> None:
    """Two consumers claim and release as fast as they can, while a third thread cancels the jobs one by one."""
    ids = enqueue(engine, 60)
    over = threading.Event()

    def churn(engine: Engine, name: str) -> None:
        while not over.is_set():
            with engine.db.transaction():
                jobs = engine.jobs.claim(name, 20, NOW)
            with engine.db.transaction():
                engine.jobs.release(name, jobs)

    def cancel_each(engine: Engine) -> list[int]:
        try:
            return [engine.control.cancel([id], NOW) for id in ids]
        finally:
            over.set()

    counts, _, _ = at_once(
        cancel_each, lambda engine: churn(engine, "one"), lambda engine: churn(engine, "two")
    )
    assert counts == [1] * 60
    assert set(Job.objects.values_list("state", flat=True)) == {"cancelled"}


# Retry


@pytest.mark.parametrize("state", State)
def test_only_a_finished_job_is_retried(engine: Engine, state: State) -> None:
    job = one(engine)
    finish(engine, "one", failed(job, "first time"))
    Job.objects.filter(id=job.id).update(
        state=state, rescues=2, result='"x"', run_after=datetime.now(UTC)
    )
    before = row(job.id)
    retried = engine.control.retry([job.id])
    assert retried == (state in FINISHED)
    if not retried:
        assert row(job.id) == before
        return
    cleared = dict.fromkeys(("run_after", "started_at", "finished_at", "consumer", "result"))
    assert row(job.id) == before | cleared | {"state": "ready", "attempts": 0, "rescues": 0}
    assert [attempt.message for attempt in Attempt.objects.all()] == ["first time"]
    assert [again.attempt for again in claim(engine)] == [1]


def test_many_jobs_are_retried_and_counted(engine: Engine) -> None:
    enqueue(engine, 30)
    jobs = claim(engine)
    finish(engine, "one", *(done(job) for job in jobs[:20]))
    assert engine.control.retry([job.id for job in jobs] + [new_id()]) == 20
    assert Job.objects.filter(state="ready").count() == 20
