"""The document of the interface (OpenAPI 3.1): each endpoint with its answers, also its errors, and the jobs."""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpResponse
from pydantic import BaseModel

from djjp import __version__, errors, tokens
from djjp.api import examples
from djjp.api.arguments import example_of, schema_of
from djjp.api.enqueue import NewCall
from djjp.api.frame import ENDPOINTS, JSON, Call, Endpoint, answer, endpoint
from djjp.api.links import links
from djjp.api.operations import NewOperation
from djjp.api.schemas import HEADERS, ID, ONE_QUEUE, OPERATION, text
from djjp.bounds import LONGEST_NAME
from djjp.errors import ErrorKind
from djjp.jobs import RegisteredJob, registry
from djjp.monitoring import shapes

Document = dict[str, Any]

_REF = "#/components/schemas/"
_OF_ALL = [errors.USAGE, errors.NOT_ACCEPTABLE, errors.METHOD_NOT_ALLOWED, errors.FAILED]
_OF_TOKENS = [errors.UNAUTHORIZED, errors.FORBIDDEN]
_OF_BODIES = [errors.BODY_TOO_LARGE, errors.UNSUPPORTED_MEDIA_TYPE, errors.INVALID_BODY]
_PARAMETER = re.compile(r"\{(?:path:)?(\w+)\}")
_HEADERS = {
    errors.UNAUTHORIZED: ("WWW-Authenticate", "The kind of token that is needed."),
    errors.METHOD_NOT_ALLOWED: ("Allow", "The methods of the address."),
    errors.UNAVAILABLE: ("Retry-After", "Seconds after which to try again."),
    errors.TOO_MANY_WAITS: ("Retry-After", "Seconds after which to try again."),
}
_PROBLEM: Document = {
    "type": "object",
    "description": "An error, as RFC 9457 has it.",
    "properties": {
        "type": {"type": "string", "description": "The section of the docs on it."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "slug": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["pointer", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "slug", "detail"],
}


@endpoint("GET", "/v1/openapi.json", answers={200: "OpenAPI"})
def document(call: Call) -> HttpResponse:
    """Return this document, with the jobs that the token can enqueue."""
    here = call.request.path.removesuffix("/v1/openapi.json")
    return answer(made(here, enqueueable(call.token.jobs)))


def enqueueable(glob: str = "*") -> list[RegisteredJob[..., Any]]:
    """Return the jobs that can be enqueued over HTTP, of those whose names match a glob."""
    found = (registry.find(name) for name in registry.names() if tokens.matches(glob, name))
    return [job for job in found if job is not None and job.options.api]


def made(prefix: str, jobs: list[RegisteredJob[..., Any]]) -> Document:
    """Return the document.

    Args:
        prefix: the path at which the project includes the interface.
        jobs: the jobs whose arguments it describes.
    """
    paths: Document = {}
    for each in ENDPOINTS:
        path = _PARAMETER.sub(r"{\1}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, jobs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "djjp", "version": __version__},
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(jobs),
        },
    }


def _schemas(jobs: list[RegisteredJob[..., Any]]) -> Document:
    found = _moved(shapes.schema()["$defs"])
    pauses = found["Pauses"]["properties"]["queues"]["items"]
    calls = {f"Call of {job.name}": _call_of(job) for job in jobs}
    return {
        **found,
        "Pause": pauses,
        "AnyJob": {"anyOf": [{"$ref": f"{_REF}WholeJob"}, {"$ref": f"{_REF}Job"}]},
        "Ids": {
            "type": "object",
            "properties": {
                "jobs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"id": {"type": "string", "format": "uuid"}},
                        "required": ["id"],
                    },
                }
            },
            "required": ["jobs"],
        },
        "Health": {
            "type": "object",
            "properties": {"status": {"enum": ["live", "ready"]}},
            "required": ["status"],
        },
        "Metrics": {"type": "string"},
        "OpenAPI": {"type": "object"},
        "Problem": _PROBLEM,
        "AnyCall": {"anyOf": [{"$ref": _REF + _escaped(name)} for name in calls]}
        if calls
        else _plain_call(),
        **{_escaped(name): call for name, call in calls.items()},
    }


def _plain_call() -> Document:
    found: Document = NewCall.model_json_schema()
    return found


