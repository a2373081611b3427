"""A consumer whose system refuses threads runs jobs on those that it gets, and releases the rest."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from math import inf
from pathlib import Path
from uuid import UUID

import pytest
from django.db import transaction

from djjp import JobHandle
from djjp.consumer.consumer import Consumer
from djjp.consumer.pool import thread_supply
from djjp.consumer.pool.sync_threads import JobThreadExecutor, ThreadCache
from djjp.consumer.pool.thread_supply import ThreadSupply
from djjp.consumer.recycling import ExitCondition, check_exit_conditions
from djjp.engine import Claimed, Engine, Listener
from djjp.models import Job
from tests.project.shop.jobs import add, alinger, linger, nap
from tests.project.shop.models import Execution
from tests.support.clocks import stopped
from tests.support.processes import Processes, eventually

# A command whose process gets some threads, and more when a file exists: the call of the system itself fails.
#: What `Thread.start` calls, by the version of Python.
STARTER = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
COMMAND = """
import os, threading
from django.core.management import execute_from_command_line
real, most = getattr(threading, {starter!r}), {most}

def refuse(*args, **kwargs):
    if threading.active_count() > most and not os.path.exists({more!r}):
        raise RuntimeError("can't start new thread")
    return real(*args, **kwargs)

setattr(threading, {starter!r}, refuse)
execute_from_command_line(["manage", *{arguments!r}])
"""


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """The file with which the system gives all threads."""
    return tmp_path / "more"


@pytest.fixture
def start(processes: Processes, more: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a consumer whose system refuses more than some threads."""

    def start(most: int, *options: str) -> subprocess.Popen[str]:
        arguments = ["start_consumer", *options]
        return processes.python(
            COMMAND.format(starter=STARTER, most=most, more=str(more), arguments=arguments)
        )

    return start


def lines_until(process: subprocess.Popen[str], text: str) -> str:
    """Read what a process writes to stderr, up to a line with this text."""
    assert process.stderr is not None
    lines = ""
    for line in process.stderr:
        lines += line
        if text in line:
            break
    return lines


def count(state: str) -> int:
    return Job.objects.filter(state=state).count()


@pytest.mark.end_to_end
def test_jobs_run_on_the_threads_that_there_are_and_others_run_the_rest(
    start: Callable[..., subprocess.Popen[str]], more: Path, processes: Processes, engine: Engine
) -> None:
    handles = [linger.run_later(f"job {i}", 600, 600) for i in range(15)]
    consumer = start(6, "--concurrency-limit", "15")
    eventually(lambda: 1 <= count("running") <= 6 and count("ready") == 15 - count("running"))
    eventually(lambda: Execution.objects.count() == count("running"))
    other = processes.consumer("--concurrency-limit", "2")
    eventually(lambda: Execution.objects.filter(process=other.pid).count() == 2)

    more.touch()  # it tries again, and gets them

    eventually(lambda: count("running") == 15)
    assert set(Job.objects.values_list("attempts", "rescues")) == {(1, 0)}
    assert len(handles) == 15
    consumer.send_signal(signal.SIGQUIT)
    _, err = consumer.communicate(timeout=30)
    assert err.count("the system refuses a thread (can't start new thread)") == 1
    assert "jobs at a time run here instead of 15" in err
    processes.end(other, signal.SIGQUIT)


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("threads", [3, 6])
def test_coroutines_and_functions_wait_for_the_threads_of_others(
    start: Callable[..., subprocess.Popen[str]],
    more: Path,
    engine: Engine,
    threads: int,
) -> None:
    """With three threads there is not even one for the loop, until the system gives more."""
    handles: list[JobHandle] = [alinger.run_later(f"coroutine {i}", 0.2) for i in range(20)]
    handles += [nap.run_later(0.05) for _ in range(10)]
    consumer = start(threads, "--concurrency-limit", "20", "--concurrency", "asyncio")
    if threads == 3:
        assert "the system refuses a thread" in lines_until(consumer, "the system refuses")
        eventually(lambda: count("ready") == 30)
        more.touch()
    eventually(lambda: count("succeeded") == 30, within=60)
    assert set(Job.objects.values_list("attempts", "rescues")) == {(1, 0)}
    consumer.terminate()
    consumer.communicate(timeout=30)
    assert consumer.returncode == 0


