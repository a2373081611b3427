"""Pruning: old finished jobs are deleted in steps, together with their errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Engine
from djjp.models import Attempt, Job, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    enqueue,
    failed,
    finish,
    row,
)
from tests.support.factories import new_job

WEEK = 7 * 86_400.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def ended(engine: Engine, state: State, when: float, count: int = 1) -> list[UUID]:
    """Create jobs that ended at a time, and return their ids in order."""
    jobs = [new_job(created_at=when) for _ in range(count)]
    engine.jobs.enqueue_many(jobs)
    ids = [job.id for job in jobs]
    Job.objects.filter(pk__in=ids).update(state=state, finished_at=at(when), attempts=1)
    return ids


def left() -> list[UUID]:
    return list(Job.objects.order_by("pk").values_list("pk", flat=True))


def test_only_jobs_that_ended_in_these_states_and_long_enough_ago_are_pruned(
    engine: Engine,
) -> None:
    ids = {state: ended(engine, state, NOW - WEEK) for state in State}
    young = ended(engine, State.SUCCEEDED, NOW)
    for state in (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING):
        Job.objects.filter(state=state).update(finished_at=None)

    assert engine.pruning.prune([State.SUCCEEDED], NOW - WEEK, None, 100)[0] == 0, (
        "ended at the bound"
    )
    assert engine.pruning.prune([State.SUCCEEDED], NOW - WEEK + 0.001, None, 100)[0] == 1
    kept = [id for state in State if state != State.SUCCEEDED for id in ids[state]]
    assert set(left()) == {*kept, *young}

    assert engine.pruning.prune([State.FAILED, State.CANCELLED], NOW, None, 100)[0] == 2
    assert set(left()) == {*kept, *young} - {*ids[State.FAILED], *ids[State.CANCELLED]}


def test_a_walk_continues_at_its_position_and_ends_at_the_last_row(engine: Engine) -> None:
    old = ended(engine, State.SUCCEEDED, NOW - WEEK, 7)

    count, place = engine.pruning.prune([State.SUCCEEDED], NOW, None, 3)
    assert (count, place) == (3, old[2])
    assert left() == old[3:]
    count, place = engine.pruning.prune([State.SUCCEEDED], NOW, old[4], 2)
    assert (count, place) == (2, old[6])
    assert left() == old[3:5], "what the walk has passed is not looked at"
    assert engine.pruning.prune([State.SUCCEEDED], NOW, place, 3) == (0, None)
    assert engine.pruning.prune([State.SUCCEEDED], NOW, None, 3) == (2, None)


def test_a_step_reads_at_most_its_limit_of_rows(engine: Engine) -> None:
    waiting = [new_job(created_at=NOW - WEEK) for _ in range(5)]
    engine.jobs.enqueue_many(waiting)
    old = ended(engine, State.SUCCEEDED, NOW - WEEK, 2)

    assert engine.pruning.prune([State.SUCCEEDED], NOW, None, 5) == (0, waiting[4].id)
    assert engine.pruning.prune([State.SUCCEEDED], NOW, waiting[4].id, 5) == (2, None)
    assert not set(old) & set(left())


def test_a_walk_ends_at_rows_that_are_too_young_to_have_ended_long_ago(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, NOW - WEEK, 2)
    ended(engine, State.SUCCEEDED, NOW, 10)
    assert engine.pruning.prune([State.SUCCEEDED], NOW - 1, None, 4) == (2, None)


def test_the_errors_of_a_pruned_job_are_deleted_and_those_of_others_stay(engine: Engine) -> None:
    enqueue(engine, 2, created_at=NOW)
    first, second = claim(engine)
    finish(engine, "one", failed(first, "gone"), failed(second, "kept"))
    Job.objects.filter(pk=second.id).update(finished_at=at(NOW + WEEK))

    assert engine.pruning.prune([State.FAILED], NOW + 60, None, 100)[0] == 1

    assert left() == [second.id]
    assert [error.message for error in Attempt.objects.all()] == ["kept"]


@pytest.mark.parametrize("again", ["ready", "failed"])
def test_a_job_that_is_retried_meanwhile_is_not_deleted(engine: Engine, again: str) -> None:
    """Between the read and the delete of the walk; meanwhile it can have failed again too."""
    enqueue(engine, 2, created_at=NOW)
    first, second = claim(engine)
    finish(engine, "one", failed(first, "gone"), failed(second, "kept"))

    def retry(engine: Engine) -> None:
        assert engine.control.retry([second.id]) == 1
        if again == "failed":
            [job] = claim(engine, "two")
            finish(engine, "two", failed(job)._replace(finished_at=NOW + WEEK))

    retried: list[Any] = []

    def before_the_delete(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if not retried and not sql.startswith("SELECT"):
            retried.append(at_once(retry))
        return execute(sql, *rest)

    with engine.db.connection.execute_wrapper(before_the_delete):
        count, _ = engine.pruning.prune([State.FAILED], NOW + 60, None, 100)

    assert retried
    assert count == 1
    assert left() == [second.id]
    assert row(second.id)["state"] == again
    assert {error.job_id for error in Attempt.objects.all()} == {second.id}
