"""`current_job()`: the running job, as its own code sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from uuid import UUID

from djjp import logs
from djjp.engine import Claimed, Progress
from djjp.forks import in_child

_MAX_NUMBER = 2**63 - 1


class CurrentJob:
    """The job that runs here.

    Attributes:
        id: its id in the queue.
        name: the name under which it is registered.
        queue: the queue that it was taken from.
        attempt: the number of this execution, from 1.
    """

    __slots__ = ("_cancelled", "_claimed", "_report")

    def __init__(self, claimed: Claimed, report: Callable[[Progress], None] | None = None) -> None:
        self._claimed = claimed
        self._report = report
        self._cancelled = False

    @property
    def id(self) -> UUID:
        return self._claimed.id

    @property
    def name(self) -> str:
        return self._claimed.name

    @property
    def queue(self) -> str:
        return self._claimed.queue

    @property
    def attempt(self) -> int:
        return self._claimed.attempt

    def __repr__(self) -> str:
        return f"<CurrentJob {self.name} {self.id} attempt {self.attempt}>"

    @property
    def cancelled(self) -> bool:
        """True once this job must stop: it was cancelled, or another consumer has taken it over.

        A job that returns once it sees this ends as cancelled.
        """
        return self._cancelled

    def cancel(self) -> None:
        """Set `cancelled`; called by the consumer."""
        self._cancelled = True

    def progress(self, done: int, total: int | None = None) -> None:
        """Report progress; the handle and the admin show it within about a second.

        A report costs no statement of its own, so a loop can report each of its rows.

        Args:
            done: the number of units done.
            total: the number of units in all; None if it is unknown.

        Raises:
            TypeError: a number is not a whole one.
            ValueError: a number does not fit into a database's 63 bits.
        """
        numbers: list[object] = [done] if total is None else [done, total]
        for number in numbers:
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"progress takes whole numbers, not {number!r}")
            if not -_MAX_NUMBER <= number <= _MAX_NUMBER:
                raise ValueError(f"progress takes numbers of up to 63 bits, not {number!r}")
        if self._report is not None:
            self._report(Progress(self._claimed, done, total))


running: ContextVar[CurrentJob | None] = ContextVar("djjp_current_job", default=None)
logs.running = running.get


@in_child
def _leave() -> None:
    """Have the child of a job be a process without a job: the parent still runs that one."""
    running.set(None)


def current_job() -> CurrentJob:
    """Return the job that runs in this thread or task.

    Raises:
        RuntimeError: none does, as in a plain call of its function.
    """
    job = running.get()
    if job is None:
        raise RuntimeError(
            "no job runs here: current_job() is for the code of a running job; current_job_or_none() returns None "
            "outside of one, as in a plain call of its function"
        )
    return job


def current_job_or_none() -> CurrentJob | None:
    """Return the job that runs in this thread or task; None outside of one, as in a plain call of its function."""
    return running.get()
