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

from djjp.engine import Claimed, Claims, Edge, NewGraph, Outcome, Peer
from djjp.engine.limits import KEYS, SWEEP
from djjp.ids import new_id
from djjp.models import FINISHED, Flag, Job, State
from tests.support.engine_calls import NOW, at_once, done, enqueue, failed, row, take
from tests.support.factories import new_job


def limited(
    queue: Claims, count: int = 1, key: str = "k", most: int = 1, /, **given: Any
) -> list[UUID]:
    """Enqueue jobs under a limit."""
    flags = Flag.LIMITED | given.pop("flags", 0)
    return enqueue(queue, count, flags=flags, limit_key=key, limit_max=most, **given)


def states(ids: Iterable[UUID]) -> list[str]:
    found = dict(Job.objects.values_list("id", "state"))
    return [found[id] for id in ids]


def ids(jobs: Iterable[Claimed]) -> list[UUID]:
    return [job.id for job in jobs]


# Who runs


def test_no_more_of_a_key_run_than_may_and_the_rest_wait_as_if_never_claimed(queue: Claims) -> None:
    first, second, third = limited(queue, 3, "k", 2)
    plain = enqueue(queue)
    assert ids(take(queue)) == [first, second, *plain]
    waiting = row(third)
    assert [waiting[f] for f in ("state", "attempts", "consumer", "started_at", "waits_for")] == [
        *("blocked", 0, None, None, 0)
    ]
    assert take(queue, "two") == []
    limited(queue, 1, "k", 2)
    assert take(queue, "two") == []


def test_keys_are_counted_each_by_itself(queue: Claims) -> None:
    mine = [limited(queue, 2, key)[0] for key in ("a", "b", "c")]
    assert ids(take(queue, limit=6)) == mine


def test_jobs_of_all_queues_and_names_are_counted_together(queue: Claims) -> None:
    [first] = limited(queue, queue="a", name="x")
    limited(queue, queue="b", name="y")
    assert ids(take(queue, queues=["a"])) == [first]
    assert take(queue, queues=["b"]) == []


@pytest.mark.parametrize("how", ["succeeded", "failed", "tried again", "tried again later"])
def test_the_turn_that_ends_one_lets_the_first_of_the_others_in(queue: Claims, how: str) -> None:
    late, early, urgent = [*limited(queue, 2), *limited(queue, priority=5)]
    [running] = take(queue)
    assert running.id == urgent
    outcome: Outcome = {
        "succeeded": done(running),
        "failed": failed(running),
        "tried again": Outcome(running, State.READY, NOW, NOW + 1),
        "tried again later": Outcome(
            running, State.SCHEDULED, NOW, NOW + 1, run_after=time.time() + 9
        ),
    }[how]
    take(queue, "one", outcome, limit=0)
    assert states([late, early]) == ["ready", "blocked"]
    if how == "tried again":  # it is the first by priority, and has to wait like others
        assert ids(take(queue)) == [urgent]
    else:
        assert ids(take(queue)) == [late]


def test_one_that_is_claimed_before_those_that_have_waited_longer_waits_itself(
    queue: Claims,
) -> None:
    """Else a consumer without a free slot, which meets new ones just when a place is free, would starve them."""
    first, second = limited(queue, 2)
    [running] = take(queue)
    assert states([first, second]) == ["running", "blocked"]
    [third] = limited(queue)
    assert take(queue, "one", done(running), limit=1) == []
    assert states([first, second, third]) == ["succeeded", "ready", "blocked"]
    [urgent] = limited(queue, priority=1)
    assert ids(take(queue, limit=1)) == [urgent]


def test_one_that_is_sent_behind_those_that_wait_lets_them_in_at_once(queue: Claims) -> None:
    first, second, third = limited(queue, 3)
    [running] = take(queue)
    take(queue, "one", done(running), limit=0)
    queue.cancel([second], NOW)  # which had been let in
    [fourth] = limited(queue)
    assert take(queue) == []
    assert states([first, second, third, fourth]) == ["succeeded", "cancelled", "ready", "blocked"]


def test_what_ends_late_lets_nobody_in_for_a_place_that_is_taken(queue: Claims) -> None:
    first, second = limited(queue, 2)
    [running] = take(queue)
    queue.rescue(Peer("one", None, True), NOW, max_rescues=3, begun=None)
    [again] = take(queue, "two", limit=1)
    assert again.id == first
    assert take(queue, "one", done(running)) == []  # refused by the fence
    assert states([first, second]) == ["running", "blocked"]


# Who else makes room


def test_the_rescue_of_a_dead_consumer_makes_room(queue: Claims) -> None:
    first, second, third = limited(queue, 3, "k", 2)
    take(queue, "dead")
    queue.rescue(Peer("dead", None, True), NOW, max_rescues=0, begun=None)
    assert states([first, second, third]) == ["failed", "failed", "ready"]


