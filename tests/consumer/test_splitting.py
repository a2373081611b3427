"""A turn that the database refuses is taken again in parts: what is refused ends, and everything else goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, IntegrityError, connections, transaction

from djjp import engine as engine_room
from djjp import run_many
from djjp.consumer.consumer import Consumer
from djjp.engine import Engine, Refusal
from djjp.exceptions import JobFailed
from djjp.models import Attempt, Job, State
from tests.project.shop.jobs import add
from tests.support.consumers import consuming, drain
from tests.support.jobs import registered
from tests.support.postgres import PATIENTLY
from tests.support.processes import eventually
from tests.support.staying import let_end, stay

pytestmark = pytest.mark.both_databases

_SQLITE = """CREATE TRIGGER test_guard BEFORE UPDATE ON djjp_job
WHEN NEW.name = 'test.guarded' AND {condition}
BEGIN SELECT RAISE(ABORT, 'the guard refuses this'); END"""
_POSTGRESQL = """CREATE FUNCTION test_guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF NEW.name = 'test.guarded' AND {condition} THEN RAISE EXCEPTION 'the guard refuses this'; END IF;
RETURN NEW; END $$;
CREATE TRIGGER test_guard BEFORE UPDATE ON djjp_job FOR EACH ROW EXECUTE FUNCTION test_guard()"""
GUARDS = {
    "sqlite": (_SQLITE, "DROP TRIGGER test_guard"),
    "postgresql": (
        PATIENTLY + _POSTGRESQL,
        PATIENTLY + "DROP TRIGGER test_guard ON djjp_job; DROP FUNCTION test_guard",
    ),
}


@contextmanager
def guarded(engine: Engine, condition: str) -> Iterator[None]:
    """Refuse updates of jobs called `test.guarded` after which a condition is true."""
    create, drop = GUARDS[engine.db.alias]
    with engine.db.connection.cursor() as cursor:
        cursor.execute(create.format(condition=condition))
    try:
        yield
    finally:
        with connections[engine.db.alias].cursor() as cursor:
            cursor.execute(drop)


def states(handles: list[Any]) -> set[str]:
    return set(Job.objects.filter(pk__in=[h.id for h in handles]).values_list("state", flat=True))


def all_succeeded(handles: list[Any]) -> bool:
    return states(handles) == {"succeeded"}


def state(handle: Any) -> str:
    return str(Job.objects.get(pk=handle.id).state)


# Outcomes


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_an_outcome_that_is_refused_fails_with_the_reason_and_all_others_are_written(
    engine: Engine, concurrency: str, caplog: pytest.LogCaptureFixture
) -> None:
    with registered("test.guarded", lambda: 1) as function:
        others = run_many(add.bind(i) for i in range(50))
        handles = [function.run_later() for _ in range(2)]
        others += run_many(add.bind(i) for i in range(50))
        with guarded(engine, "NEW.state = 'succeeded'"):
            drain(4, concurrency=concurrency)

    assert states(others) == {"succeeded"}
    for handle in handles:
        with pytest.raises(JobFailed, match="its outcome cannot be written: the guard refuses"):
            handle.join(0)
        assert (handle.attempts, len(handle.errors)) == (1, 1)
    assert "a turn was refused (" in caplog.text


def test_an_outcome_that_is_refused_keeps_the_error_of_the_job(engine: Engine) -> None:
    def fails() -> None:
        raise ValueError("of the job")

    with registered("test.guarded", fails, max_attempts=2, backoff=60) as function:
        handle = function.run_later()
        with guarded(engine, "NEW.state = 'scheduled'"):
            drain()

    [error] = handle.errors
    assert state(handle) == "failed"
    assert "the guard refuses this" in error.message
    assert error.message.endswith("It had failed with builtins.ValueError: of the job")


def test_an_outcome_that_is_refused_in_any_form_is_set_aside_with_one_line(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with registered("test.guarded", lambda: 1) as function:
        handle = function.run_later()
        others = run_many(add.bind(i) for i in range(20))
        with guarded(engine, "NEW.state <> 'running'"):
            drain(2)

    assert states(others) == {"succeeded"}
    assert state(handle) == "running"
    assert caplog.text.count("cannot be written") == 1
    assert f"the outcome of test.guarded {handle.id} cannot be written" in caplog.text
    # It is for others to rescue now.
    assert [peer.heartbeat for peer in engine.consumers.consumers_without_row()] == [None]


def test_an_outcome_that_python_refuses_harms_no_other(engine: Engine) -> None:
    """A time that no database has, as a later version of djjp may let through."""
    others = run_many(add.bind(i) for i in range(10))
    handle = add.run_later(11)
    consumer = Consumer(1, drain=True)
    report = consumer._ledger.report

    def spoil(outcome: Any) -> None:
        if outcome.claimed.id == handle.id:
            outcome = outcome._replace(finished_at=1e18)
        report(outcome)

    consumer._pool._on_outcome = spoil  # type: ignore[attr-defined]
    assert consumer.run()
    assert states(others) == {"succeeded"}
    assert state(handle) == "failed"


def test_progress_that_is_refused_is_dropped(engine: Engine) -> None:
    others = run_many(add.bind(i) for i in range(5))
    consumer = Consumer(1, drain=True)
    batch = consumer._ledger.batch

    def spoiled() -> Any:
        found = batch()
        for outcome in found.reported[:1]:
            consumer._ledger.report_progress(
                engine_room.Progress(outcome.claimed, "much", None)  # type: ignore[arg-type]
            )
        return batch()

    consumer._ledger.batch = spoiled  # type: ignore[method-assign]
    assert consumer.run()
    assert states(others) == {"succeeded"}
    assert consumer._ledger._progress == {}


# Calls


def test_a_call_that_is_refused_fails_its_caller_alone(engine: Engine) -> None:
    def ask(refuse: bool) -> str:
        def verb(engine: Engine) -> str:
            if refuse:
                with engine.db.connection.cursor() as cursor:
                    cursor.execute("INSERT INTO djjp_queue (name, paused_at) VALUES (NULL, NULL)")
            return "answered"

        time.sleep(0.05)  # so that the calls meet in one turn
        return engine_room.run(verb)

    with registered("test.ask", ask) as function:
        handles = run_many(function.bind(number == 3) for number in range(8))
        drain(8)

    assert sorted(state(handle) for handle in handles) == ["failed", *["succeeded"] * 7]
    assert handles[3].errors[0].exception_class == "django.db.utils.IntegrityError"


@pytest.mark.postgresql_only
def test_a_call_that_takes_too_long_fails_its_caller_alone(engine: Engine) -> None:
    def ask(seconds: float) -> str:
        def verb(engine: Engine) -> str:
            with engine.db.connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = '1500ms'")
                cursor.execute("SELECT pg_sleep(%s)", [seconds])
            return "answered"

        time.sleep(0.05)
        return engine_room.run(verb)

    with registered("test.ask", ask) as function:
        handles = run_many(function.bind(5.0 if n == 2 else 0.0) for n in range(4))
        drain(4)

    assert [state(handle) for handle in handles].count("succeeded") == 3
    assert handles[2].errors[0].exception_class == "djjp.exceptions.QueueUnavailable"


# Promotion and claims


def test_a_job_that_cannot_be_promoted_fails_with_the_reason(engine: Engine) -> None:
    soon = time.time() + 0.3
    with registered("test.guarded", lambda: 1) as function:
        handle = function.using(run_after=timedelta(seconds=0.3)).run_later()
        others = run_many(add.using(run_after=timedelta(seconds=0.3)).bind(i) for i in range(20))
        with guarded(engine, "NEW.state = 'ready'"), consuming():
            eventually(lambda: states(others) == {"succeeded"})
            eventually(lambda: state(handle) == "failed")

    assert time.time() > soon
    assert "the guard refuses this" in handle.errors[0].message


def test_a_job_that_cannot_be_claimed_fails_with_the_reason(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with registered("test.guarded", lambda: 1) as function:
        handle = function.run_later()
        others = run_many(add.bind(i) for i in range(20))
        with guarded(engine, "NEW.state = 'running'"):
            drain()

    assert states(others) == {"succeeded"}
    with pytest.raises(JobFailed, match="the guard refuses this"):
        handle.join(0)
    assert f"job {handle.id if engine.db.locks_rows else handle.id.hex} has failed" in caplog.text


def test_a_job_that_can_neither_run_nor_fail_is_left_out_and_named_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with registered("test.guarded", lambda: 1) as function:
        handle = function.run_later()
        with guarded(engine, "NEW.state <> OLD.state"), consuming() as consumer:
            for _ in range(3):
                others = run_many(add.bind(i) for i in range(10))
                eventually(partial(all_succeeded, others))
            turns: list[None] = []
            consumer._turn.run = _counting(consumer._turn.run, turns)  # type: ignore[method-assign]
            time.sleep(1.5)
            assert len(turns) < 50, "it is not tried again and again"

    assert state(handle) == "ready"
    assert caplog.text.count("can neither run nor be failed") == 1


def test_a_suspect_that_cannot_be_claimed_fails_with_the_reason(engine: Engine) -> None:
    with registered("test.guarded", lambda: 1) as function:
        handle = function.run_later()
        others = run_many(add.bind(i) for i in range(20))
        suspects = [handle, *others[:5]]
        Job.objects.filter(pk__in=[each.id for each in suspects]).update(rescues=1, attempts=1)
        with guarded(engine, "NEW.state = 'running'"):
            drain()

    assert states(others) == {"succeeded"}
    with pytest.raises(JobFailed, match="the guard refuses this"):
        handle.join(0)


def test_a_suspect_that_can_neither_run_nor_fail_hides_no_other(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with registered("test.guarded", lambda: 1) as function:
        first, second = function.run_later(), function.using(queue="other").run_later()
        with guarded(engine, "NEW.state <> OLD.state"), consuming() as consumer:
            for _ in range(2):
                others = run_many(add.bind(i) for i in range(10))
                suspects = [first, second, *others[:5]]
                Job.objects.filter(pk__in=[each.id for each in suspects]).update(rescues=1)
                eventually(partial(all_succeeded, others))
            turns: list[None] = []
            consumer._turn.run = _counting(consumer._turn.run, turns)  # type: ignore[method-assign]
            time.sleep(1.5)
            assert len(turns) < 50, "it is not tried again and again"

    assert states([first, second]) == {"ready"}
    assert caplog.text.count("can neither run nor be failed") == 2


def _counting(run: Any, turns: list[None]) -> Any:
    def counted() -> Any:
        turns.append(None)
        return run()

    return counted


def test_dependents_of_a_job_that_cannot_be_claimed_are_cancelled(engine: Engine) -> None:
    from djjp import chain

    with registered("test.guarded", lambda: 1) as function:
        handle = chain(function.bind(), add.bind()).run_later()
        with guarded(engine, "NEW.state = 'running'"):
            drain()
    assert sorted(Job.objects.values_list("state", flat=True)) == ["cancelled", "failed"]
    assert "the guard refuses this" in str(Job.objects.get(pk=handle.id).reason)


# The pool's own end


def test_a_turn_that_the_database_refuses_as_a_whole_keeps_all_outcomes(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing column is nobody's fault: the outcomes wait until it is there."""
    handle = stay.run_later()
    with consuming() as consumer:
        eventually(lambda: Job.objects.filter(state="running").exists())
        rename = "ALTER TABLE djjp_job RENAME COLUMN {} TO {}"
        if engine.db.alias == "postgresql":
            rename = PATIENTLY + rename
        with engine.db.connection.cursor() as cursor:
            cursor.execute(rename.format("reason", "reason_of_old"))
        let_end()
        try:
            eventually(lambda: "the queue's database refused" in caplog.text)
            time.sleep(0.5)
            assert consumer._ledger.has_writes
        finally:
            with engine.db.connection.cursor() as cursor:
                cursor.execute(rename.format("reason_of_old", "reason"))
        handle.join(30)
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), OverflowError("x")])
def test_an_error_of_python_in_a_turn_ends_no_consumer(engine: Engine, error: Exception) -> None:
    handles = run_many(add.bind(i) for i in range(30))
    consumer = Consumer(2, drain=True)
    finish = consumer._engine.jobs.finish
    raised: list[UUID] = []

    def refuse(consumer: str, outcomes: Any) -> Any:
        if len(outcomes) > 2 or handles[7].id in {o.claimed.id for o in outcomes if not o.failure}:
            raised.append(handles[7].id)
            raise error
        return finish(consumer, outcomes)

    consumer._engine.jobs.finish = refuse  # type: ignore[method-assign]
    try:
        assert consumer.run()
    finally:
        del consumer._engine.jobs.finish
    assert raised
    assert [state(handle) for handle in handles].count("succeeded") == 29
    assert state(handles[7]) == State.FAILED


