"""The record of each attempt: its level, text and attributes, the thread and the context that it is made in."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from djjp import Discard, Retry, current_job_or_none, job, logs
from djjp.exceptions import JobFailed
from djjp.jobs import registry
from djjp.models import Job
from djjp.testing import drain as drain_here
from tests.support.consumers import consuming, drain
from tests.support.processes import eventually

pytestmark = pytest.mark.usefixtures("engine")

scope: ContextVar[str] = ContextVar("scope", default="none")
seen: list[tuple[int, str, str]] = []


class Handler(logging.Handler):
    """Notes the thread, the scope and the job that it finds, as Sentry's handler does."""

    def emit(self, record: logging.LogRecord) -> None:
        running = logs.running()
        seen.append(
            (threading.get_ident(), scope.get(), "none" if running is None else str(running.id))
        )


@pytest.fixture
def handler() -> Iterator[Handler]:
    seen.clear()
    added, logger = Handler(logging.WARNING), logging.getLogger(logs.JOBS)
    logger.addHandler(added)
    yield added
    logger.removeHandler(added)


threads: list[int] = []


@job(name="log.fail", max_attempts=2, backoff=[0])
def fail() -> None:
    scope.set("the job's")
    threads.append(threading.get_ident())
    raise ValueError("no")


@job(name="log.afail", max_attempts=2, backoff=[0])
async def afail() -> None:
    scope.set("the job's")
    threads.append(threading.get_ident())
    raise ValueError("no")


@job(name="log.later", max_attempts=5, backoff=[8])
def later() -> None:
    raise ValueError("no")


@job(name="log.asks", max_attempts=None)
def asks() -> None:
    raise Retry(after=3600)


@job(name="log.drops")
def drops() -> None:
    raise Discard("not needed")


@job(name="log.works", queue="mail")
def works() -> None:
    logging.getLogger("shop").warning("inside")


met: list[object] = []


@job(name="log.meets")
async def meets() -> None:
    met.append(None)
    while len(met) < 2:  # both run
        await asyncio.sleep(0)
    logging.getLogger("shop").warning("loop")
    await sync_to_async(logging.getLogger("shop").warning)("thread")


@contextmanager
def records(
    caplog: pytest.LogCaptureFixture, level: int = logging.INFO
) -> Iterator[Callable[[], list[logging.LogRecord]]]:
    with caplog.at_level(level, "djjp"):
        yield lambda: [record for record in caplog.records if record.name == logs.JOBS]


def run_here() -> None:
    drain_here()


def run_in_a_consumer() -> None:
    drain(2)


def run_in_asyncio() -> None:
    drain(2, concurrency="asyncio")


EVERYWHERE = pytest.mark.parametrize("run", [run_here, run_in_a_consumer, run_in_asyncio])


@EVERYWHERE
@pytest.mark.parametrize("failing", [fail, afail])
def test_a_retry_is_told_from_a_final_failure(
    run: Callable[[], None], failing: Any, caplog: pytest.LogCaptureFixture, handler: Handler
) -> None:
    threads.clear()
    handle = failing.run_later()

    with records(caplog) as found:
        run()

    retry, final = found()
    assert (retry.levelname, retry.exc_info) == ("WARNING", None)
    assert retry.getMessage() == (
        f"{failing.name} {handle.id} attempt 1 of 2 failed, again at once: builtins.ValueError: no"
    )
    assert final.levelname == "ERROR"
    assert final.getMessage() == (
        f"{failing.name} {handle.id} failed for good, attempt 2 of 2: builtins.ValueError: no"
    )
    assert final.exc_info is not None
    kind, error, frames = final.exc_info
    assert kind is ValueError
    assert str(error) == "no"
    assert frames is not None
    assert frames.tb_frame.f_code.co_filename == __file__
    # On the job's own thread, with what the job has set there.
    assert seen == [(thread, "the job's", str(handle.id)) for thread in threads]
    assert [vars(record)["attempt"] for record in (retry, final)] == [1, 2]


def test_a_long_pause_is_written_out(caplog: pytest.LogCaptureFixture) -> None:
    handle = later.using(backoff=timedelta(days=30)).run_later()

    with records(caplog) as found:
        drain()

    (record,) = found()
    assert f"{handle.id} attempt 1 of 5 failed, again in 2592000 s" in record.getMessage()


def test_a_retry_names_its_pause(caplog: pytest.LogCaptureFixture) -> None:
    first, second = later.run_later(), asks.run_later()

    with records(caplog) as found:
        drain()

    assert {record.getMessage() for record in found()} == {
        f"log.later {first.id} attempt 1 of 5 failed, again in 8 s: builtins.ValueError: no",
        f"log.asks {second.id} attempt 1 failed, again in 3600 s: djjp.exceptions.Retry: {Retry()}",
    }