def _call_of(job: RegisteredJob[..., Any]) -> Document:
    """Return the schema of a call of one job, with its arguments."""
    schema = _plain_call()
    arguments = schema_of(job)
    properties = {**schema["properties"], **arguments, "name": {"const": job.name}}
    needed = [*schema["required"], *(name for name, of in arguments.items() if "required" in of)]
    about = (job.function.__doc__ or "").strip().partition("\n")[0]
    return {
        **schema,
        "title": job.name,
        "description": about,
        "properties": properties,
        "required": needed,
    }


def _escaped(name: str) -> str:
    """Return the name of a schema: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _moved(value: Any) -> Any:
    """Return schemas whose references lead to the components of this document."""
    if isinstance(value, dict):
        return {
            key: each.replace("#/$defs/", _REF) if key == "$ref" else _moved(each)
            for key, each in value.items()
        }
    return [_moved(each) for each in value] if isinstance(value, list) else value


def _operation(each: Endpoint, jobs: list[RegisteredJob[..., Any]]) -> Document:
    about = (each.handler.__doc__ or "").strip()
    found: Document = {
        "operationId": each.handler.__name__,
        "summary": about.partition("\n")[0],
        "parameters": _parameters(each),
        "responses": _responses(each),
    }
    if each.scope is not None:
        found["security"] = [{"token": []}]
        found["description"] = f"It needs a token with the scope `{each.scope}`."
    if each.body is not None:
        found["requestBody"] = {
            "required": each.method == "POST",
            "content": {JSON: _content(_body(each.body), _example(each.body, jobs))},
        }
    return found


def _content(schema: Document, example: Any) -> Document:
    """Return what an answer or a body has, with an example if there is one."""
    return {"schema": schema} | (
        {} if example is None else {"examples": {"one": {"value": example}}}
    )


def _example(model: type[BaseModel], jobs: list[RegisteredJob[..., Any]]) -> Any:
    """Return an example of a body; one that enqueues has the first of the jobs."""
    call = example_of(jobs[0]) if jobs else {"name": "shop.jobs.add", "args": [1]}
    if model is NewCall:
        return call
    return examples.OF_BODIES.get(model.__name__, {"jobs": [call]})


def _body(model: type[BaseModel]) -> Document:
    if model is NewCall:
        return {"$ref": f"{_REF}AnyCall"}
    schema: Document = model.model_json_schema()
    schema.pop("$defs", None)
    if model is NewOperation:
        return OPERATION
    if "jobs" in schema["properties"]:
        schema["properties"]["jobs"]["items"] = {"$ref": f"{_REF}AnyCall"}
    return schema


def _parameters(each: Endpoint) -> list[Document]:
    path = [
        {"name": name, "in": "path", "required": True, "schema": _of_path(each.path, name)}
        for name in _PARAMETER.findall(each.path)
    ]
    query = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in each.query.items()
    ]
    headers = [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": description,
            "schema": HEADERS[name],
        }
        for name, description in each.headers.items()
    ]
    return [*path, *query, *headers]


def _of_path(path: str, name: str) -> Document:
    if name == "id":
        return ID
    return ONE_QUEUE if path.startswith("/v1/queues/") else text(LONGEST_NAME)


def _responses(each: Endpoint) -> Document:
    found: Document = {}
    for status, name in each.answers.items():
        schema = {"$ref": _REF + name}
        found[str(status)] = {
            "description": "Done.",
            "content": {
                kind.partition(";")[0]: _content(schema, examples.OF_SHAPES.get(name))
                for kind in each.media_types
            },
            "links": links(name, ENDPOINTS),
        }
    by_status: dict[int, list[ErrorKind]] = {}
    for kind in _kinds(each):
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        titles = " ".join(f"`{kind.slug}`: {kind.title}." for kind in dict.fromkeys(kinds))
        headers = {
            _HEADERS[kind][0]: {
                "description": _HEADERS[kind][1],
                "schema": {"type": "string"},
            }
            for kind in kinds
            if kind in _HEADERS
        }
        content = {"application/problem+json": {"schema": {"$ref": f"{_REF}Problem"}}}
        found[str(status)] = {"description": titles, "content": content} | (
            {"headers": headers} if headers else {}
        )
    return found


def _kinds(each: Endpoint) -> list[ErrorKind]:
    found = [*each.problems, *_OF_ALL, errors.UNAVAILABLE]
    if each.scope is not None:
        found += _OF_TOKENS
    if each.body is not None:
        found += _OF_BODIES
    if "{" in each.path:
        found.append(errors.NOT_FOUND)
    if "Idempotency-Key" in each.headers:
        found.append(errors.PAYLOAD_TOO_LARGE)
    return found
