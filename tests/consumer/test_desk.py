"""Running jobs reach the queue over the desk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, transaction

from djjp.consumer.call_queue import Desk
from djjp.consumer.wakeup import Bell
from djjp.engine import NOBODY, Claims
from djjp.exceptions import QueueUnavailable
from djjp.models import Job
from tests.support.factories import new_job
from tests.support.processes import eventually

Lay = Callable[..., Any]


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


@pytest.fixture
def desk(bell: Bell) -> Desk:
    return Desk(bell)


@pytest.fixture
def lay(desk: Desk) -> Iterator[Callable[..., Any]]:
    """Lays a verb on the desk from a thread of its own; returns the future of its answer."""
    with ThreadPoolExecutor(8) as threads:

        def lay(verb: Callable[[Claims], Any]) -> Any:
            count = len(desk)
            future = threads.submit(desk.call, verb)
            eventually(lambda: len(desk) > count)
            return future

        yield lay
        desk.close()


def test_a_call_is_answered_once_the_turn_has_committed(
    queue: Claims, desk: Desk, lay: Callable[..., Any]
) -> None:
    job = new_job()
    answer = lay(lambda claims: claims.enqueue(job))

    with queue.turn():
        desk.serve(queue)
        assert not answer.done()
    desk.answer()

    assert answer.result(10) == NOBODY
    assert Job.objects.filter(pk=job.id).exists()


def test_a_turn_that_fails_leaves_the_calls_for_the_next(
    queue: Claims, desk: Desk, lay: Callable[..., Any]
) -> None:
    answer = lay(lambda claims: claims.enqueue(new_job()))

    def broken_turn() -> None:
        with queue.turn():
            desk.serve(queue)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_turn()
    assert not answer.done()
    assert not Job.objects.exists()

    with queue.turn():
        desk.serve(queue)
    desk.answer()

    answer.result(10)
    assert Job.objects.count() == 1


def test_only_the_call_that_is_wrong_fails(
    queue: Claims, desk: Desk, lay: Callable[..., Any]
) -> None:
    good = [new_job(), new_job()]
    first = lay(lambda claims: claims.enqueue(good[0]))
    wrong = lay(lambda claims: claims.enqueue(new_job(name=None)))
    last = lay(lambda claims: claims.enqueue(good[1]))

    with queue.turn():
        desk.serve(queue)
    desk.answer()

    assert isinstance(wrong.exception(10), IntegrityError)
    first.result(10)
    last.result(10)
    assert Job.objects.count() == 2


def test_a_desk_that_is_closed_refuses_at_once(desk: Desk, lay: Callable[..., Any]) -> None:
    waiting = lay(lambda claims: None)
    desk.close()

    assert isinstance(waiting.exception(10), RuntimeError)
    with pytest.raises(RuntimeError, match="has ended"):
        desk.call(lambda claims: None)
    assert threading.active_count() >= 1


def test_a_call_that_no_turn_takes_is_taken_back_and_refused(queue: Claims, bell: Bell) -> None:
    desk = Desk(bell, patience=0.1)
    job = new_job()

    with pytest.raises(QueueUnavailable, match=f"database '{queue.alias}' did not take the call"):
        desk.call(lambda claims: claims.enqueue(job))
    with queue.turn():
        desk.serve(queue)
    desk.answer()

    assert len(desk) == 0
    assert not Job.objects.exists()


def test_a_call_that_is_in_a_turn_is_waited_for(queue: Claims, bell: Bell) -> None:
    desk = Desk(bell, patience=0.1)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(desk.call, lambda claims: "done")
        eventually(lambda: len(desk))
        with queue.turn():
            desk.serve(queue)
            threading.Event().wait(1.0)
            assert not answer.done()
        desk.answer()

        assert answer.result(10) == "done"


def test_a_call_whose_turn_has_failed_may_be_taken_back_again(queue: Claims, bell: Bell) -> None:
    desk = Desk(bell, patience=0.1)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(desk.call, lambda claims: "done")
        eventually(lambda: len(desk))
        with queue.turn():
            desk.serve(queue)
            transaction.set_rollback(True, using=queue.alias)
        desk.lay_back()

        assert isinstance(answer.exception(10), QueueUnavailable)


def test_a_timeout_that_a_verb_raises_is_its_own(desk: Desk, queue: Claims, lay: Lay) -> None:
    def late(claims: Claims) -> None:
        raise TimeoutError("mine")

    answer = lay(late)
    with queue.turn():
        desk.serve(queue)
    desk.answer()

    with pytest.raises(TimeoutError, match="mine"):
        answer.result(10)


@pytest.mark.parametrize("queue", ["postgresql"], indirect=True)
def test_a_session_that_is_lost_in_a_call_fails_the_turn_and_not_the_call(
    desk: Desk, queue: Claims, lay: Lay
) -> None:
    """Else the turn would end as if it had committed, and what it had written would be forgotten."""
    lost: list[bool] = []

    def lose(claims: Claims) -> str:
        if not lost:
            lost.append(True)
            with claims.connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return "done"

    answer = lay(lose)
    with pytest.raises(OperationalError), queue.turn():
        desk.serve(queue)
    desk.lay_back()
    queue.connection.close_if_unusable_or_obsolete()
    with queue.turn():
        desk.serve(queue)
    desk.answer()

    assert answer.result(10) == "done"
