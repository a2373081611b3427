"""What people ask of jobs that consumers may be working on at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Claimed, Claims, Outcome, Progress
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


def cancel(queue: Claims, *ids: UUID, reason: str = "no longer needed") -> int:
    return queue.cancel(ids, NOW + 5, reason)


def again(job: Claimed, state: State = State.READY) -> Outcome:
    """An attempt that is to be followed by another one."""
    due = None if state == State.READY else NOW + 60
    return Outcome(job, state, NOW, NOW + 1, run_after=due)


@pytest.mark.parametrize("state", [State.SCHEDULED, State.BLOCKED, State.READY])
def test_a_job_that_waits_is_cancelled_here_and_now(queue: Claims, state: State) -> None:
    [id] = enqueue(queue, state=state, run_after=NOW)
    before = row(id)
    assert cancel(queue, id) == 1
    assert row(id) == before | {
        "state": "cancelled",
        "reason": "no longer needed",
        "finished_at": datetime.fromtimestamp(NOW + 5, UTC),
    }
    assert claim(queue) == []
    assert queue.promote(NOW + 60) == 0


def test_a_job_that_runs_is_marked_and_goes_on(queue: Claims) -> None:
    job = one(queue)
    before = row(job.id)
    assert cancel(queue, job.id) == 1
    assert row(job.id) == before | {"cancel_requested": True, "reason": "no longer needed"}


@pytest.mark.parametrize("state", FINISHED)
def test_a_job_that_has_ended_stays_as_it_ended(queue: Claims, state: State) -> None:
    job = one(queue)
    finish(queue, "one", failed(job))
    Job.objects.filter(pk=job.id).update(state=state)
    before = everything()
    assert cancel(queue, job.id) == 0
    assert everything() == before


def test_many_are_cancelled_and_the_number_is_told(queue: Claims) -> None:
    ids = enqueue(queue, 30)
    jobs = claim(queue, limit=20)
    finish(queue, "one", *map(done, jobs[:10]))
    assert cancel(queue, *ids, new_id()) == 20
    assert cancel(queue) == 0
    told = Job.objects.values_list("state", "cancel_requested")
    assert sorted(told) == sorted(
        [("succeeded", False), ("running", True), ("cancelled", False)] * 10
    )


def test_without_a_reason_it_says_that_somebody_asked(queue: Claims) -> None:
    [id] = enqueue(queue)
    queue.cancel([id], NOW)
    assert row(id)["reason"] == "cancelled on request"


@pytest.mark.parametrize("end", ["ready", "scheduled", "release"])
def test_a_marked_job_does_not_run_again_and_keeps_the_reason(queue: Claims, end: str) -> None:
    job = one(queue)
    cancel(queue, job.id)
    if end == "release":
        assert release(queue, "one", job) == {job.id}
    else:
        assert finish(queue, "one", again(job, State(end))) == {job.id}
    found = row(job.id)
    assert (found["state"], found["reason"]) == ("cancelled", "no longer needed")
    assert found["finished_at"] is not None
    assert claim(queue) == []
    assert queue.promote(NOW + 3600) == 0


@pytest.mark.parametrize("report", [done, failed])
def test_a_marked_job_that_ends_all_the_same_has_ended_that_way(
    queue: Claims, report: Callable[[Claimed], Outcome]
) -> None:
    job = one(queue)
    cancel(queue, job.id)
    outcome = report(job)
    assert finish(queue, "one", outcome) == {job.id}
    assert (row(job.id)["state"], row(job.id)["reason"]) == (outcome.state, None)


def test_a_job_that_is_retried_carries_no_old_wish_to_stop_it(queue: Claims) -> None:
    job = one(queue)
    queue.progress("one", [Progress(job, 3, 10)])
    cancel(queue, job.id)
    finish(queue, "one", failed(job))
    assert queue.retry([job.id]) == 1
    found = row(job.id)
    assert (found["cancel_requested"], found["reason"]) == (False, None)
    assert (found["progress_done"], found["progress_total"]) == (None, None)

    [taken] = claim(queue, "two")
    assert queue.to_cancel("two") == []
    assert finish(queue, "two", again(taken)) == {job.id}
    assert row(job.id)["state"] == "ready"


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_idle_consumers_are_woken(queue: Claims, verb: str) -> None:
    job = one(queue)
    if verb == "retry":
        finish(queue, "one", done(job))
    listener = queue.listener()
    listener.woken()
    at_once(lambda own: cancel(own, job.id) if verb == "cancel" else own.retry([job.id]))
    eventually(listener.woken)


# Against a consumer: each cancel begins while the other has written and not committed, and the other
# way round. Whichever comes first, no wish to stop a job is lost.


def in_the_middle(queue: Claims, first: Callable[[], Any], second: Callable[[Claims], Any]) -> Any:
    """Do the first in a turn, and begin the second before that turn has committed."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(at_once(second)))
    with queue.turn():
        first()
        thread.start()
        time.sleep(0.1)
    thread.join()
    return results[0]


