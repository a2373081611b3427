"""One verb for many jobs: what a job does not allow is not done, and is counted by its reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from djjp.engine import Engine, Tally
from djjp.ids import new_id
from djjp.models import Attempt, Dependency, Flag, Job, State, Tag, Verb
from tests.engine.test_pipelines import DIAMOND, Graph
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    failed,
    finish,
    one,
    row,
    take,
)
from tests.support.processes import eventually

ARGUMENTS = {Verb.MOVE: "other", Verb.PRIORITY: "7"}
LIVE = ("scheduled", "blocked", "ready", "running")
ENDED = ("succeeded", "failed", "cancelled")

#: What each verb does to a job in each state: the new state, or the reason for which it is left alone.
ALLOWED: dict[Verb, dict[str, str]] = {
    Verb.RETRY: dict.fromkeys(ENDED, "-> ready")
    | dict.fromkeys(LIVE, "has not ended")
    | {"running": "running"},
    Verb.CANCEL: dict.fromkeys(LIVE, "-> cancelled")
    | dict.fromkeys(ENDED, "has ended")
    | {"running": "-> running"},
    Verb.RUN: {
        "scheduled": "-> ready",
        "blocked": "waits for a permit of its limit",
        "ready": "ready already",
        "running": "running",
    }
    | dict.fromkeys(ENDED, "has ended"),
    Verb.MOVE: {state: f"-> {state}" for state in LIVE}
    | dict.fromkeys(ENDED, "has ended")
    | {"running": "running"},
    Verb.PRIORITY: {state: f"-> {state}" for state in LIVE}
    | dict.fromkeys(ENDED, "has ended")
    | {"running": "running"},
    Verb.DELETE: dict.fromkeys((*LIVE, *ENDED), "-> gone") | {"running": "running"},
}


def do(engine: Engine, verb: Verb, *ids: UUID, argument: str | None = None) -> Tally:
    """Do a verb, and assert that the preview has announced just this."""
    text = ARGUMENTS.get(verb, "") if argument is None else argument
    announced = engine.bulk.preview(verb, ids, text)
    tally = engine.bulk.do(verb, ids, text, NOW + 5)
    assert tally == announced
    return tally


def in_state(engine: Engine, state: str) -> UUID:
    """Return a job in a state, with a queue and a priority of its own."""
    [id] = enqueue(engine, state=State.READY, queue="mail", priority=1, run_after=NOW)
    Job.objects.filter(pk=id).update(state=state)
    return id


def found(id: UUID) -> str:
    job = Job.objects.filter(pk=id).first()
    return "gone" if job is None else job.state


@pytest.mark.parametrize(
    ("verb", "state"), [*itertools.product(Verb, State)], ids=lambda each: str(each.value)
)
def test_a_verb_changes_the_jobs_whose_state_allows_it_and_counts_the_others_by_reason(
    engine: Engine, verb: Verb, state: State
) -> None:
    id, before = in_state(engine, state), ALLOWED[verb][state]
    unchanged = row(id)
    tally = do(engine, verb, id)
    if before.startswith("-> "):
        assert tally == (1, {})
        assert found(id) == before.removeprefix("-> ")
    else:
        assert tally == (0, {before: 1})
        assert row(id) == unchanged


def test_a_verb_changes_what_it_names(engine: Engine) -> None:
    moved, raised, run, cancelled = (in_state(engine, "scheduled") for _ in range(4))
    do(engine, Verb.MOVE, moved)
    do(engine, Verb.PRIORITY, raised)
    do(engine, Verb.RUN, run)
    do(engine, Verb.CANCEL, cancelled)
    assert [row(moved)[each] for each in ("queue", "priority")] == ["other", 1]
    assert [row(raised)[each] for each in ("queue", "priority")] == ["mail", 7]
    assert [row(run)[each] for each in ("state", "run_after")] == ["ready", None]
    assert row(cancelled)["reason"] == "cancelled on request"


def test_a_retried_job_gets_fresh_attempts_and_keeps_its_errors(engine: Engine) -> None:
    job = one(engine)
    finish(engine, "one", failed(job))
    assert do(engine, Verb.RETRY, job.id) == (1, {})
    assert [row(job.id)[each] for each in ("attempts", "result", "finished_at")] == [0, None, None]
    assert Attempt.objects.filter(job_id=job.id).count() == 1


def test_a_job_is_counted_once_and_an_unknown_id_as_not_found(engine: Engine) -> None:
    id = in_state(engine, "failed")
    assert do(engine, Verb.RETRY, id, new_id(), id, new_id()) == (1, {"not found": 2})
    assert do(engine, Verb.RETRY) == (0, {})


def test_a_job_that_stands_for_nothing_enqueued_is_not_found(engine: Engine) -> None:
    id = in_state(engine, "failed")
    Job.objects.filter(pk=id).update(flags=Flag.UNLISTED)
    for verb in Verb:
        assert do(engine, verb, id) == (0, {"not found": 1})
    assert found(id) == "failed"


def test_what_is_as_wanted_already_is_left_alone(engine: Engine) -> None:
    id = in_state(engine, "ready")
    assert do(engine, Verb.MOVE, id, argument="mail") == (0, {"in this queue already": 1})
    assert do(engine, Verb.PRIORITY, id, argument="1") == (0, {"has this priority already": 1})
    job = claim(engine)[0]
    assert do(engine, Verb.CANCEL, job.id) == (1, {})
    assert do(engine, Verb.CANCEL, job.id) == (0, {"being cancelled already": 1})


def test_many_jobs_cost_a_bounded_number_of_statements(engine: Engine) -> None:
    ids = enqueue(engine, 1000)
    counts = []
    for verb, before in [
        (Verb.MOVE, "ready"),
        (Verb.PRIORITY, "ready"),
        (Verb.RUN, "scheduled"),
        (Verb.CANCEL, "ready"),
        (Verb.RETRY, "failed"),
        (Verb.DELETE, "failed"),
    ]:
        Job.objects.update(state=before)
        sent: list[str] = []

        def keep(execute: Any, sql: str, *rest: Any, sent: list[str] = sent) -> Any:
            sent.append(sql)
            return execute(sql, *rest)

        with engine.db.connection.execute_wrapper(keep):
            assert engine.bulk.do(verb, ids, ARGUMENTS.get(verb, ""), NOW) == (1000, {})
        counts.append((verb, len(sent)))
    assert max(count for _, count in counts) <= 12, counts
    assert not Job.objects.exists()


@pytest.mark.sqlite_only
def test_a_row_by_hand_keeps_no_other_job_from_its_verb(engine: Engine) -> None:
    values: dict[str, Any] = {"flags": 1.5, "priority": "high", "queue": b"x", "attempts": ""}
    for column, value in values.items():
        odd, plain = in_state(engine, "ready"), in_state(engine, "ready")
        with engine.db.connection.cursor() as cursor:
            cursor.execute(f"UPDATE djjp_job SET {column} = %s WHERE id = %s", [value, odd.hex])
        for verb in (Verb.MOVE, Verb.PRIORITY, Verb.CANCEL):
            assert do(engine, verb, odd, plain) == (2, {}), (column, verb)


# Unique keys


def test_a_job_whose_key_a_live_job_holds_is_not_retried_and_keeps_its_key(engine: Engine) -> None:
    [first] = enqueue(engine, unique_key="k", flags=Flag.UNIQUE)
    finish(engine, "one", failed(claim(engine)[0]))
    [holder] = enqueue(engine, unique_key="k", flags=Flag.UNIQUE)
    assert do(engine, Verb.RETRY, first) == (0, {"unique key is held by a live job": 1})
    assert [row(first)[each] for each in ("state", "unique_key")] == ["failed", "k"]
    do(engine, Verb.CANCEL, holder)
    assert do(engine, Verb.RETRY, first) == (1, {})
    assert [row(first)[each] for each in ("state", "unique_key")] == ["ready", "k"]


def test_of_several_failed_jobs_with_one_key_the_first_is_retried(engine: Engine) -> None:
    ids = []
    for _ in range(3):
        ids += enqueue(engine, unique_key="k", flags=Flag.UNIQUE)
        finish(engine, "one", failed(claim(engine)[0]))
    assert do(engine, Verb.RETRY, *ids) == (1, {"unique key is held by a live job": 2})
    assert [found(id) for id in ids] == ["ready", "failed", "failed"]


@pytest.mark.postgresql_only  # on SQLite no other transaction can write meanwhile
def test_a_key_that_is_taken_meanwhile_leaves_its_job_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = enqueue(engine, unique_key="k", flags=Flag.UNIQUE)
    finish(engine, "one", failed(claim(engine)[0]))
    plain = one(engine)
    finish(engine, "one", failed(plain))
    judged, rounds = engine.unique_keys.holders, list[Any]()

    def holders(keys: Any) -> Any:
        held = judged(keys)
        if not rounds:  # between the check and the change
            rounds.append(held)
            elsewhere(lambda engine: enqueue(engine, unique_key="k", flags=Flag.UNIQUE))
        return held

    monkeypatch.setattr(engine.unique_keys, "holders", holders)
    tally = engine.bulk.do(Verb.RETRY, [first, plain.id], "", NOW)
    assert tally == (1, {"unique key is held by a live job": 1})
    assert [found(first), row(first)["unique_key"], found(plain.id)] == ["failed", "k", "ready"]


def elsewhere(work: Callable[[Engine], Any]) -> None:
    """Do something on another connection."""
    at_once(work)


def test_a_parent_with_the_same_key_loses_it(engine: Engine) -> None:
    key = {"unique_key": "k"}
    graph = Graph(engine, "a > b", a=key | {"flags": Flag.UNIQUE | Flag.HAS_DEPENDENTS})
    graph.fail("a")
    [other] = enqueue(engine, unique_key="k", flags=Flag.UNIQUE)
    finish(engine, "one", failed(claim(engine)[0]))
    assert do(engine, Verb.RETRY, graph.ids["b"], other) == (2, {})
    assert [graph.row("a").state, graph.row("b").state, found(other)] == [
        "ready",
        "blocked",
        "ready",
    ]
    assert Job.objects.filter(state="ready", unique_key="k").count() == 1


# Limits, rates, tags


def test_a_throttled_job_waits_for_its_rate(engine: Engine) -> None:
    rate = {"flags": Flag.RATE_LIMITED, "limit_key": "r", "limit_max": 1, "limit_per": 60.0}
    first, second, third = enqueue(engine, 3, **rate)
    assert [job.id for job in take(engine)] == [first]
    assert found(second) == found(third) == "scheduled"
    assert do(engine, Verb.RUN, second, third) == (0, {"waits for its rate": 2})
    assert take(engine) == []


def test_a_job_under_a_rate_that_waits_for_its_next_attempt_can_run_now(engine: Engine) -> None:
    [id] = enqueue(engine)
    Job.objects.filter(pk=id).update(
        state="scheduled", attempts=1, flags=Flag.RATE_LIMITED | Flag.THROTTLED
    )
    assert do(engine, Verb.RUN, id) == (1, {})


def test_jobs_that_are_retried_run_under_their_limit(engine: Engine) -> None:
    limit = {"flags": Flag.LIMITED, "limit_key": "l", "limit_max": 2}
    ids = enqueue(engine, 5, **limit)
    Job.objects.update(state="failed")
    assert do(engine, Verb.RETRY, *ids) == (5, {})
    assert len(take(engine)) == 2
    assert sorted(map(found, ids)) == ["blocked"] * 3 + ["running"] * 2
    # A blocked job can move, and does not get a permit by that.
    assert do(engine, Verb.MOVE, *ids) == (3, {"running": 2})
    assert do(engine, Verb.RUN, *ids) == (
        0,
        {"running": 2, "waits for a permit of its limit": 3},
    )
    assert take(engine) == []


def test_a_moved_job_is_claimed_from_its_new_queue_only(engine: Engine) -> None:
    [id] = enqueue(engine, queue="mail")
    assert do(engine, Verb.MOVE, id, argument="bulk") == (1, {})
    assert claim(engine, queues=["mail"]) == []
    assert [job.id for job in claim(engine, queues=["bulk"])] == [id]


def test_the_index_of_tags_follows_cancel_retry_and_delete(engine: Engine) -> None:
    ids = enqueue(engine, 2, flags=Flag.TAGGED, options='{"tags":["t"]}')

    def marks() -> list[bool]:
        return sorted(Tag.objects.values_list("ended", flat=True))

    assert marks() == [False, False]
    do(engine, Verb.CANCEL, *ids)
    assert marks() == [True, True]
    do(engine, Verb.RETRY, ids[0])
    assert marks() == [False, True]
    do(engine, Verb.DELETE, *ids)
    assert marks() == []


def test_idle_consumers_are_woken_for_jobs_that_can_run_now(engine: Engine) -> None:
    for verb in (Verb.RUN, Verb.RETRY, Verb.MOVE):
        id = in_state(engine, "failed" if verb is Verb.RETRY else "scheduled")
        listener = engine.db.listener()
        listener.woken()
        elsewhere(partial(_do, verb, id))
        eventually(listener.woken)


def _do(verb: Verb, id: UUID, engine: Engine) -> None:
    engine.bulk.do(verb, [id], ARGUMENTS.get(verb, ""), NOW)


# Pipelines


def test_a_retried_step_blocks_its_dependents_again_exactly_once(engine: Engine) -> None:
    graph = Graph(engine, *DIAMOND)
    graph.succeed("a")
    b, c = graph.claimed("b", "c")
    finish(engine, "one", failed(b), done(c))
    assert graph.states() == {
        "a": "succeeded",
        "b": "failed",
        "c": "succeeded",
        "d": "cancelled",
        "e": "cancelled",
    }
    ids = graph.ids
    assert do(engine, Verb.RETRY, ids["b"], ids["d"], ids["e"]) == (3, {})
    assert {name: graph.row(name).waits_for for name in "de"} == {"d": 1, "e": 1}
    assert do(engine, Verb.RETRY, ids["b"], ids["d"], ids["e"]) == (0, {"has not ended": 3})
    assert {name: graph.row(name).waits_for for name in "de"} == {"d": 1, "e": 1}
    for name in "bde":
        graph.succeed(name)
    assert set(graph.states().values()) == {"succeeded"}


def test_an_on_failure_job_that_no_failure_has_called_is_not_retried(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "a >! h")
    graph.succeed("a")
    Job.objects.filter(pk=graph.ids["h"]).update(flags=Flag.ON_FAILURE)  # a list has it
    reason = "part of a pipeline of which no job has failed"
    assert do(engine, Verb.RETRY, graph.ids["h"]) == (0, {reason: 1})


def test_a_step_that_waits_for_others_does_not_run_now(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    reason = "waits for other jobs of its pipeline"
    assert do(engine, Verb.RUN, graph.ids["b"]) == (0, {reason: 1})
    assert do(engine, Verb.MOVE, *graph.ids.values()) == (2, {})
    graph.succeed("a")
    assert [(job.name, job.queue) for job in Job.objects.filter(state="ready")] == [("b", "other")]


def test_the_dependents_of_cancelled_and_of_deleted_jobs_are_cancelled(engine: Engine) -> None:
    for verb, state in ((Verb.CANCEL, "cancelled"), (Verb.DELETE, None)):
        graph = Graph(engine, "a > b", "b > c", "a >! h")
        assert do(engine, verb, graph.ids["a"]) == (1, {})
        states = graph.states()
        assert (states.get("a"), states["b"], states["c"]) == (state, "cancelled", "cancelled")
        assert states["h"] == "ready"  # it runs because "a" did not succeed
        Job.objects.filter(state="ready").delete()


def test_a_result_that_a_live_dependent_needs_is_not_deleted(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b > c")
    graph.succeed("a")
    reason = "part of a pipeline, its result is still needed"
    assert do(engine, Verb.DELETE, graph.ids["a"]) == (0, {reason: 1})
    graph.succeed("b")
    graph.succeed("c")
    assert do(engine, Verb.DELETE, *graph.ids.values()) == (3, {})
    assert not Dependency.objects.exists()


def test_a_deleted_job_takes_its_attempts_along(engine: Engine) -> None:
    job = one(engine)
    finish(engine, "one", failed(job))
    assert do(engine, Verb.DELETE, job.id) == (1, {})
    assert not Attempt.objects.exists()


def test_a_job_to_which_another_table_refers_is_not_deleted(engine: Engine) -> None:
    kept, gone = in_state(engine, "failed"), in_state(engine, "failed")
    with engine.db.connection.cursor() as cursor:
        kind = "uuid" if engine.db.connection.vendor == "postgresql" else "char(32)"
        cursor.execute(
            f'CREATE TABLE invoice ("by" {kind} REFERENCES djjp_job (id) DEFERRABLE INITIALLY DEFERRED)'
        )
        try:
            cursor.execute("INSERT INTO invoice VALUES (%s)", engine.db.keys([kept]))
            assert do(engine, Verb.DELETE, kept, gone) == (1, {"invoice.by refers to it": 1})
        finally:
            cursor.execute("DROP TABLE invoice")
    assert (found(kept), found(gone)) == ("failed", "gone")


# Beside others


def test_what_two_retry_at_once_is_retried_once(engine: Engine) -> None:
    ids = enqueue(engine, 300)
    Job.objects.update(state="failed")
    tallies = at_once(*[lambda engine: engine.bulk.do(Verb.RETRY, ids, "", NOW)] * 2)
    assert sum(tally.done for tally in tallies) == 300
    assert (
        sum((tally.skipped for tally in tallies), start=type(tallies[0].skipped)()).total() == 300
    )


def test_in_an_open_transaction_a_verb_is_part_of_it(engine: Engine) -> None:
    id = in_state(engine, "failed")
    with engine.db.transaction():
        assert engine.bulk.do(Verb.RETRY, [id], "", NOW) == (1, {})
        transaction.set_rollback(True, using=engine.db.alias)
    assert found(id) == "failed"
