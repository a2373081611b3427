"""Repair: the row that the database refuses, or that no verb takes up, is found and its job failed."""

from __future__ import annotations

import time
from typing import Any, NoReturn
from uuid import UUID

import pytest

from djjp.engine import Claimed, Engine, Failure
from djjp.models import Attempt, Job, State
from tests.support.consumers import consuming
from tests.support.engine_calls import NOW, at_once, claim, done, enqueue, row, take
from tests.support.jobs import registered
from tests.support.processes import eventually

WHY = Failure("builtins.ValueError", "it is odd", "")


def write(engine: Engine, id: UUID, **values: Any) -> None:
    """Write values into a row as they are."""
    key = id.hex if engine.db.alias == "sqlite" else id
    changes = ", ".join(f"{column} = %s" for column in values)
    with engine.db.connection.cursor() as cursor:
        cursor.execute(f"UPDATE djjp_job SET {changes} WHERE id = %s", [*values.values(), key])


def no_times(engine: Engine) -> list[Any]:
    return [None, b"\x00", "next week", ""] if engine.db.alias == "sqlite" else [None, "infinity"]


def test_a_failed_row_has_an_error_and_its_state_is_checked_once_more(engine: Engine) -> None:
    [id] = enqueue(engine)
    [key] = engine.repair.ready_keys(10, None, ())

    assert not engine.repair.fail(key, State.SCHEDULED, WHY, NOW)
    assert engine.repair.fail(key, State.READY, WHY, NOW)
    assert not engine.repair.fail(key, State.READY, WHY, NOW)

    assert row(id)["state"] == "failed"
    error = Attempt.objects.get()
    assert (error.job_id, error.exception_class, error.message) == (
        id,
        WHY.exception_class,
        "it is odd",
    )


def test_ready_jobs_are_claimed_by_their_keys_in_the_order_of_the_claim(engine: Engine) -> None:
    first, second, third = (enqueue(engine, priority=priority)[0] for priority in (1, 3, 2))
    keys = engine.repair.ready_keys(2, None, ())
    engine.control.cancel([second], NOW)
    with engine.db.transaction():
        claimed = engine.jobs.claim_keys("one", keys, NOW)
    assert [job.id for job in claimed] == [third]
    assert [row(id)["state"] for id in (first, second, third)] == ["ready", "cancelled", "running"]
    assert engine.repair.ready_keys(10, ["elsewhere"], ()) == []
    assert len(engine.repair.ready_keys(10, ["default", "elsewhere"], ["no.such"])) == 1


def test_scheduled_jobs_whose_time_is_none_are_misfits(engine: Engine) -> None:
    [soon] = enqueue(engine, state=State.SCHEDULED, run_after=NOW)
    ids = enqueue(engine, len(no_times(engine)), state=State.SCHEDULED, run_after=NOW)
    for id, value in zip(ids, no_times(engine), strict=True):
        write(engine, id, run_after=value)

    found = engine.repair.misfits(100)

    assert {engine.db.to_uuid(key) for key, _, _ in found} == set(ids)
    assert {(state, reason) for _, state, reason in found} == {
        ("scheduled", "its run_after is no time")
    }
    assert row(soon)["state"] == "scheduled"


def test_the_next_due_time_is_read_among_odd_ones(engine: Engine) -> None:
    before = time.time()
    for value in no_times(engine):
        [id] = enqueue(engine, state=State.SCHEDULED, run_after=NOW)
        write(engine, id, run_after=value)
        due = engine.jobs.next_due()
        assert due is None or due > before
        Job.objects.all()._raw_delete(engine.db.alias)


def test_a_consumer_fails_misfits_and_runs_all_others(engine: Engine) -> None:
    with registered("test.plain", lambda: 1) as function:
        ids = enqueue(engine, len(no_times(engine)), state=State.SCHEDULED, run_after=time.time())
        for id, value in zip(ids, no_times(engine), strict=True):
            write(engine, id, run_after=value)
        [nobodys] = enqueue(engine)
        write(engine, nobodys, state="running")
        handle = function.run_later()
        with consuming():
            handle.join(30)
            eventually(lambda: Job.objects.filter(state="failed").count() == len(ids) + 1)

    messages = set(Attempt.objects.values_list("message", flat=True))
    assert messages == {"its run_after is no time", "it is running on no consumer"}


# Locks


@pytest.mark.postgresql_only
def test_rows_that_another_transaction_has_locked_are_told_from_deleted_ones(
    engine: Engine,
) -> None:
    free, locked, deleted = enqueue(engine, 3)
    Job.objects.filter(pk=deleted).delete()
    results: list[Any] = []

    def other(engine: Engine) -> None:
        with engine.db.transaction():
            results.append(engine.repair.locked_elsewhere([free, locked, deleted]))

    with engine.db.transaction():
        engine.db.lock_rows("id", "true", [locked])
        at_once(other)
    assert results == [{locked}]


# Bounds


def test_a_promotion_takes_the_first_due_jobs_and_leaves_the_others(engine: Engine) -> None:
    late, soon, later = (
        enqueue(engine, state=State.SCHEDULED, run_after=NOW - seconds)[0] for seconds in (1, 9, 5)
    )
    assert engine.jobs.promote(NOW, 2) == 2
    assert [row(id)["state"] for id in (late, soon, later)] == ["scheduled", "ready", "ready"]
    assert engine.jobs.promote(NOW, 2) == 1


def _sized(size: int) -> str:
    return '{"args":["' + "x" * size + '"],"kwargs":{}}'


def test_a_claim_of_large_arguments_is_bounded_by_their_size(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.engine.payloads.CLAIM_BYTES", 250_000)
    small = enqueue(engine, 2)
    large = [enqueue(engine, arguments=_sized(100_000))[0] for _ in range(5)]
    after = enqueue(engine)

    def taken() -> list[Claimed]:
        with engine.db.transaction():
            return engine.jobs.claim("one", 100, NOW)

    first = taken()
    assert [job.id for job in first] == [*small, *large[:2], *after]
    assert [len(job.arguments) > 100_000 for job in first] == [False, False, True, True, False]
    assert [row(id)["state"] for id in large[2:]] == ["ready"] * 3
    assert [row(id)["attempts"] for id in large[2:]] == [0] * 3
    assert [job.id for job in taken()] == large[2:4]
    assert [job.id for job in taken()] == large[4:]


def test_a_job_that_is_larger_than_the_bound_is_claimed_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.engine.payloads.CLAIM_BYTES", 50_000)
    ids = [enqueue(engine, arguments=_sized(100_000))[0] for _ in range(2)]
    assert [job.id for job in claim(engine)] == ids[:1]
    assert [job.arguments for job in claim(engine)] == [_sized(100_000)]


def test_an_input_beyond_the_limit_fails_its_job_with_its_size(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from djjp import chain, group

    monkeypatch.setattr("djjp.engine.payloads.MAX_INPUT", 1000)
    with (
        registered("test.part", lambda: None) as part,
        registered("test.end", lambda given: None) as end,
    ):
        chain(group(part.bind(), part.bind()), end.bind(), end.bind()).run_later()
    other = enqueue(engine)[0]
    parts = take(engine)
    assert len(parts) == 3
    take(engine, "one", *[done(job, '"' + "x" * 600 + '"') for job in parts if job.id != other])

    failed = Job.objects.get(state="failed")
    assert "the results of its parents come to 1,204 bytes" in Attempt.objects.get().message
    assert failed.attempts == 1
    assert sorted(Job.objects.values_list("state", flat=True)) == [
        *["cancelled", "failed", "running"],
        *["succeeded"] * 2,
    ]


def test_inputs_of_one_claim_are_bounded_together(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from djjp import chain, group

    monkeypatch.setattr("djjp.engine.payloads.CLAIM_BYTES", 1000)
    with (
        registered("test.part", lambda: None) as part,
        registered("test.end", lambda given: None) as end,
    ):
        chain(part.bind(), group(*[end.bind() for _ in range(4)])).run_later()
    [parent] = take(engine)
    first = take(engine, "one", done(parent, '"' + "x" * 400 + '"'))
    assert [len(job.input or "") for job in first] == [402, 402]
    assert len(take(engine)) == 2


def test_small_inputs_are_read_without_a_look_at_their_sizes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from djjp import chain, group

    def not_asked(*_: object) -> NoReturn:
        raise AssertionError("the sizes are read")

    monkeypatch.setattr(engine.jobs._payloads._inputs, "sizes", not_asked)
    with (
        registered("test.part", lambda: None) as part,
        registered("test.end", lambda given: None) as end,
    ):
        chain(group(part.bind(), part.bind()), end.bind()).run_later()
    parts = take(engine)
    [last] = take(engine, "one", *[done(job, f'"{number}"') for number, job in enumerate(parts)])
    assert last.input == '["0","1"]'
