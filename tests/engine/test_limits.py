"""Limits in the queue's rows: no more jobs of a key run than its limit, and each end unblocks waiting jobs."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.test.utils import CaptureQueriesContext

from djjp.engine import Claimed, Edge, Engine, NewPipeline, Outcome, Peer
from djjp.engine.limits import BLOCK_BATCH, KEY_BATCH
from djjp.ids import new_id
from djjp.models import FINISHED, Flag, Job, State
from tests.support.engine_calls import NOW, at_once, done, end, enqueue, failed, row, take
from tests.support.factories import new_job


def limited(
    engine: Engine, count: int = 1, key: str = "k", most: int = 1, /, **given: Any
) -> list[UUID]:
    """Enqueue jobs under a limit."""
    flags = Flag.LIMITED | given.pop("flags", 0)
    return enqueue(engine, count, flags=flags, limit_key=key, limit_max=most, **given)


def states(ids: Iterable[UUID]) -> list[str]:
    found = dict(Job.objects.values_list("id", "state"))
    return [found[id] for id in ids]


def ids(jobs: Iterable[Claimed]) -> list[UUID]:
    return [job.id for job in jobs]


# Which jobs run


def test_no_more_jobs_of_a_key_run_than_its_limit_and_the_rest_wait_as_if_never_claimed(
    engine: Engine,
) -> None:
    first, second, third = limited(engine, 3, "k", 2)
    plain = enqueue(engine)
    assert ids(take(engine)) == [first, second, *plain]
    waiting = row(third)
    assert [waiting[f] for f in ("state", "attempts", "consumer", "started_at", "waits_for")] == [
        *("blocked", 0, None, None, 0)
    ]
    assert take(engine, "two") == []
    limited(engine, 1, "k", 2)
    assert take(engine, "two") == []


def test_keys_are_counted_separately(engine: Engine) -> None:
    mine = [limited(engine, 2, key)[0] for key in ("a", "b", "c")]
    assert ids(take(engine, limit=6)) == mine


def test_jobs_of_all_queues_and_names_are_counted_together(engine: Engine) -> None:
    [first] = limited(engine, queue="a", name="x")
    limited(engine, queue="b", name="y")
    assert ids(take(engine, queues=["a"])) == [first]
    assert take(engine, queues=["b"]) == []


@pytest.mark.parametrize("how", ["succeeded", "failed", "tried again", "tried again later"])
def test_the_turn_that_ends_a_job_unblocks_the_first_waiting_one(engine: Engine, how: str) -> None:
    first, second, urgent = [*limited(engine, 2), *limited(engine, priority=5)]
    [running] = take(engine)
    assert running.id == urgent
    outcome: Outcome = {
        "succeeded": done(running),
        "failed": failed(running),
        "tried again": Outcome(running, State.READY, NOW, NOW + 1),
        "tried again later": Outcome(
            running, State.SCHEDULED, NOW, NOW + 1, run_after=time.time() + 9
        ),
    }[how]
    end(engine, "one", outcome)
    assert states([first, second]) == ["ready", "blocked"]
    if how == "tried again":  # it is the first by priority, and waits like the others
        assert ids(take(engine)) == [urgent]
    else:
        assert ids(take(engine)) == [first]


def test_a_job_claimed_before_longer_waiting_ones_is_blocked(
    engine: Engine,
) -> None:
    """Otherwise new jobs, claimed just when a permit is free, would starve them."""
    first, second = limited(engine, 2)
    [running] = take(engine)
    assert states([first, second]) == ["running", "blocked"]
    [third] = limited(engine)
    assert take(engine, "one", done(running), limit=1) == []
    assert states([first, second, third]) == ["succeeded", "ready", "blocked"]
    [urgent] = limited(engine, priority=1)
    assert ids(take(engine, limit=1)) == [urgent]


def test_a_job_that_is_blocked_behind_waiting_ones_unblocks_them_at_once(engine: Engine) -> None:
    first, second, third = limited(engine, 3)
    [running] = take(engine)
    end(engine, "one", done(running))
    engine.control.cancel([second], NOW)  # which had been unblocked
    [fourth] = limited(engine)
    assert take(engine) == []
    assert states([first, second, third, fourth]) == ["succeeded", "cancelled", "ready", "blocked"]


def test_a_late_end_unblocks_no_job_for_a_permit_in_use(engine: Engine) -> None:
    first, second = limited(engine, 2)
    [running] = take(engine)
    engine.rescue.rescue_jobs(Peer("one", None, True), NOW, max_rescues=3, started=None)
    [again] = take(engine, "two", limit=1)
    assert again.id == first
    assert take(engine, "one", done(running)) == []  # refused by the fence
    assert states([first, second]) == ["running", "blocked"]


# Other ways to free a permit


def test_the_rescue_of_a_dead_consumer_frees_permits(engine: Engine) -> None:
    first, second, third = limited(engine, 3, "k", 2)
    take(engine, "dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=0, started=None)
    assert states([first, second, third]) == ["failed", "failed", "ready"]


def test_a_dead_consumers_unstarted_jobs_are_released_and_use_no_permit(
    engine: Engine,
) -> None:
    mine = limited(engine, 3)
    take(engine, "dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=0, started=[])
    assert states(mine) == ["ready", "ready", "blocked"]
    assert ids(take(engine)) == mine[:1]
    assert states(mine) == ["running", "blocked", "blocked"]


def test_a_released_job_frees_its_permit(engine: Engine) -> None:
    mine = limited(engine, 2)
    [running] = take(engine)
    with engine.db.transaction():
        engine.jobs.release("one", [running])
        engine.limits.unblock([running.id])
    assert states(mine) == ["ready", "ready"]


def test_a_deleted_running_job_frees_its_permit(engine: Engine) -> None:
    first, second = limited(engine, 2)
    take(engine)
    assert engine.limits.unblock_stranded("") == (0, None)
    Job.objects.filter(pk=first).delete()
    assert engine.limits.unblock_stranded("") == (1, None)
    assert states([second]) == ["ready"]


@pytest.mark.parametrize("how", ["cancelled", "deleted", "expired"])
def test_an_unblocked_job_that_ends_before_it_runs_frees_its_permit(
    engine: Engine, how: str
) -> None:
    first, second, third = limited(engine, 3)
    [running] = take(engine)
    end(engine, "one", done(running))
    assert states([first, second, third]) == ["succeeded", "ready", "blocked"]
    if how == "cancelled":
        engine.control.cancel([second], NOW)
    elif how == "deleted":
        Job.objects.filter(pk=second).delete()
    else:
        Job.objects.filter(pk=second).update(expires_at="2026-01-01T00:00Z")
        engine.expiry.expire(time.time(), 100)
    engine.limits.unblock_stranded("")
    assert ids(take(engine)) == [third]


def test_a_job_that_expires_when_claimed_frees_its_permit_in_the_same_turn(engine: Engine) -> None:
    soon = {"flags": Flag.EXPIRES, "expires_at": time.time() + 3600}
    first, second, third = limited(engine, 3, **soon)
    [running] = take(engine)
    end(engine, "one", done(running))
    Job.objects.filter(pk=second).update(expires_at="2026-01-01T00:00Z")
    assert take(engine) == []
    assert states([first, second, third]) == ["succeeded", "cancelled", "ready"]


def test_a_blocked_job_can_be_cancelled_and_retried(engine: Engine) -> None:
    first, second = limited(engine, 2)
    [running] = take(engine)
    engine.control.cancel([second], NOW)
    engine.control.retry([second])
    assert take(engine) == []
    assert states([first, second]) == ["running", "blocked"]
    assert ids(take(engine, "one", done(running))) == []
    assert ids(take(engine)) == [second]


def test_free_permits_are_found_among_any_number_of_keys(engine: Engine) -> None:
    count = KEY_BATCH + 20
    jobs = [
        new_job(state=State.BLOCKED, flags=Flag.LIMITED, limit_key=f"{number:05}", limit_max=1)
        for number in range(count)
    ]
    engine.jobs.enqueue_many(jobs)
    opened, after = engine.limits.unblock_stranded("")
    assert (opened, after) == (KEY_BATCH, f"{KEY_BATCH - 1:05}")
    assert engine.limits.unblock_stranded(after or "") == (20, None)
    assert engine.limits.unblock_stranded("") == (0, None)
    assert set(states(job.id for job in jobs)) == {"ready"}


# Queues, names and numbers


def test_a_queue_that_no_consumer_serves_delays_no_other(engine: Engine) -> None:
    """Its jobs are unblocked too, for a consumer that can serve it, and use no permit until they run."""
    [running] = limited(engine, queue="served")
    take(engine)
    unserved, served = limited(engine, queue="unserved"), limited(engine, 2, queue="served")
    take(engine)
    assert set(states(unserved + served)) == {"blocked"}
    [mine] = [Claimed(running, "test.job", "[]", 1, 0, claim=1)]
    assert take(engine, "one", done(mine), queues=["served"]) == []
    assert states(unserved + served) == ["ready", "ready", "blocked"]
    assert ids(take(engine, queues=["served"])) == served[:1]


def test_a_job_that_no_consumer_can_run_does_not_delay_others_for_long(engine: Engine) -> None:
    known = limited(engine)
    [running] = take(engine)
    limited(engine, 3, name="gone")
    later = limited(engine)
    take(engine)
    assert take(engine, "one", done(running), limit=1, exclude_names=["gone"]) == []
    for _ in range(3):
        engine.limits.unblock_stranded("")
    assert ids(take(engine, limit=1, exclude_names=["gone"])) == later, known


def test_a_raised_limit_counts_for_waiting_jobs(engine: Engine) -> None:
    limited(engine, 3)
    [first] = take(engine)
    limited(engine, 1, "k", 3)
    take(engine)
    end(engine, "one", done(first))
    assert len(take(engine)) == 2


def test_a_rate_with_the_same_key_is_counted_separately(engine: Engine) -> None:
    rated = {"flags": Flag.RATE_LIMITED, "limit_key": "k", "limit_max": 1, "limit_per": 60.0}
    [first] = enqueue(engine, **rated)
    mine = limited(engine, 2)
    assert ids(take(engine)) == [first, mine[0]]
    [second] = enqueue(engine, **rated)
    assert take(engine) == []
    assert states([second, mine[1]]) == ["scheduled", "blocked"]
    engine.limits.unblock_stranded("")
    assert states([second, mine[1]]) == ["scheduled", "blocked"]


# Pipelines


def test_a_step_with_parents_is_not_unblocked_and_then_waits_for_a_permit(
    engine: Engine,
) -> None:
    [running] = limited(engine)
    parent, child = new_id(), new_id()
    terms = {"flags": Flag.LIMITED, "limit_key": "k", "limit_max": 1}
    jobs = [
        new_job(id=parent, flags=Flag.HAS_DEPENDENTS, pipeline=child),
        new_job(id=child, state=State.BLOCKED, waits_for=1, pipeline=child, **terms),
    ]
    engine.pipelines.enqueue(NewPipeline(child, jobs, [Edge(parent, child, "")]))
    mine, first = take(engine)
    assert [mine.id, first.id] == [running, parent]
    end(engine, "one", done(mine))
    engine.limits.unblock_stranded("")
    assert [row(child)[field] for field in ("state", "waits_for")] == ["blocked", 1]

    limited(engine)
    [other] = take(engine)
    end(engine, "one", done(first))
    assert take(engine) == []
    assert [row(child)[field] for field in ("state", "waits_for")] == ["blocked", 0]
    assert take(engine, "one", done(other)) == []
    assert ids(take(engine)) == [child]


def test_a_step_that_waits_for_a_permit_is_cancelled_with_its_pipeline(engine: Engine) -> None:
    limited(engine)
    take(engine)
    first, last = new_id(), new_id()
    terms = {"flags": Flag.LIMITED | Flag.HAS_DEPENDENTS, "limit_key": "k", "limit_max": 1}
    jobs = [
        new_job(id=first, pipeline=last, **terms),
        new_job(id=last, state=State.BLOCKED, waits_for=1, pipeline=last),
    ]
    engine.pipelines.enqueue(NewPipeline(last, jobs, [Edge(first, last, "")]))
    assert take(engine) == []
    engine.control.cancel_pipeline(last, NOW)
    assert states([first, last]) == ["cancelled", "cancelled"]
    engine.control.retry_pipeline(last)
    assert take(engine) == []
    assert states([first, last]) == ["blocked", "blocked"]
    assert [row(id)["waits_for"] for id in (first, last)] == [0, 1]


# Costs


def test_ready_jobs_of_a_full_key_are_blocked_together(engine: Engine) -> None:
    limited(engine)
    take(engine)
    limited(engine, BLOCK_BATCH + 5)
    [plain] = enqueue(engine)
    assert take(engine, limit=1) == []
    blocked = Job.objects.filter(state="blocked").count()
    assert blocked == BLOCK_BATCH + 1
    assert ids(take(engine, limit=5)) == [plain]


def test_a_job_without_constraints_costs_no_extra_statement(engine: Engine) -> None:
    enqueue(engine, 3)
    with engine.db.transaction():
        jobs = engine.jobs.claim("one", 3, NOW)
        with CaptureQueriesContext(engine.db.connection) as captured:
            assert engine.admission.admit(jobs).jobs == jobs
            assert not engine.limits.unblock([])
    assert len(captured) == 0, captured.captured_queries


# Concurrency


class Watched:
    """Turns of consumers in threads, and a count of each key's running jobs outside of the database."""

    def __init__(self, most: dict[str, int]) -> None:
        self._most = most
        self._keys = dict(Job.objects.values_list("id", "limit_key"))
        self._running: Counter[str | None] = Counter()
        self._lock = threading.Lock()
        self._meddling = True

    def consume(self, engine: Engine, name: str) -> None:
        """Take turns until no job is left."""
        chance, held = random.Random(name), list[Claimed]()
        until = time.monotonic() + 60
        while held or self._meddling or Job.objects.exclude(state__in=FINISHED).exists():
            assert time.monotonic() < until, Counter(Job.objects.values_list("state", "limit_key"))
            ended = [held.pop() for _ in range(chance.randint(0, len(held)))]
            self._count(ended, -1)
            outcomes = [done(job) if chance.random() < 0.8 else failed(job) for job in ended]
            taken = take(engine, name, *outcomes, limit=chance.randint(1, 6))
            self._count(taken, 1)
            held += taken
            if not taken and not ended:
                engine.limits.unblock_stranded("")

    def meddle(self, engine: Engine) -> None:
        """Cancel some waiting jobs, and retry some."""
        chance = random.Random(7)
        for _ in range(60):
            some = chance.sample([*self._keys], 5)
            waiting = Job.objects.filter(pk__in=some, state__in=["ready", "blocked"])
            engine.control.cancel(list(waiting.values_list("pk", flat=True)), NOW)
            engine.control.retry(some[:2])
            time.sleep(0.005)
        self._meddling = False

    def _count(self, jobs: list[Claimed], by: int) -> None:
        with self._lock:
            for job in jobs:
                self._running[self._keys[job.id]] += by
            for key, most in self._most.items():
                assert self._running[key] <= most, self._running


@pytest.mark.end_to_end
def test_no_key_exceeds_its_limit_or_stalls_under_concurrent_changes(engine: Engine) -> None:
    most = {"a": 1, "b": 2, "c": 3}
    for key, number in most.items():
        limited(engine, 40, key, number)
    watched = Watched(most)
    names = ["one", "two", "three", "four"]
    at_once(*(partial(watched.consume, name=name) for name in names), watched.meddle)
    assert not Job.objects.exclude(state__in=FINISHED).exists()
