"""Running one job: everything that it does becomes its outcome, and no exception escapes."""

from __future__ import annotations

import contextvars
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from djjp import codec, current_job_or_none, job
from djjp.consumer.execution import Execution
from djjp.engine import Claimed, Engine, Outcome
from djjp.jobs import registry
from djjp.models import State


@pytest.fixture
def run() -> Iterator[Callable[..., Outcome]]:
    """Yield a function that registers a function for this test and executes it as a claimed job."""
    names: list[str] = []

    def run(function: Callable[..., Any], *args: Any) -> Outcome:
        registered = job(name=f"test.{uuid.uuid4()}")(function)
        names.append(registered.name)
        arguments = codec.encode_arguments(args, {}, None)
        outcome = Execution(Claimed(uuid.uuid4(), registered.name, arguments, 1, 0)).run()
        assert outcome is not None
        return outcome

    yield run
    for name in names:
        del registry._jobs[name]


def test_a_result_is_encoded_into_the_outcome(run: Callable[..., Outcome]) -> None:
    outcome = run(lambda a, b: {a, b}, 1, (2, 3))

    assert outcome.state is State.SUCCEEDED
    assert codec.decode_value(outcome.result or "") == {1, (2, 3)}
    assert outcome.failure is None
    assert outcome.started_at <= outcome.finished_at


def test_a_coroutine_function_is_awaited(run: Callable[..., Outcome]) -> None:
    async def double(n: int) -> int:
        return 2 * n

    assert run(double, 21).result == "42"
    assert current_job_or_none() is None, "this was the job's alone"


def test_an_exception_becomes_a_failure_with_its_traceback(run: Callable[..., Outcome]) -> None:
    def broken() -> None:
        raise LookupError("no such order")

    outcome = run(broken)

    assert outcome.state is State.FAILED
    assert outcome.result is None
    assert outcome.failure is not None
    assert outcome.failure.exception_class == "builtins.LookupError"
    assert outcome.failure.message == "no such order"
    assert 'raise LookupError("no such order")' in outcome.failure.traceback


def test_a_traceback_starts_in_the_job_and_not_in_the_consumer(run: Callable[..., Outcome]) -> None:
    def broken() -> None:
        raise LookupError

    failure = run(broken).failure

    assert failure is not None
    assert "in execute\n" not in failure.traceback
    assert "in broken" in failure.traceback


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_that_ends_programs_ends_only_the_job(
    run: Callable[..., Outcome], error: BaseException
) -> None:
    def leave() -> None:
        raise error

    assert run(leave).state is State.FAILED


def object_of_no_kind() -> object:
    return object()


def test_a_result_that_cannot_be_encoded_fails_the_job_with_a_clear_error(
    run: Callable[..., Outcome],
) -> None:
    failure = run(object_of_no_kind).failure

    assert failure is not None
    assert failure.exception_class == "djjp.exceptions.EncodeError"
    assert "return value" in failure.message


def test_a_name_that_is_not_registered_fails_the_attempt() -> None:
    outcome = Execution(Claimed(uuid.uuid4(), "shop.gone", '{"args":[],"kwargs":{}}', 1, 0)).run()

    assert outcome is not None
    assert outcome.failure is not None
    assert "shop.gone" in outcome.failure.message


def test_arguments_that_no_longer_fit_fail_the_attempt(run: Callable[..., Outcome]) -> None:
    failure = run(lambda a: a, 1, 2).failure

    assert failure is not None
    assert failure.exception_class == "builtins.TypeError"


def test_a_call_of_a_row_by_hand_that_does_not_fit_fails_the_attempt(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id holds no time, or one that is no date."""
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=2**128 - 1))
    failure = run(lambda a: a, 1, 2).failure

    assert failure is not None
    assert failure.exception_class == "builtins.TypeError"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


def test_an_exception_that_cannot_be_printed_is_still_a_failure(
    run: Callable[..., Outcome],
) -> None:
    def broken() -> None:
        raise Unprintable

    failure = run(broken).failure

    assert failure is not None
    assert failure.exception_class.endswith("Unprintable")
    assert "RuntimeError" in failure.message


def test_a_circular_cause_is_printed_once(run: Callable[..., Outcome]) -> None:
    def broken() -> None:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    failure = run(broken).failure

    assert failure is not None
    assert failure.traceback.count("ValueError: second") == 1


@pytest.mark.parametrize("size", [5_000_000, 20_000])
def test_a_huge_message_is_cut_in_the_middle(run: Callable[..., Outcome], size: int) -> None:
    def broken() -> None:
        raise ValueError("begin" + "x" * size + "end")

    failure = run(broken).failure

    assert failure is not None
    assert failure.message.startswith("begin")
    assert failure.message.endswith("end")
    assert "left out" in failure.message
    assert len(failure.message) <= 10_000
    assert len(failure.traceback) <= 100_000


def test_nul_bytes_and_lone_surrogates_are_shown_as_escapes(run: Callable[..., Outcome]) -> None:
    def broken() -> None:
        raise ValueError("a\0b\ud800c")

    failure = run(broken).failure

    assert failure is not None
    assert failure.message == "a\\x00b\\ud800c"
    assert "\0" not in failure.traceback
    failure.traceback.encode()


def test_endless_recursion_is_an_ordinary_failure(run: Callable[..., Outcome]) -> None:
    def deeper() -> None:
        deeper()

    failure = run(deeper).failure

    assert failure is not None
    assert failure.exception_class == "builtins.RecursionError"
    assert sys.getrecursionlimit() > 0


def test_context_variables_of_one_job_do_not_reach_the_next(run: Callable[..., Outcome]) -> None:
    tenant = contextvars.ContextVar("tenant", default="none")

    def first() -> None:
        tenant.set("first's")

    def read() -> str:
        return tenant.get()

    assert run(first).failure is None
    assert run(read).result == '"none"'


def test_a_connection_that_broke_in_one_job_is_not_used_by_the_next(
    engine: Engine, run: Callable[..., Outcome]
) -> None:
    def on_a_thread() -> None:
        def broken() -> None:
            connection = connections["default"]
            connection.ensure_connection()
            connection.connection.close()
            connection.cursor().execute("SELECT 1")

        def working() -> int:
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
                (one,) = cursor.fetchone()
            return int(one)

        outcomes.append(run(broken))
        outcomes.append(run(working))
        connections.close_all()

    outcomes: list[Outcome] = []
    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()

    assert [outcome.state for outcome in outcomes] == [State.FAILED, State.SUCCEEDED]


def test_a_job_leaves_no_connection_to_the_queue_open(
    engine: Engine, run: Callable[..., Outcome]
) -> None:
    left: list[object] = []

    def on_a_thread() -> None:
        def peek() -> bool:
            with engine.db.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            return True

        assert run(peek).result == "true"
        left.append(engine.db.connection.connection)

    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()

    assert left == [None]
