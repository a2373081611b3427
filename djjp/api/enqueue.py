"""Enqueue over HTTP: one job, or a batch of which all are enqueued or none.

It takes place in no transaction of the application: what is answered with 201 is committed.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.http import HttpResponse
from pydantic import Field

from djjp import codec, engine, errors, tokens
from djjp.api import bodies
from djjp.api.arguments import misfits
from djjp.api.bodies import Body, pointer
from djjp.api.frame import Call, answer, endpoint
from djjp.api.jobs import shape
from djjp.api.problems import Problem, wrong
from djjp.api.schemas import Moment, Priority, QueueName, Seconds, Tags, UniqueKey
from djjp.bounds import to_time
from djjp.engine import Engine, KeyHolders, NewJob
from djjp.engine.idempotency import Answered, Request
from djjp.exceptions import EncodeError, PayloadTooLarge
from djjp.jobs import RegisteredJob, registry
from djjp.jobs.enqueue import enqueue_apart
from djjp.jobs.reading import load_errors
from djjp.models import Job, Scope
from djjp.monitoring.one_job import JobInFull

#: The jobs of a batch at most.
MOST = 1_000
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_OPTIONS = ("queue", "priority", "run_after", "unique_key", "tags")
# One answer, whatever the reason: a client without the right learns no names.
_NO_JOB = "no job of this name can be enqueued here"

_HEADERS = {
    "Idempotency-Key": "1 to 255 characters; a repeat within 24 hours enqueues nothing, and has the same answer"
}
_PROBLEMS = [
    errors.NOT_REGISTERED,
    errors.CONFLICT,
    errors.IDEMPOTENCY_MISMATCH,
]


class NewCall(Body):
    """A call of a job. Values that JSON lacks are written as the codec writes them."""

    name: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = None
    priority: Priority | None = None
    run_after: Moment | Seconds | None = None
    unique_key: UniqueKey | None = None
    tags: Tags = Field(default_factory=list)


class Batch(Body):
    """Calls that are enqueued together: all of them, or none."""

    jobs: list[NewCall] = Field(min_length=1, max_length=MOST)


class _Written(NamedTuple):
    ids: list[UUID]
    is_new: bool


@endpoint(
    "POST",
    "/v1/jobs",
    Scope.ENQUEUE,
    body=NewCall,
    headers=_HEADERS,
    answers={201: "AnyJob", 200: "AnyJob"},
    problems=_PROBLEMS,
)
def enqueue(call: Call) -> HttpResponse:
    """Enqueue a job. 200 if a job has the unique key already, or if the request is a repeat."""
    given = bodies.read(call.request, NewCall)
    row = _row(call, given, ())
    written = _write(call, [row], given)
    id = written.ids[0]
    found = _load(id)
    if found is None:
        raise Problem(errors.CONFLICT, f"the request enqueued job {id}, which was deleted since")
    if not call.sees(found.row):
        raise Problem(errors.CONFLICT, "a job that the token is not for has the unique key")
    place = {"Location": f"{call.request.path.rstrip('/')}/{id}"}
    if not written.is_new:
        return answer(shape(call, found), Idempotent_Replayed="true", **place)
    return answer(shape(call, found), 201 if id == row.id else 200, **place)


@endpoint(
    "POST",
    "/v1/jobs/batch",
    Scope.ENQUEUE,
    body=Batch,
    headers=_HEADERS,
    answers={201: "Ids", 200: "Ids"},
    problems=_PROBLEMS,
)
def enqueue_batch(call: Call) -> HttpResponse:
    """Enqueue up to 1,000 jobs, all or none. 200 if the request is a repeat."""
    given = bodies.read(call.request, Batch)
    rows, found = [], list[Any]()
    unknown: Problem | None = None
    for place, each in enumerate(given.jobs):
        try:
            rows.append(_row(call, each, ("jobs", place)))
        except Problem as problem:
            unknown = unknown or (None if problem.kind is errors.INVALID_BODY else problem)
            found += problem.errors or [
                {"pointer": pointer("jobs", place, "name"), "detail": problem.detail}
            ]
    if found:
        kind = errors.INVALID_BODY if unknown is None else unknown.kind
        text = f"{found[0]['pointer']}: {found[0]['detail']}; nothing was enqueued"
        raise Problem(kind, text, found[: bodies.MOST_ERRORS])
    written = _write(call, rows, given)
    document = {"jobs": [{"id": str(id)} for id in written.ids]}
    if not written.is_new:
        return answer(document, Idempotent_Replayed="true")
    return answer(document, 201)


def _row(call: Call, given: NewCall, base: tuple[str | int, ...]) -> NewJob:
    """Return the row of a call.

    Args:
        base: the place of the call in the body.
    """
    job = registry.find(given.name)
    if job is None or not job.options.api or not tokens.matches(call.token.jobs, given.name):
        raise Problem(errors.NOT_REGISTERED, _NO_JOB)
    job = _with_options(job, given, base)
    if not tokens.matches(call.token.queues, job.options.queue):
        raise Problem(errors.FORBIDDEN, "the token is not for this queue")
    args = _decoded(call, given.args, (*base, "args"))
    kwargs = _decoded(call, given.kwargs, (*base, "kwargs"))
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise wrong(pointer(*base, "kwargs"), "kwargs must be an object with names")
    if found := misfits(job, args, kwargs):
        placed = [{**each, "pointer": pointer(*base) + each["pointer"][1:]} for each in found]
        raise Problem(errors.INVALID_BODY, placed[0]["detail"], placed)
    try:
        return job.bind(*args, **kwargs).to_row()
    except PayloadTooLarge as error:
        raise Problem(errors.PAYLOAD_TOO_LARGE, str(error)) from None
    except (EncodeError, ValueError, TypeError) as error:
        raise _wrong_value(call, pointer(*base, "kwargs"), error) from None


def _wrong_value(call: Call, place: str, error: Exception) -> Problem:
    """Return the problem of an argument that cannot be read or stored; the error quotes it."""
    return wrong(
        place, str(error) if call.token.arguments else "it has a value that cannot be read"
    )


def _with_options(
    job: RegisteredJob[..., Any], given: NewCall, base: tuple[str | int, ...]
) -> RegisteredJob[..., Any]:
    """Return a job with the options of a call."""
    found = []
    for option in _OPTIONS:
        value = getattr(given, option)
        if option not in given.model_fields_set or value is None:
            continue
        try:
            if option == "run_after":
                value = _time(value)
            job = job.using(**{option: value})
        except (ValueError, TypeError, OverflowError) as error:
            found.append({"pointer": pointer(*base, option), "detail": str(error)})
    if found:
        raise Problem(errors.INVALID_BODY, found[0]["detail"], found)
    return job


def _time(value: str | float) -> float | datetime:
    """Return the time of a text in ISO 8601, in UTC unless it has an offset, or seconds from now."""
    if not isinstance(value, str):
        to_time("run_after", value, time.time())
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(
            f"run_after is {value[:100]!r}; it must be a time such as 2026-01-31T12:00:00Z, or seconds"
        ) from None
    if moment.tzinfo is None:
        raise ValueError(f"run_after is {value[:100]!r}; it must have an offset, such as Z")
    return moment


def _decoded(call: Call, value: Any, place: tuple[str | int, ...]) -> Any:
    """Return values of a body as the codec reads them."""
    try:
        return codec.decode_value(json.dumps(value))
    except (ValueError, RecursionError) as error:
        raise _wrong_value(call, pointer(*place), error) from None


def _write(call: Call, rows: Sequence[NewJob], given: Body) -> _Written:
    """Enqueue jobs in a transaction of their own, with the key of the request if it has one."""
    text = call.request.headers.get("Idempotency-Key")
    request = None if text is None else _request(call, text, given)
    answered: list[Answered] = []

    def write(engine: Engine, jobs: Sequence[NewJob]) -> KeyHolders | None:
        if request is None:
            return engine.jobs.enqueue_many(jobs)
        found = engine.idempotency.enqueue(request, jobs, time.time())
        answered[:] = [found]
        return found.held if found.is_new else None

    held = enqueue_apart(rows, write)
    if request is None or held is not None:
        holders = held or {}
        return _Written(
            [holders[row.id].id if row.id in holders else row.id for row in rows], is_new=True
        )
    if answered[0].fingerprint != request.fingerprint:
        detail = "this Idempotency-Key came with another request within 24 hours"
        raise Problem(errors.IDEMPOTENCY_MISMATCH, detail)
    return _Written(answered[0].jobs, is_new=False)


def _request(call: Call, key: str, given: Body) -> Request:
    if not _KEY.fullmatch(key):
        raise Problem(errors.USAGE, "Idempotency-Key must have 1 to 255 printable characters")
    content = json.dumps(given.model_dump(), sort_keys=True)
    digest = hashlib.sha256(f"{call.request.path}\n{content}".encode()).hexdigest()
    return Request(call.token.pk, key, digest)


def _load(id: UUID) -> JobInFull | None:
    def load(engine: Engine) -> JobInFull | None:
        row = Job.objects.using(engine.db.alias).filter(pk=id).first()
        if row is None:
            return None
        return JobInFull(row, load_errors(engine.db.alias, id) if row.attempts else [])

    return engine.run(load)
