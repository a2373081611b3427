"""Coroutines call the engine through the call queue, without a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
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
    yield CallQueue(wakeup)
    wakeup.close()


def start(work: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any]:
    """Run a coroutine on a loop of another thread."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(asyncio.run(work()))
        except BaseException as error:  # noqa: BLE001  (the test checks it)
            result.set_exception(error)

    threading.Thread(target=run).start()
    return result


def test_a_coroutines_call_is_resolved_once_the_turn_has_committed_and_its_loop_continues(
    call_queue: CallQueue, engine: Engine
) -> None:
    went_on = threading.Event()

    async def work() -> int:
        async with asyncio.TaskGroup() as group:
            called = group.create_task(call_queue.acall(lambda engine: 7))
            await asyncio.sleep(0.05)
            went_on.set()
            return await called

    result = start(work)
    assert went_on.wait(30)
    with engine.db.transaction():
        call_queue.execute(engine)
        assert not result.done()
    call_queue.resolve()

    assert result.result(30) == 7


def test_a_coroutine_gets_the_error_of_its_verb(call_queue: CallQueue, engine: Engine) -> None:
    def refuse(engine: Engine) -> None:
        raise ValueError("no")

    result = start(lambda: call_queue.acall(refuse))
    eventually(lambda: len(call_queue))
    with engine.db.transaction():
        call_queue.execute(engine)
    call_queue.resolve()

    with pytest.raises(ValueError, match="no"):
        result.result(30)


def test_a_call_of_a_coroutine_that_no_turn_takes_is_withdrawn() -> None:
    wakeup = Wakeup()
    call_queue = CallQueue(wakeup, timeout=0.3)
    with pytest.raises(QueueUnavailable):
        asyncio.run(call_queue.acall(lambda queue: 7))
    assert len(call_queue) == 0
    wakeup.close()


def test_a_call_of_a_cancelled_coroutine_is_withdrawn(call_queue: CallQueue) -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            await call_queue.acall(lambda queue: 7)

    with pytest.raises(TimeoutError):
        asyncio.run(work())
    assert len(call_queue) == 0


def test_a_coroutine_that_is_cancelled_during_its_turn_affects_no_other(
    call_queue: CallQueue, engine: Engine
) -> None:
    cancel: list[Callable[[], object]] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        cancel.append(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        await call_queue.acall(lambda engine: 7)

    gone = start(work)
    eventually(lambda: len(call_queue))
    other = start(lambda: call_queue.acall(lambda engine: 8))
    eventually(lambda: len(call_queue) == 2)
    with engine.db.transaction():
        call_queue.execute(engine)
        cancel[0]()
        assert isinstance(gone.exception(30), asyncio.CancelledError)
    call_queue.resolve()

    assert other.result(30) == 8
    assert len(call_queue) == 0
