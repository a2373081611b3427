"""The exceptions that djjp raises.

They are few, and each message names the value that was given and what would be right.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from djjp.durations import seconds


class EncodeError(TypeError):
    """An argument or a result that the JSON codec cannot carry; the message names the parameter."""


class JobDoesNotExist(LookupError):
    """No job with this id is in the queue: it never was, it was pruned, or it was deleted."""

    def __init__(self, job_id: UUID | str) -> None:
        super().__init__(f"there is no job {job_id} in the queue")


class JobNotRegistered(LookupError):
    """No function in this process is registered under the name that a job row carries."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no job named {name!r} is registered here; "
            "is its module a jobs.py of an installed app, or imported by one?"
        )


class JobNameTaken(ImproperlyConfigured):
    """Two functions were registered under one name; the message names both."""


class JobNotFinished(Exception):
    """Base of the two exceptions by which `join()` reports that there will be no result."""


class JobFailed(JobNotFinished):
    """Raised by `join()`: the job failed for good. `str()` holds the message of its last error.

    Attributes:
        job_id: the job's id.
        exception_class: dotted name of the last error's class; "" when no error was kept.
        traceback: the last error's traceback as text; "" when no error was kept.
    """

    def __init__(self, job_id: UUID, exception_class: str, message: str, traceback: str) -> None:
        super().__init__(f"job {job_id} failed: {exception_class}: {message}")
        self.job_id = job_id
        self.exception_class = exception_class
        self.traceback = traceback


class JobCancelled(JobNotFinished):
    """Raised by `join()`: the job was cancelled and has no result. `str()` holds the reason.

    Attributes:
        job_id: the job's id.
        reason: why it was cancelled; None where no reason was given.
    """

    def __init__(self, job_id: UUID, reason: str | None = None) -> None:
        super().__init__(f"job {job_id} was cancelled" + (f": {reason}" if reason else ""))
        self.job_id = job_id
        self.reason = reason


class QueueUnavailable(Exception):
    """The queue's database did not accept or answer a call in time; the call wrote nothing."""


class Retry(Exception):
    """Raise it in a job to run the job again.

    A job with `max_attempts` runs at most that often; a job without can retry without end.

    Args:
        after: how long to wait, in seconds or as a timedelta; None for the job's backoff.
        message: the reason, for the list of errors.
    """

    after: float | None = None

    def __init__(
        self, message: str = "the job asked to run again", *, after: float | timedelta | None = None
    ) -> None:
        super().__init__(message)
        if after is not None:
            self.after = seconds("after", after)


class Discard(Exception):
    """Raise it in a job that has become pointless: the job ends as cancelled, with the reason."""

    def __init__(self, reason: str = "the job discarded itself") -> None:
        super().__init__(reason)


class JobInterrupted(BaseException):
    """Raised inside a job to stop it. Like KeyboardInterrupt it is no Exception, so that few handlers
    catch it; a job can clean up in `finally` and must not suppress it."""


class JobTimedOut(JobInterrupted):
    """Raised inside a job that runs for longer than its `timeout`."""


class JobStopped(JobInterrupted):
    """Raised inside a job that was cancelled and did not end of its own accord."""
