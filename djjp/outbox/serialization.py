"""A new job, or a new pipeline with all its jobs, as text, field by field.

Rows outlive a deployment: fields of the text that this code does not know are ignored, and fields that the
text lacks get their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from djjp.engine import Edge, NewGraph, NewJob
from djjp.models import State


def to_text(job: NewJob | NewGraph) -> str:
    """Return a job or a pipeline as text."""
    fields = job._asdict()
    if isinstance(job, NewGraph):
        fields["jobs"] = [each._asdict() for each in job.jobs]
    return json.dumps(fields, default=_json_value, separators=(",", ":"))


def from_text(text: str) -> NewJob | NewGraph:
    """Return the job or the pipeline that a text describes.

    Raises:
        ValueError: the text describes neither.
    """
    try:
        fields = json.loads(text)
        if "edges" not in fields:
            return _job(fields)
        edges = [Edge(UUID(parent), UUID(child), path) for parent, child, path in fields["edges"]]
        return NewGraph(UUID(fields["id"]), [_job(each) for each in fields["jobs"]], edges)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"this is no job: {error}") from error


def jobs_of(text: str) -> list[NewJob]:
    """Return the one job of a text, or all jobs of its pipeline."""
    unit = from_text(text)
    return unit.jobs if isinstance(unit, NewGraph) else [unit]


def cancelled(text: str) -> str:
    """Return the text of the same jobs, changed so that they enter the queue as cancelled."""
    unit = from_text(text)
    if isinstance(unit, NewGraph):
        jobs = [job._replace(state=State.CANCELLED) for job in unit.jobs]
        return to_text(unit._replace(jobs=jobs))
    return to_text(unit._replace(state=State.CANCELLED))


def _job(fields: Any) -> NewJob:
    return NewJob(**{n: decode(fields[n]) for n, decode in _decoders().items() if n in fields})


def _json_value(value: object) -> str:
    if isinstance(value, UUID):
        return value.hex
    raise TypeError(f"a field of a job is {value!r}, which JSON has no type for")


@cache
def _decoders() -> Mapping[str, Callable[[Any], Any]]:
    return {name: _decoder(hint) for name, hint in get_type_hints(NewJob).items()}


def _decoder(hint: Any) -> Callable[[Any], Any]:
    """Return the function that turns a JSON value into a value of this type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (decode,) = [_decoder(each) for each in inner if each is not type(None)]
        return lambda value: None if value is None else decode(value)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        decode_item = _decoder(inner[0])
        kind: Any = list if origin is list else tuple
        return lambda value: kind(decode_item(item) for item in value)
    if isinstance(hint, type) and issubclass(hint, (UUID, Enum)):
        return hint
    return lambda value: value
