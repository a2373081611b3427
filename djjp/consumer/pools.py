"""The pool: a bounded number of threads that run claimed jobs and report their outcomes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue

from django.db import connections

from djjp.claims import Claimed, Coordinator, Outcome, coordinator
from djjp.consumer.execution import execute


class ThreadPool:
    """Runs up to `limit` jobs at the same time, each on a thread of its own.

    Jobs handed in beyond that wait in line; `take_back()` empties the line. The threads are started
    as they are needed and are daemons, so that a job that never ends cannot keep the process.
    """

    def __init__(self, limit: int, report: Callable[[Outcome], None], desk: Coordinator) -> None:
        self.limit = limit
        self._report = report
        self._desk = desk
        self._line: SimpleQueue[Claimed | None] = SimpleQueue()
        self._slots: list[_Slot] = []

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Put claimed jobs in line."""
        for job in jobs:
            self._line.put(job)
        while len(self._slots) < self.limit and self._line.qsize() > self._idle():
            slot = _Slot()
            self._slots.append(slot)
            threading.Thread(target=self._work, args=[slot], name="djjp-job", daemon=True).start()

    def waiting(self) -> int:
        """How many jobs are in line."""
        return self._line.qsize()

    def stuck(self, longer: float) -> int:
        """How many slots have been busy with one job for longer than this many seconds."""
        before = time.monotonic() - longer
        return sum(1 for slot in self._slots if slot.job is not None and slot.since < before)

    def take_back(self) -> list[Claimed]:
        """Empty the line; returns the jobs that have not started."""
        jobs = []
        with suppress(Empty):
            while True:
                if (job := self._line.get_nowait()) is not None:
                    jobs.append(job)
        return jobs

    def close(self) -> None:
        """Let the threads end once their present jobs have."""
        for _ in self._slots:
            self._line.put(None)

    def _idle(self) -> int:
        return sum(1 for slot in self._slots if slot.job is None)

    def _work(self, slot: _Slot) -> None:
        coordinator.set(self._desk)
        try:
            while (job := self._line.get()) is not None:
                slot.since, slot.job = time.monotonic(), job
                outcome = execute(job)
                slot.job = None
                self._report(outcome)
        finally:
            connections.close_all()


class _Slot:
    """What one thread of the pool runs, and since when."""

    def __init__(self) -> None:
        self.job: Claimed | None = None
        self.since = 0.0
