"""The asyncio pool: coroutine jobs on one event loop, functions on threads beside it.

The loop has a thread of its own in the consumer, so that neither the coordinator nor a function holds
it up. Of both kinds together no more than `limit` jobs run at a time: a job takes a place when it
leaves the line, and frees it when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from math import inf

from djjp.consumer.execution import Execution
from djjp.consumer.pool import threads
from djjp.consumer.pool.event_loops import LoopThread
from djjp.consumer.pool.sync_threads import Aside, Threads
from djjp.engine import Claimed, Coordinator, Outcome, Progress, coordinator
from djjp.exceptions import JobInterrupted, JobStopped, JobTimedOut
from djjp.jobs import registry

logger = logging.getLogger("djjp.consumer")

# Seconds between two looks for coroutines that do not heed their cancellation.
_LOOK_EVERY = 0.5


class AsyncPool:
    """Runs up to `limit` jobs at the same time, with the interface of `ThreadPool`."""

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
        #: Told of each job just before it runs; when it says False the job does not run.
        self.begin: Callable[[Claimed], object] = lambda job: True
        self._report = report
        self._progress = progress
        self._consumer = consumer
        self._functions = threads.ThreadPool(
            limit, report=self._function_ended, progress=progress, desk=desk, consumer=consumer
        )
        self._functions.begin = self._function_begins
        self._asides = Threads()
        self._context = Context()
        self._context.run(coordinator.set, desk)

        # Held wherever a job takes a place or frees it.
        self._lock = threading.Lock()
        self._line: deque[Claimed] = deque()
        self._called: deque[Claimed] = deque()  # coroutines with a place, on their way to the loop
        self._taken = 0
        self._runs: dict[_Run, None] = {}  # as they began
        self._limited: set[_Run] = set()  # those that have to end by some time
        self._unwanted: set[Claimed] = set()
        self._given_up = 0
        #: Whether what still runs cannot even end, for a job keeps the loop to itself.
        self.blocked = False
        self._look_at = 0.0
        self._loop = LoopThread(self._context, self._runs)

    # What the coordinator calls

    @property
    def lost(self) -> int:
        """Places that were given up, with a job that could not be stopped."""
        if self.blocked:
            return self.limit
        return self._functions.lost + self._given_up + self._asides.lost

    @property
    def consumer(self) -> str:
        """What its jobs are told that they run in."""
        return self._consumer

    @consumer.setter
    def consumer(self, name: str) -> None:
        self._consumer = self._functions.consumer = name

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Put claimed jobs in line."""
        self._line.extend(jobs)
        self._dispatch()

    def waiting(self) -> int:
        """How many jobs are in line."""
        return len(self._line) + len(self._called) + self._functions.waiting()

    def stuck(self, longer: float) -> int:
        """How many places have been busy with one job for longer than this many seconds."""
        before = time.monotonic() - longer
        coroutines = 0
        for run in self._runs.copy():
            if run.since >= before:
                break
            coroutines += 1
        return coroutines + self._functions.stuck(longer)

    def take_back(self) -> list[Claimed]:
        """Empty the line; returns the jobs that have not started."""
        jobs = self._functions.take_back()
        with self._lock, suppress(IndexError):
            while True:
                jobs.append(self._called.popleft())
        with self._lock:
            self._taken -= len(jobs)
            jobs += self._line
            self._line.clear()
        return jobs

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Tell these jobs to stop; each is reported as cancelled once it has."""
        self._unwanted.update(jobs)
        self._functions.cancel(self._unwanted)
        for run in self._runs.copy():
            if run.execution.claimed in self._unwanted and not run.execution.current.cancelled:
                run.execution.current.cancel()
                run.until = time.monotonic()
                self._limited.add(run)
                self._loop.call(run.interrupt, JobStopped)

    def enforce(self) -> float:
        """Give up jobs that ran for too long, were interrupted and do not heed it.

        Returns:
            Seconds until there may be something to enforce again.
        """
        left, now = self._functions.enforce(), time.monotonic()
        if self._limited and now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            for run in self._limited.copy():
                if run.until + threads.COROUTINE_GRACE <= now:
                    self._give_up(run)
        return min(left, self._look_at - now) if self._limited else left

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """The jobs have ended, whatever was wanted of them."""
        if self._unwanted:
            jobs = list(jobs)
            self._unwanted.difference_update(jobs)
            self._functions.forget(jobs)

    def close(self) -> None:
        """Let the threads end once their present jobs have; coroutines that still run are cancelled."""
        self._functions.close()
        self._asides.close()
        self._loop.close()

    # Places

    def _dispatch(self) -> None:
        """Give free places to the first in line; on any thread."""
        functions, coroutines = [], False
        with self._lock:
            while self._line and self._taken < self.limit:
                job = self._line.popleft()
                self._taken += 1
                if _is_coroutine(job):
                    self._called.append(job)
                    coroutines = True
                else:
                    functions.append(job)
        if functions:
            self._functions.submit(functions)
        if coroutines:
            self._loop.call(self._begin_called)

    def _free_place(self) -> None:
        with self._lock:
            self._taken -= 1
        if self._line:
            self._dispatch()

    def _function_begins(self, job: Claimed) -> bool:
        if self.begin(job) is not False:
            return True
        self._free_place()
        return False

    def _function_ended(self, outcome: Outcome) -> None:
        self._report(outcome)
        self._free_place()

    def _give_up(self, run: _Run) -> None:
        """Report a coroutine as failed although it goes on."""
        job, kind = run.execution.claimed, run.execution.interruption
        if kind is None and self._loop.at_work() is not run.execution.current:
            return  # another one blocks the loop, so that this one was not even cancelled
        with self._lock:
            if run not in self._runs:
                return
            del self._runs[run]
            self._limited.discard(run)
            self._given_up += 1
            run.execution.given_up = True
        if kind is None:
            logger.error("%s %s blocks the event loop for good", job.name, job.id)
            self.blocked = True
        else:
            logger.error("%s %s cannot be stopped; it is given up", job.name, job.id)
        self._report(run.execution.failed((kind or run.kind)()))
        self._free_place()

    # On the loop

    def _begin_called(self) -> None:
        while self._called:
            with suppress(IndexError):  # taken back
                self._begin(self._called.popleft())

    def _begin(self, job: Claimed) -> None:
        execution = Execution(job, self._progress, self._consumer)
        if self._unwanted and job in self._unwanted:
            execution.current.cancel()
            self._report(execution.failed(JobStopped()))
            self._free_place()
        elif self.begin(job) is False:
            self._free_place()
        else:
            run = _Run(execution)
            self._runs[run] = None
            self._loop.watch()
            loop = asyncio.get_running_loop()
            run.task = loop.create_task(self._run(run), context=self._context.copy())
            if execution.timeout is not None:
                run.until = run.since + execution.timeout
                run.timer = loop.call_later(
                    execution.timeout, run.interrupt, JobTimedOut, context=self._context
                )
                self._limited.add(run)

    async def _run(self, run: _Run) -> None:
        execution = run.execution
        outcome = await execution.arun(Aside(self._asides))
        if run.timer is not None:
            run.timer.cancel()
        with self._lock:
            self._runs.pop(run, None)
            self._limited.discard(run)
            if execution.given_up:
                self._given_up -= 1  # it has come to its end after all
                return
        self._report(outcome)
        self._free_place()


class _Run:
    """A coroutine job on the loop; all but `until` is changed by the loop only."""

    __slots__ = ("execution", "since", "task", "timer", "until")

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.since = time.monotonic()
        #: When it should have heard that it is to end.
        self.until = inf
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None]

    @property
    def kind(self) -> type[JobInterrupted]:
        return JobStopped if self.execution.current.cancelled else JobTimedOut

    def interrupt(self, kind: type[JobInterrupted]) -> None:
        """Cancel it, where it awaits. On its loop."""
        self.execution.interrupt(kind, 0)


def _is_coroutine(job: Claimed) -> bool:
    try:
        return registry.get(job.name, job.arguments).is_coroutine
    except LookupError:
        return False
