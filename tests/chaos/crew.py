"""The consumers of a run, and what is done to them one by one."""

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
    """Keeps a number of consumer processes, however many are killed.

    Attributes:
        done: what was done to them, counted.
        deserted: exit codes of those that have worked and ended by themselves, which none should.
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
        """Replace those that have ended by themselves."""
        with self._lock:
            for member in list(self._members):
                if (code := member.poll()) is not None:
                    if member.pid in self._trace.processes:
                        self.deserted.append(code)
                    else:  # its database was away
                        self.done["starts refused"] += 1
                    self._replace(member)

    def kill(self, pid: int | None = None) -> None:
        """SIGKILL one, whatever it does, and put another in its place."""
        with self._lock:
            member = self._any() if pid is None else next(m for m in self._members if m.pid == pid)
            if member.poll() is None:
                member.kill()
                member.wait()
                self._replace(member)
                self.done["kills"] += 1

    def _any(self) -> subprocess.Popen[bytes]:
        """One that has begun to work, if there is one: to kill those that just start is less cruel."""
        at_work = [member for member in self._members if member.pid in self._trace.processes]
        return random.choice(at_work or self._members)

    def _replace(self, member: subprocess.Popen[bytes]) -> None:
        self._members[self._members.index(member)] = self._start()

    def freeze(self, seconds: float) -> None:
        """SIGSTOP one, and SIGCONT it later."""
        member = self._any()
        member.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        member.send_signal(signal.SIGCONT)
        self.done["freezes"] += 1

    def choke(self, seconds: float) -> None:
        """Let one write to no file for a while, as on a full disk."""
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
        """SIGTERM all, once each has come up; returns their exit codes."""
        until = time.monotonic() + 30
        while not self._all_there() and time.monotonic() < until:
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

    def _all_there(self) -> bool:
        """Whether each is known to the queue: a signal that comes before is nobody's to handle."""
        there = set(Consumer.objects.using(self._alias).values_list("pid", flat=True))
        return there.issuperset(member.pid for member in self._members)

    def kill_all(self) -> None:
        for member in self._members:
            member.kill()
            member.wait()
