"""Pages while the queue's database does not answer: one that names the error, instead of a server error."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse

from djjp import engine
from djjp.engine import sessions
from djjp.exceptions import QueueUnavailable

View = Callable[..., HttpResponse]


def answering(view: View) -> View:
    """Return a view that answers with 503 and the error where the queue's database refuses.

    The session is dropped, as after any other call to the queue: Django itself would keep one to a server
    that has become read-only.
    """

    @wraps(view)
    def answer(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except QueueUnavailable as error:
            unavailable = error
        except DatabaseError as error:
            db = engine.current().db
            if isinstance(error, sessions.REFUSED) or not db.connection.errors_occurred:
                raise  # of one statement, or of the application's database
            sessions.drop(db, error)
            unavailable = sessions.unavailable(db, error)
        return HttpResponse(
            f"{unavailable}\n", status=503, content_type="text/plain; charset=utf-8"
        )

    return answer
