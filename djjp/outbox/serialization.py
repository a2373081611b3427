"""A new job, or a new pipeline with all its jobs, as text, field by field.

Rows outlive a deployment: fields of the text that this code does not know are ignored, and fields that the
text lacks get their defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from djjp import bounds, call_options
from djjp.engine import Edge, NewJob, NewPipeline
from djjp.instruments import LONGEST_CONTEXT
from djjp.models import Flag, State

_REQUIRED = {*NewJob._fields} - {*NewJob._field_defaults}
_STATES = (State.READY, State.SCHEDULED)
_MOST = {"flags": 2**31 - 1, "waits_for": 2**31 - 1, "limit_max": 2**31 - 1}
_NEEDED = {
    Flag.LIMITED: ("limit_key", "limit_max"),
    Flag.RATE_LIMITED: ("limit_key", "limit_max", "limit_per"),
    Flag.UNIQUE: ("unique_key",),
    Flag.EXPIRES: ("expires_at",),
    Flag.OPTIONS: ("options",),
    Flag.TAGGED: ("options",),
}
_PATH = re.compile(r"!|-|(\d{1,9}\??(/\d{1,9}\??)*(/-)?)?")


def to_text(job: NewJob | NewPipeline) -> str:
    """Return a job or a pipeline as text."""
    if isinstance(job, NewPipeline):
        fields = job._asdict()
        fields["jobs"] = [_fields(each) for each in job.jobs]
    else:
        fields = _fields(job)
    return json.dumps(fields, default=_json_value, separators=(",", ":"))


def _fields(job: NewJob) -> dict[str, Any]:
    fields = job._asdict()
    if job.context is None:  # as a rule
        del fields["context"]
    return fields


def from_text(text: str) -> NewJob | NewPipeline:
    """Return the job or the pipeline that a text describes.

    Raises:
        ValueError: the text describes neither.
    """
    try:
        fields = json.loads(text)
        if "edges" not in fields:
            return _job(fields)
        edges = [Edge(UUID(parent), UUID(child), path) for parent, child, path in fields["edges"]]
        return NewPipeline(UUID(fields["id"]), [_job(each) for each in fields["jobs"]], edges)
    except (TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"this is no job: {error}") from error


def steps_of(unit: NewJob | NewPipeline) -> list[NewJob]:
    """Return the one job, or all jobs of the pipeline."""
    return unit.jobs if isinstance(unit, NewPipeline) else [unit]


def validate(unit: NewJob | NewPipeline) -> None:
    """Raise ValueError if the queue could not take a job, or could never run it: no code may have written it."""
    for job in steps_of(unit):
        _validate_job(job, in_graph=isinstance(unit, NewPipeline))
    if isinstance(unit, NewPipeline):
        if not unit.jobs:
            raise ValueError("the pipeline has no jobs")
        parents = {job.id for job in unit.jobs}
        children = parents | {unit.id}
        for parent, child, path in unit.edges:
            if parent not in parents or child not in children or not _is_path(path):
                raise ValueError(f"{path!r} from {parent} to {child} is no edge of the pipeline")


def _validate_job(job: NewJob, *, in_graph: bool) -> None:
    bounds.require_text("name", job.name, bounds.LONGEST_NAME)
    bounds.require_text("queue", job.queue, bounds.LONGEST_QUEUE)
    bounds.require_priority("priority", job.priority)
    bounds.require_time("created_at", job.created_at)
    _require_number("flags", job.flags)
    _require_number("waits_for", job.waits_for)
    if job.state not in ((*_STATES, State.BLOCKED) if in_graph else _STATES):
        raise ValueError(f"state is {job.state}; a job is not enqueued in it")
    if job.state == State.SCHEDULED and job.run_after is None:
        raise ValueError("run_after is missing; a scheduled job needs it")
    for option, require in _REQUIRE.items():
        if (value := getattr(job, option)) is not None:
            require(option, value)
    for flag, options in _NEEDED.items():
        if job.flags & flag and any(getattr(job, option) is None for option in options):
            raise ValueError(f"flags is {job.flags}, but {' or '.join(options)} is missing")
    bounds.require_payload(job.arguments)


def _require_key(option: str, value: object) -> None:
    bounds.require_text(option, value, bounds.LONGEST_KEY)


def _require_number(option: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= _MOST[option]:
        raise ValueError(f"{option} is {value!r}; it must be a whole number up to {_MOST[option]}")


def _require_span(option: str, value: object) -> None:
    bounds.require_time(option, value)
    if not value:
        raise ValueError(f"{option} is 0; it must be above")


def _require_context(option: str, value: object) -> None:
    bounds.require_text(option, value, LONGEST_CONTEXT)


#: What each column takes that can be without a value.
_REQUIRE: Mapping[str, Callable[[str, object], None]] = {
    "run_after": bounds.require_time,
    "expires_at": bounds.require_time,
    "unique_key": _require_key,
    "limit_key": _require_key,
    "limit_per": _require_span,
    "limit_max": _require_number,
    "options": call_options.require_text,
    "context": _require_context,
}


def _is_path(path: object) -> bool:
    return isinstance(path, str) and len(path) <= 1000 and _PATH.fullmatch(path) is not None


def cancelled(unit: NewJob | NewPipeline) -> NewJob | NewPipeline:
    """Return the same job or pipeline, changed so that it enters the queue as cancelled."""
    if isinstance(unit, NewPipeline):
        return unit._replace(jobs=[job._replace(state=State.CANCELLED) for job in unit.jobs])
    return unit._replace(state=State.CANCELLED)


def _job(fields: Any) -> NewJob:
    if not fields.keys() >= _REQUIRED:
        missing = ", ".join(sorted(_REQUIRED - fields.keys()))
        raise ValueError(f"this is no job: it lacks {missing}")
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
