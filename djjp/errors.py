"""The catalogue of errors: what can go wrong with a request, with one slug, title, status and exit code each.

The command line and programs that serve requests report the same errors. `docs/errors.md` has a heading for each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from djjp.exceptions import (
    ConsumerDoesNotAnswer,
    ConsumerDoesNotExist,
    EncodeError,
    JobDoesNotExist,
    JobNotRegistered,
    OutboxUnavailable,
    PayloadTooLarge,
    QueueUnavailable,
)

#: The exit codes of commands, with what each means.
EXIT_CODES = {
    0: "done",
    1: "failed, or something wrong was found",
    2: "the command line is wrong; nothing was done",
    3: "there is no such job, queue, schedule, consumer, operation or token",
    4: "no job matches the filter",
    69: "the queue's database does not answer",
}


class ErrorKind(NamedTuple):
    """One kind of error.

    Attributes:
        slug: its name, and the heading in `docs/errors.md`.
        title: what it means, in a few words that are the same each time.
        status: the status of an HTTP response.
        exit_code: the exit code of a command.
    """

    slug: str
    title: str
    status: int
    exit_code: int

    def document(self, detail: str, **members: Any) -> dict[str, Any]:
        """Return the error as the members of a problem document (RFC 9457)."""
        return {"slug": self.slug, "title": self.title, "detail": detail, **members}


USAGE = ErrorKind("usage", "The request is wrong", 400, 2)
INVALID_FILTER = ErrorKind("invalid-filter", "The filter is wrong", 400, 2)
INVALID_JOB = ErrorKind("invalid-job", "The job cannot be enqueued like this", 422, 2)
PAYLOAD_TOO_LARGE = ErrorKind("payload-too-large", "The arguments are too large", 413, 2)
JOB_NOT_FOUND = ErrorKind("job-not-found", "There is no such job", 404, 3)
NOT_REGISTERED = ErrorKind("not-registered", "No job is registered under this name", 404, 3)
QUEUE_NOT_FOUND = ErrorKind("queue-not-found", "There is no such queue", 404, 3)
SCHEDULE_NOT_FOUND = ErrorKind("schedule-not-found", "There is no such schedule", 404, 3)
CONSUMER_NOT_FOUND = ErrorKind("consumer-not-found", "There is no such consumer", 404, 3)
CONSUMER_SILENT = ErrorKind("consumer-silent", "The consumer does not answer", 504, 1)
OPERATION_NOT_FOUND = ErrorKind("operation-not-found", "There is no such operation", 404, 3)
TOKEN_NOT_FOUND = ErrorKind("token-not-found", "There is no such token", 404, 3)
PIPELINE_NOT_FOUND = ErrorKind("pipeline-not-found", "There is no such pipeline", 404, 3)
NOTHING_MATCHED = ErrorKind("nothing-matched", "No job matches the filter", 404, 4)
CONFLICT = ErrorKind("conflict", "The present state does not allow it", 409, 1)
UNAUTHORIZED = ErrorKind("unauthorized", "A valid token is needed", 401, 1)
FORBIDDEN = ErrorKind("forbidden", "The token does not allow it", 403, 1)
NOT_FOUND = ErrorKind("not-found", "There is nothing at this address", 404, 3)
METHOD_NOT_ALLOWED = ErrorKind("method-not-allowed", "The address has no such method", 405, 2)
NOT_ACCEPTABLE = ErrorKind("not-acceptable", "The answer has no such media type", 406, 2)
BODY_TOO_LARGE = ErrorKind("body-too-large", "The body is too large", 413, 2)
UNSUPPORTED_MEDIA_TYPE = ErrorKind("unsupported-media-type", "The body must be JSON", 415, 2)
INVALID_BODY = ErrorKind("invalid-body", "The body has wrong values", 422, 2)
IDEMPOTENCY_MISMATCH = ErrorKind(
    "idempotency-mismatch", "The key belongs to another request", 422, 2
)
TOO_MANY_WAITS = ErrorKind("too-many-waits", "Too many requests wait for jobs", 503, 1)
MISCONFIGURED = ErrorKind("misconfigured", "The project is not set up for it", 500, 1)
FAILED = ErrorKind("failed", "It failed", 500, 1)
UNAVAILABLE = ErrorKind("unavailable", "The queue's database does not answer", 503, 69)

#: All kinds, by slug.
KINDS = {kind.slug: kind for kind in list(globals().values()) if isinstance(kind, ErrorKind)}

# The first that fits counts.
_OF_EXCEPTIONS: list[tuple[type[BaseException], ErrorKind]] = [
    (OutboxUnavailable, FAILED),  # the queue answers
    (QueueUnavailable, UNAVAILABLE),
    (JobDoesNotExist, JOB_NOT_FOUND),
    (JobNotRegistered, NOT_REGISTERED),
    (ConsumerDoesNotExist, CONSUMER_NOT_FOUND),
    (ConsumerDoesNotAnswer, CONSUMER_SILENT),
    (PayloadTooLarge, PAYLOAD_TOO_LARGE),
    (EncodeError, INVALID_JOB),
    (ImproperlyConfigured, MISCONFIGURED),
]


def kind_of(error: BaseException) -> ErrorKind:
    """Return the kind of an exception; `FAILED` for one that has none of its own."""
    return next((kind for each, kind in _OF_EXCEPTIONS if isinstance(error, each)), FAILED)