def test_what_a_dead_consumer_had_not_begun_is_given_back_and_takes_no_place(
    queue: Claims,
) -> None:
    mine = limited(queue, 3)
    take(queue, "dead")
    queue.rescue(Peer("dead", None, True), NOW, max_rescues=0, begun=[])
    assert states(mine) == ["ready", "ready", "blocked"]
    assert ids(take(queue)) == mine[:1]
    assert states(mine) == ["running", "blocked", "blocked"]


def test_a_job_that_is_given_back_makes_room(queue: Claims) -> None:
    mine = limited(queue, 2)
    [running] = take(queue)
    with queue.turn():
        queue.release("one", [running])
        queue.let_in([running.id])
    assert states(mine) == ["ready", "ready"]


def test_a_running_job_that_was_deleted_makes_room(queue: Claims) -> None:
    first, second = limited(queue, 2)
    take(queue)
    assert queue.let_in_left("") == (0, None)
    Job.objects.filter(pk=first).delete()
    assert queue.let_in_left("") == (1, None)
    assert states([second]) == ["ready"]


@pytest.mark.parametrize("how", ["cancelled", "deleted", "expired"])
def test_one_that_was_let_in_and_goes_before_it_runs_makes_room(queue: Claims, how: str) -> None:
    first, second, third = limited(queue, 3)
    [running] = take(queue)
    take(queue, "one", done(running), limit=0)
    assert states([first, second, third]) == ["succeeded", "ready", "blocked"]
    if how == "cancelled":
        queue.cancel([second], NOW)
    elif how == "deleted":
        Job.objects.filter(pk=second).delete()
    else:
        Job.objects.filter(pk=second).update(expires_at="2026-01-01T00:00Z")
        queue.expire(time.time(), 100)
    queue.let_in_left("")
    assert ids(take(queue)) == [third]


def test_one_that_expires_when_it_is_claimed_makes_room_in_the_same_turn(queue: Claims) -> None:
    soon = {"flags": Flag.EXPIRES, "expires_at": time.time() + 3600}
    first, second, third = limited(queue, 3, **soon)
    [running] = take(queue)
    take(queue, "one", done(running), limit=0)
    Job.objects.filter(pk=second).update(expires_at="2026-01-01T00:00Z")
    assert take(queue) == []
    assert states([first, second, third]) == ["succeeded", "cancelled", "ready"]


def test_what_waits_can_be_cancelled_and_run_again(queue: Claims) -> None:
    first, second = limited(queue, 2)
    [running] = take(queue)
    queue.cancel([second], NOW)
    queue.retry([second])
    assert take(queue) == []
    assert states([first, second]) == ["running", "blocked"]
    assert ids(take(queue, "one", done(running))) == []
    assert ids(take(queue)) == [second]


def test_places_that_are_free_are_found_among_any_number_of_keys(queue: Claims) -> None:
    count = KEYS + 20
    jobs = [
        new_job(state=State.BLOCKED, flags=Flag.LIMITED, limit_key=f"{number:05}", limit_max=1)
        for number in range(count)
    ]
    queue.enqueue_many(jobs)
    opened, after = queue.let_in_left("")
    assert (opened, after) == (KEYS, f"{KEYS - 1:05}")
    assert queue.let_in_left(after or "") == (20, None)
    assert queue.let_in_left("") == (0, None)
    assert set(states(job.id for job in jobs)) == {"ready"}


# Queues, names and numbers


def test_a_queue_that_nobody_serves_holds_up_no_other(queue: Claims) -> None:
    """Its jobs are let in too, for whoever may serve it, and take no place until they run."""
    [running] = limited(queue, queue="served")
    take(queue)
    unserved, served = limited(queue, queue="unserved"), limited(queue, 2, queue="served")
    take(queue)
    assert set(states(unserved + served)) == {"blocked"}
    [mine] = [Claimed(running, "test.job", "[]", 1, 0)]
    assert take(queue, "one", done(mine), queues=["served"]) == []
    assert states(unserved + served) == ["ready", "ready", "blocked"]
    assert ids(take(queue, queues=["served"])) == served[:1]


def test_one_that_no_consumer_knows_holds_up_no_other_for_long(queue: Claims) -> None:
    known = limited(queue)
    [running] = take(queue)
    limited(queue, 3, name="gone")
    later = limited(queue)
    take(queue)
    assert take(queue, "one", done(running), limit=1, without=["gone"]) == []
    for _ in range(3):
        queue.let_in_left("")
    assert ids(take(queue, limit=1, without=["gone"])) == later, known


def test_a_limit_that_was_raised_counts_for_those_that_still_wait(queue: Claims) -> None:
    limited(queue, 3)
    [first] = take(queue)
    limited(queue, 1, "k", 3)
    take(queue)
    take(queue, "one", done(first), limit=0)
    assert len(take(queue)) == 2


def test_a_rate_of_the_same_key_is_another_matter(queue: Claims) -> None:
    rated = {"flags": Flag.RATE_LIMITED, "limit_key": "k", "limit_max": 1, "limit_per": 60.0}
    [first] = enqueue(queue, **rated)
    mine = limited(queue, 2)
    assert ids(take(queue)) == [first, mine[0]]
    [second] = enqueue(queue, **rated)
    assert take(queue) == []
    assert states([second, mine[1]]) == ["scheduled", "blocked"]
    queue.let_in_left("")
    assert states([second, mine[1]]) == ["scheduled", "blocked"]


