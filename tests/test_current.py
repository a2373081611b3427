"""`current_job()`: the running job, its attempt and its progress."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest

from djjp import current_job, current_job_or_none, job
from djjp.engine import Claimed, Engine
from djjp.jobs.current import CurrentJob
from tests.project.shop.jobs import add
from tests.support.consumers import drain

CLAIMED = Claimed(uuid.uuid4(), "test", "", 1, 0)


@job(name="current.who_am_i")
def who_am_i() -> list[Any]:
    current = current_job()
    return [current.id, current.name, current.attempt, current.cancelled]


@job(name="current.awho_am_i")
async def awho_am_i() -> list[Any]:
    current = current_job()
    return [current.id, current.name, current.attempt, current.cancelled]


@job(name="current.in_a_thread")
def in_a_thread_of_its_own() -> bool:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(current_job_or_none()))
    thread.start()
    thread.join()
    return seen == [None]


@job(name="current.second", max_attempts=2, backoff=0)
def second() -> int:
    current = current_job()
    assert current.attempt == 2
    return current.attempt


def test_outside_of_a_job_there_is_none() -> None:
    assert current_job_or_none() is None
    assert add(1, 2) == 3
    with pytest.raises(
        RuntimeError, match=r"no job runs here: .* current_job_or_none\(\) returns None"
    ):
        current_job()
    with pytest.raises(RuntimeError, match="no job runs here"):
        who_am_i()


@pytest.mark.parametrize("ask", [who_am_i, awho_am_i], ids=["function", "coroutine"])
def test_the_running_job_has_its_id_its_name_and_its_attempt(engine: Engine, ask: Any) -> None:
    handle = ask.run_later()

    drain()

    assert handle.join(0) == [handle.id, ask.name, 1, False]
    assert current_job_or_none() is None


def test_the_attempt_counts_executions(engine: Engine) -> None:
    handle = second.run_later()

    drain()

    assert handle.join(0) == 2


def test_a_thread_that_the_job_starts_is_not_the_job(engine: Engine) -> None:
    """As context variables are: `copy_context()` takes it along."""
    handle = in_a_thread_of_its_own.run_later()

    drain()

    assert handle.join(0) is True


@pytest.mark.parametrize("numbers", [(1.0,), ("1",), (True,), (None,), (1, 2.0), (1, "2")])
def test_progress_takes_whole_numbers_only(numbers: Any) -> None:
    with pytest.raises(TypeError, match="progress takes whole numbers"):
        CurrentJob(CLAIMED).progress(*numbers)


@pytest.mark.parametrize("numbers", [(2**63,), (-(2**63) - 1,), (1, 10**30)])
def test_progress_takes_numbers_that_every_database_can_hold(numbers: Any) -> None:
    with pytest.raises(ValueError, match="progress takes numbers of up to 63 bits"):
        CurrentJob(CLAIMED).progress(*numbers)


def test_progress_outside_of_a_consumer_goes_nowhere() -> None:
    """And is no error: a test can call a job's function."""
    CurrentJob(CLAIMED).progress(1, 2)
