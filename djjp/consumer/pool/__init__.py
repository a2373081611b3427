"""Pools: run N jobs at the same time, on threads or as coroutines.

`Pool` declares what a consumer uses of a pool; `BasePool` is the part that both kinds share.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import NotRequired, Protocol, TypedDict

from djjp import logs
from djjp.consumer.execution import Execution
from djjp.consumer.failures import describe
from djjp.consumer.pool.loop_watchdog import Blocked
from djjp.consumer.pool.thread_supply import ThreadSupply
from djjp.consumer.stacks import RunningJob
from djjp.engine import CallQueue, Claimed, Outcome, Progress
from djjp.exceptions import JobStopped
from djjp.models import Flag, State

logger = logging.getLogger("djjp.consumer")

# To find it in its class takes longer than to test it, which each job does.
_RATE_LIMITED = Flag.RATE_LIMITED


class Pool(Protocol):
    """Runs up to N claimed jobs at the same time; jobs submitted beyond that wait in its queue.

    Its methods are called by the coordinator's thread. It calls back on any thread.
    """

    @property
    def abandoned(self) -> int:
        """The number of abandoned slots, each with a job that could not be stopped."""

    @property
    def slots(self) -> int:
        """Number of jobs that can run at the same time now: fewer while the system refuses threads."""

    def threads_refused(self) -> bool:
        """Return whether the system has refused a thread since the last call: queued jobs may not run here."""

    @property
    def loop_blocked(self) -> bool:
        """Return True when a job blocks the event loop, so that the pool cannot shut down cleanly."""

    @property
    def blocked(self) -> deque[Blocked]:
        """The reports of a watchdog about a blocked loop; the caller takes them out."""

    def assign(self, consumer: str, may_start: Callable[[Claimed], object]) -> None:
        """Run jobs for the consumer of this name from now on.

        Args:
            consumer: the name reported to jobs.
            may_start: called with each job just before it runs; the job does not run if this returns False. For a
                job under a rate it is called again right before the job's function.
        """

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Queue claimed jobs; they start as slots become free."""

    def waiting(self) -> int:
        """Return the number of queued jobs, which have not started."""

    def stalled(self, longer: float) -> int:
        """Return the number of slots busy with one job for longer than this many seconds."""

    def drain_queue(self, *, keep_slots: bool = False) -> list[Claimed]:
        """Take the jobs that have not begun out again and return them.

        Args:
            keep_slots: leave those that have a slot: it would only go to the jobs that are claimed next.
        """

    def running(self) -> list[RunningJob]:
        """Return the jobs that run at this moment."""

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Stop these jobs; each is reported as cancelled once it has stopped."""

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Drop pending cancellations of jobs that have ended or were released."""

    def enforce(self) -> float:
        """Interrupt jobs that run for too long, and abandon those that do not stop.

        Returns:
            Seconds until the next call is due.
        """

    def close(self) -> None:
        """Let the threads end once their present jobs have; queued jobs do not start."""


class Hooks(TypedDict):
    """The consumer's callbacks, as `BasePool` takes them."""

    on_outcome: Callable[[Outcome], None]
    on_progress: Callable[[Progress], None]
    on_put_off: NotRequired[Callable[[Claimed], None]]
    call_queue: CallQueue
    consumer: NotRequired[str]


class BasePool(ABC):
    """The consumer's side of a pool: its callbacks, its name, and the jobs that it has cancelled.

    Args:
        max_slots: the number of slots.
        on_outcome: called with each outcome, on any thread.
        on_progress: called with the progress that a job reports, on the job's thread.
        on_put_off: called with a job that `may_start` has refused, on any thread, once nothing of it runs.
        call_queue: takes the jobs' own calls to the engine.
        consumer: the consumer name reported to jobs.
    """

    def __init__(
        self,
        max_slots: int,
        *,
        on_outcome: Callable[[Outcome], None],
        on_progress: Callable[[Progress], None],
        call_queue: CallQueue,
        on_put_off: Callable[[Claimed], None] = lambda job: None,
        consumer: str = "",
    ) -> None:
        self.max_slots = max_slots
        self._on_outcome = on_outcome
        self._on_progress = on_progress
        self._on_put_off = on_put_off
        self._call_queue = call_queue
        self._consumer = consumer
        self._may_start: Callable[[Claimed], object] = lambda job: True
        # By the identity of the `Claimed` tuple: after a restore of the queue's file a job can be claimed again by
        # the same key while its last execution still runs here, and only that one is unwanted.
        self._unwanted: dict[int, Claimed] = {}
        self.supply = ThreadSupply()
        #: The newest reports of a watchdog about a blocked loop, which only an asyncio pool has.
        self.blocked: deque[Blocked] = deque(maxlen=1000)

    def threads_refused(self) -> bool:
        """Return whether the system has refused a thread since the last call: queued jobs may not run here."""
        refused, self.supply.refused = self.supply.refused, False
        return refused

    def assign(self, consumer: str, may_start: Callable[[Claimed], object]) -> None:
        """Run jobs for the consumer of this name, which decides whether each starts."""
        self._consumer, self._may_start = consumer, may_start

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Stop these jobs; each is reported as cancelled once it has stopped."""
        self._unwanted.update((id(job), job) for job in jobs)
        self._cancel_running(self._unwanted)

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Drop pending cancellations of jobs that have ended or were released."""
        if self._unwanted:
            for job in jobs:
                self._unwanted.pop(id(job), None)

    @abstractmethod
    def _cancel_running(self, jobs: Container[int]) -> None:
        """Interrupt those of the jobs with these identities that run here."""

    def _execution_of(self, job: Claimed) -> Execution | None:
        """Return the execution of a job; None if it was cancelled before."""
        try:
            execution = Execution(job, self._on_progress, self._consumer)
            if job.flags & _RATE_LIMITED:
                # The hooks, and large arguments, can take long.
                execution.may_start = self._may_start
            if self._unwanted and id(job) in self._unwanted:
                execution.current.cancel()
                self._on_outcome(execution.failed(JobStopped()))
                return None
            return execution
        except BaseException as error:  # noqa: BLE001  (the job must not cost a slot)
            self._report_unstarted(job, error)
            return None

    def _report_unstarted(self, job: Claimed, error: BaseException) -> None:
        """Report a job as failed by an error that is no fault of its own."""
        text, extra = "%s %s could not be started", logs.of_job(job)
        logger.error(text, job.name, job.id, exc_info=error, extra=extra)
        now = time.time()
        self._on_outcome(Outcome(job, State.FAILED, now, now, failure=describe(error)))
