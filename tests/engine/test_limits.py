"""Limits in the queue's rows: no more of a key run than may, and whoever stops running lets others in."""

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

from djjp.engine import Claimed, Edge, Engine, NewGraph, Outcome, Peer
from djjp.engine.limits import BLOCK_BATCH, KEY_BATCH
from djjp.ids import new_id
from djjp.models import FINISHED, Flag, Job, State
from tests.support.engine_calls import NOW, at_once, done, enqueue, failed, row, take
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


# Who runs


def test_no_more_of_a_key_run_than_may_and_the_rest_wait_as_if_never_claimed(
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


def test_keys_are_counted_each_by_itself(engine: Engine) -> None:
    mine = [limited(engine, 2, key)[0] for key in ("a", "b", "c")]
    assert ids(take(engine, limit=6)) == mine


def test_jobs_of_all_queues_and_names_are_counted_together(engine: Engine) -> None:
    [first] = limited(engine, queue="a", name="x")
    limited(engine, queue="b", name="y")
    assert ids(take(engine, queues=["a"])) == [first]
    assert take(engine, queues=["b"]) == []


@pytest.mark.parametrize("how", ["succeeded", "failed", "tried again", "tried again later"])
def test_the_turn_that_ends_one_lets_the_first_of_the_others_in(engine: Engine, how: str) -> None:
    late, early, urgent = [*limited(engine, 2), *limited(engine, priority=5)]
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
    take(engine, "one", outcome, limit=0)
    assert states([late, early]) == ["ready", "blocked"]
    if how == "tried again":  # it is the first by priority, and has to wait like others
        assert ids(take(engine)) == [urgent]
    else:
        assert ids(take(engine)) == [late]


def test_one_that_is_claimed_before_those_that_have_waited_longer_waits_itself(
    engine: Engine,
) -> None:
    """Else a consumer without a free slot, which meets new ones just when a place is free, would starve them."""
    first, second = limited(engine, 2)
    [running] = take(engine)
    assert states([first, second]) == ["running", "blocked"]
    [third] = limited(engine)
    assert take(engine, "one", done(running), limit=1) == []
    assert states([first, second, third]) == ["succeeded", "ready", "blocked"]
    [urgent] = limited(engine, priority=1)
    assert ids(take(engine, limit=1)) == [urgent]


def test_one_that_is_sent_behind_those_that_wait_lets_them_in_at_once(engine: Engine) -> None:
    first, second, third = limited(engine, 3)
    [running] = take(engine)
    take(engine, "one", done(running), limit=0)
    engine.control.cancel([second], NOW)  # which had been let in
    [fourth] = limited(engine)
    assert take(engine) == []
    assert states([first, second, third, fourth]) == ["succeeded", "cancelled", "ready", "blocked"]


def test_what_ends_late_lets_nobody_in_for_a_place_that_is_taken(engine: Engine) -> None:
    first, second = limited(engine, 2)
    [running] = take(engine)
    engine.rescue.rescue_jobs(Peer("one", None, True), NOW, max_rescues=3, begun=None)
    [again] = take(engine, "two", limit=1)
    assert again.id == first
    assert take(engine, "one", done(running)) == []  # refused by the fence
    assert states([first, second]) == ["running", "blocked"]


# Who else makes room


def test_the_rescue_of_a_dead_consumer_makes_room(engine: Engine) -> None:
    first, second, third = limited(engine, 3, "k", 2)
    take(engine, "dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=0, begun=None)
    assert states([first, second, third]) == ["failed", "failed", "ready"]


def test_what_a_dead_consumer_had_not_begun_is_given_back_and_takes_no_place(
    engine: Engine,
) -> None:
    mine = limited(engine, 3)
    take(engine, "dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=0, begun=[])
    assert states(mine) == ["ready", "ready", "blocked"]
    assert ids(take(engine)) == mine[:1]
    assert states(mine) == ["running", "blocked", "blocked"]


def test_a_job_that_is_given_back_makes_room(engine: Engine) -> None:
    mine = limited(engine, 2)
    [running] = take(engine)
    with engine.db.transaction():
        engine.jobs.release("one", [running])
        engine.limits.unblock([running.id])
    assert states(mine) == ["ready", "ready"]


def test_a_running_job_that_was_deleted_makes_room(engine: Engine) -> None:
    first, second = limited(engine, 2)
    take(engine)
    assert engine.limits.unblock_stranded("") == (0, None)
    Job.objects.filter(pk=first).delete()
    assert engine.limits.unblock_stranded("") == (1, None)
    assert states([second]) == ["ready"]


@pytest.mark.parametrize("how", ["cancelled", "deleted", "expired"])
def test_one_that_was_let_in_and_goes_before_it_runs_makes_room(engine: Engine, how: str) -> None:
    first, second, third = limited(engine, 3)
    [running] = take(engine)
    take(engine, "one", done(running), limit=0)
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


def test_one_that_expires_when_it_is_claimed_makes_room_in_the_same_turn(engine: Engine) -> None:
    soon = {"flags": Flag.EXPIRES, "expires_at": time.time() + 3600}
    first, second, third = limited(engine, 3, **soon)
    [running] = take(engine)
    take(engine, "one", done(running), limit=0)
    Job.objects.filter(pk=second).update(expires_at="2026-01-01T00:00Z")
    assert take(engine) == []
    assert states([first, second, third]) == ["succeeded", "cancelled", "ready"]


def test_what_waits_can_be_cancelled_and_run_again(engine: Engine) -> None:
    first, second = limited(engine, 2)
    [running] = take(engine)
    engine.control.cancel([second], NOW)
    engine.control.retry([second])
    assert take(engine) == []
    assert states([first, second]) == ["running", "blocked"]
    assert ids(take(engine, "one", done(running))) == []
    assert ids(take(engine)) == [second]


def test_places_that_are_free_are_found_among_any_number_of_keys(engine: Engine) -> None:
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


def test_a_queue_that_nobody_serves_holds_up_no_other(engine: Engine) -> None:
    """Its jobs are let in too, for whoever may serve it, and take no place until they run."""
    [running] = limited(engine, queue="served")
    take(engine)
    unserved, served = limited(engine, queue="unserved"), limited(engine, 2, queue="served")
    take(engine)
    assert set(states(unserved + served)) == {"blocked"}
    [mine] = [Claimed(running, "test.job", "[]", 1, 0)]
    assert take(engine, "one", done(mine), queues=["served"]) == []
    assert states(unserved + served) == ["ready", "ready", "blocked"]
    assert ids(take(engine, queues=["served"])) == served[:1]


def test_one_that_no_consumer_knows_holds_up_no_other_for_long(engine: Engine) -> None:
    known = limited(engine)
    [running] = take(engine)
    limited(engine, 3, name="gone")
    later = limited(engine)
    take(engine)
    assert take(engine, "one", done(running), limit=1, exclude_names=["gone"]) == []
    for _ in range(3):
        engine.limits.unblock_stranded("")
    assert ids(take(engine, limit=1, exclude_names=["gone"])) == later, known


def test_a_limit_that_was_raised_counts_for_those_that_still_wait(engine: Engine) -> None:
    limited(engine, 3)
    [first] = take(engine)
    limited(engine, 1, "k", 3)
    take(engine)
    take(engine, "one", done(first), limit=0)
    assert len(take(engine)) == 2


def test_a_rate_of_the_same_key_is_another_matter(engine: Engine) -> None:
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


def test_a_step_that_waits_for_others_is_not_let_in_and_then_waits_for_a_place(
    engine: Engine,
) -> None:
    [running] = limited(engine)
    parent, child = new_id(), new_id()
    terms = {"flags": Flag.LIMITED, "limit_key": "k", "limit_max": 1}
    jobs = [
        new_job(id=parent, flags=Flag.HAS_DEPENDENTS, pipeline=child),
        new_job(id=child, state=State.BLOCKED, waits_for=1, pipeline=child, **terms),
    ]
    engine.pipelines.enqueue(NewGraph(child, jobs, [Edge(parent, child, "")]))
    mine, first = take(engine)
    assert [mine.id, first.id] == [running, parent]
    take(engine, "one", done(mine), limit=0)
    engine.limits.unblock_stranded("")
    assert [row(child)[field] for field in ("state", "waits_for")] == ["blocked", 1]

    limited(engine)
    [other] = take(engine)
    take(engine, "one", done(first), limit=0)
    assert take(engine) == []
    assert [row(child)[field] for field in ("state", "waits_for")] == ["blocked", 0]
    assert take(engine, "one", done(other)) == []
    assert ids(take(engine)) == [child]


def test_a_step_that_waits_for_a_place_is_cancelled_with_its_pipeline(engine: Engine) -> None:
    limited(engine)
    take(engine)
    first, last = new_id(), new_id()
    terms = {"flags": Flag.LIMITED | Flag.HAS_DEPENDENTS, "limit_key": "k", "limit_max": 1}
    jobs = [
        new_job(id=first, pipeline=last, **terms),
        new_job(id=last, state=State.BLOCKED, waits_for=1, pipeline=last),
    ]
    engine.pipelines.enqueue(NewGraph(last, jobs, [Edge(first, last, "")]))
    assert take(engine) == []
    engine.control.cancel_pipeline(last, NOW)
    assert states([first, last]) == ["cancelled", "cancelled"]
    engine.control.retry_pipeline(last)
    assert take(engine) == []
    assert states([first, last]) == ["blocked", "blocked"]
    assert [row(id)["waits_for"] for id in (first, last)] == [0, 1]


# What it costs


def test_ready_jobs_of_a_full_key_are_blocked_together(engine: Engine) -> None:
    limited(engine)
    take(engine)
    limited(engine, BLOCK_BATCH + 5)
    [plain] = enqueue(engine)
    assert take(engine, limit=1) == []
    blocked = Job.objects.filter(state="blocked").count()
    assert blocked == BLOCK_BATCH + 1
    assert ids(take(engine, limit=5)) == [plain]


def test_a_job_without_terms_costs_no_statement_more(engine: Engine) -> None:
    enqueue(engine, 3)
    with engine.db.transaction():
        jobs = engine.jobs.claim("one", 3, NOW)
        with CaptureQueriesContext(engine.db.connection) as captured:
            assert engine.admission.admit(jobs).jobs == jobs
            assert not engine.limits.unblock([])
    assert len(captured) == 0, captured.captured_queries


# Side by side


class Watched:
    """Consumers' turns in threads, with what runs of each key counted beside the database."""

    def __init__(self, most: dict[str, int]) -> None:
        self._most = most
        self._keys = dict(Job.objects.values_list("id", "limit_key"))
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._meddling = True

    def consume(self, engine: Engine, name: str) -> None:
        """Take turns until nothing is left."""
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
        """Cancel some of what waits, and run some again."""
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


def test_none_is_over_its_limit_and_none_stalls_whatever_goes_on_beside(engine: Engine) -> None:
    most = {"a": 1, "b": 2, "c": 3}
    for key, number in most.items():
        limited(engine, 40, key, number)
    watched = Watched(most)
    names = ["one", "two", "three", "four"]
    at_once(*(partial(watched.consume, name=name) for name in names), watched.meddle)
    assert not Job.objects.exclude(state__in=FINISHED).exists()
