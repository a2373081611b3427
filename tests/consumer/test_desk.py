"""Running jobs reach the queue over the desk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import IntegrityError

from djjp.claims import Claims
from djjp.consumer.desk import Desk
from djjp.consumer.wakeups import Bell
from djjp.models import Job
from tests.claims.rows import new_job
from tests.harness import eventually


@pytest.fixture
def desk() -> Iterator[Desk]:
    bell = Bell()
    yield Desk(bell)
    bell.close()


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

    assert answer.result(10) is None
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