def test_a_job_that_is_claimed_meanwhile_is_marked(queue: Claims) -> None:
    [id] = enqueue(queue)
    assert (
        in_the_middle(queue, lambda: queue.claim("one", 1, NOW), lambda own: cancel(own, id)) == 1
    )
    assert (row(id)["state"], row(id)["cancel_requested"]) == ("running", True)
    assert row(id)["finished_at"] is None


def test_a_job_that_is_cancelled_meanwhile_is_not_claimed(queue: Claims) -> None:
    [id] = enqueue(queue)
    assert in_the_middle(queue, lambda: cancel(queue, id), claim) == []
    assert (row(id)["state"], row(id)["cancel_requested"]) == ("cancelled", False)


ENDS: dict[str, Callable[[Claims, Claimed], set[UUID]]] = {
    "release": lambda queue, job: queue.release("one", [job]),
    "ready": lambda queue, job: queue.finish("one", [again(job)]),
    "scheduled": lambda queue, job: queue.finish("one", [again(job, State.SCHEDULED)]),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_job_that_comes_back_meanwhile_is_cancelled_in_either_order(
    queue: Claims, end: Callable[[Claims, Claimed], set[UUID]]
) -> None:
    job = one(queue)
    assert in_the_middle(queue, lambda: end(queue, job), lambda own: cancel(own, job.id)) == 1
    assert (row(job.id)["state"], row(job.id)["cancel_requested"]) == ("cancelled", False)
    assert row(job.id)["finished_at"] is not None

    def ends(own: Claims) -> set[UUID]:
        with own.turn():
            return end(own, job)

    job = one(queue)
    assert in_the_middle(queue, lambda: cancel(queue, job.id), ends) == {job.id}
    assert row(job.id)["state"] == "cancelled"
    assert row(job.id)["finished_at"] is not None


def test_a_job_that_ends_meanwhile_has_ended_in_either_order(queue: Claims) -> None:
    job = one(queue)
    assert (
        in_the_middle(
            queue, lambda: queue.finish("one", [failed(job)]), lambda own: cancel(own, job.id)
        )
        == 0
    )
    job_too = one(queue)
    assert in_the_middle(
        queue, lambda: cancel(queue, job_too.id), lambda own: finish(own, "one", failed(job_too))
    ) == {job_too.id}
    assert [row(id)["state"] for id in (job.id, job_too.id)] == ["failed", "failed"]
    assert Attempt.objects.count() == 2


def test_of_two_retries_at_once_one_counts(queue: Claims) -> None:
    job = one(queue)
    finish(queue, "one", done(job))
    assert in_the_middle(queue, lambda: queue.retry([job.id]), lambda own: own.retry([job.id])) == 0
    assert (row(job.id)["state"], row(job.id)["attempts"]) == ("ready", 0)


def test_a_retry_meets_a_job_that_ends_meanwhile_or_not_at_all(queue: Claims) -> None:
    """Against the finish of one consumer and then against the claim of another."""
    job = one(queue)
    retried = in_the_middle(
        queue, lambda: queue.finish("one", [failed(job)]), lambda own: own.retry([job.id])
    )
    # A statement sees the rows as they were when it began: on PostgreSQL that one still ran.
    assert (retried, row(job.id)["state"]) in [(1, "ready"), (0, "failed")]
    queue.retry([job.id])
    assert (
        in_the_middle(queue, lambda: queue.claim("two", 1, NOW), lambda own: own.retry([job.id]))
        == 0
    )
    assert (row(job.id)["state"], row(job.id)["consumer"]) == ("running", "two")


def test_at_once_with_claims_and_releases_no_cancel_is_lost(queue: Claims) -> None:
    """Two consumers take and give back, as fast as they can, what a third party cancels one by one."""
    ids = enqueue(queue, 60)
    over = threading.Event()

    def churn(own: Claims, name: str) -> None:
        while not over.is_set():
            with own.turn():
                jobs = own.claim(name, 20, NOW)
            with own.turn():
                own.release(name, jobs)

    def cancel_each(own: Claims) -> list[int]:
        try:
            return [own.cancel([id], NOW) for id in ids]
        finally:
            over.set()

    counts, _, _ = at_once(
        cancel_each, lambda own: churn(own, "one"), lambda own: churn(own, "two")
    )
    assert counts == [1] * 60
    assert set(Job.objects.values_list("state", flat=True)) == {"cancelled"}
