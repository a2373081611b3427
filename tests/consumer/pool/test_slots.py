"""Slots: whatever a job raises, and wherever, it is reported as ended and its slot runs the next job."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from djjp import job
from djjp.consumer.pool import coroutines
from djjp.engine import Engine
from djjp.exceptions import JobFailed, JobStopped, JobTimedOut
from djjp.jobs import RegisteredJob
from djjp.models import Job, State
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.processes import eventually
from tests.support.recorder import SEEN

POOLS = ["threads", "asyncio"]
pytestmark = pytest.mark.sqlite_only


class Nameless(type):
    @property
    def __module__(cls) -> NoReturn:  # type: ignore[override]  # to raise is its purpose
        raise RuntimeError("no module")


class Indescribable(Exception, metaclass=Nameless):
    pass


class Speechless(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class OddText(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise KeyboardInterrupt

    def replace(self, *args: Any) -> NoReturn:
        raise KeyboardInterrupt


class OddMessage(Exception):
    def __str__(self) -> str:
        return OddText("odd")


def broken(error: BaseException) -> NoReturn:
    raise ValueError("nothing to see")


class Classless(Exception):
    __class__ = property(broken)


class WithoutTraceback(JobTimedOut):
    def with_traceback(self, traceback: object) -> NoReturn:
        raise ValueError("no traceback")

    args = property(broken)


RAISED: dict[str, type[BaseException]] = {
    kind.__name__ if kind is not Indescribable else "Indescribable": kind
    for kind in (
        JobTimedOut,
        JobStopped,
        asyncio.CancelledError,
        GeneratorExit,
        SystemExit,
        KeyboardInterrupt,
        StopIteration,
        StopAsyncIteration,
        MemoryError,
        RecursionError,
        Indescribable,
        Speechless,
        OddMessage,
        Classless,
        WithoutTraceback,
    )
}


@job(name="slots.raise")
def raise_(name: str) -> NoReturn:
    raise RAISED[name]


@job(name="slots.araise")
async def araise(name: str) -> NoReturn:
    await asyncio.sleep(0)
    raise RAISED[name]


@job(name="slots.raise_in_time", timeout=20)
async def araise_in_time(name: str) -> NoReturn:
    raise RAISED[name]


@job(name="slots.cancel_all")
async def cancel_all() -> None:
    """Cancel whatever is on the loop, also what has not begun, except this job itself."""
    await asyncio.sleep(0.05)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


@job(name="slots.asleep")
async def asleep() -> None:
    await asyncio.sleep(60)


def join(handle: Any) -> State:
    until = time.monotonic() + 20
    while (state := handle.state) not in (State.FAILED, State.SUCCEEDED, State.CANCELLED):
        assert time.monotonic() < until, f"{handle!r} is never reported"
        time.sleep(0.01)
        handle.refresh()
    return State(state)


@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("raising", [raise_, araise, araise_in_time])
def test_whatever_a_job_raises_it_has_failed_and_its_slot_runs_the_next(
    engine: Engine, concurrency: str, raising: RegisteredJob[..., Any]
) -> None:
    with consuming(1, concurrency=concurrency):
        for name in RAISED:
            handle = raising.run_later(name)
            assert join(handle) is State.FAILED, name
            assert handle.errors[0].exception_class
        assert add.run_later(1, 2).join(30) == 3


def test_a_job_that_cancels_all_tasks_costs_no_slot(engine: Engine) -> None:
    with consuming(3, concurrency="asyncio"):
        others = [asleep.run_later(), asleep.run_later()]
        assert join(cancel_all.run_later()) is State.SUCCEEDED
        assert [join(other) for other in others] == [State.FAILED, State.FAILED]
        assert [h.join(30) for h in [add.run_later(i) for i in range(6)]] == [*range(6)]


def test_a_task_that_is_cancelled_before_its_first_step_costs_no_slot(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = coroutines.AsyncPool._begin

    def begin_and_cancel(pool: Any, job: Any) -> None:
        begin(pool, job)
        if job.name == asleep.name:
            for run in pool._runs:
                run.task.cancel()

    monkeypatch.setattr(coroutines.AsyncPool, "_begin", begin_and_cancel)
    with consuming(1, concurrency="asyncio"):
        assert join(asleep.run_later()) is State.FAILED
        assert add.run_later(1, 2).join(30) == 3


@pytest.mark.parametrize("concurrency", POOLS)
def test_an_error_of_the_pool_itself_fails_the_job_and_costs_no_slot(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, concurrency: str
) -> None:
    broken = [IndexError("broken"), ValueError("broken too")]

    def execution(*args: Any) -> Any:
        if broken:
            raise broken.pop()
        return Execution(*args)

    from djjp.consumer import pool
    from djjp.consumer.execution import Execution

    monkeypatch.setattr(pool, "Execution", execution)
    with consuming(1, concurrency=concurrency):
        assert join(add.run_later(1)) is State.FAILED
        assert join(asleep.run_later()) is State.FAILED
        assert add.run_later(1, 2).join(30) == 3
    assert Job.objects.filter(state=State.RUNNING).count() == 0


@job(name="slots.sets_a_factory")
async def sets_a_factory() -> None:
    """Set a factory in the signature that it had up to Python 3.10."""
    asyncio.get_running_loop().set_task_factory(
        lambda loop, coroutine: asyncio.Task(coroutine, loop=loop)
    )


@job(name="slots.breaks_the_factory")
async def breaks_the_factory() -> None:
    def factory(*args: Any, **options: Any) -> NoReturn:
        raise RuntimeError("no task")

    asyncio.get_running_loop().set_task_factory(factory)


@job(name="slots.works")
async def works() -> int:
    return await asyncio.sleep(0, 7)


@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("harmful", [sets_a_factory, breaks_the_factory])
def test_the_task_factory_that_a_job_sets_keeps_no_other_from_its_start(
    engine: Engine, concurrency: str, harmful: RegisteredJob[[], None]
) -> None:
    with consuming(1, concurrency=concurrency):
        harmful.run_later().join(30)
        assert works.run_later().join(30) == 7
        assert add.run_later(1).join(30) == 1


@job(name="slots.shuts_the_executor_down")
async def shuts_the_executor_down() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


@job(name="slots.leaves_a_closed_executor")
async def leaves_a_closed_executor() -> None:
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    executor.shutdown()


@job(name="slots.uses_the_executor")
async def uses_the_executor() -> int:
    return await asyncio.to_thread(int, "7")


@pytest.mark.borrowed
@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("harmful", [shuts_the_executor_down, leaves_a_closed_executor])
def test_an_executor_that_a_job_has_shut_down_is_replaced(
    engine: Engine, concurrency: str, harmful: RegisteredJob[[], None]
) -> None:
    with consuming(1, concurrency=concurrency):
        harmful.run_later().join(30)
        assert uses_the_executor.run_later().join(30) == 7


@job(name="slots.waits")
async def waits() -> None:
    SEEN.append("waits")
    await asyncio.sleep(60)


@job(name="slots.cancels_all")
async def cancels_all() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


def test_a_coroutine_that_others_have_cancelled_fails_with_that_reason(
    engine: Engine, recorder: list[Any]
) -> None:
    with consuming(2, concurrency="asyncio"):
        cancelled = waits.run_later()
        eventually(lambda: SEEN)
        cancels_all.run_later().join(30)
        with pytest.raises(JobFailed, match="its task was cancelled, by itself or by other code"):
            cancelled.join(30)