# Threads for what coroutines do with databases


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let the system refuse threads while this list is not empty."""
    refusing: list[bool] = []
    real = getattr(threading, STARTER)

    def start(*args: object, **kwargs: object) -> object:
        if refusing:
            raise RuntimeError("can't start new thread")
        return real(*args, **kwargs)

    monkeypatch.setattr(threading, STARTER, start)
    return refusing


def executor_of(threads: ThreadCache) -> JobThreadExecutor:
    executor = JobThreadExecutor(threads)
    executor.job = Claimed(UUID(int=1), add.name, "[]", 1, 0)
    return executor


def test_a_coroutine_waits_for_the_thread_of_another(refused: list[bool]) -> None:
    threads = ThreadCache()
    first, second, third = (executor_of(threads) for _ in range(3))
    used = first.submit(threading.get_ident).result(30)
    refused.append(True)
    call = second.submit(threading.get_ident)
    with pytest.raises(TimeoutError):
        call.result(0.2)

    asyncio.run(first.finish(None))

    assert call.result(30) == used
    asyncio.run(second.finish(None))
    assert third.submit(threading.get_ident).result(30) == used
    asyncio.run(third.finish(None))
    threads.close()


# Threads beside the jobs


def test_a_consumer_starts_without_a_thread_and_sweeps_outboxes_once_it_gets_one(
    engine: Engine, refused: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    with transaction.atomic():
        handle = add.run_later(1, 2)
        transaction.get_connection().run_on_commit.clear()  # as if this process had died
    consumer = Consumer(2, drain=True)
    refused.append(True)
    pause = consumer._wait

    def pause_and_give_threads(listener: Listener) -> None:
        if "outboxes are swept once it gives one" in caplog.text:
            refused.clear()
        pause(listener)

    consumer._wait = pause_and_give_threads  # type: ignore[method-assign]
    with check_exit_conditions("a name", [ExitCondition(lambda: None, lambda: None)]):
        assert consumer.run()

    assert handle.join(0) == 3
    assert caplog.text.count("the system refuses a thread (can't start new thread): outboxes") == 1
    assert "consumer a name does not check when it must end" in caplog.text


def test_a_consumer_that_never_got_a_thread_ends_when_it_is_stopped(
    engine: Engine, refused: list[bool]
) -> None:
    consumer = Consumer(2)
    refused.append(True)
    consumer.stop()
    assert consumer.run()


def test_a_thread_that_was_refused_is_started_later(refused: list[bool]) -> None:
    threads = ThreadCache()
    assert threads.start_late() == inf
    refused.append(True)
    executor = executor_of(threads)
    call = executor.submit(threading.get_ident)
    assert threads.start_late() < inf
    refused.clear()
    assert threads.start_late() == inf
    assert call.result(30)
    asyncio.run(executor.finish(None))
    threads.close()


def test_after_a_refusal_the_system_is_left_alone_for_a_while(
    refused: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped(monkeypatch, thread_supply)
    supply, ran = ThreadSupply(), threading.Event()
    refused.append(True)
    assert not supply.start(threading.Thread(target=ran.set), 0, 1)
    refused.clear()
    assert (supply.refused, supply.is_short) == (True, True)
    assert not supply.start(threading.Thread(target=ran.set), 0, 1)
    clock.now += thread_supply.RETRY_AFTER
    assert not supply.is_short
    assert supply.start(threading.Thread(target=ran.set), 0, 1)
    assert ran.wait(30)
