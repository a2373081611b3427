"""The pool: a bounded number of threads that run claimed jobs and report their outcomes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue

from django.db import connections

from djjp.consumer.connections import replace as replace_connections
from djjp.consumer.execution import Execution, raise_in
from djjp.consumer.pool.event_loops import LastingLoop
from djjp.consumer.pool.sync_threads import Threads
from djjp.engine import Claimed, Coordinator, Outcome, Progress, coordinator
from djjp.exceptions import JobInterrupted, JobStopped, JobTimedOut

logger = logging.getLogger("djjp.consumer")

#: Seconds that a function has to end by itself once it was told that it is cancelled.
CANCEL_GRACE = 3.0
#: Seconds that a function has to end once it was interrupted, before it is given up …
INTERRUPT_GRACE = 1.0
#: … and a coroutine, which may await while it cleans up.
COROUTINE_GRACE = 10.0


class ThreadPool:
    """Runs up to `limit` jobs at the same time, each on a thread of its own.

    Jobs handed in beyond that wait in line; `take_back()` empties the line. The threads are started
    as they are needed and are daemons, so that a job that never ends cannot keep the process.

    Args:
        report: told of each outcome, on any thread.
        progress: told of what jobs say of their progress, on their threads.
        desk: where the jobs' own calls of the queue go.
        consumer: the name of the consumer that the jobs run in.
    """

    #: Whether what still runs cannot even end. Threads do not hold up one another.
    blocked = False

    def __init__(
        self,
        limit: int,
        *,
        report: Callable[[Outcome], None],
        progress: Callable[[Progress], None],
        desk: Coordinator,
        consumer: str = "",
    ) -> None:
        self.limit = limit
        #: Threads that were given up, with a job that could not be stopped.
        self.lost = 0
        self._report = report
        #: Told of each job just before it runs, on its thread; when it says False the job does not run.
        self.begin: Callable[[Claimed], object] = lambda job: True
        self._progress = progress
        self._desk = desk
        #: What its jobs are told that they run in.
        self.consumer = consumer
        self._line: SimpleQueue[Claimed | None] = SimpleQueue()
        self._slots: list[_Slot] = []
        self._unwanted: set[Claimed] = set()
        self._asides = Threads()

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Put claimed jobs in line."""
        for job in jobs:
            self._line.put(job)
        self._staff()

    def waiting(self) -> int:
        """How many jobs are in line."""
        return self._line.qsize()

    def stuck(self, longer: float) -> int:
        """How many slots have been busy with one job for longer than this many seconds."""
        before = time.monotonic() - longer
        return sum(1 for slot in self._slots if slot.execution is not None and slot.since < before)

    def take_back(self) -> list[Claimed]:
        """Empty the line; returns the jobs that have not started."""
        jobs = []
        with suppress(Empty):
            while True:
                if (job := self._line.get_nowait()) is not None:
                    jobs.append(job)
        return jobs

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Tell these jobs to stop; each is reported as cancelled once it has."""
        self._unwanted.update(jobs)
        for slot in self._slots:
            slot.cancel(self._unwanted)

    def enforce(self) -> float:
        """Interrupt jobs that run for too long, and give up those that do not heed it.

        Returns:
            Seconds until there may be something to enforce again.
        """
        now, soonest = time.monotonic(), inf
        for slot in list(self._slots):
            left, given_up = slot.enforce(now)
            soonest = min(soonest, left)
            if given_up is not None:
                self._slots.remove(slot)
                self.lost += 1
                self._report(given_up)
        self._staff()
        return soonest

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """The jobs have ended, whatever was wanted of them."""
        if self._unwanted:
            self._unwanted.difference_update(jobs)

    def close(self) -> None:
        """Let the threads end once their present jobs have."""
        for _ in self._slots:
            self._line.put(None)
        self._asides.close()

    def _staff(self) -> None:
        """Start as many threads as there is work for."""
        while len(self._slots) < self.limit and self._line.qsize() > self._idle():
            slot = _Slot(LastingLoop(self._asides))
            self._slots.append(slot)
            threading.Thread(target=self._work, args=[slot], name="djjp-job", daemon=True).start()

    def _idle(self) -> int:
        return sum(1 for slot in self._slots if slot.execution is None)

    def _work(self, slot: _Slot) -> None:
        slot.thread = threading.get_ident()
        coordinator.set(self._desk)
        try:
            while not slot.given_up and (job := self._line.get()) is not None:
                execution = Execution(job, self._progress, self.consumer)
                if self._unwanted and job in self._unwanted:
                    execution.current.cancel()
                    self._report(execution.failed(JobStopped()))
                    continue
                if self.begin(job) is False:
                    continue
                outcome = slot.run(execution)
                if not slot.given_up:
                    self._report(outcome)
        finally:
            slot.loop.close()
            connections.close_all()


class _Slot:
    """What one thread of the pool runs, since when, and until when."""

    def __init__(self, loop: LastingLoop) -> None:
        self.loop = loop
        self.thread = 0
        self.execution: Execution | None = None
        self.since = 0.0
        self.given_up = False
        self._until = inf
        self._kind: type[JobInterrupted] = JobTimedOut
        self._interrupted = False
        # Held wherever an interruption is sent or the job ends, so that none strikes the next job.
        self._lock = threading.Lock()

    def run(self, execution: Execution) -> Outcome:
        """Run a job, open to interruptions until it has ended."""
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
        except BaseException as late:  # noqa: BLE001  (an interruption that came when the job had just ended, or a fault of ours)
            outcome = execution.failed(late)
        if self._interrupted:
            replace_connections()
        return outcome

    def cancel(self, jobs: set[Claimed]) -> None:
        """Tell the job that it is cancelled, if it is one of these."""
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
        """Interrupt the job or give it up if it is time; how long until it is, and the end of one given up."""
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
                "%s %s cannot be stopped; its thread is given up",
                execution.claimed.name,
                execution.claimed.id,
            )
            self.given_up, self.execution = True, None
            execution.given_up = True
            return inf, execution.failed(self._kind())