def error_of(engine: Engine, statement: str) -> Exception:
    """Return the error of a statement."""
    try:
        with transaction.atomic(using=engine.db.alias), engine.db.connection.cursor() as cursor:
            cursor.execute(statement)
    except Exception as error:  # noqa: BLE001  (the test says what it must be)
        return error
    raise AssertionError(statement)


def test_the_errors_of_a_database_are_told_apart(engine: Engine) -> None:
    def refusal(error: Exception) -> Refusal:
        return engine.db.classify(error)

    integrity = error_of(engine, "INSERT INTO djjp_queue (name, paused_at) VALUES (NULL, NULL)")
    assert isinstance(integrity, IntegrityError)
    assert refusal(integrity) is Refusal.CONTENT
    assert refusal(DataError("of the driver")) is Refusal.CONTENT
    assert refusal(ValueError()) is Refusal.CONTENT
    assert refusal(error_of(engine, "SELECT no_column FROM djjp_job")) is Refusal.OUTAGE
    assert refusal(error_of(engine, "SELECT 1 FROM nowhere")) is Refusal.OUTAGE
    if engine.db.alias == "postgresql":
        end_session = "SELECT pg_terminate_backend(pg_backend_pid())"
        assert refusal(error_of(engine, end_session)) is Refusal.LOST
        engine.db.connection.close()
        engine.db.connection.ensure_connection()
    engine.db.connection.connection.close()
    assert refusal(error_of(engine, "SELECT 1")) is Refusal.LOST
    engine.db.connection.close()