# Pipelines


def test_a_step_that_waits_for_others_is_not_let_in_and_then_waits_for_a_place(
    queue: Claims,
) -> None:
    [running] = limited(queue)
    parent, child = new_id(), new_id()
    terms = {"flags": Flag.LIMITED, "limit_key": "k", "limit_max": 1}
    jobs = [
        new_job(id=parent, flags=Flag.HAS_DEPENDENTS, pipeline=child),
        new_job(id=child, state=State.BLOCKED, waits_for=1, pipeline=child, **terms),
    ]
    queue.enqueue_graph(NewGraph(child, jobs, [Edge(parent, child, "")]))
    mine, first = take(queue)
    assert [mine.id, first.id] == [running, parent]
    take(queue, "one", done(mine), limit=0)
    queue.let_in_left("")
    assert [row(child)[field] for field in ("state", "waits_for")] == ["blocked", 1]

    limited(queue)
    [other] = take(queue)
    take(queue, "one", done(first), limit=0)
    assert take(queue) == []
    assert [row(child)[field] for field in ("state", "waits_for")] == ["blocked", 0]
    assert take(queue, "one", done(other)) == []
    assert ids(take(queue)) == [child]


def test_a_step_that_waits_for_a_place_is_cancelled_with_its_pipeline(queue: Claims) -> None:
    limited(queue)
    take(queue)
    first, last = new_id(), new_id()
    terms = {"flags": Flag.LIMITED | Flag.HAS_DEPENDENTS, "limit_key": "k", "limit_max": 1}
    jobs = [
        new_job(id=first, pipeline=last, **terms),
        new_job(id=last, state=State.BLOCKED, waits_for=1, pipeline=last),
    ]
    queue.enqueue_graph(NewGraph(last, jobs, [Edge(first, last, "")]))
    assert take(queue) == []
    queue.cancel_pipeline(last, NOW)
    assert states([first, last]) == ["cancelled", "cancelled"]
    queue.retry_pipeline(last)
    assert take(queue) == []
    assert states([first, last]) == ["blocked", "blocked"]
    assert [row(id)["waits_for"] for id in (first, last)] == [0, 1]


# What it costs


def test_ready_jobs_of_a_full_key_are_blocked_together(queue: Claims) -> None:
    limited(queue)
    take(queue)
    limited(queue, SWEEP + 5)
    [plain] = enqueue(queue)
    assert take(queue, limit=1) == []
    blocked = Job.objects.filter(state="blocked").count()
    assert blocked == SWEEP + 1
    assert ids(take(queue, limit=5)) == [plain]


def test_a_job_without_terms_costs_no_statement_more(queue: Claims) -> None:
    enqueue(queue, 3)
    with queue.turn():
        jobs = queue.claim("one", 3, NOW)
        with CaptureQueriesContext(queue.connection) as captured:
            assert queue.screen(jobs).jobs == jobs
            assert not queue.let_in([])
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

    def consume(self, queue: Claims, name: str) -> None:
        """Take turns until nothing is left."""
        chance, held = random.Random(name), list[Claimed]()
        until = time.monotonic() + 60
        while held or self._meddling or Job.objects.exclude(state__in=FINISHED).exists():
            assert time.monotonic() < until, Counter(Job.objects.values_list("state", "limit_key"))
            ended = [held.pop() for _ in range(chance.randint(0, len(held)))]
            self._count(ended, -1)
            outcomes = [done(job) if chance.random() < 0.8 else failed(job) for job in ended]
            taken = take(queue, name, *outcomes, limit=chance.randint(1, 6))
            self._count(taken, 1)
            held += taken
            if not taken and not ended:
                queue.let_in_left("")

    def meddle(self, queue: Claims) -> None:
        """Cancel some of what waits, and run some again."""
        chance = random.Random(7)
        for _ in range(60):
            some = chance.sample([*self._keys], 5)
            waiting = Job.objects.filter(pk__in=some, state__in=["ready", "blocked"])
            queue.cancel(list(waiting.values_list("pk", flat=True)), NOW)
            queue.retry(some[:2])
            time.sleep(0.005)
        self._meddling = False

    def _count(self, jobs: list[Claimed], by: int) -> None:
        with self._lock:
            for job in jobs:
                self._running[self._keys[job.id]] += by
            for key, most in self._most.items():
                assert self._running[key] <= most, self._running


def test_none_is_over_its_limit_and_none_stalls_whatever_goes_on_beside(queue: Claims) -> None:
    most = {"a": 1, "b": 2, "c": 3}
    for key, number in most.items():
        limited(queue, 40, key, number)
    watched = Watched(most)
    names = ["one", "two", "three", "four"]
    at_once(*(partial(watched.consume, name=name) for name in names), watched.meddle)
    assert not Job.objects.exclude(state__in=FINISHED).exists()
