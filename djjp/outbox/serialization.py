"""A new job, or a new pipeline with all its jobs, as text, field by field.

Rows outlive a deployment: what the text has and this code does not know is left out, and what it lacks
has the field's default.
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
    """The text of a job or a pipeline."""
    given = job._asdict()
    if isinstance(job, NewGraph):
        given["jobs"] = [each._asdict() for each in job.jobs]
    return json.dumps(given, default=_plain, separators=(",", ":"))


def from_text(text: str) -> NewJob | NewGraph:
    """The job or the pipeline of a text.

    Raises:
        ValueError: the text is none of either.
    """
    try:
        given = json.loads(text)
        if "edges" not in given:
            return _job(given)
        edges = [Edge(UUID(parent), UUID(child), place) for parent, child, place in given["edges"]]
        return NewGraph(UUID(given["id"]), [_job(each) for each in given["jobs"]], edges)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"this is no job: {error}") from error


def jobs_of(text: str) -> list[NewJob]:
    """The one job of a text, or all jobs of the pipeline."""
    unit = from_text(text)
    return unit.jobs if isinstance(unit, NewGraph) else [unit]


def cancelled(text: str) -> str:
    """The text of the same, for the queue to have it as cancelled from the first."""
    unit = from_text(text)
    if isinstance(unit, NewGraph):
        jobs = [job._replace(state=State.CANCELLED) for job in unit.jobs]
        return to_text(unit._replace(jobs=jobs))
    return to_text(unit._replace(state=State.CANCELLED))


def _job(given: Any) -> NewJob:
    return NewJob(**{n: read(given[n]) for n, read in _readers().items() if n in given})


def _plain(value: object) -> str:
    if isinstance(value, UUID):
        return value.hex
    raise TypeError(f"a field of a job is {value!r}, which JSON has no type for")


@cache
def _readers() -> Mapping[str, Callable[[Any], Any]]:
    return {name: _reader(hint) for name, hint in get_type_hints(NewJob).items()}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """What makes a value of this type from what JSON made of it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (some,) = [_reader(each) for each in inner if each is not type(None)]
        return lambda value: None if value is None else some(value)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        each = _reader(inner[0])
        kind: Any = list if origin is list else tuple
        return lambda value: kind(each(one) for one in value)
    if isinstance(hint, type) and issubclass(hint, (UUID, Enum)):
        return hint
    return lambda value: value
