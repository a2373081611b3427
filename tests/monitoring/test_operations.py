"""An operation reaches each of its jobs once, in steps, also when its worker dies meanwhile."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, OperationalError, transaction
from django.test import override_settings

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job, Operation, Progression, Verb
from djjp.monitoring import operation_steps
from djjp.monitoring.filters import Filter
from djjp.monitoring.jobs import walk
from djjp.monitoring.operation_steps import Worker
from djjp.monitoring.operations import (
    OperationInfo,
    get,
    go_on,
    operations,
    preview,
    start,
    stop,
    work_off,
)
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.engine_calls import at_once, enqueue, register_consumer
from tests.support.processes import eventually

FAILED = Filter.parse("state:failed")


def failed(engine: Engine, count: int, **given: Any) -> list[UUID]:
    ids = enqueue(engine, count, **given)
    Job.objects.filter(pk__in=ids).update(state="failed")
    return ids


def in_state(state: str) -> int:
    return Job.objects.filter(state=state).count()


def ends(id: UUID) -> OperationInfo:
    """Wait until an operation has ended."""
    eventually(lambda: read(id).has_ended)
    return read(id)


def read(id: UUID) -> OperationInfo:
    info = get(id)
    assert info is not None
    return info


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 jobs; operations on more than 20 jobs are left to consumers, and no slow one is taken over."""
    for name in ("FIRST_STEP", "SHORTEST_STEP", "STEP"):
        monkeypatch.setattr(operation_steps, name, 10)
    monkeypatch.setattr("djjp.monitoring.operations.STEP", 20)
    for module in ("operation_steps", "operations"):
        monkeypatch.setattr(f"djjp.monitoring.{module}.TAKEOVER", 60.0)


# What is done at once


def test_up_to_1000_jobs_are_done_at_once_and_leave_a_row_of_history(engine: Engine) -> None:
    failed(engine, 1000)
    enqueue(engine, 3)
    info = start("retry", filter=FAILED, requested_by="cli:ann")
    assert (info.state, info.matched, info.done, info.skipped) == ("done", 1000, 1000, {})
    assert (info.verb, info.filter, info.requested_by) == ("retry", "state:failed", "cli:ann")
    assert info.started_at is not None
    assert info.finished_at is not None
    assert in_state("ready") == 1003
    assert operations() == [info] == [get(info.id)]


def test_ids_are_taken_once_each_and_what_cannot_be_done_is_counted_by_reason(
    engine: Engine,
) -> None:
    ids = failed(engine, 2)
    [ready] = enqueue(engine)
    info = start(Verb.RETRY, ids=[*ids, ready, ids[0], new_id()])
    assert (info.matched, info.done) == (4, 2)
    assert info.skipped == {"has not ended": 1, "not found": 1}
    assert info.filter is None


def test_nothing_matches_and_nothing_is_done(engine: Engine) -> None:
    enqueue(engine)
    for info in (start("retry", filter=FAILED), start("retry", ids=[])):
        assert (info.state, info.matched, info.done, info.skipped) == ("done", 0, 0, {})


@pytest.mark.parametrize(
    ("verb", "argument", "state", "changed"),
    [
        ("retry", "", "failed", {"state": "ready"}),
        ("cancel", "", "ready", {"state": "cancelled"}),
        ("run", "", "scheduled", {"state": "ready"}),
        ("move", "bulk", "ready", {"queue": "bulk"}),
        ("priority", "-3", "ready", {"priority": -3}),
        ("priority", 5, "ready", {"priority": 5}),
        ("delete", "", "failed", None),
    ],
)
def test_each_verb_is_done_in_steps_though_it_changes_what_the_filter_matches(
    engine: Engine,
    few: None,
    verb: str,
    argument: str | int,
    state: str,
    changed: dict[str, Any] | None,
) -> None:
    ids = enqueue(engine, 45)
    Job.objects.update(state=state)
    info = start(verb, filter=Filter.of({"state": state, "queue": "default"}), argument=argument)
    assert (info.state, info.done) == ("waiting", 0)
    info = ends_here(engine, info.id)
    assert (info.state, info.matched, info.done, info.skipped) == ("done", 45, 45, {})
    if changed is None:
        assert not Job.objects.exists()
    else:
        assert Job.objects.filter(pk__in=ids, **changed).count() == 45


def ends_here(engine: Engine, id: UUID) -> OperationInfo:
    """Have a worker of this thread do an operation to its end."""
    worker = Worker()
    while worker.work(engine):
        pass
    return read(id)


# Of jobs in an outbox


def test_a_job_in_an_outbox_is_cancelled_by_its_id(engine: Engine) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "outbox": ["default"]}):
        [queued] = enqueue(engine)
        with transaction.atomic("default"):
            waiting = add.run_later(1).id
            info = start("cancel", ids=[queued, waiting, new_id()])
            assert (info.matched, info.done, info.skipped) == (3, 2, {"not found": 1})
        eventually(lambda: Job.objects.filter(pk=waiting).exists())
        assert in_state("cancelled") == 2


