"""Pipelines in the queue's rows: each end takes effect on its dependents exactly once."""

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

from djjp.engine import Claimed, Edge, Engine, Failure, NewPipeline, Outcome, Peer
from djjp.engine.postgresql import watermark
from djjp.engine.result_paths import nest
from djjp.ids import new_id
from djjp.models import Attempt, Dependency, Flag, Job, State
from tests.support.engine_calls import NOW, at_once, claim, done, enqueue, failed, finish, release
from tests.support.factories import new_job
from tests.support.processes import eventually


class Graph:
    """Enqueue a pipeline; return its jobs by their names."""

    def __init__(self, engine: Engine, *lines: str, **given: dict[str, object]) -> None:
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
        self.engine = engine
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
        self.graph = NewPipeline(pipeline, jobs, edges)
        engine.pipelines.enqueue(self.graph)

    def states(self) -> dict[str, str]:
        return dict(Job.objects.filter(pipeline=self.graph.id).values_list("name", "state"))

    def row(self, name: str) -> Job:
        return Job.objects.get(pk=self.ids[name])

    def claimed(self, *names: str, consumer: str = "one") -> list[Claimed]:
        """Claim, and assert that exactly these jobs were claimed."""
        jobs = claim(self.engine, consumer)
        assert sorted(job.name for job in jobs) == sorted(names)
        return sorted(jobs, key=lambda job: names.index(job.name))

    def succeed(self, *names: str, result: str | None = None) -> None:
        for job in self.claimed(*names):
            finish(self.engine, "one", done(job, result or f'"{job.name}"'))

    def fail(self, *names: str) -> None:
        finish(self.engine, "one", *map(failed, self.claimed(*names)))


DIAMOND = ("a > b c", "b c > d", "d > e")


def test_a_graph_is_written_as_rows_and_edges_with_its_counts_of_parents(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND)
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


def test_a_graph_that_is_written_twice_exists_once(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND)
    graph.succeed("a")
    engine.pipelines.enqueue(graph.graph)
    assert (Job.objects.count(), Dependency.objects.count()) == (5, 5)
    assert graph.states()["b"] == "ready"


def test_a_graph_is_relayed_once_and_whole(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND)
    Job.objects.all()._raw_delete(engine.db.alias)
    Dependency.objects.all()._raw_delete(engine.db.alias)
    plain = new_job()
    for _ in range(2):
        engine.jobs.relay([plain, graph.graph], lambda: None)
    assert (Job.objects.count(), Dependency.objects.count()) == (6, 5)


def test_a_job_runs_once_all_its_parents_have_succeeded_and_not_before(
    engine: Engine,
) -> None:
    graph = Graph(engine, *DIAMOND)
    graph.succeed("a")
    b, c = graph.claimed("b", "c")
    finish(engine, "one", done(c, '"c"'))
    assert (graph.row("d").state, graph.row("d").waits_for) == ("blocked", 1)
    finish(engine, "one", done(b, '"b"'))
    [d] = graph.claimed("d")
    assert d.input == '["b","c"]'
    finish(engine, "one", done(d))
    assert graph.states()["e"] == "ready"


def test_siblings_that_end_in_one_turn_are_counted_each(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND)
    graph.succeed("a")
    finish(engine, "one", *map(done, graph.claimed("b", "c")))
    assert graph.states()["d"] == "ready"


def test_a_plain_job_gets_no_input(engine: Engine) -> None:
    enqueue(engine)
    assert [(job.flags, job.input) for job in claim(engine)] == [(0, None)]


def test_an_unblocked_job_is_ready_or_scheduled_by_its_run_after(engine: Engine) -> None:
    far = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    graph = Graph(engine, "a > b c", b={"run_after": far}, c={"run_after": NOW})
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
def test_results_are_nested_by_their_paths(places: list[tuple[str, str]], text: str) -> None:
    assert nest(places) == text


def test_a_missing_result_is_not_taken_for_none(engine: Engine) -> None:
    graph = Graph(engine, "a b > c")
    graph.succeed("a", "b")
    Job.objects.filter(pk=graph.ids["a"])._raw_delete(engine.db.alias)
    [c] = graph.claimed("c")
    assert c.input is None


# Late reports


