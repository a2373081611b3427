"""Unique keys in the queue's rows: one live job for each, and no caller gets an IntegrityError."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine, NewJob, Outcome, Peer
from djjp.ids import new_id
from djjp.models import LIVE, Flag, Job, Relayed, State
from tests.support.engine_calls import NOW, at_once, done, end, enqueue, failed, row, take
from tests.support.factories import new_job


def unique(key: str = "k", **given: Any) -> NewJob:
    """Return a job with a unique key."""
    flags = Flag.UNIQUE | given.pop("flags", 0)
    return new_job(unique_key=key, flags=flags, **given)


def ended(engine: Engine, how: State = State.SUCCEEDED, **given: Any) -> UUID:
    """Enqueue and finish a job with a unique key; return its id."""
    job = unique(**given)
    engine.jobs.enqueue(job)
    if how == State.CANCELLED:
        engine.control.cancel([job.id], NOW)
    else:
        [claimed] = take(engine)
        end(engine, "one", (done if how == State.SUCCEEDED else failed)(claimed))
    return job.id


def live(key: str = "k") -> set[UUID]:
    return set(Job.objects.filter(unique_key=key, state__in=LIVE).values_list("id", flat=True))


# Enqueue


@pytest.mark.parametrize("state", LIVE)
def test_a_live_job_holds_its_key_and_a_second_enqueue_gets_the_holder(
    engine: Engine, state: State
) -> None:
    first, second = unique(state=state, run_after=NOW, waits_for=int(state == "blocked")), unique()
    assert engine.jobs.enqueue(first) == {}
    held = engine.jobs.enqueue(second)
    assert held == {second.id: (first.id, state)}
    assert engine.jobs.enqueue_many([second, new_job()]) == held
    assert live() == {first.id}
    assert Job.objects.count() == 2


@pytest.mark.parametrize("how", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_key_is_free_once_its_job_has_ended(engine: Engine, how: State) -> None:
    ended(engine, how)
    job = unique()
    assert engine.jobs.enqueue(job) == {}
    assert live() == {job.id}


def test_of_many_jobs_the_first_of_each_free_key_is_written(engine: Engine) -> None:
    [held_by_another, a, a_again, b] = [unique("z"), unique("a"), unique("a"), unique("b")]
    plain, holder = new_job(), unique("z", state=State.SCHEDULED, run_after=NOW)
    engine.jobs.enqueue(holder)
    held = engine.jobs.enqueue_many([held_by_another, plain, a, a_again, b])
    assert held == {held_by_another.id: (holder.id, "scheduled"), a_again.id: (a.id, "ready")}
    written = set(Job.objects.values_list("id", flat=True))
    assert written == {holder.id, plain.id, a.id, b.id}


def test_a_repeated_enqueue_finds_its_own_job(engine: Engine) -> None:
    """As when it is unknown whether a commit took place."""
    job = unique()
    assert engine.jobs.enqueue(job) == engine.jobs.enqueue(job) == {}
    take(engine, "one", done(take(engine)[0]))
    assert engine.jobs.enqueue(job) == {}
    assert row(job.id)["state"] == "succeeded"


def test_the_database_enforces_unique_keys(engine: Engine) -> None:
    engine.jobs.enqueue(unique())
    with pytest.raises(IntegrityError):
        Job.objects.create(
            name="x", created_at=row(next(iter(live())))["created_at"], unique_key="k"
        )


def test_of_concurrent_enqueues_of_a_key_one_is_written(engine: Engine) -> None:
    """Each in its own order, in which they could wait for one another."""
    keys = [f"key {number}" for number in range(400)]

    def write(engine: Engine, seed: int) -> None:
        jobs = [unique(key) for key in keys]
        random.Random(seed).shuffle(jobs)
        held = engine.jobs.enqueue_many(jobs)
        for job in jobs[:20]:
            assert live(job.unique_key or "") == {held[job.id].id if job.id in held else job.id}

    at_once(*(partial(write, seed=seed) for seed in range(6)))
    assert Counter(Job.objects.values_list("unique_key", flat=True)) == dict.fromkeys(keys, 1)


def test_a_key_that_changes_its_holder_always_has_one(engine: Engine) -> None:
    """Two threads enqueue while another runs and finishes the jobs."""
    enqueued: list[UUID] = []

    def write(engine: Engine) -> None:
        for _ in range(60):
            job = unique()
            held = engine.jobs.enqueue(job)
            enqueued.append(held[job.id].id if job.id in held else job.id)

    def consume(engine: Engine) -> None:
        jobs = take(engine)
        until = time.monotonic() + 30
        while time.monotonic() < until and (len(enqueued) < 120 or jobs):
            jobs = take(engine, "one", *map(done, jobs))

    at_once(write, write, consume)
    assert set(enqueued) == set(Job.objects.values_list("id", flat=True))


def test_a_job_without_a_key_costs_no_extra_statement(engine: Engine) -> None:
    job = new_job(flags=Flag.LIMITED, limit_key="k", limit_max=1)
    with CaptureQueriesContext(engine.db.connection) as captured:
        engine.jobs.enqueue(job)
    writes = [q["sql"] for q in captured.captured_queries if "djjp_job" in q["sql"]]
    assert len(writes) == 1, writes


# Retry, rescue and the like


@pytest.mark.parametrize("how", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_retried_job_whose_key_is_held_loses_the_key(engine: Engine, how: State) -> None:
    first, second = ended(engine, how), unique()
    engine.jobs.enqueue(second)
    assert engine.control.retry([first]) == 1
    assert [row(first)[f] for f in ("state", "unique_key")] == ["ready", None]
    assert live() == {second.id}
    assert len(take(engine)) == 2


def test_a_retry_takes_a_free_key_again(engine: Engine) -> None:
    first = ended(engine)
    engine.control.retry([first])
    assert live() == {first}
    later = unique()
    assert engine.jobs.enqueue(later)[later.id].id == first


def test_of_several_retried_jobs_one_takes_the_key(engine: Engine) -> None:
    some = [ended(engine) for _ in range(3)]
    assert engine.control.retry(some) == 3
    assert live() == {some[0]}


def test_concurrent_retries_and_enqueues_leave_one_holder(engine: Engine) -> None:
    some = [ended(engine) for _ in range(4)]

    def again(id: UUID) -> Callable[[Engine], int]:
        return lambda engine: engine.control.retry([id])

    for _ in range(5):
        at_once(*map(again, some), lambda engine: engine.jobs.enqueue(unique()))
        assert len(live()) == 1
        engine.control.cancel(list(Job.objects.values_list("id", flat=True)), NOW)


def test_a_job_between_attempts_keeps_its_key(engine: Engine) -> None:
    first = unique()
    engine.jobs.enqueue(first)
    [job] = take(engine)
    end(engine, "one", Outcome(job, State.SCHEDULED, NOW, NOW, run_after=time.time() + 60))
    later = unique()
    assert engine.jobs.enqueue(later) == {later.id: (first.id, "scheduled")}


def test_a_killed_holder_keeps_its_key_with_its_rescue_and_frees_it_with_its_end(
    engine: Engine,
) -> None:
    first, later = unique(), unique()
    engine.jobs.enqueue(first)
    take(engine, "dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=1, started=None)
    assert engine.jobs.enqueue(later) == {later.id: (first.id, "ready")}
    take(engine, "dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=1, started=None)
    assert row(first.id)["state"] == "failed"
    assert engine.jobs.enqueue(later) == {}


# Until the start


def test_a_key_until_the_start_is_free_once_the_job_runs(engine: Engine) -> None:
    first, second = (unique(flags=Flag.UNTIL_START) for _ in range(2))
    engine.jobs.enqueue(first)
    [job] = take(engine)
    assert engine.jobs.enqueue(second) == {}
    assert live() == {second.id}
    # The first job fails and is repeated beside the second.
    end(engine, "one", Outcome(job, State.READY, NOW, NOW))
    assert {job.id for job in take(engine)} == {first.id, second.id}


@pytest.mark.parametrize("terms", ["limit", "rate"])
def test_a_claimed_job_that_is_not_admitted_keeps_its_key(engine: Engine, terms: str) -> None:
    flags = Flag.UNTIL_START | (Flag.LIMITED if terms == "limit" else Flag.RATE_LIMITED)
    per = None if terms == "limit" else 60.0
    given: dict[str, Any] = {"limit_key": "l", "limit_max": 1, "limit_per": per}
    enqueue(engine, flags=flags & ~Flag.UNTIL_START, **given)
    first, later = unique(flags=flags, **given), unique()
    engine.jobs.enqueue(first)
    assert len(take(engine)) == 1
    [holder] = engine.jobs.enqueue(later).values()
    assert holder.id == first.id


# Jobs that enter the queue after their handle was returned


def test_a_late_job_whose_key_is_held_is_cancelled_and_names_the_holder(engine: Engine) -> None:
    holder, late, plain, other = unique(), unique(), new_job(), unique("other")
    engine.jobs.enqueue(holder)
    engine.jobs.enqueue_late([late, plain, other])
    came = row(late.id)
    assert (came["state"], came["reason"]) == (
        "cancelled",
        f"job {holder.id} has its unique key",
    )
    assert came["finished_at"] is not None
    assert row(plain.id)["state"] == row(other.id)["state"] == "ready"
    engine.jobs.enqueue_late([late])  # repeated
    assert row(late.id) == came


def test_a_relay_is_not_stopped_by_a_key_that_is_held(engine: Engine) -> None:
    holder = unique()
    engine.jobs.enqueue(holder)
    late, again, plain = unique(id=new_id()), unique(id=new_id()), new_job()
    engine.jobs.relay([late, again, plain], lambda: None)
    assert Relayed.objects.count() == 3
    assert [row(job.id)["state"] for job in (late, again, plain)] == [
        *("cancelled", "cancelled", "ready")
    ]
    engine.control.retry([late.id])
    assert row(late.id)["unique_key"] is None


def test_a_job_cancelled_in_its_outbox_takes_no_key(engine: Engine) -> None:
    cancelled, next_one = unique(state=State.CANCELLED), unique()
    engine.jobs.relay([cancelled, next_one], lambda: None)
    assert live() == {next_one.id}
    assert row(cancelled.id)["reason"] == "cancelled on request"
