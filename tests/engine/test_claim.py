"""Claims on both databases: their order, their limit, and their queues and names."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest
from django.db import transaction

from djjp.engine import Claimed, Engine
from djjp.models import Job, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    enqueue,
    row,
)
from tests.support.factories import new_job


def test_a_claimed_job_is_running_with_its_consumer_and_its_start(engine: Engine) -> None:
    job = new_job(name="shop.mail", arguments='{"args":[7],"kwargs":{}}')
    engine.jobs.enqueue(job)
    before = row(job.id)
    [claimed] = claim(engine, "me")
    assert claimed == Claimed(
        job.id,
        "shop.mail",
        '{"args":[7],"kwargs":{}}',
        1,
        0,
        claim=1,
        queue=job.queue,
        created_at=claimed.created_at,
    )
    assert abs(claimed.enqueued_at - job.created_at) < 1e-5
    assert row(job.id) == before | {
        "state": "running",
        "consumer": "me",
        "started_at": datetime.fromtimestamp(NOW, UTC),
        "attempts": 1,
        "claim": 1,
    }


def test_a_claim_from_an_empty_queue_returns_no_job(engine: Engine) -> None:
    assert claim(engine) == []
    assert claim(engine, queues=["a"]) == []
    assert claim(engine, queues=["a", "b"]) == []


@pytest.mark.parametrize("queues", [None, ["default"], ["default", "other"]], ids=str)
def test_higher_priority_is_claimed_first_and_within_it_the_older_job(
    engine: Engine, queues: list[str] | None
) -> None:
    jobs = [new_job(priority=random.choice([-32768, -1, 0, 1, 32767])) for _ in range(60)]
    engine.jobs.enqueue_many(random.sample(jobs, len(jobs)))
    expected = [job.id for job in sorted(jobs, key=lambda job: (-job.priority, job.id))]
    claimed: list[UUID] = []
    while batch := claim(engine, limit=7, queues=queues):
        claimed += [job.id for job in batch]
    assert claimed == expected


def test_a_claim_takes_no_more_jobs_than_its_limit(engine: Engine) -> None:
    enqueue(engine, 5)
    for limit, taken in [(0, 0), (1, 1), (3, 3), (10, 1)]:
        assert len(claim(engine, limit=limit)) == taken
    assert Job.objects.filter(state="running").count() == 5


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_only_a_ready_job_is_claimed(engine: Engine, state: State) -> None:
    [id] = enqueue(engine)
    Job.objects.filter(id=id).update(state=state)
    before = row(id)
    for queues in (None, ["default"], ["default", "other"]):
        assert claim(engine, queues=queues) == []
        assert not engine.jobs.has_ready(queues, [])
    assert row(id) == before


@pytest.mark.parametrize("queues", [None, ["a"], ["a", "b", "c"]], ids=["all", "one", "several"])
def test_concurrent_claims_share_no_job_and_leave_none(
    engine: Engine, queues: list[str] | None
) -> None:
    ids = enqueue(engine, 300, queue="a")

    def take(consumer: str, own: Engine) -> list[Claimed]:
        mine: list[Claimed] = []
        while own.jobs.has_ready(queues, []):
            mine += claim(own, consumer, 7, queues=queues)
        return mine

    taken = at_once(*(partial(take, name) for name in ("one", "two", "three")))
    everything = [job.id for mine in taken for job in mine]
    assert sorted(everything) == ids
    assert {job.attempt for mine in taken for job in mine} == {1}
    for consumer, mine in zip(("one", "two", "three"), taken, strict=True):
        assert Job.objects.filter(consumer=consumer).count() == len(mine)


def test_a_claim_does_not_take_the_jobs_of_a_claim_that_is_not_committed(engine: Engine) -> None:
    """Two turns overlap: on PostgreSQL the second skips the rows of the first, on SQLite it waits."""
    ids = enqueue(engine, 4)
    claimed, go = threading.Event(), threading.Event()

    def first(own: Engine) -> list[Claimed]:
        try:
            with own.db.transaction():
                mine = own.jobs.claim("one", 2, NOW)
                claimed.set()
                go.wait()
            return mine
        finally:
            claimed.set()

    def second(own: Engine) -> list[Claimed]:
        claimed.wait()
        # On SQLite this waits for the write lock, which the first turn releases meanwhile.
        threading.Timer(0.05, go.set).start()
        return claim(own, "two", 2)

    mine, theirs = at_once(first, second)
    assert [job.id for job in mine] == ids[:2]
    assert [job.id for job in theirs] == ids[2:]


# Queues and names


def _spread(engine: Engine, names: Sequence[str], each: int) -> list[UUID]:
    """Enqueue ready jobs in turn over the queues, with mixed priorities; return their ids in claim order."""
    jobs = [new_job(queue=name, priority=i % 3) for i in range(each) for name in names]
    engine.jobs.enqueue_many(jobs)
    return [job.id for job in sorted(jobs, key=lambda job: (-job.priority, job.id))]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_served_queues_are_claimed_in_the_global_order_and_others_never(
    engine: Engine, count: int
) -> None:
    served = [f"served-{number}" for number in range(count)]
    expected = _spread(engine, served, each=max(3, 60 // count))
    others = _spread(engine, ["other", "", "served", "SERVED-0", "served-0 "], each=6)
    claimed: list[UUID] = []
    while batch := claim(engine, limit=25, queues=served):
        claimed += [job.id for job in batch]
    assert claimed == expected
    assert not engine.jobs.has_ready(served, [])
    assert set(Job.objects.filter(state="ready").values_list("id", flat=True)) == set(others)


def test_a_thousand_queues_are_served_in_the_order_of_their_jobs(engine: Engine) -> None:
    served = [f"q{number}" for number in range(1000)]
    jobs = [new_job(queue=name, priority=number % 7) for number, name in enumerate(served)]
    engine.jobs.enqueue_many(jobs)
    assert engine.jobs.has_ready(served, ["unknown"])
    first = sorted(jobs, key=lambda job: (-job.priority, job.id))
    for start in (0, 300):
        claimed = claim(engine, limit=300, queues=served, exclude_names=["unknown"])
        assert [job.id for job in claimed] == [job.id for job in first[start : start + 300]]


def test_a_queue_that_is_named_twice_is_served_once(engine: Engine) -> None:
    ids = enqueue(engine, 3)
    assert [job.id for job in claim(engine, limit=2, queues=["default", "default"])] == ids[:2]


def test_a_claim_from_no_queue_returns_no_job(engine: Engine) -> None:
    enqueue(engine)
    assert claim(engine, queues=[]) == []
    assert not engine.jobs.has_ready([], [])


@pytest.mark.parametrize("queues", [None, ["a"], ["a", "b"]], ids=["all", "one", "several"])
def test_jobs_with_excluded_names_are_skipped(engine: Engine, queues: list[str] | None) -> None:
    excluded = enqueue(engine, 5, queue="a", name="theirs", priority=9)
    enqueue(engine, 1, queue="a", name="theirs too", priority=9)
    ours = enqueue(engine, 2, queue="a", name="ours")
    without = ["theirs", "theirs too"]
    assert engine.jobs.has_ready(queues, without)
    assert [job.id for job in claim(engine, queues=queues, exclude_names=without)] == ours
    assert not engine.jobs.has_ready(queues, without)
    assert claim(engine, queues=queues, exclude_names=without) == []
    assert engine.jobs.has_ready(queues, ["theirs too"])
    assert [
        job.id for job in claim(engine, queues=queues, exclude_names=["theirs too"])
    ] == excluded


def test_has_ready_agrees_with_claim(engine: Engine) -> None:
    """For any queues and names `has_ready` reports what `claim` then does."""
    choose = random.Random(7)
    queues = ["a", "b", "c"]
    for _ in range(40):
        enqueue(engine, choose.randrange(2), queue=choose.choice(queues), name=choose.choice("xyz"))
        served = choose.choice([None, ["a"], ["b", "c"], ["c", "nothing"]])
        without = choose.choice([[], ["x"], ["x", "y"]])
        promised = engine.jobs.has_ready(served, without)
        assert promised == bool(claim(engine, limit=1, queues=served, exclude_names=without))


def test_has_ready_takes_no_lock_and_changes_nothing(engine: Engine) -> None:
    [id] = enqueue(engine)
    before = row(id)
    with engine.db.transaction():
        engine.jobs.claim("one", 1, NOW)
        # Another connection queries while this one has locked the row.
        [seen] = at_once(lambda own: own.jobs.has_ready(None, []))
        assert seen
        transaction.set_rollback(True, using=engine.db.alias)
    assert row(id) == before
