"""Handles: wait for a job, and read its result, errors and state."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from django.db import connections

from djjp import get_job
from djjp.engine import Claimed, Engine, Failure, Outcome
from djjp.exceptions import JobCancelled, JobDoesNotExist, JobFailed
from djjp.jobs.handles import JobHandle
from djjp.models import Job, State
from tests.project.shop.jobs import add


def end(
    engine: Engine, state: State, *, result: str | None = None, message: str | None = None
) -> None:
    """Claim the one ready job and end it as a consumer does."""
    (claimed,) = engine.jobs.claim("tester", 1, time.time())
    failure = None if message is None else Failure("shop.OutOfStock", message, "Traceback …")
    now = time.time()
    assert not engine.jobs.finish("tester", [Outcome(claimed, state, now, now, result, failure)])


def end_later(engine: Engine, **how: object) -> threading.Thread:
    def work() -> None:
        time.sleep(0.1)
        end(engine, **how)  # type: ignore[arg-type]  # passed on as given
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_handle_shows_what_it_last_read(engine: Engine) -> None:
    handle = add.run_later(1)
    end(engine, State.SUCCEEDED, result="41")

    assert handle.state == "ready"
    handle.refresh()
    assert (handle.state, handle.result, handle.attempts, handle.errors) == ("succeeded", 41, 1, [])


def test_join_waits_for_the_result(engine: Engine) -> None:
    handle: JobHandle = add.run_later(1)
    thread = end_later(engine, state=State.SUCCEEDED, result='{"$djjp":"tuple","value":[1,2]}')

    assert handle.join() == (1, 2)
    thread.join()


def test_ajoin_waits_for_the_result(engine: Engine) -> None:
    handle = add.run_later(1)
    thread = end_later(engine, state=State.SUCCEEDED, result="5")

    assert asyncio.run(handle.ajoin(timeout=30)) == 5
    thread.join()


def test_join_of_a_failed_job_raises_with_the_message_of_its_last_error(engine: Engine) -> None:
    handle = add.run_later(1)
    end(engine, State.FAILED, message="none left")

    with pytest.raises(JobFailed, match="none left") as caught:
        handle.join()

    assert caught.value.exception_class == "shop.OutOfStock"
    assert caught.value.traceback == "Traceback …"
    with pytest.raises(JobFailed, match="none left"):
        asyncio.run(handle.ajoin())


def test_join_of_a_cancelled_job_raises(engine: Engine) -> None:
    handle = add.run_later(1)
    Job.objects.update(state=State.CANCELLED)

    with pytest.raises(JobCancelled):
        handle.join()


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_join_times_out_and_the_job_continues(engine: Engine, timeout: float) -> None:
    handle = add.run_later(1)

    with pytest.raises(TimeoutError, match="still ready"):
        handle.join(timeout=timeout)

    end(engine, State.SUCCEEDED, result="2")
    assert handle.join() == 2


def test_join_of_a_missing_job_raises(engine: Engine) -> None:
    handle = add.run_later(1)
    Job.objects.all().delete()

    with pytest.raises(JobDoesNotExist):
        handle.join()


def test_retry_makes_an_ended_job_ready_with_fresh_attempts_and_keeps_its_errors(
    engine: Engine,
) -> None:
    handle = add.run_later(1)
    end(engine, State.FAILED, message="first")

    handle.retry()
    assert (handle.state, handle.attempts) == ("ready", 0)
    end(engine, State.FAILED, message="second")

    handle.refresh()
    assert [error.message for error in handle.errors] == ["first", "second"]
    assert handle.attempts == 1


def test_retry_of_a_job_that_has_not_ended_changes_nothing(engine: Engine) -> None:
    handle = add.run_later(1)
    (claimed,) = engine.jobs.claim("tester", 1, time.time())
    assert isinstance(claimed, Claimed)

    handle.retry()

    assert (handle.state, handle.attempts) == ("running", 1)


def test_handles_of_one_job_are_equal(engine: Engine) -> None:
    handle = add.run_later(1)

    assert {handle, get_job(handle.id), JobHandle(handle.id)} == {handle}
    assert str(handle.id) in repr(handle)
