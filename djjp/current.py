"""`current_job()`: what a running job can know and say of itself."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from uuid import UUID


class CurrentJob:
    """The job that runs here.

    Attributes:
        id: its id in the queue.
        name: the name under which it is registered.
        attempt: the number of this execution, from 1.
    """

    def __init__(
        self,
        id: UUID,
        name: str,
        attempt: int,
        report: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self.attempt = attempt
        self._report = report
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<CurrentJob {self.name} {self.id} attempt {self.attempt}>"

    @property
    def cancelled(self) -> bool:
        """Whether someone wants this job to stop, or another consumer has taken it over.

        A job that returns once it sees this ends as cancelled.
        """
        return self._cancelled

    def cancel(self) -> None:
        """Set `cancelled`; called by the consumer."""
        self._cancelled = True

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how far the job has come; the handle and the admin show it within about a second.

        It costs no statement of its own, so it may be said for each row of a loop.

        Raises:
            TypeError: a number is not a whole one.
        """
        for number in (done, total):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
                raise TypeError(f"progress takes whole numbers, not {number!r}")
        if self._report is not None:
            self._report(done, total)


running: ContextVar[CurrentJob | None] = ContextVar("djjp_current_job", default=None)


def current_job() -> CurrentJob | None:
    """The job that runs in this thread or task; None outside of one, as when its function is just called."""
    return running.get()
