"""Bodies of requests: JSON in UTF-8, bounded, and validated against a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from django.http import HttpRequest
from pydantic import BaseModel, ConfigDict, ValidationError

from djjp import conf, errors
from djjp.api.problems import Problem

Model = TypeVar("Model", bound=BaseModel)

#: The wrong values of a body that an answer names.
MOST_ERRORS = 100


class Body(BaseModel):
    """A body that has its own members only."""

    model_config = ConfigDict(extra="forbid", strict=True)


def read(request: HttpRequest, model: type[Model]) -> Model:
    """Return the body of a request.

    Raises:
        Problem: it is none of this model.
    """
    given = document(request)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = [
            {"pointer": pointer(*_place(given, each["loc"])), "detail": str(each["msg"])}
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        first = found[0]
        detail = f"{first['pointer']}: {first['detail']}"
        raise Problem(errors.INVALID_BODY, detail, found[:MOST_ERRORS]) from None


def document(request: HttpRequest) -> Any:
    """Return the JSON document in the body of a request.

    Raises:
        Problem: there is none.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    charset = (request.content_params or {}).get("charset", "utf-8").lower()
    if request.content_type != "application/json" or encoding != "identity":
        detail = "the body must be application/json, and not compressed"
        raise Problem(errors.UNSUPPORTED_MEDIA_TYPE, detail)
    if charset not in ("utf-8", "utf8"):
        raise Problem(errors.UNSUPPORTED_MEDIA_TYPE, "the body must be in UTF-8")
    try:
        return json.loads(
            _data(request).decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise Problem(errors.USAGE, "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem(errors.USAGE, f"the body is no JSON: {error}") from None


def pointer(*steps: str | int) -> str:
    """Return a JSON pointer (RFC 6901) as a fragment."""
    return "#" + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def _place(document: Any, steps: Sequence[str | int]) -> list[str | int]:
    """Return the steps that lead to a place in a document; pydantic adds the kinds of a union to them."""
    found: list[str | int] = []
    for step in steps:
        if isinstance(document, dict) and isinstance(step, str):
            document = document.get(step)
        elif isinstance(document, list) and isinstance(step, int):
            document = document[step]
        else:
            break
        found.append(step)
    return found


def _data(request: HttpRequest) -> bytes:
    most = conf.current().api_max_body
    given = request.headers.get("Content-Length") or "0"
    data = b""
    if not (given.isascii() and given.isdigit() and int(given[:20]) > most):
        data = bytes(_stream(request).read(most + 1))
        if len(data) <= most:
            return data
    raise Problem(errors.BODY_TOO_LARGE, f"the body has more than {most:,} bytes")


def _stream(request: HttpRequest) -> Any:
    """Return the stream of a body: of one without a length, which Django takes for empty, the server's own."""
    is_open_ended = not request.META.get("CONTENT_LENGTH")
    if is_open_ended and request.META.get("wsgi.input_terminated"):
        return request.META["wsgi.input"]
    return request


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a member twice")
    return found
