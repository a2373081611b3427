"""Pipelines in the queue's rows: an end lets go what waits for it, once, or takes it along."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from djjp.engine import Claimed, Claims, Edge, Failure, NewGraph, Outcome, Peer
from djjp.engine.postgresql import watermark
from djjp.engine.received import composed
from djjp.ids import new_id
from djjp.models import Attempt, Dependency, Flag, Job, State
from tests.support.engine_calls import NOW, at_once, claim, done, enqueue, failed, finish, release
from tests.support.factories import new_job
from tests.support.processes import eventually


class Graph:
    """A pipeline in the queue, its jobs by their names."""

    def __init__(self, queue: Claims, *lines: str, **given: dict[str, object]) -> None:
        """Each line is like "a b > c": c waits for a and then b; "a >! h": h runs when a does not succeed."""
        waits: dict[str, list[tuple[str, str]]] = {}
        for line in lines:
            left, kind, right = line.partition(" >! ") if ">!" in line else line.partition(" > ")
            parents = left.split()
            for name in parents:
                waits.setdefault(name, [])
            for child in right.split():
                many = len(parents) > 1
                place = "!" if kind == " >! " else ""
                waits.setdefault(child, []).extend(
                    (parent, place or (str(at) if many else ""))
                    for at, parent in enumerate(parents)
                )
        self.ids = {name: new_id() for name in waits}
        self.queue = queue
        pipeline = [*self.ids.values()][-1]
        edges = [
            Edge(self.ids[parent], self.ids[child], place)
            for child, pairs in waits.items()
            for parent, place in pairs
        ]
        jobs = []
        for name, pairs in waits.items():
            flags = Flag.HAS_DEPENDENTS if any(e.parent == self.ids[name] for e in edges) else 0
            flags |= Flag.TAKES_INPUT if pairs else 0
            flags |= Flag.ON_FAILURE if any(place == "!" for _, place in pairs) else 0
            state = State.BLOCKED if pairs else State.READY
            jobs.append(
                new_job(
                    **{
                        "id": self.ids[name],
                        "name": name,
                        "state": state,
                        "flags": flags,
                        "waits_for": len(pairs),
                        "pipeline": pipeline,
                        **given.get(name, {}),
                    }
                )
            )
        self.graph = NewGraph(pipeline, jobs, edges)
        queue.enqueue_graph(self.graph)

    def states(self) -> dict[str, str]:
        return dict(Job.objects.filter(pipeline=self.graph.id).values_list("name", "state"))

    def row(self, name: str) -> Job:
        return Job.objects.get(pk=self.ids[name])

    def claimed(self, *names: str, consumer: str = "one") -> list[Claimed]:
        """Claim, and see that it was just these."""
        jobs = claim(self.queue, consumer)
        assert sorted(job.name for job in jobs) == sorted(names)
        return sorted(jobs, key=lambda job: names.index(job.name))

    def succeed(self, *names: str, result: str | None = None) -> None:
        for job in self.claimed(*names):
            finish(self.queue, "one", done(job, result or f'"{job.name}"'))

    def fail(self, *names: str) -> None:
        finish(self.queue, "one", *map(failed, self.claimed(*names)))


DIAMOND = ("a > b c", "b c > d", "d > e")


def test_a_graph_is_rows_and_edges_and_waits_as_it_says(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND)
    assert graph.states() == {
        "a": "ready",
        "b": "blocked",
        "c": "blocked",
        "d": "blocked",
        "e": "blocked",
    }
    assert {name: graph.row(name).waits_for for name in "abcde"} == {
        "a": 0,
        "b": 1,
        "c": 1,
        "d": 2,
        "e": 1,
    }
    assert Dependency.objects.count() == 5
    assert {job.pipeline for job in Job.objects.all()} == {graph.ids["e"]}


def test_a_graph_that_is_written_twice_is_there_once(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND)
    graph.succeed("a")
    queue.enqueue_graph(graph.graph)
    assert (Job.objects.count(), Dependency.objects.count()) == (5, 5)
    assert graph.states()["b"] == "ready"


def test_a_graph_is_relayed_once_and_whole(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND)
    Job.objects.all()._raw_delete(queue.alias)
    Dependency.objects.all()._raw_delete(queue.alias)
    plain = new_job()
    for _ in range(2):
        queue.relay([plain, graph.graph], lambda: None)
    assert (Job.objects.count(), Dependency.objects.count()) == (6, 5)


def test_a_job_runs_when_all_that_it_waits_for_have_succeeded_and_not_before(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND)
    graph.succeed("a")
    b, c = graph.claimed("b", "c")
    finish(queue, "one", done(c, '"c"'))
    assert (graph.row("d").state, graph.row("d").waits_for) == ("blocked", 1)
    finish(queue, "one", done(b, '"b"'))
    [d] = graph.claimed("d")
    assert d.input == '["b","c"]'
    finish(queue, "one", done(d))
    assert graph.states()["e"] == "ready"


def test_siblings_that_end_in_one_turn_are_counted_each(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND)
    graph.succeed("a")
    finish(queue, "one", *map(done, graph.claimed("b", "c")))
    assert graph.states()["d"] == "ready"


def test_a_plain_job_receives_nothing(queue: Claims) -> None:
    enqueue(queue)
    assert [(job.flags, job.input) for job in claim(queue)] == [(0, None)]


def test_a_released_job_is_ready_or_scheduled_as_its_time_says(queue: Claims) -> None:
    far = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    graph = Graph(queue, "a > b c", b={"run_after": far}, c={"run_after": NOW})
    graph.succeed("a")
    assert graph.states() == {"a": "succeeded", "b": "scheduled", "c": "ready"}


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ([("", "1")], "1"),
        ([("0", "1")], "[1]"),
        ([("10", "10"), ("9", "9"), ("1", "1")], "[1,9,10]"),
        ([("0/0", "1"), ("1", "[2]"), ("0/1", "3"), ("2/0/0", "4")], "[[1,3],[2],[[4]]]"),
    ],
)
def test_results_come_together_as_their_places_say(
    places: list[tuple[str, str]], text: str
) -> None:
    assert composed(places) == text


def test_a_result_that_is_gone_is_not_taken_for_none(queue: Claims) -> None:
    graph = Graph(queue, "a b > c")
    graph.succeed("a", "b")
    Job.objects.filter(pk=graph.ids["a"])._raw_delete(queue.alias)
    [c] = graph.claimed("c")
    assert c.input is None


# Who comes late


def test_a_late_outcome_lets_nothing_go(queue: Claims) -> None:
    graph = Graph(queue, "a > b")
    [late] = graph.claimed("a")
    release(queue, "one", late)
    [again] = graph.claimed("a", consumer="two")
    assert finish(queue, "one", done(late)) == set()
    assert graph.states()["b"] == "blocked"
    finish(queue, "two", done(again))
    assert finish(queue, "two", failed(again)) == set()
    assert graph.states() == {"a": "succeeded", "b": "ready"}


def test_an_outcome_and_what_follows_from_it_are_one_transaction(queue: Claims) -> None:
    graph = Graph(queue, "a > b")
    [a] = graph.claimed("a")
    with pytest.raises(RuntimeError), queue.turn():
        _end_and_die(queue, graph, a)
    assert graph.states() == {"a": "running", "b": "blocked"}


def _end_and_die(queue: Claims, graph: Graph, job: Claimed) -> None:
    queue.finish("one", [done(job)])
    assert graph.states()["b"] == "ready"
    raise RuntimeError("the consumer dies here")


# What does not succeed


def test_a_failure_cancels_what_is_below_it_and_says_why(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND, "a > x", "x > y")
    graph.succeed("a")
    b, _, x = graph.claimed("b", "c", "x")
    finish(queue, "one", failed(b, "no paper"))
    assert graph.states() == {
        "a": "succeeded", "b": "failed", "c": "running", "d": "cancelled", "e": "cancelled",
        "x": "running", "y": "blocked",
    }  # fmt: skip
    assert {graph.row(name).reason for name in "de"} == {f"b {b.id} failed: E: no paper"}
    assert graph.row("d").finished_at is not None
    finish(queue, "one", done(x))
    assert graph.states()["y"] == "ready"


def test_an_attempt_that_is_followed_by_another_disturbs_nobody(queue: Claims) -> None:
    graph = Graph(queue, "a > b")
    [a] = graph.claimed("a")
    finish(queue, "one", Outcome(a, State.READY, NOW, NOW, failure=Failure("E", "once", "")))
    assert graph.states() == {"a": "ready", "b": "blocked"}
    graph.succeed("a")
    assert graph.states()["b"] == "ready"


def test_a_job_that_discards_itself_takes_what_waits_for_it_along(queue: Claims) -> None:
    graph = Graph(queue, "a > b")
    [a] = graph.claimed("a")
    finish(queue, "one", Outcome(a, State.CANCELLED, NOW, NOW, reason="nothing to do"))
    assert graph.row("b").reason == f"a {a.id} was cancelled: nothing to do"


def test_a_cancelled_job_takes_what_waits_for_it_along_and_nothing_else(queue: Claims) -> None:
    graph = Graph(queue, "a > b", "b > c", "a > x")
    assert queue.cancel([graph.ids["b"]], NOW) == 1
    assert graph.states() == {"a": "ready", "b": "cancelled", "c": "cancelled", "x": "blocked"}
    graph.succeed("a")
    assert graph.states()["x"] == "ready"


@pytest.mark.parametrize("end", ["release", "ready"])
def test_a_running_job_that_was_cancelled_takes_them_along_once_it_has_stopped(
    queue: Claims, end: str
) -> None:
    graph = Graph(queue, "a > b")
    [a] = graph.claimed("a")
    queue.cancel([a.id], NOW)
    assert graph.states() == {"a": "running", "b": "blocked"}
    if end == "release":
        release(queue, "one", a)
    else:
        finish(queue, "one", Outcome(a, State.READY, NOW, NOW))
    assert graph.states() == {"a": "cancelled", "b": "cancelled"}


@pytest.mark.parametrize(("rescues", "state"), [(0, "cancelled"), (3, "blocked")])
def test_trap_13_a_rescue_that_ends_in_failure_is_followed_up_too(
    queue: Claims, rescues: int, state: str
) -> None:
    graph = Graph(queue, "a b > c")
    graph.claimed("a", "b", consumer="dead")
    queue.rescue(Peer("dead", None, True), NOW, max_rescues=rescues, begun=None)
    assert graph.states()["c"] == state


def test_all_of_a_pipeline_is_cancelled_at_once(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND, "a b c >! h")
    graph.succeed("a")
    [b, _] = graph.claimed("b", "c")
    finish(queue, "one", done(b))
    assert queue.cancel_pipeline(graph.graph.id, NOW) == 4
    assert graph.states() == {
        "a": "succeeded", "b": "succeeded", "c": "running", "d": "cancelled", "e": "cancelled", "h": "cancelled",
    }  # fmt: skip
    assert graph.row("c").cancel_requested


# Taking up again


def test_a_retry_takes_the_rest_up_again(queue: Claims) -> None:
    graph = Graph(queue, *DIAMOND)
    graph.succeed("a")
    [b, c] = graph.claimed("b", "c")
    finish(queue, "one", failed(b))
    finish(queue, "one", done(c, '"c"'))
    assert queue.retry([b.id]) == 1
    assert graph.states() == {
        "a": "succeeded", "b": "ready", "c": "succeeded", "d": "blocked", "e": "blocked",
    }  # fmt: skip
    assert (graph.row("d").waits_for, graph.row("d").reason, graph.row("d").finished_at) == (
        1,
        None,
        None,
    )
    graph.succeed("b")
    graph.succeed("d")
    graph.succeed("e")
    assert set(graph.states().values()) == {"succeeded"}


def test_after_two_failures_one_retry_is_not_enough(queue: Claims) -> None:
    graph = Graph(queue, "a b > c", "c > d")
    graph.fail("a", "b")
    queue.retry([graph.ids["a"]])
    assert graph.states() == {"a": "ready", "b": "failed", "c": "cancelled", "d": "cancelled"}
    graph.succeed("a")
    queue.retry([graph.ids["b"]])
    assert graph.states() == {"a": "succeeded", "b": "ready", "c": "blocked", "d": "blocked"}
    graph.succeed("b")
    assert graph.states()["c"] == "ready"


def test_the_retry_of_a_job_retries_what_it_waits_for_in_vain(queue: Claims) -> None:
    graph = Graph(queue, "a b > c", "c > d", "d > e")
    graph.fail("a", "b")
    assert queue.retry([graph.ids["d"]]) == 4
    assert graph.states() == {
        "a": "ready",
        "b": "ready",
        "c": "blocked",
        "d": "blocked",
        "e": "blocked",
    }
    graph.succeed("a", "b")
    graph.succeed("c")
    graph.succeed("d")
    assert graph.states()["e"] == "ready"


def test_what_somebody_cancelled_is_not_taken_up_by_the_retry_of_another(queue: Claims) -> None:
    graph = Graph(queue, "a > b", "a > c", "c > d")
    queue.cancel([graph.ids["c"]], NOW)
    graph.fail("a")
    queue.retry([graph.ids["a"]])
    assert graph.states() == {"a": "ready", "b": "blocked", "c": "cancelled", "d": "cancelled"}


@pytest.mark.parametrize("left", ["blocked", "ready"])
def test_what_was_let_go_and_has_not_begun_waits_for_the_retry(queue: Claims, left: str) -> None:
    graph = Graph(queue, "a b > c", "c > d")
    a, b = graph.claimed("a", "b")
    finish(queue, "one", done(a, '"old"'))
    if left == "ready":
        finish(queue, "one", done(b, '"b"'))
    assert graph.states()["c"] == left
    assert queue.retry([a.id]) == 1
    assert graph.states()["c"] == "blocked"
    assert graph.row("c").waits_for == (2 if left == "blocked" else 1)
    graph.succeed("a", result='"new"')
    if left == "blocked":
        finish(queue, "one", done(b, '"b"'))
    [c] = graph.claimed("c")
    assert c.input == '["new","b"]'


def test_a_retry_leaves_alone_what_has_begun(queue: Claims) -> None:
    graph = Graph(queue, "a > b", "b > c")
    graph.succeed("a")
    [b] = graph.claimed("b")
    queue.retry([graph.ids["a"]])
    graph.succeed("a")
    assert graph.states() == {"a": "succeeded", "b": "running", "c": "blocked"}
    finish(queue, "one", done(b))
    assert graph.states()["c"] == "ready"


def test_a_whole_pipeline_is_retried_by_what_has_not_succeeded(queue: Claims) -> None:
    graph = Graph(queue, "a b > c", "c >! h")
    graph.fail("a", "b")
    assert queue.retry_pipeline(graph.ids["h"]) == 3
    assert graph.states() == {"a": "ready", "b": "ready", "c": "blocked", "h": "blocked"}
    assert queue.retry_pipeline(graph.ids["h"]) == 0


# On failure


def test_what_runs_on_failure_runs_once_and_is_told_why(queue: Claims) -> None:
    graph = Graph(queue, "a > b c", "b c >! h")
    graph.fail("a")
    assert graph.states() == {"a": "failed", "b": "cancelled", "c": "cancelled", "h": "ready"}
    [h] = graph.claimed("h")
    assert h.input == f'"a {graph.ids["a"]} failed: E: it broke"'
    finish(queue, "one", done(h))
    assert claim(queue) == []


def test_what_runs_on_failure_is_cancelled_when_nothing_failed(queue: Claims) -> None:
    graph = Graph(queue, "a > b c", "b c >! h")
    graph.succeed("a")
    b, c = graph.claimed("b", "c")
    finish(queue, "one", done(b))
    assert graph.states()["h"] == "blocked"
    finish(queue, "one", done(c))
    assert (graph.states()["h"], graph.row("h").reason) == ("cancelled", "nothing failed")
    assert queue.retry([graph.ids["h"]]) == 0, "it has nothing to be told"


@pytest.mark.parametrize("second", ["fails", "succeeds"])
def test_what_runs_on_failure_is_on_guard_again_after_a_retry(queue: Claims, second: str) -> None:
    graph = Graph(queue, "a > b", "b >! h")
    graph.fail("a")
    graph.succeed("h")
    queue.retry([graph.ids["a"]])
    assert graph.states() == {"a": "ready", "b": "blocked", "h": "blocked"}
    if second == "fails":
        graph.fail("a")
        assert graph.states()["h"] == "ready"
    else:
        graph.succeed("a")
        graph.succeed("b")
        assert graph.states()["h"] == "cancelled"


def test_what_ran_on_failure_can_itself_be_retried(queue: Claims) -> None:
    graph = Graph(queue, "a > b", "b >! h")
    graph.fail("a")
    graph.fail("h")
    assert queue.retry([graph.ids["h"]]) == 1
    [h] = graph.claimed("h")
    assert h.input is not None
    assert graph.states()["a"] == "failed"


# At the same instant


def test_siblings_that_end_at_the_same_instant_let_their_child_go_once(queue: Claims) -> None:
    """Four consumers, each with a third of each group, in another order."""
    for _ in range(5):
        names = [f"p{number}" for number in range(24)]
        graph = Graph(queue, f"{' '.join(names)} > one two three", "one two three > end")
        mine = [claim(queue, f"consumer {number}", 6) for number in range(4)]

        def end(number: int) -> Callable[[Claims], None]:
            def work(own: Claims) -> None:
                jobs = random.sample(mine[number], 6)  # noqa: B023  (called at once)
                for at in range(0, 6, 2):
                    finish(own, f"consumer {number}", *map(done, jobs[at : at + 2]))

            return work

        at_once(*map(end, range(4)))
        children = graph.claimed("one", "two", "three")
        assert {child.input for child in children} == {f"[{','.join(['null'] * 24)}]"}
        assert [graph.row(child.name).waits_for for child in children] == [0, 0, 0]
        Job.objects.all()._raw_delete(queue.alias)


def test_a_success_and_a_failure_at_the_same_instant_cancel_the_child(queue: Claims) -> None:
    for _ in range(10):
        graph = Graph(queue, "a b > c d", "c d > e", "e >! h")
        a, b = graph.claimed("a", "b")
        at_once(
            lambda own, job=a: finish(own, "one", done(job)),  # type: ignore[misc]
            lambda own, job=b: finish(own, "one", failed(job)),  # type: ignore[misc]
        )
        states = graph.states()
        assert [states[name] for name in "cdeh"] == ["cancelled"] * 3 + ["ready"]
        Attempt.objects.all().delete()
        Job.objects.all()._raw_delete(queue.alias)


def test_a_retry_while_another_parent_fails_leaves_nothing_waiting_for_ever(queue: Claims) -> None:
    """The failure of b is written and not committed while a is retried, and the other way round."""
    graph = Graph(queue, "a b > c")
    a, b = graph.claimed("a", "b")
    finish(queue, "one", failed(a))
    retry = threading.Thread(
        target=lambda: at_once(lambda own: own.retry([a.id]))  # waits for b's row
    )
    with queue.turn():
        queue.finish("one", [failed(b)])
        retry.start()
        retry.join(0.3)
    retry.join()
    assert graph.states() == {"a": "ready", "b": "failed", "c": "cancelled"}
    queue.retry([b.id])
    assert graph.states()["c"] == "blocked"

    a, b = graph.claimed("a", "b")
    finish(queue, "one", failed(a))
    failing = threading.Thread(target=lambda: at_once(lambda own: finish(own, "one", failed(b))))
    with queue.turn():
        queue.retry([a.id])
        failing.start()
        failing.join(0.3)
    failing.join()
    assert graph.states() == {"a": "ready", "b": "failed", "c": "cancelled"}


# Beside


def test_a_job_whose_result_is_still_to_be_read_is_not_pruned(queue: Claims) -> None:
    graph = Graph(queue, "a b > c", "c >! h")
    a, b = graph.claimed("a", "b")
    finish(queue, "one", done(a))
    ended = (State.SUCCEEDED,), NOW + 10**9, None, 100
    assert queue.prune(*ended)[0] == 0
    finish(queue, "one", done(b))
    assert queue.prune(*ended)[0] == 0
    graph.succeed("c")
    assert queue.prune(*ended)[0] == 3
    assert not Dependency.objects.exists()
    assert graph.states() == {"h": "cancelled"}


def test_a_failed_pipeline_is_pruned_in_one_walk(queue: Claims) -> None:
    graph = Graph(queue, "a > b", "b > c", "c > d")
    graph.fail("a")
    assert queue.prune((State.FAILED, State.CANCELLED), NOW + 10**9, None, 100)[0] == 4
    assert not Dependency.objects.exists()
    assert not Attempt.objects.exists()


def test_the_deletion_of_a_job_takes_what_waits_for_it_along(queue: Claims) -> None:
    graph = Graph(queue, "a > b", "b > c", "c >! h")
    with queue.turn():
        queue.cut_off([graph.ids["a"], enqueue(queue)[0]])
    assert graph.states() == {"a": "ready", "b": "cancelled", "c": "cancelled", "h": "ready"}
    assert graph.row("c").reason == f"a {graph.ids['a']} was deleted"
    assert Dependency.objects.count() == 2


def test_plain_jobs_cost_no_statement_more(queue: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark, "SHORTEST_PAUSE", 3600.0)
    monkeypatch.setattr(watermark, "LONGEST_PAUSE", 3600.0)
    claim(queue)  # from time to time a claim counts the entries it reads: this one, if any
    jobs = claim_count, finish_count = {"sqlite": (2, 2), "postgresql": (1, 1)}[queue.alias]
    enqueue(queue, 3)
    with queue.turn():
        with CaptureQueriesContext(connections[queue.alias]) as claiming:
            taken = queue.claim("one", 3, NOW)
        with CaptureQueriesContext(connections[queue.alias]) as finishing:
            queue.finish("one", [*map(done, taken)])
    assert (len(claiming), len(finishing)) == jobs == (claim_count, finish_count)


def test_idle_consumers_are_woken_by_what_is_let_go(queue: Claims) -> None:
    graph = Graph(queue, "a > b")
    [a] = graph.claimed("a")
    listener = queue.listener()
    listener.woken()
    at_once(lambda own: finish(own, "one", done(a)))
    eventually(listener.woken)
    assert graph.states()["b"] == "ready"


def test_whoever_lets_go_and_claims_next_is_not_woken_by_itself(queue: Claims) -> None:
    if queue.alias == "sqlite":
        pytest.skip("on SQLite it hears the file, in which its own writes are like any other")
    graph = Graph(queue, "a > b")
    listener = queue.listener()
    [a] = graph.claimed("a")
    listener.woken()
    finish(queue, "one", done(a))
    time.sleep(0.1)
    assert not listener.woken()
    at_once(lambda own: own.announce())
    eventually(listener.woken)


def test_where_nobody_listens_nobody_is_told_of_what_is_let_go(queue: Claims) -> None:
    graph = Graph(queue, "a > b")
    [a] = graph.claimed("a")
    listener = queue.listener()
    listener.woken()
    with override_settings(DJJP={**settings.DJJP, "listen": False}):
        finish(queue, "two", done(a))
        at_once(lambda own: finish(own, "one", done(a)))
    if queue.alias == "postgresql":
        assert not listener.woken()
    assert graph.states()["b"] == "ready"


def test_in_one_turn_a_failure_cancels_and_a_success_opens(queue: Claims) -> None:
    graph = Graph(queue, "a > only", "a b > both", "b >! told", "a >! spared", "both > end")
    a, b = graph.claimed("a", "b")
    finish(queue, "one", done(a), failed(b))
    states = graph.states()
    assert [states[name] for name in ("only", "told")] == ["ready", "ready"]
    assert [states[name] for name in ("both", "end", "spared")] == ["cancelled"] * 3
    assert graph.row("spared").reason == "nothing failed"
    assert graph.row("both").reason.startswith(f"b {graph.ids['b']} failed")  # type: ignore[union-attr]  # it has one
