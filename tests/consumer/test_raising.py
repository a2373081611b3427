"""An interruption leaves no lock locked, and nothing in the interpreter if it came too late for its job."""

from __future__ import annotations

import asyncio
import logging
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from types import CodeType

import pytest

from djjp import job, run_many
from djjp.consumer import raising
from djjp.consumer.pool.sync_threads import JobThreadExecutor, ThreadCache
from djjp.engine import Claimed, Engine
from djjp.exceptions import JobTimedOut
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.processes import Processes, eventually

# The handler is that of all loggers, also of those of the consumer.
LOGS = """
import django; django.setup()
import logging, sys, time
from asgiref.sync import sync_to_async
from djjp import job
from djjp.consumer.process import consume

class Slow(logging.StreamHandler):
    def emit(self, record):
        time.sleep(0.002)  # as a disk or a socket
        super().emit(record)

logging.getLogger().addHandler(Slow(open({file!r}, "w")))
__name__ = "tests.project.settings"  # a job of `__main__` is refused

def log():
    while True:
        logging.getLogger("tests").warning("a line")
        time.sleep(0.005)

@job(name="raising.log", timeout=0.5)
{function}

sys.exit(consume(concurrency_limit=8))
"""


@job(name="raising.log", timeout=0.5)
def log() -> None:
    raise NotImplementedError  # the consumer has one of its own


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    "function",
    ["def run(): log()", "async def run(): await sync_to_async(log)()"],
    ids=["function", "coroutine"],
)
def test_a_timeout_amid_a_line_of_the_log_lets_all_others_log(
    processes: Processes, engine: Engine, tmp_path: Path, function: str
) -> None:
    run_many(log.bind() for _ in range(24))
    process = processes.python(LOGS.format(file=str(tmp_path / "log"), function=function))

    eventually(lambda: Job.objects.filter(state="failed").count() == 24)
    assert add.run_later(1).join(30) == 1
    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 0


class Stop(BaseException):
    pass


class Lasting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        while True:
            time.sleep(0.001)


@contextmanager
def amid(step: Callable[[], object], function: str) -> Iterator[int]:
    """Give the id of a thread that waits in a function of this name, and after the block its end."""
    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    number = thread.ident or 0
    eventually(lambda: sys._current_frames()[number].f_code.co_name == function)
    yield number
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("looks", [0, raising.MOST_LOOKS - 1])
def test_a_thread_that_takes_the_lock_of_a_handler_gets_no_exception(looks: int) -> None:
    handler = logging.Handler()
    handler.acquire()
    with amid(handler.acquire, "acquire") as thread:
        assert not raising.raise_in(thread, Stop, looks)
        handler.release()


@pytest.mark.parametrize("looks", [0, raising.MOST_LOOKS - 1])
def test_a_thread_that_takes_the_lock_of_a_condition_gets_no_exception(looks: int) -> None:
    lines: queue.Queue[int] = queue.Queue()
    lines.mutex.acquire()
    with amid(lambda: lines.put(1), "__enter__") as thread:
        assert not raising.raise_in(thread, Stop, looks)
        lines.mutex.release()


def test_a_handler_that_lasts_is_interrupted_in_the_end_and_unlocked() -> None:
    raised = threading.Event()
    handler = Lasting()

    def log() -> None:
        try:
            handler.handle(logging.makeLogRecord({}))
        except Stop:
            raised.set()

    with amid(log, "emit") as thread:
        assert not raising.raise_in(thread, Stop, 0)
        eventually(lambda: raising.raise_in(thread, Stop, raising.MOST_LOOKS - 1))
        assert raised.wait(30)
    assert handler.lock is not None
    assert handler.lock.acquire(blocking=False)


def test_an_interruption_of_what_a_coroutine_does_with_databases_is_tried_again() -> None:
    threads = ThreadCache()
    executor = JobThreadExecutor(threads)
    executor.job = Claimed(uuid.uuid4(), "any", "{}", 1, 0)
    logged = executor.submit(Lasting().handle, logging.makeLogRecord({}))
    eventually(lambda: logging.Handler.handle.__code__ in codes(executor.thread))

    asyncio.run(executor.finish(JobTimedOut))
    assert not logged.done()
    eventually(lambda: threads.enforce() == inf)

    with pytest.raises(JobTimedOut):
        logged.result(30)
    threads.close()


def codes(thread: int) -> set[CodeType]:
    frame = sys._current_frames().get(thread)
    return {each.f_code for each, _ in traceback.walk_stack(frame)}


HANGS_IF_A_TRACE_IS_LEFT = """
import threading
from cProfile import Profile

from djjp.consumer.raising import drop_sent

thread = threading.Thread(target=drop_sent)
thread.start()
thread.join()


def call():
    return 1


with Profile():
    print(call())
"""


def test_after_it_a_thread_can_be_profiled() -> None:
    """Python 3.11 hangs at the first call that is traced, if another thread has set no exception in its place."""
    ran = subprocess.run(
        [sys.executable, "-c", HANGS_IF_A_TRACE_IS_LEFT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr
