"""The asyncio pool: coroutine jobs on one event loop, functions on threads beside it.

The loop has a thread of its own in the consumer, so that neither the coordinator nor a function blocks
it. Jobs of both kinds share `max_slots` slots: a job takes a slot when it leaves the queue, and frees it
when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from math import inf
from typing import Unpack

from djjp import logs
from djjp.consumer.caches import SlotContext, SlotContexts
from djjp.consumer.execution import Execution
from djjp.consumer.pool import BasePool, Hooks, threads
from djjp.consumer.pool.event_loops import LoopThread, restore_executor
from djjp.consumer.pool.sync_threads import JobThreadExecutor, ThreadCache
from djjp.consumer.stacks import RunningJob
from djjp.engine import Claimed, Outcome, current_call_queue
from djjp.exceptions import JobInterrupted, JobStopped, JobTimedOut
from djjp.jobs import registry

logger = logging.getLogger("djjp.consumer")

# Seconds between two checks for coroutines that do not stop although they were cancelled.
_ENFORCE_EVERY = 0.5


class AsyncPool(BasePool):
    """Runs up to `max_slots` jobs at the same time: coroutines on its loop, functions on a `ThreadPool`."""

    def __init__(self, max_slots: int, **hooks: Unpack[Hooks]) -> None:
        super().__init__(max_slots, **hooks)
        hooks["on_outcome"] = self._function_ended
        hooks["on_put_off"] = self._function_put_off
        self._functions = threads.ThreadPool(max_slots, **hooks)
        self._functions.supply = self.supply
        self._thread_cache = ThreadCache()
        self._context = Context()
        self._context.run(current_call_queue.set, self._call_queue)

        # Held wherever a job takes a slot or frees it.
        self._lock = threading.Lock()
        self._queue: deque[Claimed] = deque()
        self._dispatched: deque[Claimed] = (
            deque()
        )  # coroutines with a slot, on their way to the loop
        self._in_use = 0  # slots
        self._runs: dict[_Run, None] = {}  # in the order of their starts
        self._limited: set[_Run] = set()  # runs that must end by a time
        self._abandoned = 0
        #: Whether a job blocks the event loop, so that the pool cannot shut down cleanly.
        self.loop_blocked = False
        self._enforce_at = 0.0
        self._contexts = SlotContexts(self._context)
        self._loop = LoopThread(self._context, self._runs, self.blocked.append)

    # Called by the coordinator

    @property
    def slots(self) -> int:
        """Number of jobs that can run at the same time now; without threads for functions, one coroutine."""
        if not self.supply.is_short:
            return self.max_slots
        return max(self._functions.threads, int(self._loop.is_started))

    @property
    def abandoned(self) -> int:
        """The number of abandoned slots, each with a job that could not be stopped."""
        if self.loop_blocked:
            return self.max_slots
        return self._functions.abandoned + self._abandoned + self._thread_cache.abandoned

    def assign(self, consumer: str, may_start: Callable[[Claimed], object]) -> None:
        """Run jobs for the consumer of this name, which decides whether each starts."""
        super().assign(consumer, may_start)
        self._functions.assign(consumer, may_start)

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Queue claimed jobs, and dispatch the first of them to free slots."""
        self._queue.extend(jobs)
        self._dispatch()

    def waiting(self) -> int:
        """Return the number of queued jobs."""
        return len(self._queue) + len(self._dispatched) + self._functions.waiting()

    def stalled(self, longer: float) -> int:
        """Return the number of slots busy with one job for longer than this many seconds."""
        before = time.monotonic() - longer
        coroutines = 0
        for run in self._runs.copy():
            if run.since >= before:
                break
            coroutines += 1
        return coroutines + self._functions.stalled(longer)

    def drain_queue(self, *, keep_slots: bool = False) -> list[Claimed]:
        """Take the jobs that have not begun out again and return them."""
        with self._lock:
            jobs = list(self._queue)
            self._queue.clear()
        if not keep_slots:
            jobs = self._withdraw() + jobs
        self.forget(jobs)
        return jobs

    def _withdraw(self) -> list[Claimed]:
        """Take back the jobs that have a slot and have not begun."""
        jobs = self._functions.drain_queue()
        with self._lock:
            with suppress(IndexError):
                while True:
                    jobs.append(self._dispatched.popleft())
            self._in_use -= len(jobs)
            for run in self._runs.copy():
                if not run.has_begun:
                    run.is_withdrawn = True
                    del self._runs[run]
                    jobs.append(run.execution.claimed)
        return jobs

    def running(self) -> list[RunningJob]:
        """Return the jobs that run at this moment."""
        coroutines = [
            RunningJob(run.execution, self._loop.thread, run.sync_thread.thread)
            for run in self._runs.copy()
            if run.has_begun
        ]
        return coroutines + self._functions.running()

    def enforce(self) -> float:
        """Interrupt functions that run for too long; abandon jobs that were interrupted and do not stop.

        It also starts what the system has refused before.

        Returns:
            Seconds until the next call is due.
        """
        left, now = self._functions.enforce(), time.monotonic()
        if self._dispatched and not self._loop.is_started:
            self._start_loop()
        left = min(left, self._thread_cache.enforce())
        if self._limited and now >= self._enforce_at:
            self._enforce_at = now + _ENFORCE_EVERY
            for run in self._limited.copy():
                if run.until + threads.COROUTINE_GRACE <= now:
                    self._abandon(run)
        return min(left, self._enforce_at - now) if self._limited else left

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Drop pending cancellations of jobs that have ended or were released."""
        if self._unwanted:
            jobs = list(jobs)
            super().forget(jobs)
            self._functions.forget(jobs)

    def close(self) -> None:
        """Let the threads end once their present jobs have; coroutines that still run are cancelled."""
        self._functions.close()
        self._thread_cache.close()
        self._loop.close()

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Stop these jobs; each is reported as cancelled once it has stopped."""
        jobs = list(jobs)
        super().cancel(jobs)
        self._functions.cancel(jobs)

    def _cancel_running(self, jobs: Container[int]) -> None:
        for run in self._runs.copy():
            if id(run.execution.claimed) in jobs and not run.execution.current.cancelled:
                run.execution.current.cancel()
                run.until = time.monotonic()
                self._limited.add(run)
                self._loop.call(run.interrupt, JobStopped)

    # Slots

    def _dispatch(self) -> None:
        """Give free slots to the first jobs of the queue. Called on any thread."""
        functions, coroutines = [], False
        with self._lock:
            while self._queue and self._in_use < self.max_slots:
                job = self._queue.popleft()
                self._in_use += 1
                if _is_coroutine(job):
                    self._dispatched.append(job)
                    coroutines = True
                else:
                    functions.append(job)
        if functions:
            self._functions.submit(functions)
        if coroutines:
            self._start_loop()

    def _start_loop(self) -> None:
        """Have the loop begin the dispatched jobs; if the system refuses it just now, `enforce` tries again."""
        if self._loop.start(self.supply, self.max_slots):
            self._loop.call(self._begin_dispatched)

    def _free_slot(self) -> None:
        with self._lock:
            self._in_use -= 1
        if self._queue:
            self._dispatch()

    def _function_ended(self, outcome: Outcome) -> None:
        self._on_outcome(outcome)
        self._free_slot()

    def _function_put_off(self, job: Claimed) -> None:
        self._on_put_off(job)
        self._free_slot()

    def _abandon(self, run: _Run) -> None:
        """Report a coroutine as failed although it still runs."""
        job, kind = run.execution.claimed, run.execution.interruption
        if kind is None and self._loop.current_job() is not run.execution.current:
            return  # another job blocks the loop, so that this one was not even cancelled
        with self._lock:
            if run not in self._runs:
                return
            del self._runs[run]
            self._limited.discard(run)
            self._abandoned += 1
            run.execution.abandoned = True
        if kind is None:
            self.loop_blocked = True
            text = "%s %s blocks the event loop for good"
        else:
            text = "%s %s cannot be stopped; it is abandoned"
        logger.error(text, job.name, job.id, extra=logs.of_job(job))
        self._on_outcome(run.execution.failed((kind or run.kind)()))
        self._free_slot()

    # On the loop

    def _begin_dispatched(self) -> None:
        while self._dispatched:
            try:
                job = self._dispatched.popleft()
            except IndexError:  # `drain_queue` took it
                return
            try:
                self._begin(job)
            except BaseException as error:  # noqa: BLE001  (the job must not cost a slot)
                self._report_unstarted(job, error)
                self._free_slot()

    def _begin(self, job: Claimed) -> None:
        execution = self._execution_of(job)
        if execution is None:
            self._free_slot()
            return
        sync_thread = JobThreadExecutor(self._thread_cache)
        sync_thread.job = job
        run = _Run(execution, self._contexts.take(), sync_thread)
        self._loop.watch()
        context, loop = run.slot.context.copy(), asyncio.get_running_loop()
        # Past the loop's task factory, which a job can have set.
        run.task = asyncio.Task(self._run(run), loop=loop, context=context)
        self._runs[run] = None
        run.task.add_done_callback(partial(self._ended, run), context=self._context)

    async def _run(self, run: _Run) -> Outcome | None:
        """Run a job in its task; return None if it did not start.

        The consumer is asked in the task's first step. It comes after the steps of the jobs that were dispatched
        before, and each of them can take long. The job has started now, and its timeout counts from here, too.
        """
        execution = run.execution
        execution.started = time.time()
        with self._lock:
            if run.is_withdrawn:
                return None
            run.has_begun = True
        if execution.current.cancelled:  # since it was dispatched
            return execution.failed(JobStopped())
        if self._may_start(execution.claimed) is False:
            return None
        if execution.timeout is not None:
            run.until = min(run.until, time.monotonic() + execution.timeout)
            run.timer = asyncio.get_running_loop().call_later(
                execution.timeout, run.interrupt, JobTimedOut, context=self._context
            )
            self._limited.add(run)
        return await execution.arun(run.sync_thread)

    def _ended(self, run: _Run, task: asyncio.Task[Outcome | None]) -> None:
        """Report the outcome of a job and free its slot.

        Called for each task that ends, also for one that another job has cancelled before its first step.
        """
        execution = run.execution
        outcome: Outcome | None
        try:
            outcome = task.result()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the job has ended)
            outcome = execution.failed(error)
        if run.timer is not None:
            run.timer.cancel()
        self._contexts.give_back(run.slot)
        restore_executor(task.get_loop())
        with self._lock:
            self._runs.pop(run, None)
            self._limited.discard(run)
            if execution.abandoned:
                self._abandoned -= 1  # it has ended after all
                return
        if outcome is not None:
            self._on_outcome(outcome)
        elif not run.is_withdrawn:
            self._on_put_off(execution.claimed)
        self._free_slot()


class _Run:
    """A coroutine job on the loop; only the loop changes it, except for `until` and `is_withdrawn`."""

    __slots__ = (
        *("execution", "has_begun", "is_withdrawn", "since", "slot"),
        *("sync_thread", "task", "timer", "until"),
    )

    def __init__(
        self, execution: Execution, slot: SlotContext, sync_thread: JobThreadExecutor
    ) -> None:
        self.execution = execution
        self.slot = slot
        self.sync_thread = sync_thread
        self.since = time.monotonic()
        # Both are changed under the pool's lock.
        self.has_begun = self.is_withdrawn = False
        #: When it is cancelled: at its timeout, or when its cancellation was requested.
        self.until = inf
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[Outcome | None]

    @property
    def kind(self) -> type[JobInterrupted]:
        return JobStopped if self.execution.current.cancelled else JobTimedOut

    def interrupt(self, kind: type[JobInterrupted]) -> None:
        """Cancel the coroutine where it awaits. Called on its loop."""
        self.execution.interrupt(kind, 0)


def _is_coroutine(job: Claimed) -> bool:
    try:
        return registry.get(job.name, job.arguments).is_coroutine
    except LookupError:
        return False
