"""The thread pool: a bounded number of threads that run claimed jobs and report their outcomes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container, Iterable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import Unpack

from django.db import connections

from djjp import logs
from djjp.consumer import caches
from djjp.consumer import connections as job_connections
from djjp.consumer.execution import Execution
from djjp.consumer.pool import BasePool, Hooks
from djjp.consumer.pool.event_loops import PersistentLoop
from djjp.consumer.pool.sync_threads import JobThreadExecutor, ThreadCache
from djjp.consumer.raising import LOOK_EVERY, MOST_LOOKS, drop_sent
from djjp.consumer.stacks import RunningJob
from djjp.engine import Claimed, Outcome, current_call_queue
from djjp.exceptions import JobInterrupted, JobStopped, JobTimedOut

logger = logging.getLogger("djjp.consumer")

#: Seconds that a cancelled function gets to end before it is interrupted.
CANCEL_GRACE = 3.0
#: Seconds that an interrupted function gets to end before its thread is abandoned.
INTERRUPT_GRACE = 1.0
#: Seconds that a cancelled coroutine gets: longer, because it may await while it cleans up.
COROUTINE_GRACE = 10.0


class ThreadPool(BasePool):
    """Runs up to `max_slots` jobs at the same time, each on a thread of its own.

    Jobs submitted beyond that wait in its queue. Threads are started as they are needed, and are daemons,
    so that a job that never ends cannot keep the process alive.
    """

    #: Threads do not block one another.
    loop_blocked = False

    def __init__(self, max_slots: int, **hooks: Unpack[Hooks]) -> None:
        super().__init__(max_slots, **hooks)
        #: Threads abandoned, each with a job that could not be stopped.
        self.abandoned = 0
        self._queue: SimpleQueue[Claimed | None] = SimpleQueue()
        self._slots: list[_Slot] = []
        self._thread_cache = ThreadCache()

    @property
    def slots(self) -> int:
        """Number of jobs that can run at the same time now."""
        return len(self._slots) if self.supply.is_short else self.max_slots

    @property
    def threads(self) -> int:
        """Number of threads."""
        return len(self._slots)

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

    def drain_queue(self, *, keep_slots: bool = False) -> list[Claimed]:
        """Take the queued jobs out again and return them; none of them has a slot."""
        jobs = []
        with suppress(Empty):
            while True:
                if (job := self._queue.get_nowait()) is not None:
                    jobs.append(job)
        self.forget(jobs)
        return jobs

    def running(self) -> list[RunningJob]:
        """Return the jobs that run at this moment."""
        return [
            RunningJob(execution, slot.thread, slot.loop.sync_thread or slot.sync_thread.thread)
            for slot in self._slots
            if (execution := slot.execution) is not None
        ]

    def enforce(self) -> float:
        """Interrupt jobs that run for too long, and abandon those that do not stop.

        Returns:
            Seconds until the next call is due.
        """
        now, soonest = time.monotonic(), self._thread_cache.enforce()
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

    def _cancel_running(self, jobs: Container[int]) -> None:
        for slot in self._slots:
            slot.cancel(jobs)

    def _start_threads(self) -> None:
        """Start one thread for each queued job that no idle thread can take, up to the number of slots."""
        while len(self._slots) < self.max_slots and self._queue.qsize() > self._idle():
            slot = _Slot(self._thread_cache)
            thread = threading.Thread(target=self._work, args=[slot], name="djjp-job", daemon=True)
            self._slots.append(slot)
            if not self.supply.start(thread, len(self._slots) - 1, self.max_slots):
                self._slots.remove(slot)
                break

    def _idle(self) -> int:
        return sum(1 for slot in self._slots if slot.execution is None)

    def _work(self, slot: _Slot) -> None:
        slot.thread = threading.get_ident()
        current_call_queue.set(self._call_queue)
        to_close = caches.create()
        slot.sync_thread.enter_function()
        connections_here = job_connections.keep()
        try:
            while (job := self._next(connections_here)) is not None:
                if (execution := self._start(job)) is not None:
                    outcome = slot.run(execution)
                    if to_close:
                        caches.close(to_close)
                    if slot.abandoned:
                        return
                    if outcome is None:
                        self._on_put_off(job)
                    else:
                        self._on_outcome(outcome)
        finally:
            slot.loop.close()
            connections.close_all()

    def _start(self, job: Claimed) -> Execution | None:
        """Return the execution of a job that may start now; None if it does not run."""
        if (execution := self._execution_of(job)) is None:
            return None
        try:
            if self._may_start(job) is not False:
                return execution
        except BaseException as error:  # noqa: BLE001  (the job must not cost a thread)
            self._report_unstarted(job, error)
        else:
            self._on_put_off(job)
        return None

    def _next(self, connections_here: job_connections.ThreadState) -> Claimed | None:
        """Wait for the next job; without one for a moment, close the connections kept for it."""
        if connections_here.has_kept:
            with suppress(Empty):
                return self._queue.get(timeout=job_connections.REST)
            job_connections.rest()
        return self._queue.get()


class _Slot:
    """One thread's capacity: the job that it runs, since when, and when the job must end."""

    def __init__(self, threads: ThreadCache) -> None:
        self.loop = PersistentLoop(threads)
        # For what a function does with databases in `asyncio.run()`.
        self.sync_thread = JobThreadExecutor(threads)
        self.thread = 0
        self.execution: Execution | None = None
        self.since = 0.0
        self.abandoned = False
        self._until = inf
        self._kind: type[JobInterrupted] = JobTimedOut
        self._interrupted = False
        # How often the present job could not be interrupted, because it was amid a lock.
        self._looks = 0
        self._is_ending = False
        # Held wherever an interruption is sent or the job ends, so that no interruption hits the next job.
        self._lock = threading.Lock()
        #: Bound once, not for each job.
        self.end_interruptions = self._end_interruptions

    def run(self, execution: Execution) -> Outcome | None:
        """Run a job, which can be interrupted until it has ended; return None if it does not start after all."""
        now = time.monotonic()
        self._interrupted, self._kind, self._is_ending = False, JobTimedOut, False
        execution.end_interruptions = self.end_interruptions
        timeout = execution.timeout
        self._until = inf if timeout is None else now + timeout
        self._looks = 0
        self.since, self.execution = now, execution
        self.sync_thread.job = execution.claimed
        try:
            try:
                outcome = execution.run(self.loop.run)
            finally:
                with self._lock:
                    self.execution = None
                    if self._interrupted:
                        drop_sent()
        except BaseException as late:  # noqa: BLE001  (an interruption just after the job ended, or a bug of djjp)
            outcome = execution.failed(late)
        if self._interrupted:
            job_connections.replace()
        if self.sync_thread.is_used:
            self.sync_thread.finish_function(execution.interruption)
        return outcome

    def _end_interruptions(self) -> None:
        """Send the running job no more interruptions, and drop one that has not arrived."""
        if threading.get_ident() != self.thread:
            return  # another thread abandons the job, with the lock
        with self._lock:
            self._is_ending = True
            if self._interrupted:
                drop_sent()

    def cancel(self, jobs: Container[int]) -> None:
        """Cancel the running job, if it is one of the jobs with these identities."""
        with self._lock:
            execution = self.execution
            if execution is None or self._is_ending or execution.current.cancelled:
                return
            if id(execution.claimed) not in jobs:
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
            if execution is None or self._is_ending or now < self._until:
                return (inf if execution is None or self._is_ending else self._until - now), None
            if not self._interrupted and self._looks < MOST_LOOKS:
                if not execution.interrupt(self._kind, self.thread, self._looks):
                    self._looks += 1
                    return LOOK_EVERY, None
                grace = COROUTINE_GRACE if execution.is_coroutine else INTERRUPT_GRACE
                self._interrupted, self._until = True, now + grace
                return grace, None
            logger.error(
                "%s %s cannot be stopped; its thread is abandoned",
                execution.claimed.name,
                execution.claimed.id,
                extra=logs.of_job(execution.claimed),
            )
            self.abandoned, self.execution = True, None
            execution.abandoned = True
            return inf, execution.failed(self._kind())
