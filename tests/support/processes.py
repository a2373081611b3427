"""Real processes of the test project, and waiting for what they do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.forked import ROOT, Forked, zygote

__all__ = ["ROOT", "Processes", "eventually"]


class Processes:
    """Commands of the test project that run beside the test, on its queue."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._started: list[subprocess.Popen[str]] = []
        self._commands: list[subprocess.Popen[str]] = []  # of these, those that `start` has started

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start `python -m tests.project.manage COMMAND …`; its output is there when it has ended."""
        given = self._environment(environment)
        if zygote().fits(given):
            process: subprocess.Popen[str] = Forked([*command], given)
            self._started.append(process)
        else:
            process = self._popen(["-m", "tests.project.manage", *command], environment)
        self._commands.append(process)
        return process

    def python(self, code: str, **environment: str) -> subprocess.Popen[str]:
        """Start a Python process with this code; the code must set Django up."""
        return self._popen(["-c", code], environment)

    def django(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start `python -m django COMMAND …`, for settings that the environment names."""
        return self._popen(["-m", "django", *command], environment)

    def module(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start `python -m MODULE …`, for settings that the environment names."""
        return self._popen(["-m", *command], environment)

    def program(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start any program, with the environment of the test project."""
        return self._start([*arguments], environment)

    def _popen(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        return self._start([sys.executable, *arguments], environment)

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # a supervisor's children are in it
        )
        self._started.append(process)
        return process

    def _environment(self, given: dict[str, str]) -> dict[str, str]:
        settings = {
            "DJJP_TEST_ALIAS": self._alias,
            "DJJP_TEST_PAGES": "no",
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        }
        return os.environ | settings | given

    def consumer(self, *options: str) -> subprocess.Popen[str]:
        """Start a consumer."""
        return self.start("start_consumer", *options)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def end(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a consumer a signal and wait for its end; returns the exit code and what was written to stderr."""
        if process in self._commands:
            # While it still starts, which can take longer than others take for its jobs, a signal would kill it.
            eventually(lambda: process.poll() is not None or _handles_signals(process.pid))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def kill(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _handles_signals(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM; Linux only."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def eventually(true: Callable[[], object], within: float = 90.0) -> None:
    """Wait until a condition holds; the bound is only there so that a broken test ends.

    What is costly to ask is asked less often, so that waiting leaves the processor to what is waited for.
    """
    until = time.monotonic() + within
    while True:
        asked = time.monotonic()
        if true():
            return
        answered = time.monotonic()
        if answered > until:
            raise AssertionError(f"not true within {within} s")
        time.sleep(min(max(0.01, 3 * (answered - asked)), 0.25))
