"""Problems: each error of an answer, as RFC 9457 has it, of the one catalogue in `djjp.errors`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError

from djjp import engine, errors
from djjp.engine import sessions
from djjp.errors import ErrorKind
from djjp.exceptions import (
    EncodeError,
    JobDoesNotExist,
    OutboxUnavailable,
    PayloadTooLarge,
    QueueUnavailable,
)
from djjp.monitoring import FilterError

logger = logging.getLogger("djjp.api")

#: The page whose sections describe the errors, from the place of the documentation.
PAGE = "docs/errors.md"
#: Seconds after which a client of a queue that does not answer should try again.
RETRY_AFTER = 5

_SHOWN = (JobDoesNotExist, EncodeError, PayloadTooLarge, QueueUnavailable)


class Problem(Exception):
    """The end of a request: an error of the catalogue.

    Args:
        errors: the wrong values of a body, each with its `pointer` and `detail`.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        kind: ErrorKind,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def document(self) -> dict[str, Any]:
        """Return the problem as a document."""
        kind = self.kind
        found = {
            "type": f"{PAGE}#{kind.slug}",
            "title": kind.title,
            "status": kind.status,
            "slug": kind.slug,
            "detail": self.detail,
        }
        return {**found, "errors": [*self.errors]} if self.errors else found

    def answer(self) -> HttpResponse:
        """Return the problem as an answer."""
        return JsonResponse(
            self.document(),
            status=self.kind.status,
            content_type="application/problem+json",
            headers=dict(self.headers),
        )


def wrong(pointer: str, detail: str) -> Problem:
    """Return the problem of one wrong value of a body."""
    return Problem(errors.INVALID_BODY, detail, [{"pointer": pointer, "detail": detail}])


def answer_to(request: HttpRequest, error: Exception) -> HttpResponse:
    """Return the answer to a request that an exception has ended; an unexpected one is logged."""
    problem = _problem_of(error)
    if problem is None:
        logger.error("a request failed: %s %s", request.method, request.path, exc_info=error)
        problem = Problem(errors.FAILED, "the request failed; the log of the server has the reason")
    return problem.answer()


def _problem_of(error: Exception) -> Problem | None:
    if isinstance(error, Problem):
        return error
    if isinstance(error, FilterError):
        return Problem(errors.INVALID_FILTER, str(error))
    if isinstance(error, UnreadablePostError):
        return Problem(errors.USAGE, "the body ended before it was complete")
    if isinstance(error, DatabaseError) and sessions.is_outage(engine.current().db, error):
        error = QueueUnavailable("the queue's database does not answer")
    if isinstance(error, OutboxUnavailable):
        return None
    if isinstance(error, QueueUnavailable):
        after = {"Retry-After": str(RETRY_AFTER)}
        return Problem(errors.UNAVAILABLE, "the queue's database does not answer", headers=after)
    if isinstance(error, ImproperlyConfigured):
        return None
    return Problem(errors.kind_of(error), str(error)) if isinstance(error, _SHOWN) else None
