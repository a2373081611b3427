"""Arguments of jobs: their JSON Schema, made from the annotations of the function, and what does not fit them.

Values that JSON lacks are written as the codec writes them: `{"$djjp": "decimal", "value": "9.90"}`.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from functools import lru_cache
from inspect import Parameter
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from djjp.api.bodies import pointer
from djjp.codec import TAG
from djjp.jobs import RegisteredJob

Schema = dict[str, Any]
Wrong = dict[str, str]

_ANYTHING: Schema = {}
_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    list: {"type": "array"},
}
_TAGGED: dict[Any, str] = {
    Decimal: "decimal",
    datetime: "datetime",
    date: "date",
    time_of_day: "time",
    timedelta: "timedelta",
    UUID: "uuid",
    bytes: "bytes",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
}
_EXAMPLES: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}
_TAGGED_EXAMPLES: dict[str, Any] = {
    "decimal": "9.90",
    "datetime": "2026-01-31T12:00:00+00:00",
    "date": "2026-01-31",
    "time": "12:00:00",
    "timedelta": 90_000_000,
    "uuid": "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722",
    "bytes": "AAEC",
    "tuple": [],
    "set": [],
    "frozenset": [],
}
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_UNEXPECTED = re.compile(r"got an unexpected keyword argument '(.*)'$")
_MULTIPLE = re.compile(r"multiple values for argument '(.*)'$")


def schema_of(job: RegisteredJob[..., Any]) -> Schema:
    """Return the JSON Schema of the members `args` and `kwargs` of a call of a job."""
    annotations = annotations_of(job)
    parameters = [*job.signature.parameters.values()]
    args: Schema = {"type": "array"}
    kwargs: Schema = {"type": "object"}
    prefix = [_schema(annotations.get(p.name)) for p in parameters if p.kind in _BY_POSITION]
    more = [_schema(annotations.get(p.name)) for p in parameters if p.kind is p.VAR_POSITIONAL]
    if prefix:
        args["prefixItems"] = prefix
    if more:
        args["items"] = more[0]
    else:
        args["maxItems"] = len(prefix)
    kwargs["properties"] = {
        p.name: _schema(annotations.get(p.name)) for p in parameters if p.kind in _BY_NAME
    }
    rest = [_schema(annotations.get(p.name)) for p in parameters if p.kind is p.VAR_KEYWORD]
    kwargs["additionalProperties"] = rest[0] if rest else False
    if needed := [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]:
        kwargs["required"] = needed
    return {"args": args, "kwargs": kwargs}


def example_of(job: RegisteredJob[..., Any]) -> dict[str, Any]:
    """Return a call of a job with an example of each argument that it needs."""
    annotations = annotations_of(job)
    call: dict[str, Any] = {"name": job.name, "args": [], "kwargs": {}}
    for each in job.signature.parameters.values():
        if each.default is each.empty and each.kind in (*_BY_POSITION, *_BY_NAME):
            value = _example(_schema(annotations.get(each.name)))
            if each.kind is each.POSITIONAL_ONLY:
                call["args"].append(value)
            else:
                call["kwargs"][each.name] = value
    return call


def _example(schema: Schema) -> Any:
    """Return a value of the schema of an annotation."""
    if "anyOf" in schema:
        return _example(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    if tag := schema.get("properties", {}).get(TAG):
        return {TAG: tag["const"], "value": _TAGGED_EXAMPLES[tag["const"]]}
    return _EXAMPLES.get(schema.get("type", "null"))


def misfits(
    job: RegisteredJob[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> list[Wrong]:
    """Return what is wrong with the arguments of a call, each with its pointer; nothing if they fit."""
    try:
        bound = job.signature.bind(*args, **kwargs)
    except TypeError as error:
        return [{"pointer": _place(job, str(error), len(args)), "detail": str(error)}]
    found: list[Wrong] = []
    annotations = annotations_of(job)
    positions = _positions(job, len(args))
    for name, value in bound.arguments.items():
        kind = job.signature.parameters[name].kind
        each: Mapping[str | int, Any] = {name: value}
        if kind is Parameter.VAR_POSITIONAL:
            each = dict(enumerate(value, len(positions)))
        elif kind is Parameter.VAR_KEYWORD:
            each = value
        for key, given in each.items():
            step = positions.get(key) if isinstance(key, str) else key
            place = pointer("kwargs", key) if step is None else pointer("args", step)
            if (why := _misfit(annotations.get(name), given)) is not None:
                found.append({"pointer": place, "detail": f"{name}: {why}"})
    return found


def annotations_of(job: RegisteredJob[..., Any]) -> dict[str, Any]:
    """Return the annotations of a job's function by parameter; none where they cannot be read."""
    try:
        return typing.get_type_hints(job.function)
    except Exception:  # noqa: BLE001  (a name that is imported for type checkers only, or any code)
        return {}


