"""The thread pool: a bounded number of threads that run claimed jobs and report their outcomes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import Unpack

from django.db import connections

from djjp.consumer.connections import replace as replace_connections
from djjp.consumer.execution import Execution, raise_in
from djjp.consumer.pool import BasePool, Hooks
from djjp.consumer.pool.event_loops import PersistentLoop
from djjp.consumer.pool.sync_threads import ThreadCache
from djjp.engine import Claimed, Outcome, coordinator
from djjp.exceptions import JobInterrupted, JobStopped, JobTimedOut

logger = logging.getLogger("djjp.consumer")

#: Seconds that a cancelled function gets to end before it is interrupted.
CANCEL_GRACE = 3.0
#: Seconds that an interrupted function gets to end before its thread is abandoned.
INTERRUPT_GRACE = 1.0
#: Seconds that a cancelled coroutine gets: longer, because it may await while it cleans up.
COROUTINE_GRACE = 10.0


class ThreadPool(BasePool):
    """Runs up to `limit` jobs at the same time, each on a thread of its own.

    Jobs submitted beyond that wait in its queue. Threads are started as they are needed, and are daemons,
    so that a job that never ends cannot keep the process alive.
    """

    #: Threads do not block one another.
    loop_blocked = False

    def __init__(self, limit: int, **hooks: Unpack[Hooks]) -> None:
        super().__init__(limit, **hooks)
        #: Threads abandoned, each with a job that could not be stopped.
        self.abandoned = 0
        self._queue: SimpleQueue[Claimed | None] = SimpleQueue()
        self._slots: list[_Slot] = []
        self._thread_cache = ThreadCache()

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Queue claimed jobs, and start the threads they need."""
        for job in jobs:
            self._queue.put(job)
        self._start_threads()

    def waiting(self) -> int:
        """Return the number of queued jobs."""
        return self._queue.qsize()

    def stalled(self, longer: float) -> int:
        """Return the number of slots busy with one job for longer than this many seconds."""
        before = time.monotonic() - longer
        return sum(1 for slot in self._slots if slot.execution is not None and slot.since < before)

    def drain_queue(self) -> list[Claimed]:
        """Take the queued jobs out again and return them."""
        jobs = []
        with suppress(Empty):
            while True:
                if (job := self._queue.get_nowait()) is not None:
                    jobs.append(job)
        return jobs

    def enforce(self) -> float:
        """Interrupt jobs that run for too long, and abandon those that do not stop.

        Returns:
            Seconds until there may be something to enforce again.
        """
        now, soonest = time.monotonic(), inf
        for slot in list(self._slots):
            left, failed = slot.enforce(now)
            soonest = min(soonest, left)
            if failed is not None:
                self._slots.remove(slot)
                self.abandoned += 1
                self._on_outcome(failed)
        self._start_threads()
        return soonest

    def close(self) -> None:
        """Let the threads end once their present jobs have."""
        for _ in self._slots:
            self._queue.put(None)
        self._thread_cache.close()

    def _cancel_running(self, jobs: set[Claimed]) -> None:
        for slot in self._slots:
            slot.cancel(jobs)

    def _start_threads(self) -> None:
        """Start one thread for each queued job that no idle thread can take, up to the limit."""
        while len(self._slots) < self.limit and self._queue.qsize() > self._idle():
            slot = _Slot(PersistentLoop(self._thread_cache))
            self._slots.append(slot)
            threading.Thread(target=self._work, args=[slot], name="djjp-job", daemon=True).start()

    def _idle(self) -> int:
        return sum(1 for slot in self._slots if slot.execution is None)

    def _work(self, slot: _Slot) -> None:
        slot.thread = threading.get_ident()
        coordinator.set(self._call_queue)
        try:
            while not slot.abandoned and (job := self._queue.get()) is not None:
                if (execution := self._start(job)) is not None:
                    outcome = slot.run(execution)
                    if not slot.abandoned:
                        self._on_outcome(outcome)
        finally:
            slot.loop.close()
            connections.close_all()


class _Slot:
    """One thread's capacity: the job that it runs, since when, and when the job must end."""

    def __init__(self, loop: PersistentLoop) -> None:
        self.loop = loop
        self.thread = 0
        self.execution: Execution | None = None
        self.since = 0.0
        self.abandoned = False
        self._until = inf
        self._kind: type[JobInterrupted] = JobTimedOut
        self._interrupted = False
        # Held wherever an interruption is sent or the job ends, so that no interruption hits the next job.
        self._lock = threading.Lock()

    def run(self, execution: Execution) -> Outcome:
        """Run a job; it can be interrupted until it has ended."""
        now = time.monotonic()
        self._interrupted, self._kind = False, JobTimedOut
        self._until = inf if execution.timeout is None else now + execution.timeout
        self.since, self.execution = now, execution
        try:
            try:
                outcome = execution.run(self.loop.run)
            finally:
                with self._lock:
                    self.execution = None
                    if self._interrupted:
                        raise_in(self.thread, None)
        except BaseException as late:  # noqa: BLE001  (an interruption just after the job ended, or a bug of djjp)
            outcome = execution.failed(late)
        if self._interrupted:
            replace_connections()
        return outcome

    def cancel(self, jobs: set[Claimed]) -> None:
        """Cancel the running job, if it is one of these."""
        with self._lock:
            execution = self.execution
            if execution is None or execution.claimed not in jobs or execution.current.cancelled:
                return
            execution.current.cancel()
            self._kind = JobStopped
            if execution.is_coroutine:
                execution.interrupt(JobStopped, self.thread)
                self._interrupted = True
                self._until = time.monotonic() + COROUTINE_GRACE
            elif not self._interrupted:
                self._until = min(self._until, time.monotonic() + CANCEL_GRACE)

    def enforce(self, now: float) -> tuple[float, Outcome | None]:
        """Interrupt the running job, or abandon it, if its time is up.

        Returns:
            Seconds until the next call is due, and the outcome of the job if it was abandoned.
        """
        with self._lock:
            execution = self.execution
            if execution is None or now < self._until:
                return (inf if execution is None else self._until - now), None
            if not self._interrupted:
                execution.interrupt(self._kind, self.thread)
                grace = COROUTINE_GRACE if execution.is_coroutine else INTERRUPT_GRACE
                self._interrupted, self._until = True, now + grace
                return grace, None
            logger.error(
                "%s %s cannot be stopped; its thread is abandoned",
                execution.claimed.name,
                execution.claimed.id,
            )
            self.abandoned, self.execution = True, None
            execution.abandoned = True
            return inf, execution.failed(self._kind())
