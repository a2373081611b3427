"""The consumer processes of a run: start, kill, freeze and end them."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from django.conf import settings

from djjp.models import Consumer
from tests.chaos.trace import Trace
from tests.support.processes import ROOT


class Crew:
    """Keeps a number of consumer processes running, by replacing those that end.

    Attributes:
        done: the number of kills, freezes and other troubles, by name.
        deserted: the exit codes of consumers that ended without a signal after they had run a job: an error.
    """

    def __init__(self, count: int, trace: Trace, alias: str, *options: str) -> None:
        self.done: Counter[str] = Counter()
        self.deserted: list[int] = []
        self._trace = trace
        self._alias = alias
        self._options = options
        self._lock = threading.Lock()
        self.log: Path = settings.HOME / f"consumers-{alias}.log"
        self.log.unlink(missing_ok=True)
        self._members = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "django", "start_consumer", *self._options],
                cwd=ROOT,
                env=os.environ | {"DJJP_TEST_ALIAS": self._alias},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def tend(self) -> None:
        """Replace consumers that have ended without a signal."""
        with self._lock:
            for member in list(self._members):
                if (code := member.poll()) is not None:
                    if code == -signal.SIGKILL:  # the crew replaces those that it kills itself
                        self.done["kills by jobs"] += 1
                    elif member.pid in self._trace.processes:
                        self.deserted.append(code)
                    else:  # its database was unavailable
                        self.done["starts refused"] += 1
                    self._replace(member)

    def kill(self, pid: int | None = None) -> None:
        """Kill a consumer, by SIGKILL, and replace it."""
        with self._lock:
            member = self._any() if pid is None else next(m for m in self._members if m.pid == pid)
            if member.poll() is None:
                member.kill()
                member.wait()
                self._replace(member)
                self.done["kills"] += 1

    def _any(self) -> subprocess.Popen[bytes]:
        """Return a consumer that has run a job, if there is one, because its death tests more."""
        at_work = [member for member in self._members if member.pid in self._trace.processes]
        return random.choice(at_work or self._members)

    def _replace(self, member: subprocess.Popen[bytes]) -> None:
        self._members[self._members.index(member)] = self._start()

    def freeze(self, seconds: float) -> None:
        """Stop a consumer by SIGSTOP, and continue it later by SIGCONT."""
        member = self._any()
        member.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        member.send_signal(signal.SIGCONT)
        self.done["freezes"] += 1

    def choke(self, seconds: float) -> None:
        """Keep a consumer from writing to any file for some seconds, as on a full disk."""
        member = self._any()
        before = resource.RLIM_INFINITY, resource.RLIM_INFINITY
        try:
            before = resource.prlimit(member.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(member.pid, resource.RLIMIT_FSIZE, (0, before[1]))
            time.sleep(seconds)
            resource.prlimit(member.pid, resource.RLIMIT_FSIZE, before)
        except ProcessLookupError:  # killed meanwhile
            return
        self.done["full disks"] += 1

    def end(self) -> list[int]:
        """Send SIGTERM to all consumers once they are registered; return their exit codes."""
        until = time.monotonic() + 30
        while not self._all_registered() and time.monotonic() < until:
            time.sleep(0.05)
        for member in self._members:
            member.terminate()
        codes = []
        for member in self._members:
            try:
                codes.append(member.wait(60))
            except subprocess.TimeoutExpired:
                member.kill()
                codes.append(member.wait())
        return codes

    def _all_registered(self) -> bool:
        """Return whether all consumers are registered: only then do they handle signals."""
        there = set(Consumer.objects.using(self._alias).values_list("pid", flat=True))
        return there.issuperset(member.pid for member in self._members)

    def kill_all(self) -> None:
        for member in self._members:
            member.kill()
            member.wait()