def _positions(job: RegisteredJob[..., Any], count: int) -> dict[str, int]:
    """Return the places of the parameters that positional arguments fill."""
    names = [p.name for p in job.signature.parameters.values() if p.kind in _BY_POSITION]
    return {name: place for place, name in enumerate(names[:count])}


def _place(job: RegisteredJob[..., Any], text: str, count: int) -> str:
    if found := _UNEXPECTED.search(text) or _MULTIPLE.search(text):
        return pointer("kwargs", found[1])
    if "too many positional" in text:
        return pointer("args", len(_positions(job, count)))
    return pointer("kwargs")


def _misfit(annotation: Any, value: Any) -> str | None:
    """Return why a value does not fit an annotation; None if it does, or nobody can tell."""
    if annotation is None or (validate := _validator(_Held(annotation))) is None:
        return None
    try:
        validate(value)
    except ValidationError as error:
        return str(error.errors(include_url=False, include_input=False)[0]["msg"])
    except Exception:  # noqa: BLE001  (a validator of the project's own class)
        return None
    return None


class _Held:
    """An annotation as a key of a cache: by identity, because not each can be hashed."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.annotation is other.annotation

    def __hash__(self) -> int:
        return id(self.annotation)


@lru_cache(1000)
def _validator(held: _Held) -> Callable[[Any], Any] | None:
    if _schema(held.annotation) == _ANYTHING:
        return None
    try:
        adapter = TypeAdapter(held.annotation, config=ConfigDict(strict=True))
    except PydanticUserError:
        return None
    return adapter.validate_python


def _schema(annotation: Any) -> Schema:
    """Return the JSON Schema of the values of an annotation; that of anything where it is not known."""
    if annotation in (Any, object) or isinstance(annotation, (str, typing.TypeVar)):
        return _ANYTHING
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [_schema(each) for each in of]
        return _ANYTHING if _ANYTHING in kinds else {"anyOf": kinds}
    if origin is typing.Literal:
        return (
            {"enum": [*of]} if all(isinstance(e, (str, int, bool, type(None))) for e in of) else {}
        )
    if origin is typing.Annotated:
        return _schema(of[0])
    return _of_class(origin or annotation, of)


def _of_class(kind: Any, of: tuple[Any, ...]) -> Schema:
    if kind is dict:  # with other keys than texts the codec writes pairs
        values = _schema(of[1]) if len(of) == 2 else _ANYTHING
        return {"type": "object", "additionalProperties": values} if of and of[0] is str else {}
    if kind is list and of:
        return {"type": "array", "items": _schema(of[0])}
    try:
        if kind in _PLAIN:
            return {**_PLAIN[kind]}
        tag = _TAGGED.get(kind)
    except TypeError:  # it cannot be hashed
        return _ANYTHING
    if tag is None:
        return _ANYTHING
    return {
        "type": "object",
        "properties": {TAG: {"const": tag}, "value": {}},
        "required": [TAG, "value"],
        "additionalProperties": False,
    }