def test_a_late_outcome_unblocks_no_dependent(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    [late] = graph.claimed("a")
    release(engine, "one", late)
    [again] = graph.claimed("a", consumer="two")
    assert finish(engine, "one", done(late)) == set()
    assert graph.states()["b"] == "blocked"
    finish(engine, "two", done(again))
    assert finish(engine, "two", failed(again)) == set()
    assert graph.states() == {"a": "succeeded", "b": "ready"}


def test_an_outcome_and_its_effect_on_dependents_are_one_transaction(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    [a] = graph.claimed("a")
    with pytest.raises(RuntimeError), engine.db.transaction():
        _end_and_die(engine, graph, a)
    assert graph.states() == {"a": "running", "b": "blocked"}


def _end_and_die(engine: Engine, graph: Graph, job: Claimed) -> None:
    engine.jobs.finish("one", [done(job)])
    assert graph.states()["b"] == "ready"
    raise RuntimeError("the consumer dies here")


# Failures


def test_a_failure_cancels_the_descendants_with_the_reason(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND, "a > x", "x > y")
    graph.succeed("a")
    b, _, x = graph.claimed("b", "c", "x")
    finish(engine, "one", failed(b, "no paper"))
    assert graph.states() == {
        "a": "succeeded", "b": "failed", "c": "running", "d": "cancelled", "e": "cancelled",
        "x": "running", "y": "blocked",
    }  # fmt: skip
    assert {graph.row(name).reason for name in "de"} == {f"b {b.id} failed: E: no paper"}
    assert graph.row("d").finished_at is not None
    finish(engine, "one", done(x))
    assert graph.states()["y"] == "ready"


def test_an_attempt_that_is_repeated_has_no_effect_on_dependents(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    [a] = graph.claimed("a")
    finish(engine, "one", Outcome(a, State.READY, NOW, NOW, failure=Failure("E", "once", "")))
    assert graph.states() == {"a": "ready", "b": "blocked"}
    graph.succeed("a")
    assert graph.states()["b"] == "ready"


def test_a_job_that_discards_itself_cancels_its_dependents(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    [a] = graph.claimed("a")
    finish(engine, "one", Outcome(a, State.CANCELLED, NOW, NOW, reason="nothing to do"))
    assert graph.row("b").reason == f"a {a.id} was cancelled: nothing to do"


def test_a_cancelled_job_cancels_its_dependents_and_no_other_job(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b > c", "a > x")
    assert engine.control.cancel([graph.ids["b"]], NOW) == 1
    assert graph.states() == {"a": "ready", "b": "cancelled", "c": "cancelled", "x": "blocked"}
    graph.succeed("a")
    assert graph.states()["x"] == "ready"


@pytest.mark.parametrize("end", ["release", "ready"])
def test_a_cancelled_running_job_cancels_its_dependents_once_it_has_stopped(
    engine: Engine, end: str
) -> None:
    graph = Graph(engine, "a > b")
    [a] = graph.claimed("a")
    engine.control.cancel([a.id], NOW)
    assert graph.states() == {"a": "running", "b": "blocked"}
    if end == "release":
        release(engine, "one", a)
    else:
        finish(engine, "one", Outcome(a, State.READY, NOW, NOW))
    assert graph.states() == {"a": "cancelled", "b": "cancelled"}


@pytest.mark.parametrize(("rescues", "state"), [(0, "cancelled"), (3, "blocked")])
def test_trap_13_a_rescue_that_ends_in_failure_cancels_the_dependents_too(
    engine: Engine, rescues: int, state: str
) -> None:
    graph = Graph(engine, "a b > c")
    graph.claimed("a", "b", consumer="dead")
    engine.rescue.rescue_jobs(Peer("dead", None, True), NOW, max_rescues=rescues, started=None)
    assert graph.states()["c"] == state


def test_all_of_a_pipeline_is_cancelled_at_once(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND, "a b c >! h")
    graph.succeed("a")
    [b, _] = graph.claimed("b", "c")
    finish(engine, "one", done(b))
    assert engine.control.cancel_pipeline(graph.graph.id, NOW) == 4
    assert graph.states() == {
        "a": "succeeded", "b": "succeeded", "c": "running", "d": "cancelled", "e": "cancelled", "h": "cancelled",
    }  # fmt: skip
    assert graph.row("c").cancel_requested


# Retry


def test_a_retry_also_revives_the_dependents(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND)
    graph.succeed("a")
    [b, c] = graph.claimed("b", "c")
    finish(engine, "one", failed(b))
    finish(engine, "one", done(c, '"c"'))
    assert engine.control.retry([b.id]) == 1
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


def test_after_two_failures_one_retry_is_not_enough(engine: Engine) -> None:
    graph = Graph(engine, "a b > c", "c > d")
    graph.fail("a", "b")
    engine.control.retry([graph.ids["a"]])
    assert graph.states() == {"a": "ready", "b": "failed", "c": "cancelled", "d": "cancelled"}
    graph.succeed("a")
    engine.control.retry([graph.ids["b"]])
    assert graph.states() == {"a": "succeeded", "b": "ready", "c": "blocked", "d": "blocked"}
    graph.succeed("b")
    assert graph.states()["c"] == "ready"


def test_the_retry_of_a_job_retries_its_unsuccessful_parents(engine: Engine) -> None:
    graph = Graph(engine, "a b > c", "c > d", "d > e")
    graph.fail("a", "b")
    assert engine.control.retry([graph.ids["d"]]) == 4
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


def test_a_job_cancelled_on_request_is_not_revived_by_the_retry_of_another(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "a > c", "c > d")
    engine.control.cancel([graph.ids["c"]], NOW)
    graph.fail("a")
    engine.control.retry([graph.ids["a"]])
    assert graph.states() == {"a": "ready", "b": "blocked", "c": "cancelled", "d": "cancelled"}


@pytest.mark.parametrize("left", ["blocked", "ready"])
def test_an_unblocked_job_that_has_not_started_waits_for_the_retry(
    engine: Engine, left: str
) -> None:
    graph = Graph(engine, "a b > c", "c > d")
    a, b = graph.claimed("a", "b")
    finish(engine, "one", done(a, '"old"'))
    if left == "ready":
        finish(engine, "one", done(b, '"b"'))
    assert graph.states()["c"] == left
    assert engine.control.retry([a.id]) == 1
    assert graph.states()["c"] == "blocked"
    assert graph.row("c").waits_for == (2 if left == "blocked" else 1)
    graph.succeed("a", result='"new"')
    if left == "blocked":
        finish(engine, "one", done(b, '"b"'))
    [c] = graph.claimed("c")
    assert c.input == '["new","b"]'


def test_a_retry_does_not_change_started_jobs(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b > c")
    graph.succeed("a")
    [b] = graph.claimed("b")
    engine.control.retry([graph.ids["a"]])
    graph.succeed("a")
    assert graph.states() == {"a": "succeeded", "b": "running", "c": "blocked"}
    finish(engine, "one", done(b))
    assert graph.states()["c"] == "ready"


def test_the_retry_of_a_pipeline_retries_its_unsuccessful_jobs(engine: Engine) -> None:
    graph = Graph(engine, "a b > c", "c >! h")
    graph.fail("a", "b")
    assert engine.control.retry_pipeline(graph.ids["h"]) == 3
    assert graph.states() == {"a": "ready", "b": "ready", "c": "blocked", "h": "blocked"}
    assert engine.control.retry_pipeline(graph.ids["h"]) == 0


# On failure


def test_an_on_failure_job_runs_once_with_the_reason_as_input(engine: Engine) -> None:
    graph = Graph(engine, "a > b c", "b c >! h")
    graph.fail("a")
    assert graph.states() == {"a": "failed", "b": "cancelled", "c": "cancelled", "h": "ready"}
    [h] = graph.claimed("h")
    assert h.input == f'"a {graph.ids["a"]} failed: E: it broke"'
    finish(engine, "one", done(h))
    assert claim(engine) == []


def test_an_on_failure_job_is_cancelled_when_nothing_failed(engine: Engine) -> None:
    graph = Graph(engine, "a > b c", "b c >! h")
    graph.succeed("a")
    b, c = graph.claimed("b", "c")
    finish(engine, "one", done(b))
    assert graph.states()["h"] == "blocked"
    finish(engine, "one", done(c))
    assert (graph.states()["h"], graph.row("h").reason) == ("cancelled", "nothing failed")
    assert engine.control.retry([graph.ids["h"]]) == 0, "it has nothing to be told"


@pytest.mark.parametrize("second", ["fails", "succeeds"])
def test_an_on_failure_job_is_blocked_again_after_a_retry(engine: Engine, second: str) -> None:
    graph = Graph(engine, "a > b", "b >! h")
    graph.fail("a")
    graph.succeed("h")
    engine.control.retry([graph.ids["a"]])
    assert graph.states() == {"a": "ready", "b": "blocked", "h": "blocked"}
    if second == "fails":
        graph.fail("a")
        assert graph.states()["h"] == "ready"
    else:
        graph.succeed("a")
        graph.succeed("b")
        assert graph.states()["h"] == "cancelled"


def test_an_on_failure_job_that_ran_can_be_retried(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b >! h")
    graph.fail("a")
    graph.fail("h")
    assert engine.control.retry([graph.ids["h"]]) == 1
    [h] = graph.claimed("h")
    assert h.input is not None
    assert graph.states()["a"] == "failed"


# Concurrency


def test_siblings_that_end_at_the_same_instant_unblock_their_child_once(engine: Engine) -> None:
    """Four consumers, each with a third of each group, in another order."""
    for _ in range(5):
        names = [f"p{number}" for number in range(24)]
        graph = Graph(engine, f"{' '.join(names)} > one two three", "one two three > end")
        mine = [claim(engine, f"consumer {number}", 6) for number in range(4)]

        def end(number: int) -> Callable[[Engine], None]:
            def work(engine: Engine) -> None:
                jobs = random.sample(mine[number], 6)  # noqa: B023  (called at once)
                for at in range(0, 6, 2):
                    finish(engine, f"consumer {number}", *map(done, jobs[at : at + 2]))

            return work

        at_once(*map(end, range(4)))
        children = graph.claimed("one", "two", "three")
        assert {child.input for child in children} == {f"[{','.join(['null'] * 24)}]"}
        assert [graph.row(child.name).waits_for for child in children] == [0, 0, 0]
        Job.objects.all()._raw_delete(engine.db.alias)


def test_a_success_and_a_failure_at_the_same_instant_cancel_the_child(engine: Engine) -> None:
    for _ in range(10):
        graph = Graph(engine, "a b > c d", "c d > e", "e >! h")
        a, b = graph.claimed("a", "b")
        at_once(
            lambda engine, job=a: finish(engine, "one", done(job)),  # type: ignore[misc]
            lambda engine, job=b: finish(engine, "one", failed(job)),  # type: ignore[misc]
        )
        states = graph.states()
        assert [states[name] for name in "cdeh"] == ["cancelled"] * 3 + ["ready"]
        Attempt.objects.all().delete()
        Job.objects.all()._raw_delete(engine.db.alias)


def test_a_retry_while_another_parent_fails_leaves_no_job_blocked_for_ever(engine: Engine) -> None:
    """The failure of b is written and not committed while a is retried, and the other way round."""
    graph = Graph(engine, "a b > c")
    a, b = graph.claimed("a", "b")
    finish(engine, "one", failed(a))
    retry = threading.Thread(
        target=lambda: at_once(lambda engine: engine.control.retry([a.id]))  # waits for b's row
    )
    with engine.db.transaction():
        engine.jobs.finish("one", [failed(b)])
        retry.start()
        retry.join(0.3)
    retry.join()
    assert graph.states() == {"a": "ready", "b": "failed", "c": "cancelled"}
    engine.control.retry([b.id])
    assert graph.states()["c"] == "blocked"

    a, b = graph.claimed("a", "b")
    finish(engine, "one", failed(a))
    failing = threading.Thread(
        target=lambda: at_once(lambda engine: finish(engine, "one", failed(b)))
    )
    with engine.db.transaction():
        engine.control.retry([a.id])
        failing.start()
        failing.join(0.3)
    failing.join()
    assert graph.states() == {"a": "ready", "b": "failed", "c": "cancelled"}


# Pruning, deletion, wake-ups and costs


def test_a_job_whose_result_a_dependent_will_read_is_not_pruned(engine: Engine) -> None:
    graph = Graph(engine, "a b > c", "c >! h")
    a, b = graph.claimed("a", "b")
    finish(engine, "one", done(a))
    ended = (State.SUCCEEDED,), NOW + 10**9, None, 100
    assert engine.pruning.prune(*ended)[0] == 0
    finish(engine, "one", done(b))
    assert engine.pruning.prune(*ended)[0] == 0
    graph.succeed("c")
    assert engine.pruning.prune(*ended)[0] == 3
    assert not Dependency.objects.exists()
    assert graph.states() == {"h": "cancelled"}


def test_a_failed_pipeline_is_pruned_in_one_walk(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b > c", "c > d")
    graph.fail("a")
    assert engine.pruning.prune((State.FAILED, State.CANCELLED), NOW + 10**9, None, 100)[0] == 4
    assert not Dependency.objects.exists()
    assert not Attempt.objects.exists()


def test_the_deletion_of_a_job_cancels_its_dependents(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b > c", "c >! h")
    with engine.db.transaction():
        engine.pipelines.cancel_dependents([graph.ids["a"], enqueue(engine)[0]])
    assert graph.states() == {"a": "ready", "b": "cancelled", "c": "cancelled", "h": "ready"}
    assert graph.row("c").reason == f"a {graph.ids['a']} was deleted"
    assert Dependency.objects.count() == 2


def test_plain_jobs_cost_no_extra_statement(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watermark, "SHORTEST_PAUSE", 3600.0)
    monkeypatch.setattr(watermark, "LONGEST_PAUSE", 3600.0)
    # The first claim of a session counts the entries it reads; with these pauses the next ones do not.
    engine.db.connection.close()
    claim(engine)
    # On SQLite with the two statements of the savepoint, which are no round trips.
    jobs = claim_count, finish_count = {"sqlite": (2, 3), "postgresql": (1, 1)}[engine.db.alias]
    enqueue(engine, 3)
    with engine.db.transaction():
        with CaptureQueriesContext(connections[engine.db.alias]) as claiming:
            taken = engine.jobs.claim("one", 3, NOW)
        with CaptureQueriesContext(connections[engine.db.alias]) as finishing:
            engine.jobs.finish("one", [*map(done, taken)])
    assert (len(claiming), len(finishing)) == jobs == (claim_count, finish_count)


def test_idle_consumers_are_woken_for_unblocked_jobs(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    [a] = graph.claimed("a")
    listener = engine.db.listener()
    listener.woken()
    at_once(lambda engine: finish(engine, "one", done(a)))
    eventually(listener.woken)
    assert graph.states()["b"] == "ready"


# On SQLite it notices a change of the file, in which its own writes are like any other.
@pytest.mark.postgresql_only
def test_a_consumer_is_not_woken_for_jobs_that_it_unblocked_itself(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    listener = engine.db.listener()
    [a] = graph.claimed("a")
    listener.woken()
    finish(engine, "one", done(a))
    time.sleep(0.1)
    assert not listener.woken()
    at_once(lambda engine: engine.db.notify())
    eventually(listener.woken)


def test_without_listening_no_notification_is_sent_for_unblocked_jobs(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    [a] = graph.claimed("a")
    listener = engine.db.listener()
    listener.woken()
    with override_settings(DJJP={**settings.DJJP, "listen": False}):
        finish(engine, "two", done(a))
        at_once(lambda engine: finish(engine, "one", done(a)))
    if engine.db.alias == "postgresql":
        assert not listener.woken()
    assert graph.states()["b"] == "ready"


def test_one_turn_cancels_after_a_failure_and_unblocks_after_a_success(engine: Engine) -> None:
    graph = Graph(engine, "a > only", "a b > both", "b >! told", "a >! spared", "both > end")
    a, b = graph.claimed("a", "b")
    finish(engine, "one", done(a), failed(b))
    states = graph.states()
    assert [states[name] for name in ("only", "told")] == ["ready", "ready"]
    assert [states[name] for name in ("both", "end", "spared")] == ["cancelled"] * 3
    assert graph.row("spared").reason == "nothing failed"
    assert graph.row("both").reason.startswith(f"b {graph.ids['b']} failed")  # type: ignore[union-attr]  # it has one