# What consumers do


def test_more_jobs_are_left_to_consumers(engine: Engine, few: None) -> None:
    ids = failed(engine, 25)
    by_filter = start("retry", filter=FAILED)
    assert (by_filter.state, in_state("failed")) == ("waiting", 25)
    with consuming(queues=["other"]):
        assert ends(by_filter.id).done == 25
    assert start("cancel", ids=ids).state == "waiting"
    with consuming(queues=["other"]):
        eventually(lambda: in_state("cancelled") == 25)


def test_jobs_that_are_enqueued_later_are_left_out(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    failed(engine, 10)
    assert ends_here(engine, id).matched == 25
    assert in_state("failed") == 10


def test_a_span_back_is_from_the_start_of_the_operation(engine: Engine, few: None) -> None:
    failed(engine, 25)
    info = start("retry", filter=Filter.parse("state:failed since:1h"))
    assert info.filter is not None
    assert "since:1h" not in info.filter
    assert ends_here(engine, info.id).done == 25


def test_a_job_that_fails_again_is_not_retried_again(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    worker = Worker()
    while worker.work(engine):
        Job.objects.filter(state="ready").update(state="failed")
    assert read(id).done == 25


def test_operations_are_worked_off_one_after_the_other(engine: Engine, few: None) -> None:
    failed(engine, 25)
    first, second = (
        start("retry", filter=FAILED),
        start("move", filter=Filter.of({"queue": "default"}), argument="other"),
    )
    worker = Worker()
    assert worker.work(engine)
    assert [read(first.id).state, read(second.id).state] == ["running", "waiting"]
    while worker.work(engine):
        pass
    assert [read(first.id).done, read(second.id).done] == [25, 25]


def test_idle_consumers_run_what_an_operation_has_made_ready(engine: Engine, few: None) -> None:
    failed(engine, 25, name="shop.echo")
    with consuming():
        start("retry", filter=FAILED)
        eventually(lambda: in_state("succeeded") == 25)


def test_a_caller_that_comes_again_goes_on_where_it_stopped(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    seen = []
    for _ in range(9):
        info = go_on(id, "page", time_limit=1e-9)
        assert info is not None
        seen.append(info.done)
    assert seen[:3] == [10, 20, 25]
    assert seen[-1] == 25
    assert go_on(new_id(), "page", time_limit=1.0) is None


def test_a_caller_leaves_an_operation_to_a_living_consumer(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    register_consumer(engine, "here", time.time())
    info = go_on(id, "page", time_limit=1.0)
    assert info is not None
    assert info.done == 0


# One worker at a time


def test_while_one_works_no_other_does(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    one, two = Worker(), Worker()
    assert one.work(engine)
    assert not two.work(engine)
    assert (read(id).worker, read(id).done) == (one.name, 10)


def test_the_operation_of_a_dead_worker_is_taken_over(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    one, two = Worker(), Worker()
    assert one.work(engine)
    Operation.objects.update(worked_at=to_datetime(time.time() - operation_steps.TAKEOVER))
    assert two.work(engine)
    assert (read(id).worker, read(id).done) == (two.name, 20)


def test_an_operation_whose_worker_had_a_clock_ahead_is_taken_over(
    engine: Engine, few: None
) -> None:
    failed(engine, 25)
    start("retry", filter=FAILED)
    assert Worker().work(engine)
    Operation.objects.update(worked_at=to_datetime(time.time() + 3600))
    assert Worker().work(engine)


def test_a_worker_that_was_taken_for_dead_does_no_step_twice(
    engine: Engine, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(engine, 45)
    id = start("retry", filter=FAILED).id
    one, two = Worker(), Worker()
    assert one.work(engine)

    def slowly(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(operation_steps, "walk", walk)
        found = walk(*args, **options)
        Operation.objects.update(worked_at=to_datetime(time.time() - operation_steps.TAKEOVER))
        assert two.work(engine)
        Job.objects.filter(state="ready").update(state="failed")  # a second retry would be seen
        return found

    monkeypatch.setattr(operation_steps, "walk", slowly)
    assert not one.work(engine)
    assert (read(id).done, in_state("ready")) == (20, 0)


def test_two_workers_at_once_leave_nothing_out_and_do_nothing_twice(
    engine: Engine, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_steps, "TAKEOVER", 0.0)  # each takes it from the other
    failed(engine, 205)
    id = start("retry", filter=FAILED).id

    def work(engine: Engine) -> None:
        worker = Worker()
        while not read(id).has_ended:
            with suppress(OperationalError):  # SQLite grants no lock at once
                worker.work(engine)

    at_once(work, work, work)
    assert (read(id).matched, read(id).done, read(id).skipped) == (205, 205, {})
    assert in_state("ready") == 205


def test_a_step_that_is_not_committed_has_not_happened(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    worker = Worker()
    assert worker.work(engine)
    with engine.db.transaction():
        assert worker.work(engine)
        transaction.set_rollback(True, using=engine.db.alias)
    assert (read(id).done, in_state("ready")) == (10, 10)
    while worker.work(engine):
        pass
    assert (read(id).done, in_state("ready")) == (25, 25)


def test_a_job_that_no_longer_meets_the_filter_is_left_alone(
    engine: Engine, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = failed(engine, 25)
    id = start("delete", filter=FAILED).id

    def retried(*args: Any, **options: Any) -> Any:
        found = walk(*args, **options)
        engine.control.retry(ids[:2])
        return found

    monkeypatch.setattr(operation_steps, "walk", retried)
    info = ends_here(engine, id)
    assert (info.done, info.skipped) == (23, {"changed by others meanwhile": 2})
    assert in_state("ready") == 2


# Stop, fail


def test_an_operation_that_is_stopped_ends_before_its_next_step(engine: Engine, few: None) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    worker = Worker()
    assert worker.work(engine)
    info = stop(id)
    assert info is not None
    assert (info.state, info.done, info.has_ended) == ("stopped", 10, True)
    assert not worker.work(engine)
    assert in_state("ready") == 10


def test_an_operation_that_is_stopped_in_the_middle_of_a_step_does_not_do_it(
    engine: Engine, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id

    def stopped(*args: Any, **options: Any) -> Any:
        found = walk(*args, **options)
        stop(id)
        return found

    monkeypatch.setattr(operation_steps, "walk", stopped)
    assert not Worker().work(engine)
    assert (read(id).state, read(id).done, in_state("ready")) == ("stopped", 0, 0)


def test_an_operation_that_has_ended_stays_as_it_is(engine: Engine) -> None:
    failed(engine, 1)
    info = start("retry", filter=FAILED)
    assert stop(info.id) == info
    assert stop(new_id()) is None
    assert get(new_id()) is None


def test_an_error_that_comes_again_ends_the_operation_and_the_next_one_goes_on(
    engine: Engine,
    few: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed(engine, 25)
    first = start("retry", filter=FAILED).id
    second = start("delete", filter=FAILED).id
    worker, do = Worker(), engine.bulk.do

    def refused(verb: Verb, *args: Any) -> Any:
        if verb is Verb.RETRY and in_state("ready"):
            raise DataError("bad\nvalue")
        return do(verb, *args)

    monkeypatch.setattr(engine.bulk, "do", refused)
    assert worker.work(engine)
    assert not worker.work(engine)
    assert (read(first).state, read(first).error) == ("running", "DataError: bad value")
    assert not worker.work(engine)
    info = read(first)
    assert (info.state, info.done, info.error) == ("failed", 10, "DataError: bad value")
    assert f"operation {first} has failed: retry (DataError: bad value)" in caplog.text
    assert ends_here(engine, second).done == 15


def test_an_error_that_does_not_come_again_is_forgotten(
    engine: Engine, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    errors = [DataError("bad value")]
    do = engine.bulk.do

    def refused_once(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return do(*args)

    monkeypatch.setattr(engine.bulk, "do", refused_once)
    worker = Worker()
    assert not worker.work(engine)
    assert read(id).error == "DataError: bad value"
    assert worker.work(engine)
    assert read(id).error == ""
    assert ends_here(engine, id).state == "running"  # it is the other worker's
    while worker.work(engine):
        pass
    assert (read(id).state, read(id).done) == ("done", 25)


def test_while_the_database_is_away_an_operation_does_not_fail(
    engine: Engine, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(engine, 25)
    id = start("retry", filter=FAILED).id
    worker = Worker()

    def away(*args: Any) -> Any:
        raise OperationalError("the connection is closed")

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(engine.bulk, "do", away)
            with pytest.raises(OperationalError):
                worker.work(engine)
    assert (read(id).state, read(id).error) == ("waiting", "")
    while worker.work(engine):
        pass
    assert read(id).done == 25


# Without consumers


def test_without_consumers_the_process_that_waits_does_the_work(engine: Engine, few: None) -> None:
    failed(engine, 45)
    first = start("retry", filter=FAILED)
    second = start("move", filter=Filter.of({"queue": "default"}), argument="other")
    seen: list[OperationInfo] = []
    info = work_off(second.id, on_step=seen.append)
    assert info is not None
    assert (info.state, info.done) == ("done", 45)
    assert read(first.id).done == 45
    assert [each.done for each in seen][-1] == 45
    assert work_off(new_id()) is None


def test_while_a_consumer_lives_the_work_is_left_to_it(engine: Engine, few: None) -> None:
    failed(engine, 25)
    register_consumer(engine, "host:1:a", time.time())
    id = start("retry", filter=FAILED).id
    info = work_off(id, timeout=0.3)
    assert info is not None
    assert info.state == "waiting"
    # It has not worked on it for a while, and may be frozen.
    Operation.objects.update(created_at=to_datetime(time.time() - operation_steps.TAKEOVER))
    info = work_off(id)
    assert info is not None
    assert info.done == 25


# Preview


def test_a_preview_counts_what_matches_and_says_what_cannot_be_done(engine: Engine) -> None:
    failed(engine, 1201, queue="mail")
    enqueue(engine, 3, queue="mail")
    shown = preview("retry", filter=Filter.of({"queue": "mail"}))
    assert (shown.matched, shown.has_more) == (1204, False)
    assert 200 <= shown.sampled <= 400
    assert str(preview("retry", filter=FAILED)) == "1,201 match"
    assert in_state("failed") == 1201
    assert not Operation.objects.exists()


def test_a_preview_of_few_jobs_examines_each(engine: Engine) -> None:
    ids = [*failed(engine, 6), *enqueue(engine, 2), new_id()]
    shown = preview("retry", ids=ids)
    assert shown == (
        Verb.RETRY,
        9,
        False,
        9,
        6,
        {"has not ended": 2, "not found": 1},
    )
    assert str(shown) == "9 match; 3 cannot, because 2 have not ended, 1 not found"


def test_a_preview_of_many_jobs_stops_counting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.operations.MOST_COUNTED", 100)
    failed(engine, 101)
    assert str(preview("retry", filter=FAILED)) == "100+ match"
    assert str(preview("cancel", filter=FAILED)).startswith(
        "100+ match; 100 cannot, because 100 have ended"
    )


# What is refused


@pytest.mark.parametrize(
    ("verb", "given", "text"),
    [
        ("explode", {}, "the verb is 'explode'; it must be one of retry, cancel"),
        ("move", {}, "the queue is ''"),
        ("move", {"argument": "q" * 101}, "the queue is"),
        ("move", {"argument": 5}, "the queue is 5"),
        ("priority", {"argument": "high"}, "the priority is 'high'"),
        ("priority", {"argument": "40000"}, "the priority is 40000"),
        ("priority", {"argument": True}, "the priority is True"),
        ("retry", {"argument": "x"}, "the argument is 'x'; retry takes none"),
        ("retry", {"filter": FAILED}, "give either a filter or ids"),
        ("retry", {"ids": None}, "give either a filter or ids"),
        ("retry", {"ids": ["x"]}, "an id is 'x'; it must be a UUID"),
    ],
)
@pytest.mark.parametrize("call", [start, preview])
@pytest.mark.one_database
def test_what_makes_no_operation_is_refused(
    engine: Engine, call: Any, verb: str, given: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        call(verb, **{"ids": [], **given})
    assert not Operation.objects.exists()


# History


def test_history_is_listed_newest_first_page_by_page(engine: Engine) -> None:
    ids = [start("retry", ids=[]).id for _ in range(5)]
    assert [each.id for each in operations(limit=2)] == ids[:-3:-1]
    assert [each.id for each in operations(limit=10, before=ids[3])] == ids[2::-1]


def test_history_is_bounded_by_age_and_by_number_and_what_has_not_ended_stays(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_steps, "KEPT", 3)
    now = time.time()

    def operation(state: Progression, days: float) -> UUID:
        at = to_datetime(now - days * 86_400)
        return Operation.objects.create(
            verb="retry",
            state=state,
            until=new_id(),
            created_at=at,
            finished_at=None if state in operation_steps.UNFINISHED else at,
        ).pk

    waiting = [operation(Progression.WAITING, 100) for _ in range(5)]
    old = operation(Progression.FAILED, 31)
    many = [operation(Progression.DONE, 29) for _ in range(2)]
    kept = [
        operation(state, 1) for state in (Progression.DONE, Progression.STOPPED, Progression.DONE)
    ]
    assert operation_steps.prune(engine) == 3
    left = {*Operation.objects.values_list("pk", flat=True)}
    assert left == {*waiting, *kept}
    assert not left & {old, *many}
    assert operation_steps.prune(engine) == 0


def test_an_operation_that_is_larger_than_a_step_shows_its_progress(
    engine: Engine, few: None
) -> None:
    ids = failed(engine, 25)
    Job.objects.filter(pk=ids[3]).update(state="running")
    info = start("retry", ids=ids)
    Worker().work(engine)
    info = read(info.id)
    assert (info.state, info.matched, info.done, info.skipped) == ("running", 10, 9, {"running": 1})
    assert info.worked_at is not None
