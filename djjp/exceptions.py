"""The exceptions that djjp raises.

They are few, and each message names the value that was given and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from djjp.durations import seconds

__all__ = [
    "ConsumerDoesNotAnswer",
    "ConsumerDoesNotExist",
    "Discard",
    "EncodeError",
    "JobCancelled",
    "JobDoesNotExist",
    "JobFailed",
    "JobInterrupted",
    "JobNameTaken",
    "JobNotFinished",
    "JobNotRegistered",
    "JobStopped",
    "JobTimedOut",
    "OutboxUnavailable",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "QueueUnavailable",
    "Retry",
]


class EncodeError(TypeError):
    """An argument or a result that the JSON codec cannot carry; the message names the parameter."""


class PayloadTooLarge(EncodeError, ValueError):
    """Arguments or a result are larger than `DJJP["max_payload"]`; the message names the largest argument."""


class JobDoesNotExist(LookupError):
    """No job with this id is in the queue: it never was, it was pruned, or it was deleted.

    From `get_pipeline()` also: the job with this id is in no pipeline.
    """

    def __init__(self, job_id: UUID | str, text: str = "there is no job {} in the queue") -> None:
        super().__init__(text.format(job_id))


class ConsumerDoesNotExist(LookupError):
    """No consumer of this name lives: it has ended, or it is dead."""

    def __init__(self, name: str, text: str = "there is no consumer {} in the queue") -> None:
        super().__init__(text.format(name))


class ConsumerDoesNotAnswer(Exception):
    """A consumer has not answered a request in time, and the request is withdrawn.

    Its process is frozen, one of its jobs holds the interpreter, or it cannot reach the queue's database.
    """

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"consumer {name} has not answered within {seconds:g} s: its process is frozen, a job holds the "
            "interpreter, or it cannot reach the queue; the request is withdrawn. Stop its process on its machine"
        )


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

    def __init__(self, text: str, job_id: UUID, *texts: str | None) -> None:
        super().__init__(text)
        self.job_id = job_id
        self._facts = [str(job_id), *texts]

    def facts(self) -> list[Any]:
        """Return what `of()` takes."""
        return self._facts

    @classmethod
    def of(cls, facts: list[Any]) -> Self:
        """Return the exception of these texts; the first one is the job's id."""
        exception: Callable[..., Self] = cls
        return exception(UUID(facts[0]), *facts[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.facts(),)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.facts() == other.facts()

    def __hash__(self) -> int:
        return hash(tuple(self.facts()))


class JobFailed(JobNotFinished):
    """Raised by `join()`: the job failed for good. `str()` holds the message of its last error.

    After a group or an `expand()` with `return_exceptions` it is a value, in place of a result. Then the message
    is cut to 1,000 characters, and the traceback is left out: `get_job(error.job_id).errors` has both.

    Attributes:
        job_id: the job's id; of a pipeline, that of the job that failed.
        exception_class: dotted name of the last error's class; "" when no error was kept.
        message: the last error's message; "" when no error was kept.
        traceback: the last error's traceback as text; "" when no error was kept.
    """

    def __init__(self, job_id: UUID, exception_class: str, message: str, traceback: str) -> None:
        text = f"job {job_id} failed: {exception_class}: {message}"
        super().__init__(text, job_id, exception_class, message, traceback)
        self.exception_class = exception_class
        self.message = message
        self.traceback = traceback


class JobCancelled(JobNotFinished):
    """Raised by `join()`: the job was cancelled and has no result. `str()` holds the reason.

    After a group or an `expand()` with `return_exceptions` it is a value, in place of a result.

    Attributes:
        job_id: the job's id; of a pipeline, that of the job that was cancelled.
        reason: why it was cancelled; None where no reason was given.
    """

    def __init__(self, job_id: UUID, reason: str | None = None) -> None:
        text = f"job {job_id} was cancelled" + (f": {reason}" if reason else "")
        super().__init__(text, job_id, reason)
        self.reason = reason


class QueueUnavailable(Exception):
    """The queue's database did not accept or answer a call in time; the call wrote nothing.

    Only `OutcomeUnknown`, which is derived from it, leaves that open.
    """


class OutboxUnavailable(QueueUnavailable):
    """The queue answers, and has no such job; the database of an outbox does not, and the job may be there."""


class OutcomeUnknown(QueueUnavailable):
    """The connection broke while the queue's database took a call, and it has not answered since.

    The call may have been written. A job with a `unique_key` can be enqueued again without becoming two;
    otherwise `get_job()` with the ids shows, once the database answers, whether the jobs are there.

    Attributes:
        job_ids: the ids of the jobs, or of the pipeline, that were being enqueued; empty for other calls.
    """

    job_ids: tuple[UUID, ...] = ()


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
