"""Coroutines reach the queue over the desk without a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from djjp.consumer.call_queue import CallQueue
from djjp.consumer.wakeup import Wakeup
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from tests.support.processes import eventually


@pytest.fixture
def call_queue() -> Iterator[CallQueue]:
    wakeup = Wakeup()
    yield CallQueue(wakeup, timeout=0.3)
    wakeup.close()


def begin(work: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any]:
    """Run a coroutine on a loop of another thread."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(asyncio.run(work()))
        except BaseException as error:  # noqa: BLE001  (the test looks at it)
            answer.set_exception(error)

    threading.Thread(target=run).start()
    return answer


def test_a_coroutine_is_answered_once_the_turn_has_committed_and_its_loop_goes_on(
    call_queue: CallQueue, engine: Engine
) -> None:
    went_on = threading.Event()

    async def work() -> int:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(call_queue.acall(lambda engine: 7))
            await asyncio.sleep(0.05)
            went_on.set()
            return await asked

    answer = begin(work)
    assert went_on.wait(30)
    with engine.db.transaction():
        call_queue.execute(engine)
        assert not answer.done()
    call_queue.resolve()

    assert answer.result(30) == 7


def test_a_coroutine_gets_the_error_of_its_verb(call_queue: CallQueue, engine: Engine) -> None:
    def refuse(engine: Engine) -> None:
        raise ValueError("no")

    answer = begin(lambda: call_queue.acall(refuse))
    eventually(lambda: len(call_queue))
    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    with pytest.raises(ValueError, match="no"):
        answer.result(30)


def test_what_nobody_serves_is_taken_back(call_queue: CallQueue) -> None:
    with pytest.raises(QueueUnavailable):
        asyncio.run(call_queue.acall(lambda queue: 7))
    assert len(call_queue) == 0


def test_what_nobody_waits_for_is_taken_back(call_queue: CallQueue) -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            await call_queue.acall(lambda queue: 7)

    with pytest.raises(TimeoutError):
        asyncio.run(work())
    assert len(call_queue) == 0


def test_a_coroutine_that_is_cancelled_amid_its_turn_hurts_no_other(
    call_queue: CallQueue, engine: Engine
) -> None:
    async def work() -> None:
        async with asyncio.timeout(0.2):
            await call_queue.acall(lambda engine: 7)

    gone = begin(work)
    eventually(lambda: len(call_queue))
    other = begin(lambda: call_queue.acall(lambda engine: 8))
    eventually(lambda: len(call_queue) == 2)
    with engine.db.transaction():
        call_queue.execute(engine)
        assert isinstance(gone.exception(30), TimeoutError)
    call_queue.resolve()

    assert other.result(30) == 8
    assert len(call_queue) == 0
