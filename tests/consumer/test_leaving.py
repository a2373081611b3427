"""A consumer's process ends in time, whatever its jobs have left behind."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from djjp import job
from djjp.engine import Engine
from djjp.models import Consumer, Job
from tests.project.shop.jobs import add
from tests.support.processes import Processes, eventually

pytestmark = pytest.mark.sqlite_only

# A consumer that knows the job below; its children run the same program.
PROGRAM = """
import sys
import django
from django.conf import settings
from django.core.management import execute_from_command_line
settings.DJJP = {{**settings.DJJP, "shutdown_timeout": {timeout}}}
django.setup()
import tests.consumer.test_leaving
sys.argv = ["manage", "start_consumer", *{options}]
execute_from_command_line(sys.argv)
"""

KEPT: list[ThreadPoolExecutor] = []


def hang() -> None:
    while True:
        time.sleep(1)


def say_goodbye() -> None:
    time.sleep(1.5)
    os.write(2, b"all is sent")


def leave_executor() -> None:
    KEPT.append(ThreadPoolExecutor(1, "kept"))
    KEPT[0].submit(hang)


def leave_thread() -> None:
    threading.Thread(target=hang, name="kept", daemon=False).start()


def leave_process() -> None:
    multiprocessing.get_context("fork").Process(target=hang, name="kept").start()


LEAVE: dict[str, Callable[[], object]] = {
    "executor": leave_executor,
    "thread": leave_thread,
    "process": leave_process,
    "hang": lambda: atexit.register(hang),
    "sleep": lambda: atexit.register(time.sleep, 600),
    "goodbye": lambda: atexit.register(say_goodbye),
}


@job(name="leaving.leave")
def leave(what: str) -> None:
    LEAVE[what]()


def consumer(processes: Processes, *options: str, timeout: float = 0.1) -> subprocess.Popen[str]:
    return processes.python(PROGRAM.format(options=options, timeout=timeout))


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process; return its exit code, and what it has written to stderr."""
    code = process.wait(timeout=120)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the one that it has left keeps stderr open
    assert process.stderr is not None
    return code, process.stderr.read()


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("executor", "the thread kept_0"),
        ("thread", "the thread kept"),
        ("process", "the process kept ("),
        ("hang", "an exit handler (tests.consumer.test_leaving.hang)"),
        ("sleep", "an exit handler"),
    ],
)
def test_what_jobs_leave_behind_is_named_and_does_not_keep_the_process(
    processes: Processes, engine: Engine, what: str, named: str
) -> None:
    leave.run_later(what)
    process = consumer(processes, "--max-jobs", "1")
    code, err = ended(process)

    assert code == 0, err
    assert f"has ended, but after 1.0 s its process is kept by {named}" in err


def test_another_process_takes_the_place_of_one_that_was_kept(
    processes: Processes, engine: Engine
) -> None:
    leave.run_later("executor")
    consumer(processes, "--processes", "1", "--max-jobs", "1")

    assert add.run_later(1, b=2).join(90) == 3


def test_an_exit_handler_gets_the_time_that_it_takes(processes: Processes, engine: Engine) -> None:
    leave.run_later("goodbye")
    process = consumer(processes, "--max-jobs", "1", timeout=600)
    code, err = ended(process)

    assert code == 0
    assert err.endswith("all is sent")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_ends_a_process_that_is_kept_with_the_exit_code(
    processes: Processes, engine: Engine, number: signal.Signals
) -> None:
    leave.run_later("executor")
    process = consumer(processes, "--max-jobs", "1", timeout=600)
    eventually(Job.objects.filter(state="succeeded").exists)
    eventually(lambda: not Consumer.objects.exists())
    process.send_signal(signal.SIGHUP)  # as systemd does after the first

    def ended_by_signal() -> bool:
        process.send_signal(number)  # two that come at the same moment are one
        return process.poll() is not None

    eventually(ended_by_signal)

    assert ended(process)[0] == 0