@EVERYWHERE
def test_a_record_carries_its_job(
    run: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    handle = works.using(queue="bulk").run_later()

    with records(caplog) as found:
        run()

    [record] = found()
    facts = {key: vars(record)[key] for key in ("job_id", "job_name", "queue", "attempt")}
    assert facts == {
        "job_id": str(handle.id),
        "job_name": "log.works",
        "queue": "bulk",
        "attempt": 1,
    }
    assert record.levelname == "INFO"
    assert record.getMessage().startswith(f"log.works {handle.id} succeeded: waited ")
    assert ", ran " in record.getMessage()


def test_a_record_names_for_how_long_a_job_was_due(caplog: pytest.LogCaptureFixture) -> None:
    first, second = works.run_later(), works.run_later()
    now = timezone.now()
    Job.objects.update(created_at=now - timedelta(hours=3))
    Job.objects.filter(pk=second.id).update(run_after=now - timedelta(hours=1))

    with records(caplog) as found:
        drain(1)

    waited = {
        vars(r)["job_id"]: float(r.getMessage().split("waited ")[1].split()[0]) for r in found()
    }
    assert 3 * 3600 <= waited[str(first.id)] < 4 * 3600
    assert 3600 <= waited[str(second.id)] < 2 * 3600


def test_a_cancelled_attempt_names_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    handle = drops.run_later()

    with records(caplog) as found:
        drain()

    [record] = found()
    assert record.getMessage().startswith(
        f"log.drops {handle.id} was cancelled (not needed): waited "
    )


def test_jobs_that_succeed_are_not_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    works.run_later()

    with records(caplog, logging.WARNING) as found:
        drain()

    assert found() == []


def test_a_handler_that_raises_changes_no_outcome() -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise SystemExit("broken")

    broken = Broken()
    logging.getLogger("djjp").addHandler(broken)
    try:
        handle = fail.run_later()
        drain()
    finally:
        logging.getLogger("djjp").removeHandler(broken)

    with pytest.raises(JobFailed, match="no"):
        handle.join(timeout=5)


class SlowToLock(logging.Handler):
    """Takes longer to get its lock than `prompt` has time, and counts the records that it gets."""

    count = 0

    def acquire(self) -> None:
        time.sleep(2.5)
        super().acquire()

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


@job(name="log.prompt", timeout=2.0)
def prompt() -> str:
    return "done"


def test_a_timeout_does_not_interrupt_the_log_of_a_job_that_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would leave the handler locked, and every thread that logs would wait for ever."""
    handle, handler = prompt.run_later(), SlowToLock()
    logger = logging.getLogger(logs.JOBS)
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logs.JOBS), consuming():
            assert handle.join(timeout=30) == "done"
    finally:
        logger.removeHandler(handler)
    assert handler.count == 1


def test_the_filter_adds_the_job_to_the_projects_own_records() -> None:
    stream = io.StringIO()
    shown = logging.StreamHandler(stream)
    shown.addFilter(logs.JobFilter())
    form = "{message}: {job_id} {job_name} {queue} {attempt}"
    shown.setFormatter(logging.Formatter(form, style="{"))
    logger = logging.getLogger("shop")
    logger.addHandler(shown)
    try:
        handle = works.run_later()
        with consuming() as consumer:
            eventually(lambda: consumer.executed)
        logger.warning("outside")
    finally:
        logger.removeHandler(shown)

    assert stream.getvalue().splitlines() == [
        f"inside: {handle.id} log.works mail 1",
        "outside: None None None None",
    ]


def test_the_filter_tells_coroutines_that_run_at_the_same_time_apart() -> None:
    """Also on the thread on which a coroutine uses databases."""
    seen: list[tuple[str, str]] = []

    class Lister(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.getMessage(), vars(record)["job_id"]))

    shown = Lister()
    shown.addFilter(logs.JobFilter())
    logger = logging.getLogger("shop")
    logger.addHandler(shown)
    try:
        ids = [str(meets.run_later().id) for _ in range(2)]
        drain(2, concurrency="asyncio")
    finally:
        logger.removeHandler(shown)
        met.clear()

    assert sorted(seen) == sorted((text, id) for text in ("loop", "thread") for id in ids)


def test_a_record_about_a_job_of_which_the_id_is_known_carries_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = works.run_later()
    handle.retry()  # it has not ended

    (record,) = [each for each in caplog.records if each.name == "djjp.jobs"]
    logs.JobFilter().filter(record)

    assert "was not retried" in record.getMessage()
    given = vars(record)
    assert (given["job_id"], given["job_name"]) == (str(handle.id), None)
    assert (given["queue"], given["attempt"]) == (None, None)


def test_the_filter_keeps_what_a_record_has() -> None:
    record = logging.makeLogRecord({"job_id": "mine"})

    assert logs.JobFilter().filter(record)
    assert vars(record)["job_id"] == "mine"
    assert vars(record)["queue"] is None


def test_the_filter_can_be_named_before_there_are_apps() -> None:
    assert current_job_or_none() is None
    assert registry.find("log.works") is works
