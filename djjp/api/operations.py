"""Operations: one verb for all jobs of a filter."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse

from djjp import errors
from djjp.api import bodies
from djjp.api.bodies import Body
from djjp.api.frame import Call, answer, endpoint, integer
from djjp.api.problems import Problem, wrong
from djjp.api.schemas import ID, Whole, number
from djjp.models import Scope, Verb
from djjp.monitoring import Filter, FilterError, operations, shapes


class NewOperation(Body):
    """One verb for all jobs of a filter; `argument` is the queue of `move` or the number of `priority`."""

    verb: str
    filter: dict[str, str | Whole | list[str]]
    argument: str | Whole = ""
    dry_run: bool = False


@endpoint(
    "POST",
    "/v1/operations",
    Scope.OPERATE,
    concerns_all=True,
    body=NewOperation,
    answers={200: "Preview", 202: "Operation"},
)
def start_operation(call: Call) -> HttpResponse:
    """Do a verb to all jobs that match a filter; consumers work on what is more than 1,000 jobs."""
    given = bodies.read(call.request, NewOperation)
    try:
        chosen = Filter.of(given.filter)
    except FilterError as error:
        raise wrong(
            bodies.pointer("filter", *([error.key] if error.key else [])), str(error)
        ) from None
    if given.verb not in Verb:
        raise wrong("#/verb", f"verb must be one of {', '.join(Verb)}")
    try:
        if given.dry_run:
            seen = operations.preview(given.verb, filter=chosen, argument=given.argument)
            return answer(shapes.preview(seen))
        by = f"api:{call.token.name}"
        info = operations.start(given.verb, filter=chosen, argument=given.argument, requested_by=by)
    except (ValueError, TypeError) as error:
        raise wrong("#/argument", str(error)) from None
    place = f"{call.request.path.rstrip('/')}/{info.id}"
    return answer(shapes.operation(info), 202, Location=place)


@endpoint(
    "GET",
    "/v1/operations",
    concerns_all=True,
    query={
        "limit": number(200, 50),
        "before": ID,
    },
    answers={200: "Operations"},
)
def list_operations(call: Call) -> HttpResponse:
    """List the operations, the newest first; `before` is the id of the last one on the page before."""
    text = call.request.GET.get("before")
    try:
        before = None if text is None else UUID(text)
    except ValueError:
        raise Problem(errors.USAGE, "before must be the id of an operation") from None
    found = operations.operations(limit=integer(call, "limit", 50, 1, 200), before=before)
    return answer({"operations": [shapes.operation(each) for each in found]})


def _operation(id: str, info: Any) -> HttpResponse:
    if info is None:
        raise Problem(errors.OPERATION_NOT_FOUND, f"there is no operation {id[:100]}")
    return answer(shapes.operation(info))


def _uuid(id: str) -> UUID:
    try:
        return UUID(id)
    except ValueError:
        return UUID(int=0)


@endpoint(
    "GET",
    "/v1/operations/{id}",
    concerns_all=True,
    answers={200: "Operation"},
    problems=[errors.OPERATION_NOT_FOUND],
)
def one_operation(call: Call, id: str) -> HttpResponse:
    """Return an operation with what it has done."""
    return _operation(id, operations.get(_uuid(id)))


@endpoint(
    "POST",
    "/v1/operations/{id}/stop",
    Scope.OPERATE,
    concerns_all=True,
    answers={200: "Operation"},
    problems=[errors.OPERATION_NOT_FOUND],
)
def stop_operation(call: Call, id: str) -> HttpResponse:
    """Stop an operation before its next step; what it has done stays done."""
    return _operation(id, operations.stop(_uuid(id)))
