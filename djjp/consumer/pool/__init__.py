"""Pools: run N jobs at the same time, on threads or as coroutines.

`Pool` is what a consumer needs of one; `BasePool` is the part that both kinds share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NotRequired, Protocol, TypedDict

from djjp.consumer.execution import Execution
from djjp.engine import Claimed, Coordinator, Outcome, Progress
from djjp.exceptions import JobStopped


class Pool(Protocol):
    """Runs up to N claimed jobs at the same time; jobs submitted beyond that wait in its queue.

    Its methods are called by the coordinator's thread. It calls back on any thread.
    """

    @property
    def abandoned(self) -> int:
        """Number of slots given up, each with a job that could not be stopped."""

    @property
    def loop_blocked(self) -> bool:
        """Return True when a job blocks the event loop, so that the pool cannot shut down cleanly."""

    def assign(self, consumer: str, may_start: Callable[[Claimed], object]) -> None:
        """Run jobs for the consumer of this name from now on.

        Args:
            consumer: the name reported to jobs.
            may_start: called with each job just before it runs; the job does not run if this returns False.
        """

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Queue claimed jobs; they start as slots become free."""

    def waiting(self) -> int:
        """Return the number of queued jobs, those that have not started."""

    def stalled(self, longer: float) -> int:
        """Return the number of slots busy with one job for longer than this many seconds."""

    def drain_queue(self) -> list[Claimed]:
        """Take the queued jobs out again and return them."""

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Stop these jobs; each is reported as cancelled once it has stopped."""

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Drop pending cancellations of jobs that have ended."""

    def enforce(self) -> float:
        """Interrupt jobs that run for too long, and abandon those that do not stop.

        Returns:
            Seconds until there may be something to enforce again.
        """

    def close(self) -> None:
        """Let the threads end once their present jobs have; queued jobs do not start."""


class Hooks(TypedDict):
    """The consumer's callbacks, as `BasePool` takes them."""

    on_outcome: Callable[[Outcome], None]
    on_progress: Callable[[Progress], None]
    call_queue: Coordinator
    consumer: NotRequired[str]


class BasePool(ABC):
    """The consumer's side of a pool: its callbacks, its name, and the jobs that it has cancelled.

    Args:
        limit: the number of slots.
        on_outcome: called with each outcome, on any thread.
        on_progress: called with the progress that a job reports, on the job's thread.
        call_queue: takes the jobs' own calls to the engine.
        consumer: the consumer name reported to jobs.
    """

    def __init__(
        self,
        limit: int,
        *,
        on_outcome: Callable[[Outcome], None],
        on_progress: Callable[[Progress], None],
        call_queue: Coordinator,
        consumer: str = "",
    ) -> None:
        self.limit = limit
        self._on_outcome = on_outcome
        self._on_progress = on_progress
        self._call_queue = call_queue
        self._consumer = consumer
        self._may_start: Callable[[Claimed], object] = lambda job: True
        self._unwanted: set[Claimed] = set()

    def assign(self, consumer: str, may_start: Callable[[Claimed], object]) -> None:
        """Run jobs for the consumer of this name, which decides whether each starts."""
        self._consumer, self._may_start = consumer, may_start

    def cancel(self, jobs: Iterable[Claimed]) -> None:
        """Stop these jobs; each is reported as cancelled once it has stopped."""
        self._unwanted.update(jobs)
        self._cancel_running(self._unwanted)

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Drop pending cancellations of jobs that have ended."""
        if self._unwanted:
            self._unwanted.difference_update(jobs)

    @abstractmethod
    def _cancel_running(self, jobs: set[Claimed]) -> None:
        """Interrupt the jobs of this set that run here."""

    def _start(self, job: Claimed) -> Execution | None:
        """Return the execution of a job that may start; None if it does not run."""
        execution = Execution(job, self._on_progress, self._consumer)
        if self._unwanted and job in self._unwanted:
            execution.current.cancel()
            self._on_outcome(execution.failed(JobStopped()))
            return None
        return None if self._may_start(job) is False else execution
