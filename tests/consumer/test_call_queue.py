"""Running jobs call the engine through the call queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, transaction

from djjp.consumer import call_queue as module
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.wakeup import Wakeup
from djjp.engine import NO_HOLDERS, Engine
from djjp.exceptions import QueueUnavailable
from djjp.models import Job
from tests.support.clocks import Clock, stopped
from tests.support.factories import new_job
from tests.support.processes import eventually

Lay = Callable[..., Any]


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


@pytest.fixture
def call_queue(wakeup: Wakeup) -> CallQueue:
    return CallQueue(wakeup)


@pytest.fixture
def lay(call_queue: CallQueue) -> Iterator[Callable[..., Any]]:
    """Submit a call from a thread of its own; return the future of its result."""
    with ThreadPoolExecutor(8) as threads:

        def lay(verb: Callable[[Engine], Any]) -> Any:
            count = len(call_queue)
            future = threads.submit(call_queue.call, verb)
            eventually(lambda: len(call_queue) > count)
            return future

        yield lay
        call_queue.close()


def test_a_call_is_resolved_once_the_turn_has_committed(
    engine: Engine, call_queue: CallQueue, lay: Callable[..., Any]
) -> None:
    job = new_job()
    answer = lay(lambda engine: engine.jobs.enqueue(job))

    with engine.db.transaction():
        call_queue.execute(engine)
        assert not answer.done()
    call_queue.resolve()

    assert answer.result(30) == NO_HOLDERS
    assert Job.objects.filter(pk=job.id).exists()


def test_a_turn_that_fails_leaves_the_calls_for_the_next_one(
    engine: Engine, call_queue: CallQueue, lay: Callable[..., Any]
) -> None:
    answer = lay(lambda engine: engine.jobs.enqueue(new_job()))

    def broken_turn() -> None:
        with engine.db.transaction():
            call_queue.execute(engine)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_turn()
    assert not answer.done()
    assert not Job.objects.exists()

    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    answer.result(30)
    assert Job.objects.count() == 1


def test_only_the_call_that_is_wrong_fails(
    engine: Engine, call_queue: CallQueue, lay: Callable[..., Any]
) -> None:
    good = [new_job(), new_job()]
    first = lay(lambda engine: engine.jobs.enqueue(good[0]))
    wrong = lay(lambda engine: engine.jobs.enqueue(new_job(name=None)))
    last = lay(lambda engine: engine.jobs.enqueue(good[1]))

    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    assert isinstance(wrong.exception(30), IntegrityError)
    first.result(30)
    last.result(30)
    assert Job.objects.count() == 2


def test_a_closed_call_queue_refuses_at_once(
    call_queue: CallQueue, lay: Callable[..., Any]
) -> None:
    waiting = lay(lambda claims: None)
    call_queue.close()

    assert isinstance(waiting.exception(30), RuntimeError)
    with pytest.raises(RuntimeError, match="has ended"):
        call_queue.call(lambda claims: None)
    assert threading.active_count() >= 1


def test_a_call_that_no_turn_takes_is_withdrawn_and_refused(engine: Engine, wakeup: Wakeup) -> None:
    call_queue = CallQueue(wakeup, timeout=0.1)
    job = new_job()

    with pytest.raises(
        QueueUnavailable, match=f"database '{engine.db.alias}' did not take the call"
    ):
        call_queue.call(lambda engine: engine.jobs.enqueue(job))
    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    assert len(call_queue) == 0
    assert not Job.objects.exists()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the calls, which stands still, and which they read often."""
    monkeypatch.setattr(module, "_POLL_EVERY", 0.01)
    return stopped(monkeypatch, module)


def test_a_call_that_is_in_a_turn_is_awaited_beyond_its_timeout(
    engine: Engine, wakeup: Wakeup, clock: Clock
) -> None:
    call_queue = CallQueue(wakeup, timeout=1.0)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(call_queue.call, lambda claims: "done")
        eventually(lambda: len(call_queue))
        with engine.db.transaction():
            call_queue.execute(engine)
            clock.now += 1.5
            clock.is_read(times=2)
            assert not answer.done()
        call_queue.resolve()

        assert answer.result(30) == "done"


def test_a_call_whose_turn_has_failed_can_be_withdrawn(
    engine: Engine, wakeup: Wakeup, clock: Clock
) -> None:
    call_queue = CallQueue(wakeup, timeout=1.0)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(call_queue.call, lambda claims: "done")
        eventually(lambda: len(call_queue))
        with engine.db.transaction():
            call_queue.execute(engine)
            transaction.set_rollback(True, using=engine.db.alias)
        call_queue.requeue()
        clock.now += 1.5

        assert isinstance(answer.exception(30), QueueUnavailable)


def test_a_timeout_that_a_verb_raises_is_its_own(
    call_queue: CallQueue, engine: Engine, lay: Lay
) -> None:
    def late(engine: Engine) -> None:
        raise TimeoutError("mine")

    answer = lay(late)
    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    with pytest.raises(TimeoutError, match="mine"):
        answer.result(30)


@pytest.mark.postgresql_only
def test_a_session_that_is_lost_in_a_call_fails_the_turn_and_not_the_call(
    call_queue: CallQueue, engine: Engine, lay: Lay
) -> None:
    """Otherwise the turn would end as if it had committed, and its writes would be lost."""
    lost: list[bool] = []

    def lose(engine: Engine) -> str:
        if not lost:
            lost.append(True)
            with engine.db.connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return "done"

    answer = lay(lose)
    with pytest.raises(OperationalError), engine.db.transaction():
        call_queue.execute(engine)
    call_queue.requeue()
    engine.db.connection.close_if_unusable_or_obsolete()
    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    assert answer.result(30) == "done"
