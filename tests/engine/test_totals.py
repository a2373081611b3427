"""Each end of a job is counted once, in the transaction that ends it, whatever ends it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections, transaction

import djjp.engine
from djjp import chain, expand, monitoring, run_many
from djjp.engine import Engine, Failure, NewPipeline, Outcome, Peer
from djjp.engine.history import STEP_ENTRIES
from djjp.engine.totals import KINDS
from djjp.ids import new_id
from djjp.models import Flag, Job, OnCrash, Span, State, Total, TotalEntry
from djjp.monitoring.names import names
from djjp.monitoring.trends import SPANS, trend
from djjp.testing import drain
from tests.engine.test_pipelines import Graph
from tests.project.shop.jobs import add, fail, items, nap, repeat
from tests.support.consumers import consuming
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    failed,
    finish,
    one,
    register_consumer,
    release,
)
from tests.support.factories import new_job
from tests.support.processes import eventually

WHY = Failure("E", "it broke", "")
DEAD = Peer("one", None, locked=True)


def counted() -> dict[str, int]:
    """Return the counts of all names together, by kind."""
    sums: Counter[str] = Counter()
    for figures in monitoring.ever():
        sums.update({kind: getattr(figures, kind) for kind in KINDS})
    return {kind: number for kind, number in sums.items() if number}


def again(job: Any, **given: Any) -> Outcome:
    return Outcome(job, State.READY, NOW, NOW + 1, failure=WHY, **given)


def request_cancel(engine: Engine, job: Any) -> None:
    engine.control.cancel([job.id], NOW)


# One kind of end each


def test_a_success_is_counted_with_its_times(engine: Engine) -> None:
    enqueue(engine, name="shop.mail", queue="mail", created_at=NOW - 8)
    [job] = claim(engine)
    now = time.time()
    finish(engine, "one", Outcome(job, State.SUCCEEDED, now, now + 3, "null"))

    [figures] = monitoring.ever()
    assert (figures.queue, figures.name, figures.succeeded) == ("mail", "shop.mail", 1)
    assert figures.runs.buckets == {2: 1}
    assert figures.runs.seconds == pytest.approx(3, abs=0.1)
    assert figures.waits.count == 1


def test_a_failure_is_counted(engine: Engine) -> None:
    finish(engine, "one", failed(one(engine)))
    assert counted() == {"failed": 1}


def test_an_attempt_that_another_one_follows_is_counted_as_retried(engine: Engine) -> None:
    first = one(engine)
    finish(engine, "one", again(first))
    [second] = claim(engine)
    finish(engine, "one", again(second)._replace(state=State.SCHEDULED, run_after=NOW - 1))
    assert counted() == {"retried": 2}
    [figures] = monitoring.ever()
    assert (figures.runs.count, figures.waits.count) == (2, 1)


def test_an_outcome_that_the_fence_refuses_is_late_and_no_end(engine: Engine) -> None:
    job = one(engine)
    release(engine, "one", job)
    finish(engine, "one", done(job))
    assert counted() == {"late": 1}


def test_a_batch_is_counted_by_what_became_of_each_job(engine: Engine) -> None:
    for name in ("a", "a", "b", "c", "d", "e"):
        enqueue(engine, name=name)
    a1, a2, b, c, d, e = claim(engine)
    release(engine, "one", d)
    request_cancel(engine, e)
    finish(engine, "one", done(a1), done(a2), failed(b), again(c), done(d), again(e))

    assert counted() == {"succeeded": 2, "failed": 1, "retried": 1, "late": 1, "cancelled": 1}
    by_name = {figures.name: figures for figures in monitoring.ever()}
    assert (by_name["a"].succeeded, by_name["d"].late, by_name["e"].cancelled) == (2, 1, 1)


def test_a_job_that_cancelled_itself_is_counted(engine: Engine) -> None:
    job = one(engine)
    finish(engine, "one", Outcome(job, State.CANCELLED, NOW, NOW + 1))
    assert counted() == {"cancelled": 1}


def test_a_cancel_on_request_is_counted_once_and_that_of_a_running_job_when_it_ends(
    engine: Engine,
) -> None:
    running = one(engine)
    enqueue(engine, 2)
    ids = [job.pk for job in Job.objects.all()]
    engine.control.cancel(ids, NOW)
    engine.control.cancel(ids, NOW)
    assert counted() == {"cancelled": 2}
    finish(engine, "one", Outcome(running, State.CANCELLED, NOW, NOW + 1))
    assert counted() == {"cancelled": 3}


def test_the_release_of_a_job_with_a_cancel_request_is_its_end(engine: Engine) -> None:
    job, _other = one(engine), one(engine)
    request_cancel(engine, job)
    release(engine, "one", job, _other)
    assert Job.objects.get(pk=job.id).state == State.CANCELLED
    assert counted() == {"cancelled": 1}


def test_a_release_and_a_claim_are_no_ends(engine: Engine) -> None:
    release(engine, "one", one(engine))
    claim(engine)
    assert counted() == {}


def test_a_rescue_counts_what_became_of_each_job(engine: Engine) -> None:
    peer = register_consumer(engine, "one")
    enqueue(engine, name="again")
    enqueue(engine, name="once", on_crash=OnCrash.FAIL)
    enqueue(engine, 2, name="cancelled")
    enqueue(engine, name="unstarted")
    jobs = {job.id: job for job in claim(engine)}
    cancelled = [job for job in jobs.values() if job.name == "cancelled"]
    engine.control.cancel([job.id for job in cancelled], NOW)
    started = [j.key for j in jobs.values() if j.name != "unstarted" and j is not cancelled[1]]
    engine.rescue.rescue_jobs(peer, NOW, max_rescues=3, started=started)

    assert counted() == {"rescued": 1, "failed": 1, "cancelled": 2}
    assert {f.name: (f.rescued, f.failed, f.cancelled) for f in monitoring.ever()} == {
        "again": (1, 0, 0),
        "once": (0, 1, 0),
        "cancelled": (0, 0, 2),
    }


def test_a_job_that_was_rescued_too_often_has_failed(engine: Engine) -> None:
    one(engine)
    engine.rescue.rescue_jobs(DEAD, NOW, max_rescues=0, started=None)
    assert counted() == {"failed": 1}


def test_an_expired_job_is_counted(engine: Engine) -> None:
    enqueue(engine, 2, expires_at=NOW - 1, flags=Flag.EXPIRES)
    [job, _] = claim(engine)
    with engine.db.transaction():
        engine.expiry.cancel_expired([job], NOW)
    assert counted() == {"cancelled": 1}
    release(engine, "one", _)
    assert engine.expiry.expire(NOW, 10) == 1
    assert counted() == {"cancelled": 2}


def test_a_misfit_is_counted_as_failed(engine: Engine) -> None:
    [id] = enqueue(engine)
    [key] = engine.db.keys([id])
    assert engine.repair.fail(key, State.READY, WHY, NOW)
    assert not engine.repair.fail(key, State.READY, WHY, NOW)
    assert counted() == {"failed": 1}


# Pipelines


def test_the_dependents_of_a_failure_are_counted_as_cancelled(engine: Engine) -> None:
    graph = Graph(engine, "a > b", "b > c", "c >! h")
    graph.fail("a")
    assert graph.states() == {"a": "failed", "b": "cancelled", "c": "cancelled", "h": "ready"}
    assert counted() == {"failed": 1, "cancelled": 2}


def test_the_dependents_of_a_deleted_job_are_counted(engine: Engine) -> None:
    graph = Graph(engine, "a > b")
    with engine.db.transaction():
        engine.pipelines.cancel_dependents([graph.ids["a"]])
    assert counted() == {"cancelled": 1}


def test_what_a_user_has_not_enqueued_is_not_counted(engine: Engine) -> None:
    """Neither the `on_failure` job that was not needed, nor the two rows of an expansion."""
    chain(add.bind(1), add.bind(2), on_failure=add.bind(3)).run_later()
    chain(items.bind(3), expand(repeat.bind())).run_later()
    drain()
    listed = [
        flags for flags in Job.objects.values_list("flags", flat=True) if not flags & Flag.UNLISTED
    ]
    assert counted() == {"succeeded": len(listed)} == {"succeeded": 6}


def test_a_step_has_no_waiting_time(engine: Engine) -> None:
    chain(add.bind(1), add.bind(2), add.bind(3)).run_later()
    drain()
    [figures] = monitoring.ever()
    assert (figures.succeeded, figures.runs.count, figures.waits.count) == (3, 3, 1)


# Jobs that enter the queue as cancelled


def test_a_job_that_arrives_as_cancelled_is_counted_once(engine: Engine) -> None:
    single = new_job(state=State.CANCELLED)
    steps = NewPipeline(new_id(), [new_job(state=State.CANCELLED, pipeline=new_id())], [])
    for _ in range(2):
        engine.jobs.relay([single, steps], lambda: None)
    assert counted() == {"cancelled": 2}


def test_a_late_job_whose_unique_key_is_held_is_counted(engine: Engine) -> None:
    unique = {"unique_key": "one", "flags": Flag.UNIQUE}
    enqueue(engine, **unique)
    engine.jobs.enqueue_late([new_job(**unique)])
    stand_in = new_job(**{**unique, "flags": Flag.UNIQUE | Flag.STAND_IN})
    engine.jobs.enqueue_late([stand_in])
    assert counted() == {"cancelled": 1}


# Whatever happens to the transaction


class _Rollback(Exception):
    pass


def test_what_is_rolled_back_counts_nothing(engine: Engine) -> None:
    job = one(engine)
    enqueue(engine)
    with engine.db.transaction():
        engine.jobs.finish("one", [done(job)])
        engine.control.cancel([job.pk for job in Job.objects.filter(state="ready")], NOW)
        transaction.set_rollback(True, using=engine.db.alias)
    assert counted() == {}
    finish(engine, "one", done(job))
    assert counted() == {"succeeded": 1}


def test_what_a_savepoint_takes_back_counts_nothing(engine: Engine) -> None:
    job, [other] = one(engine), enqueue(engine)
    with engine.db.transaction():
        engine.jobs.finish("one", [done(job)])
        with transaction.atomic(using=engine.db.alias):
            engine.control.cancel([other], NOW)
            transaction.set_rollback(True, using=engine.db.alias)
    assert counted() == {"succeeded": 1}


def test_a_retry_takes_nothing_back(engine: Engine) -> None:
    job = one(engine)
    finish(engine, "one", failed(job))
    engine.control.retry([job.id])
    assert counted() == {"failed": 1}
    [again] = claim(engine)
    finish(engine, "one", done(again))
    assert counted() == {"failed": 1, "succeeded": 1}
    assert monitoring.ever()[0].waits.count == 1


def test_pruned_jobs_stay_counted(engine: Engine) -> None:
    finish(engine, "one", done(one(engine)))
    engine.pruning.prune((State.SUCCEEDED,), NOW + 10**9, None, 100)
    assert not Job.objects.exists()
    assert counted() == {"succeeded": 1}


def test_a_turn_that_is_taken_in_parts_counts_each_job_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_many(add.bind(number) for number in range(8))
    poisoned = fail.run_later("refused")
    finished = engine.jobs.finish

    def refuses(consumer: str, outcomes: Any) -> Any:
        refused = finished(consumer, outcomes)
        for outcome in outcomes:
            if outcome.claimed.id == poisoned.id and "be written" not in outcome.failure.message:
                raise ValueError("this outcome is refused")
        return refused

    monkeypatch.setattr(engine.jobs, "finish", refuses)
    with consuming():
        eventually(lambda: not Job.objects.filter(finished_at=None).exists())
    assert counted() == {"succeeded": 8, "failed": 1}


def test_each_statement_that_ends_jobs_is_counted() -> None:
    """A module that sets such a state has a place that counts: a new statement must not forget it."""
    folder = Path(djjp.engine.__file__).parent
    ends = re.compile(
        r"state = '(succeeded|failed|cancelled)',|THEN '(failed|cancelled)'|State\.CANCELLED\)"
    )
    found = {}
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        if ends.search(text):
            found[str(path.relative_to(folder))] = "totals." in text
    assert {name for name, counts in found.items() if not counts} == {
        # Statements of `Jobs.finish` and `Jobs.release`, and of dependents that nobody needs.
        "postgresql/fence.py",
        "sqlite/fence.py",
    }
    assert {
        "control.py",
        "expiry.py",
        "jobs.py",
        "pipelines.py",
        "repair.py",
        "rescue.py",
    } <= found.keys()


# Adding up


def rows(span: Span) -> dict[tuple[str, int], int]:
    found = Total.objects.filter(span=span).values_list("name", "starts_at", "succeeded")
    return {(name, at): number for name, at, number in found}


def write(minute: int, name: str = "a", count: int = 1) -> None:
    TotalEntry.objects.create(
        minute=minute,
        figures=f'{{"succeeded":{{"default":{{"{name}":[{"5,9," * (count - 1)}5,9]}}}}}}',
    )


def add_all(engine: Engine) -> None:
    while engine.history.add_entries().more:
        pass


def test_entries_are_added_to_the_rows_of_each_span_and_deleted(engine: Engine) -> None:
    write(86_400 * 3 + 60)
    write(86_400 * 3 + 60, count=2)
    write(86_400 * 3 + 3600)
    write(86_400 * 3, "b")
    before = monitoring.ever()
    add_all(engine)

    assert not TotalEntry.objects.exists()
    assert rows(Span.MINUTE) == {("a", 259_260): 3, ("a", 262_800): 1, ("b", 259_200): 1}
    assert rows(Span.HOUR) == {("a", 259_200): 3, ("a", 262_800): 1, ("b", 259_200): 1}
    assert rows(Span.DAY) == {("a", 259_200): 4, ("b", 259_200): 1}
    assert rows(Span.EVER) == {("a", 0): 4, ("b", 0): 1}
    assert monitoring.ever() == before
    write(86_400 * 3 + 60)
    add_all(engine)
    assert rows(Span.EVER) == {("a", 0): 5, ("b", 0): 1}


def of_all(span: Span) -> dict[int, int]:
    found = Total.objects.filter(span=span, queue="", name="")
    return dict(found.values_list("starts_at", "succeeded"))


def test_all_queues_and_names_of_a_minute_and_an_hour_are_one_row_too(engine: Engine) -> None:
    write(259_260, "a", 3)
    write(259_260, "b", 4)
    write(259_320, "a", 5)
    before = monitoring.totals(0, by="hour")
    add_all(engine)

    assert of_all(Span.ALL_MINUTE) == {259_260: 7, 259_320: 5}
    assert of_all(Span.ALL_HOUR) == {259_200: 12}
    write(259_260, "c", 2)
    add_all(engine)
    assert of_all(Span.ALL_MINUTE) == {259_260: 9, 259_320: 5}
    assert of_all(Span.ALL_HOUR) == {259_200: 14}
    row, *others = (
        Total.objects.filter(span=span).values_list("waits", "wait_seconds")
        for span in (Span.ALL_HOUR, Span.HOUR)
    )
    assert json.loads(row[0][0])["-10"] == 14
    assert row[0][1] == pytest.approx(sum(seconds for _, seconds in others[0]))
    assert [(each.succeeded, each.waits.buckets) for each in before] == [(12, {-10: 12})]


def test_a_row_of_all_that_is_missing_is_made_from_the_others(engine: Engine) -> None:
    write(259_260, "a", 3)
    add_all(engine)
    Total.objects.filter(span__in=[Span.ALL_MINUTE, Span.ALL_HOUR]).delete()
    [figures] = monitoring.totals(259_200, 259_800, by="hour")
    assert (figures.succeeded, figures.waits.count) == (3, 3)

    write(259_320, "b", 4)
    add_all(engine)
    assert of_all(Span.ALL_HOUR) == {259_200: 7}
    assert of_all(Span.ALL_MINUTE) == {259_320: 4}
    figures, later = monitoring.totals(259_200, 259_800, by="minute")
    assert (figures.succeeded, later.succeeded) == (3, 4)


def test_figures_of_all_are_read_from_their_own_rows_whatever_the_number_of_names(
    engine: Engine,
) -> None:
    for number in range(30):
        write(259_260, f"n{number}", 2)
    add_all(engine)
    Total.objects.filter(span=Span.HOUR).update(succeeded=0)  # and so these are not read
    write(259_320, "pending", 5)

    [figures] = monitoring.totals(259_200, 259_800, by="hour")
    assert figures.succeeded == 65
    [figures] = monitoring.totals(259_200, 259_800, by="hour", queue="default")
    assert figures.succeeded == 5


@pytest.mark.postgresql_only
def test_names_are_read_by_the_primary_key_however_many_rows_other_times_have(
    engine: Engine,
) -> None:
    """Of the rows of hours few are of the last day, which a planner cannot expect from a range."""
    now = int(time.time()) // 3600 * 3600
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO djjp_total (span, starts_at, queue, name, succeeded, failed, retried, cancelled, rescued,"
            " late, wait_seconds, run_seconds, waits, runs) SELECT 'hour', %s - 3600 * i, 'q', 'n' || n, 1, 0, 0,"
            " 0, 0, 0, 1, 1, repeat('-', 60), repeat('-', 60) FROM generate_series(0, 399) AS i,"
            " generate_series(1, 50) AS n",
            [now],
        )
        cursor.execute("ANALYZE djjp_total")
    plans: list[str] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        with connections[engine.db.alias].connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {sql}", params)
            plans.append("\n".join(line for (line,) in cursor.fetchall()))
        return execute(sql, params, many, context)

    with engine.db.connection.execute_wrapper(explain):
        monitoring.totals(now - 86_400, by="name")
        names(86_400)
        trend(SPANS["7d"], queue="q")
    assert plans
    for plan in plans:
        assert "Seq Scan on djjp_total\n" not in plan, plan


def test_two_that_add_up_at_a_time_add_each_entry_once(engine: Engine) -> None:
    for number in range(30):
        write(60 * number, count=3)
    at_once(add_all, add_all, add_all)
    add_all(engine)
    assert counted() == {"succeeded": 90}
    assert rows(Span.EVER) == {("a", 0): 90}


def test_a_step_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djjp.engine.history.STEP_CHARACTERS", 100)
    for _ in range(5):
        write(0, count=10)
    assert engine.history.add_entries().more
    assert TotalEntry.objects.count() == 4
    assert STEP_ENTRIES == 1000
    add_all(engine)
    assert counted() == {"succeeded": 50}


def test_an_entry_by_hand_harms_nothing(engine: Engine) -> None:
    TotalEntry.objects.create(minute=0, figures="nonsense")
    TotalEntry.objects.create(minute=0, figures="[]")
    TotalEntry.objects.create(minute=0, figures='{"failed": {"q": {"odd \\u0000 \\ud800": 2}}}')
    write(0)
    assert counted() == {"succeeded": 1, "failed": 2}
    add_all(engine)
    assert counted() == {"succeeded": 1, "failed": 2}


def test_no_figure_falls_when_old_rows_are_deleted(engine: Engine) -> None:
    now = 40 * 86_400
    for age in (0, 1, 3, 20, 38):
        write(now - age * 86_400)
    add_all(engine)
    everything = monitoring.totals(0)
    while engine.history.prune(now):
        pass

    assert len(rows(Span.MINUTE)) == len(of_all(Span.ALL_MINUTE)) == 2
    assert len(rows(Span.HOUR)) == len(of_all(Span.ALL_HOUR)) == 4
    assert len(rows(Span.DAY)) == 5
    assert monitoring.totals(0) == everything
    assert counted() == {"succeeded": 5}


def test_a_consumer_adds_up_beside_its_turns_and_at_its_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.consumer.bookkeeping.ADD_FROM", 1)
    with consuming():
        add.run_later(1)
        eventually(lambda: Total.objects.filter(span=Span.EVER, succeeded=1).exists())
        nap.run_later(0.0)
        eventually(lambda: not Job.objects.filter(finished_at=None).exists())
    assert not TotalEntry.objects.exists()
    assert counted() == {"succeeded": 2}


def test_few_entries_wait_until_their_minute_is_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()  # whose minute does not end
    clock = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr("djjp.consumer.bookkeeping.time", clock)
    with consuming():
        add.run_later(1)
        eventually(lambda: not Job.objects.filter(finished_at=None).exists())
    assert TotalEntry.objects.count() == 1
    assert counted() == {"succeeded": 1}
    minutes = count()
    clock = SimpleNamespace(time=lambda: time.time() + 60 * next(minutes), monotonic=time.monotonic)
    monkeypatch.setattr("djjp.consumer.bookkeeping.time", clock)
    with consuming():
        eventually(lambda: not TotalEntry.objects.exists())
    assert rows(Span.EVER) == {(add.name, 0): 1}
