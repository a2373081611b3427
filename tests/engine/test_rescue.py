"""Rescue: the jobs of a dead consumer run again, fail or are released, and its late reports change nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Claimed, Engine, Outcome, Peer, Progress
from djjp.ids import new_id
from djjp.models import Attempt, Job, OnCrash, State
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
    register_consumer,
    release,
    row,
)
from tests.support.processes import eventually


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def rescue(
    engine: Engine, peer: Peer, *, most: int = 3, started: set[UUID] | None = None
) -> tuple[int, int] | None:
    claims = None if started is None else {(id, 1) for id in started}
    rescued = engine.rescue.rescue_jobs(peer, NOW + 9, max_rescues=most, started=claims)
    return rescued and (rescued.jobs, rescued.failed)


def test_the_jobs_of_a_dead_consumer_are_ready_again_and_their_rescue_is_counted(
    engine: Engine,
) -> None:
    peer, other = register_consumer(engine, "one"), register_consumer(engine, "two")
    enqueue(engine, 3)
    mine, theirs = claim(engine, "one", 2), claim(engine, "two", 1)
    before = row(theirs[0].id)

    assert rescue(engine, peer) == (2, 0)

    rescued = Job.objects.filter(pk__in=[job.id for job in mine])
    assert set(rescued.values_list("state", "attempts", "rescues", "finished_at")) == {
        ("ready", 1, 1, None)
    }
    assert row(theirs[0].id) == before
    assert engine.consumers.peers() == [other]
    assert not Attempt.objects.exists()
    assert [(job.attempt, job.rescues) for job in claim(engine, "two")] == [(2, 1)] * 2


def test_jobs_that_had_not_started_are_released_as_if_never_claimed(engine: Engine) -> None:
    peer = register_consumer(engine, "one")
    ids = enqueue(engine, 3)
    before = [row(id) for id in ids]
    claim(engine, "one")

    assert rescue(engine, peer, started={ids[1], new_id()}) == (3, 0)

    released = [before[0] | {"claim": 1}, before[2] | {"claim": 1}]
    assert [row(ids[0]), row(ids[2])] == released
    assert (row(ids[1])["state"], row(ids[1])["rescues"]) == ("ready", 1)


def test_a_job_that_must_not_run_twice_fails_with_its_consumer(engine: Engine) -> None:
    peer = register_consumer(engine, "host:7:one")
    started, waiting = enqueue(engine, 2, on_crash=OnCrash.FAIL)
    claim(engine, "host:7:one")

    assert rescue(engine, peer, started={started}) == (2, 1)

    found = row(started)
    assert (found["state"], found["attempts"], found["rescues"]) == ("failed", 1, 0)
    assert found["finished_at"] == at(NOW + 9)
    error = Attempt.objects.get()
    assert (error.job_id, error.number, error.consumer) == (started, 1, "host:7:one")
    assert (error.started_at, error.finished_at) == (at(NOW), at(NOW + 9))
    assert error.exception_class == "ConsumerDied"
    assert "host:7:one" in error.message
    assert "must not run twice" in error.message
    assert (row(waiting)["state"], row(waiting)["attempts"]) == ("ready", 0), "it has not run once"


@pytest.mark.parametrize("most", [0, 2])
def test_a_job_that_was_rescued_too_often_fails_with_the_reason(engine: Engine, most: int) -> None:
    [id] = enqueue(engine)
    for number in range(most):
        claim(engine, f"dead {number}")
        assert rescue(engine, register_consumer(engine, f"dead {number}"), most=most) == (1, 0)
    claim(engine, "the last")

    assert rescue(engine, register_consumer(engine, "the last"), most=most) == (1, 1)

    found = row(id)
    assert (found["state"], found["attempts"], found["rescues"]) == ("failed", most + 1, most)
    assert found["finished_at"] == at(NOW + 9)
    error = Attempt.objects.get()
    assert (error.number, error.exception_class) == (most + 1, "ConsumerDied")
    assert (f"after {most} rescues" in error.message) == (most > 0)
    assert "twice" not in error.message


@pytest.mark.parametrize("on_crash", OnCrash)
@pytest.mark.parametrize("started", [True, False])
def test_a_job_with_a_requested_cancel_does_not_run_again(
    engine: Engine, on_crash: OnCrash, started: bool
) -> None:
    peer = register_consumer(engine, "one")
    [id] = enqueue(engine, on_crash=on_crash)
    claim(engine, "one")
    engine.control.cancel([id], NOW + 5, "no longer needed")

    assert rescue(engine, peer, most=0, started={id} if started else set()) == (1, 0)

    found = row(id)
    assert (found["state"], found["reason"]) == ("cancelled", "no longer needed")
    assert (found["finished_at"], found["rescues"]) == (at(NOW + 9), 0)
    assert not Attempt.objects.exists()


def test_a_consumer_with_a_newer_heartbeat_is_not_rescued(engine: Engine) -> None:
    peer = register_consumer(engine, "one")
    one(engine, "one")
    engine.consumers.heartbeat("one", NOW + 0.001, locked=True)
    before, peers = everything(), engine.consumers.peers()
    assert rescue(engine, peer) is None
    assert (everything(), engine.consumers.peers()) == (before, peers)


def test_a_consumer_without_a_row_is_rescued_unless_it_has_registered_since(engine: Engine) -> None:
    job = one(engine, "ghost")
    orphan = Peer("ghost", None, locked=True)
    register_consumer(engine, "ghost")
    before = everything()
    assert rescue(engine, orphan) is None
    assert everything() == before

    engine.consumers.deregister("ghost")
    assert rescue(engine, orphan) == (1, 0)
    assert row(job.id)["state"] == "ready"


def test_an_idle_consumer_leaves_nothing(engine: Engine) -> None:
    peer = register_consumer(engine, "one")
    assert rescue(engine, peer) == (0, 0)
    assert engine.consumers.peers() == []


def test_of_two_rescuers_one_rescues(engine: Engine) -> None:
    for _ in range(5):
        peer = register_consumer(engine, "one")
        enqueue(engine, 4)
        claim(engine, "one")
        results = at_once(*[partial(rescue, peer=peer)] * 2)
        assert sorted(results, key=str) == [(4, 0), None]
        assert set(Job.objects.values_list("state", "rescues")) == {("ready", 1)}
        Job.objects.all().delete()


def test_many_jobs_are_rescued_at_once(engine: Engine) -> None:
    peer = register_consumer(engine, "one")
    ids = enqueue(engine, 800) + enqueue(engine, 200, on_crash=OnCrash.FAIL)
    claim(engine, "one", 1000)
    assert rescue(engine, peer, started=set(ids[100:])) == (1000, 200)
    told = Job.objects.values_list("state", "attempts", "rescues")
    assert set(told.filter(pk__in=ids[:100])) == {("ready", 0, 0)}
    assert set(told.filter(pk__in=ids[100:800])) == {("ready", 1, 1)}
    assert set(told.filter(pk__in=ids[800:])) == {("failed", 1, 0)}


def test_idle_consumers_are_woken_for_rescued_jobs(engine: Engine) -> None:
    peer = register_consumer(engine, "one")
    one(engine, "one")
    listener = engine.db.listener()
    listener.woken()
    at_once(partial(rescue, peer=peer))
    eventually(listener.woken)


# Rescue against reports of the dead consumer: a late report changes nothing, an early one stands.


def rescued(engine: Engine, job: Claimed) -> None:
    assert rescue(engine, register_consumer(engine, "one")) == (1, 0)


def rescued_and_taken(engine: Engine, job: Claimed) -> None:
    rescued(engine, job)
    assert len(claim(engine, "two")) == 1


def rescued_and_finished(engine: Engine, job: Claimed) -> None:
    rescued(engine, job)
    assert finish(engine, "two", *map(done, claim(engine, "two"))) == {job.id}


def failed_by_rescue(engine: Engine, job: Claimed) -> None:
    assert rescue(engine, register_consumer(engine, "one"), most=0) == (1, 1)


def failed_by_rescue_and_retried(engine: Engine, job: Claimed) -> None:
    failed_by_rescue(engine, job)
    assert engine.control.retry([job.id]) == 1


def released_by_rescue(engine: Engine, job: Claimed) -> None:
    assert rescue(engine, register_consumer(engine, "one"), started=set()) == (1, 0)


def released_by_rescue_and_taken(engine: Engine, job: Claimed) -> None:
    released_by_rescue(engine, job)
    assert [again.attempt for again in claim(engine, "two")] == [job.attempt]


def put_off(job: Claimed) -> Outcome:
    return Outcome(job, State.SCHEDULED, NOW, NOW + 1, run_after=NOW + 60)


LATE: dict[str, Callable[[Engine, Claimed], object]] = {
    "finish": lambda engine, job: finish(engine, "one", done(job)),
    "finish as failed": lambda engine, job: finish(engine, "one", failed(job)),
    "finish for another attempt": lambda engine, job: finish(engine, "one", put_off(job)),
    "release": lambda engine, job: release(engine, "one", job),
    "progress": lambda engine, job: engine.jobs.record_progress("one", [Progress(job, 5, 9)]),
    "rescue": lambda engine, job: rescue(engine, Peer("one", NOW, locked=True)),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize(
    "taken",
    [
        rescued,
        rescued_and_taken,
        rescued_and_finished,
        failed_by_rescue,
        failed_by_rescue_and_retried,
        released_by_rescue,
        released_by_rescue_and_taken,
    ],
)
def test_a_late_report_of_a_consumer_declared_dead_changes_nothing(
    engine: Engine,
    taken: Callable[[Engine, Claimed], None],
    late: Callable[[Engine, Claimed], object],
) -> None:
    job = one(engine, "one")
    taken(engine, job)
    before = everything()
    late(engine, job)
    assert everything() == before


@pytest.mark.parametrize("word", ["finish", "finish as failed", "finish for another attempt"])
def test_a_job_that_ended_before_the_rescue_keeps_its_outcome(engine: Engine, word: str) -> None:
    job = one(engine, "one")
    LATE[word](engine, job)
    before = everything()
    assert rescue(engine, register_consumer(engine, "one")) == (0, 0)
    assert everything() == before


def meanwhile(engine: Engine, second: Callable[[Engine], Any]) -> threading.Thread:
    """Start a call in a thread; its rows can be locked until this thread's turn commits."""
    thread = threading.Thread(target=at_once, args=[second])
    thread.start()
    time.sleep(0.1)
    return thread


