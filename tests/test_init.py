"""A consumer as the first process of a container, in a namespace of process ids as a container has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from djjp.engine import Engine
from djjp.models import Job, State
from tests.project.shop import forking
from tests.project.shop.jobs import add, linger
from tests.project.shop.models import Execution
from tests.support.processes import Processes, eventually

UNSHARE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]


def can_unshare() -> bool:
    """Return whether this system gives a namespace of process ids."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.sqlite_only,
    pytest.mark.skipif(not can_unshare(), reason="this system gives no namespace of process ids"),
]

# Loads for a while after its settings have imported djjp, as a project of some size does.
SLOW = """
import os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.project.settings"
import djjp.databases
print("loading", flush=True)
time.sleep(600)
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


class Container:
    """A command as process 1 of a namespace."""

    def __init__(self, processes: Processes, *command: str) -> None:
        self._processes = processes
        self.outside = processes.program(*UNSHARE, sys.executable, *command)

    @property
    def pid(self) -> int:
        """Process 1, by its id outside of the namespace."""
        path = Path(f"/proc/{self.outside.pid}/task/{self.outside.pid}/children")
        eventually(lambda: path.read_text().strip())
        return int(path.read_text().split()[0])

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was written to stderr."""
        _, err = self.outside.communicate(timeout=60)
        return self.outside.returncode, err


def consumer(processes: Processes, *options: str) -> Container:
    return Container(processes, "-m", "tests.project.manage", "start_consumer", *options)


def test_orphans_are_waited_for_and_no_exit_code_is_taken_from_a_job(
    engine: Engine, processes: Processes
) -> None:
    container = consumer(processes)

    assert forking.leave_orphans.run_later(20).join(timeout=90) == [3] * 20
    eventually(lambda: forking.zombies.run_later().join(timeout=90) == 0)
    container.send(signal.SIGTERM)
    assert container.end() == (0, "")


def test_a_signal_that_comes_while_the_project_loads_is_not_lost(
    engine: Engine, processes: Processes
) -> None:
    add.run_later(1, 2)
    container = Container(processes, "-c", SLOW, "start_consumer")
    assert container.outside.stdout is not None
    assert container.outside.stdout.readline() == "loading\n"

    container.send(signal.SIGTERM)

    assert container.end() == (0, ""), "it has not waited until the project was loaded"
    assert Job.objects.get().state == State.READY


@pytest.mark.end_to_end
@pytest.mark.parametrize("options", [[], ["--processes", "1"]])
def test_signals_reach_the_consumer_and_its_exit_code_is_that_of_the_container(
    engine: Engine, processes: Processes, options: list[str]
) -> None:
    linger.run_later("long", 60)
    container = consumer(processes, *options)
    eventually(Execution.objects.count)

    container.send(signal.SIGTERM)
    time.sleep(0.3)
    container.send(signal.SIGTERM)

    assert container.end()[0] == 1
    assert Job.objects.get().state == State.READY


# prctl(PR_SET_CHILD_SUBREAPER), as a program that starts containers does.
SUBREAPER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "tests.project.manage", "start_consumer"])
"""


def zombies_of(parent: int) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, ppid = path.read_text().rpartition(")")[2].split()[:2]
            found += state == "Z" and int(ppid) == parent
    return found


def test_a_subreaper_waits_for_orphans_too(engine: Engine, processes: Processes) -> None:
    consumer = processes.python(SUBREAPER)

    assert forking.leave_orphans.run_later(5).join(timeout=90) == [3] * 5
    eventually(lambda: zombies_of(consumer.pid) == 0)
    assert processes.end(consumer) == (0, "")
