"""The frame of each request: its token, what it may ask for, and its answer, which is JSON as a rule.

An endpoint is a function with its place, its scope and its answers, from which the document is made too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

from asgiref.sync import iscoroutinefunction
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from pydantic import BaseModel

from djjp import errors, tokens
from djjp.api.problems import Problem, answer_to
from djjp.errors import ErrorKind
from djjp.models import Job, Scope, Token

View = Callable[..., Any]

JSON = "application/json"


class Endpoint(NamedTuple):
    """A method of a resource.

    Attributes:
        scope: what its token needs; None where it needs no token.
        concerns_all: whether it concerns the whole queue, so that a token must be for all jobs.
        query: its query parameters, with the schema of each.
        body: the model of its body; None without one.
        headers: the request's headers that it takes, with the description of each.
        media_types: those of its answers, best first, with their parameters; errors are JSON always.
        answers: the names of the shapes of its answers, by status.
        problems: the errors that it can answer with, beside those of every request.
    """

    method: str
    path: str
    scope: Scope | None
    concerns_all: bool
    query: Mapping[str, Any]
    body: type[BaseModel] | None
    headers: Mapping[str, str]
    media_types: Sequence[str]
    answers: Mapping[int, str]
    problems: Sequence[ErrorKind]
    handler: View
    view: View


#: All endpoints, in the order of the document.
ENDPOINTS: list[Endpoint] = []


class Call:
    """A request with its token, and the media type of the answer that it prefers."""

    def __init__(self, request: HttpRequest, token: Token, media_type: str) -> None:
        self.request = request
        self.token = token
        self.media_type = media_type

    def sees(self, row: Job) -> bool:
        """Return whether the token is for a job."""
        return tokens.covers(self.token, row.name, row.queue)


def endpoint(
    method: str,
    path: str,
    scope: Scope | None = Scope.READ,
    *,
    answers: Mapping[int, str],
    concerns_all: bool = False,
    query: Mapping[str, Any] | None = None,
    body: type[BaseModel] | None = None,
    headers: Mapping[str, str] | None = None,
    media_types: Sequence[str] = (JSON,),
    problems: Sequence[ErrorKind] = (),
) -> Callable[[View], View]:
    """Make a function an endpoint: it gets the call, and what its path names."""

    def register(handler: View) -> View:
        def prepared(request: HttpRequest) -> Call:
            call = Call(request, _token(request, scope), _preferred(request, media_types))
            _require_known(request, query or {})
            if concerns_all and not tokens.is_for_all(call.token):
                text = "this concerns the whole queue, and the token is for some jobs only"
                raise Problem(errors.FORBIDDEN, text)
            return call

        if iscoroutinefunction(handler):
            from asgiref.sync import sync_to_async

            @wraps(handler)
            async def view(request: HttpRequest, **path: str) -> Any:
                call = await sync_to_async(prepared)(request)
                return await handler(call, **path)
        else:

            @wraps(handler)
            def view(request: HttpRequest, **path: str) -> Any:
                return handler(prepared(request), **path)

        vars(view)["__signature__"] = _signature(handler)
        ENDPOINTS.append(
            Endpoint(
                method,
                path,
                scope,
                concerns_all,
                query or {},
                body,
                headers or {},
                media_types,
                answers,
                problems,
                handler,
                view,
            )
        )
        return handler

    return register


def _signature(handler: View) -> Signature:
    """Return the signature of a view, as ninja reads it: the request, and the parts of the path."""
    _, *parts = signature(handler).parameters
    kind = Parameter.POSITIONAL_OR_KEYWORD
    path = [Parameter(name, kind, annotation=str) for name in parts]
    return Signature([Parameter("request", kind), *path])


def answer(document: Any, status: int = 200, /, **headers: str) -> HttpResponse:
    """Return a document as an answer."""
    made = {name.replace("_", "-"): value for name, value in headers.items()}
    return JsonResponse(document, status=status, headers={"Cache-Control": "no-store", **made})


def framed(view: View) -> View:
    """Return a view that answers nothing with a page, in no transaction of the application."""
    if iscoroutinefunction(view):

        @wraps(view)
        async def guarded(request: HttpRequest, **path: Any) -> HttpResponseBase:
            try:
                return _proper(await view(_as_get(request), **path))
            except Exception as error:  # noqa: BLE001  (no page of Django's answers a program)
                return answer_to(request, error)
    else:

        @wraps(view)
        def guarded(request: HttpRequest, **path: Any) -> HttpResponseBase:
            try:
                return _proper(view(_as_get(request), **path))
            except Exception as error:  # noqa: BLE001  (no page of Django's answers a program)
                return answer_to(request, error)

    made: View = csrf_exempt(guarded)
    for alias in connections:
        made = transaction.non_atomic_requests(using=alias)(made)
    return made


@framed
def nothing(request: HttpRequest, **path: Any) -> HttpResponseBase:
    """Answer a request for an address that has nothing."""
    raise Problem(errors.NOT_FOUND, "there is nothing at this address")


def _as_get(request: HttpRequest) -> HttpRequest:
    """Let HEAD be answered as GET is; the server leaves the body out."""
    if request.method == "HEAD":
        request.method = "GET"
    return request


def _proper(response: HttpResponseBase) -> HttpResponseBase:
    if not isinstance(response, HttpResponseNotAllowed):
        return response
    methods = {name.strip() for name in response.headers["Allow"].split(",")}
    allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    detail = f"the methods of this address are {allowed}"
    return Problem(errors.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed}).answer()


def _token(request: HttpRequest, scope: Scope | None) -> Token:
    if scope is None:
        return Token()
    challenge = 'Bearer realm="djjp"'
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    if not kind:
        text = "the request has no token; send Authorization: Bearer djjp_…"
        raise Problem(errors.UNAUTHORIZED, text, headers={"WWW-Authenticate": challenge})
    found = tokens.authenticate(text.strip()) if kind.lower() == "bearer" else None
    if found is None:
        challenge += ', error="invalid_token"'
        text = "the token is unknown, expired or revoked"
        raise Problem(errors.UNAUTHORIZED, text, headers={"WWW-Authenticate": challenge})
    if not tokens.allows(found, scope):
        raise Problem(errors.FORBIDDEN, f"the token has the scope {found.scope}; it needs {scope}")
    return found


def _preferred(request: HttpRequest, offered: Sequence[str]) -> str:
    """Return the media type that a request prefers; parameters, such as a version, decide nothing."""
    for accepted in request.accepted_types:  # the best first
        for each in offered:
            main, _, sub = each.partition(";")[0].partition("/")
            if accepted.main_type in (main, "*") and accepted.sub_type in (sub, "*"):
                return each
        if accepted.main_type == "application" and accepted.sub_type == "problem+json":
            return offered[0]
    names = " or ".join(each.partition(";")[0] for each in offered)
    raise Problem(errors.NOT_ACCEPTABLE, f"the answer is {names}")


def _require_known(request: HttpRequest, known: Mapping[str, Any]) -> None:
    if unknown := [name for name in request.GET if name not in known]:
        names = ", ".join(known) or "none"
        raise Problem(
            errors.USAGE, f"there is no parameter {unknown[0][:100]!r}; there are {names}"
        )
    for name, schema in known.items():
        if schema.get("type") != "array" and len(request.GET.getlist(name)) > 1:
            raise Problem(errors.USAGE, f"the parameter {name} is given several times")


def integer(call: Call, name: str, default: int, least: int, most: int) -> int:
    """Return a query parameter that is a whole number."""
    text = call.request.GET.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise Problem(errors.USAGE, f"{name} must be a number from {least} to {most:,}")
    return int(text)