def test_a_finish_that_waits_for_the_rescue_is_refused_and_the_other_way_round(
    engine: Engine,
) -> None:
    """Each starts while the other has written and not committed."""
    accepted: list[set[UUID]] = []
    job, peer = one(engine, "one"), register_consumer(engine, "one")
    with engine.db.transaction():
        assert rescue(engine, peer) == (1, 0)
        late = meanwhile(engine, lambda engine: accepted.append(finish(engine, "one", done(job))))
    late.join()
    assert accepted == [set()]
    assert (row(job.id)["state"], row(job.id)["rescues"]) == ("ready", 1)

    [job], peer = claim(engine, "one"), register_consumer(engine, "one")
    with engine.db.transaction():
        assert engine.jobs.finish("one", [failed(job)]) == set()
        late = meanwhile(engine, partial(rescue, peer=peer))
    late.join()
    assert (row(job.id)["state"], row(job.id)["rescues"]) == ("failed", 1)
    assert [error.message for error in Attempt.objects.all()] == ["it broke"]


@pytest.mark.parametrize("started", [None, set()], ids=["started", "in line"])
def test_a_job_that_another_consumer_claims_during_its_rescue_stays_there(
    engine: Engine, started: set[UUID] | None
) -> None:
    """The rescue has read that the dead consumer runs it, and waits to write."""
    job, peer = one(engine, "one"), register_consumer(engine, "one")
    results: list[Any] = []
    with engine.db.transaction():
        assert engine.jobs.release("one", [job]) == set()
        assert [taken.id for taken in engine.jobs.claim("two", 1, NOW)] == [job.id]
        late = meanwhile(
            engine, lambda engine: results.append(rescue(engine, peer, started=started))
        )
    late.join()
    assert results == [(0, 0)]
    assert (row(job.id)["state"], row(job.id)["consumer"]) == ("running", "two")
    assert (row(job.id)["attempts"], row(job.id)["rescues"]) == (1, 0)


def report_and_rescue_at_once(
    report: Callable[[Engine, Claimed], object], job: Claimed, peer: Peer
) -> list[Any]:
    return at_once(
        lambda engine: report(engine, job),
        lambda engine: rescue(engine, peer, most=0),
    )


@pytest.mark.parametrize("word", ["finish as failed", "release"])
def test_of_a_concurrent_rescue_and_report_exactly_one_takes_the_job(
    engine: Engine, word: str
) -> None:
    for _ in range(8):
        job, peer = one(engine, "one"), register_consumer(engine, "one")
        accepted, saved = report_and_rescue_at_once(LATE[word], job, peer)
        assert saved in ((1, 1), (0, 0))
        assert (job.id in accepted) == (saved == (0, 0))
        errors = [error.exception_class for error in Attempt.objects.filter(job_id=job.id)]
        if saved == (1, 1):
            assert (row(job.id)["state"], errors) == ("failed", ["ConsumerDied"])
        elif word == "release":
            assert (row(job.id)["state"], errors) == ("ready", [])
        else:
            assert (row(job.id)["state"], errors) == ("failed", ["E"])
        Job.objects.all().delete()
