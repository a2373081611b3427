"""Queues, schedules, pipelines, and the facts about the whole queue."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from django.http import HttpResponse

from djjp import engine, errors, queues, schedules, tokens
from djjp.api import bodies
from djjp.api.bodies import Body
from djjp.api.frame import Call, answer, endpoint, integer
from djjp.api.jobs import seen, shape, wanted
from djjp.api.problems import Problem, wrong
from djjp.api.schemas import FILTER, GLOB, SINCE, Duration, number, text
from djjp.bounds import LONGEST_QUEUE
from djjp.exceptions import JobDoesNotExist, JobNotRegistered
from djjp.jobs.pipeline_handles import get_pipeline
from djjp.models import FINISHED, Schedule, Scope
from djjp.monitoring import Filter, consumers, failures, incidents, shapes
from djjp.monitoring.detection import look
from djjp.monitoring.overview import queue_infos
from djjp.monitoring.pipelines import PipelineInfo, pipeline
from djjp.monitoring.queues import known_queues
from djjp.monitoring.totals import By, totals

_BY: tuple[By, ...] = ("queue", "name", "minute", "hour", "day")


# Queues


class Pause(Body):
    """The pause of a queue."""

    seconds: Duration | None = None


@endpoint("GET", "/v1/queues", answers={200: "Queues"})
def list_queues(call: Call) -> HttpResponse:
    """List the queues with their depths."""
    found = [each for each in queue_infos() if tokens.matches(call.token.queues, each.name)]
    return answer({"queues": [shapes.queue(each) for each in found]})


def _pausable(call: Call, name: str) -> None:
    if not tokens.matches(call.token.queues, name) or call.token.jobs != "*":
        raise Problem(errors.FORBIDDEN, "the token is not for all jobs of this queue")
    try:
        queues.validate_name(name)
    except ValueError as error:
        raise Problem(errors.USAGE, str(error)) from None


@endpoint(
    "PUT",
    "/v1/queues/{path:name}/pause",
    Scope.OPERATE,
    body=Pause,
    answers={200: "Pause"},
    problems=[errors.USAGE],
)
def pause(call: Call, name: str) -> HttpResponse:
    """Pause a queue, for some seconds or until it is resumed; any name can be paused."""
    _pausable(call, name)
    given = bodies.read(call.request, Pause) if _has_body(call) else Pause()
    try:
        until = queues.pause(name, given.seconds)
    except ValueError as error:
        raise wrong("#/seconds", str(error)) from None
    return answer(shapes.pause(name, True, until))


def _has_body(call: Call) -> bool:
    length = call.request.headers.get("Content-Length", "")
    return length not in ("", "0") or "Transfer-Encoding" in call.request.headers


@endpoint(
    "DELETE",
    "/v1/queues/{path:name}/pause",
    Scope.OPERATE,
    answers={200: "Pause"},
    problems=[errors.QUEUE_NOT_FOUND, errors.USAGE],
)
def resume(call: Call, name: str) -> HttpResponse:
    """Resume a paused queue."""
    _pausable(call, name)
    if not queues.resume(name) and name not in known_queues():
        raise Problem(errors.QUEUE_NOT_FOUND, f"there is no queue {name[:100]!r}")
    return answer(shapes.pause(name, False, None))


# Schedules


@endpoint("GET", "/v1/schedules", answers={200: "Schedules"})
def list_schedules(call: Call) -> HttpResponse:
    """List the schedules with their next and last occurrences."""
    found = [row for row in schedules.listing() if tokens.matches(call.token.jobs, row.job)]
    return answer({"schedules": [shapes.schedule(row) for row in found]})


def _schedule(call: Call, name: str) -> Schedule:
    for row in schedules.listing():
        if row.name == name and tokens.matches(call.token.jobs, row.job):
            return row
    raise Problem(errors.SCHEDULE_NOT_FOUND, f"there is no schedule {name[:100]!r}")


_OF_SCHEDULE = [errors.SCHEDULE_NOT_FOUND]


@endpoint(
    "POST",
    "/v1/schedules/{path:name}/run",
    Scope.OPERATE,
    answers={200: "AnyJob"},
    problems=[*_OF_SCHEDULE, errors.CONFLICT],
)
def run_schedule(call: Call, name: str) -> HttpResponse:
    """Enqueue the job of a schedule now, beside its occurrences."""
    row = _schedule(call, name)
    try:
        handle = schedules.run_now(row)
    except (JobNotRegistered, ValueError, TypeError) as error:
        raise Problem(errors.CONFLICT, f"the schedule cannot run: {error}") from None
    return answer(shape(call, seen(call, str(handle.id))))


@endpoint(
    "POST",
    "/v1/schedules/{path:name}/enable",
    Scope.OPERATE,
    answers={200: "Schedule"},
    problems=_OF_SCHEDULE,
)
def enable(call: Call, name: str) -> HttpResponse:
    """Enable a schedule: it runs from its next occurrence on."""
    return _switched(call, name, enabled=True)


@endpoint(
    "POST",
    "/v1/schedules/{path:name}/disable",
    Scope.OPERATE,
    answers={200: "Schedule"},
    problems=_OF_SCHEDULE,
)
def disable(call: Call, name: str) -> HttpResponse:
    """Disable a schedule until it is enabled."""
    return _switched(call, name, enabled=False)


def _switched(call: Call, name: str, *, enabled: bool) -> HttpResponse:
    row = _schedule(call, name)
    if row.enabled != enabled:
        engine.run(lambda engine: engine.schedules.enable([row.pk], enabled, time.time()))
    return answer(shapes.schedule(_schedule(call, name)))


# Pipelines


_OF_PIPELINE = [errors.PIPELINE_NOT_FOUND]


def _pipeline(call: Call, id: str) -> PipelineInfo:
    problem = Problem(errors.PIPELINE_NOT_FOUND, f"there is no pipeline {id[:100]}")
    try:
        found = pipeline(UUID(id))
    except (ValueError, JobDoesNotExist):
        raise problem from None
    steps = found.graph.steps
    if not tokens.is_for_all(call.token) and not (
        found.is_exact and all(tokens.covers(call.token, step.name, step.queue) for step in steps)
    ):
        raise problem
    return found


@endpoint("GET", "/v1/pipelines/{id}", answers={200: "Pipeline"}, problems=_OF_PIPELINE)
def one_pipeline(call: Call, id: str) -> HttpResponse:
    """Return a pipeline with its steps."""
    return answer(shapes.pipeline(_pipeline(call, id)))


@endpoint(
    "POST",
    "/v1/pipelines/{id}/cancel",
    Scope.OPERATE,
    answers={200: "Pipeline"},
    problems=[*_OF_PIPELINE, errors.CONFLICT],
)
def cancel_pipeline(call: Call, id: str) -> HttpResponse:
    """Cancel the steps of a pipeline that have not ended."""
    found = _pipeline(call, id)
    if found.state in FINISHED:
        raise Problem(errors.CONFLICT, f"the pipeline is {found.state}: it has ended")
    get_pipeline(found.id).cancel()
    return answer(shapes.pipeline(_pipeline(call, id)))


@endpoint(
    "POST",
    "/v1/pipelines/{id}/retry",
    Scope.OPERATE,
    answers={200: "Pipeline"},
    problems=[*_OF_PIPELINE, errors.CONFLICT],
)
def retry_pipeline(call: Call, id: str) -> HttpResponse:
    """Run the steps of a pipeline again that have failed or were cancelled."""
    found = _pipeline(call, id)
    if found.outbox is not None or not get_pipeline(found.id).retry():
        raise Problem(
            errors.CONFLICT, f"the pipeline is {found.state}: nothing of it can run again"
        )
    return answer(shapes.pipeline(_pipeline(call, id)))


# The whole queue


@endpoint("GET", "/v1/consumers", concerns_all=True, answers={200: "Consumers"})
def list_consumers(call: Call) -> HttpResponse:
    """List the consumers with the jobs that they run."""
    return answer({"consumers": [shapes.consumer(each) for each in consumers()]})


@endpoint(
    "GET",
    "/v1/stats",
    concerns_all=True,
    query={"since": SINCE, "by": {"enum": [*_BY]}, "queue": text(LONGEST_QUEUE), "name": GLOB},
    answers={200: "Stats"},
    problems=[errors.INVALID_FILTER],
)
def stats(call: Call) -> HttpResponse:
    """Return exact figures of what has ended since a time, an hour ago by default."""
    query = call.request.GET
    given = {key: query.get(key) for key in ("queue", "name")}
    chosen = Filter.of({**given, "since": query.get("since", "1h")}).fixed(time.time())
    by = next((each for each in _BY if each == query.get("by")), None)
    if by is None and "by" in query:
        raise Problem(errors.USAGE, f"by must be one of {', '.join(_BY)}")
    since: Any = chosen.since
    found = totals(since, queue=given["queue"], name=given["name"], by=by or "none")
    depths = [each for each in queue_infos() if given["queue"] in (None, each.name)]
    return answer(shapes.stats(found, depths, since=since, by=by))


@endpoint(
    "GET",
    "/v1/failures",
    concerns_all=True,
    query={**FILTER, "limit": number(200, 20)},
    answers={200: "Failures"},
    problems=[errors.INVALID_FILTER],
)
def list_failures(call: Call) -> HttpResponse:
    """List failed attempts in groups: by job, exception and place in the project's code."""
    found = failures(wanted(call), limit=integer(call, "limit", 20, 1, 200))
    document = shapes.failures(found)
    if not call.token.arguments:  # messages can have arguments in them
        for group in document["failures"]:
            group["message"] = ""
    return answer(document)


@endpoint(
    "GET",
    "/v1/incidents",
    concerns_all=True,
    query={"open": {"type": "boolean"}, "since": SINCE, "limit": number(200, 20)},
    answers={200: "Incidents"},
    problems=[errors.INVALID_FILTER],
)
def list_incidents(call: Call) -> HttpResponse:
    """List what is wrong with the queue, worst first, then what was, newest first."""
    only = call.request.GET.get("open", "false")
    if only not in ("true", "false"):
        raise Problem(errors.USAGE, "open must be true or false")
    since: Any = Filter.of({"since": call.request.GET.get("since")}).fixed(time.time()).since
    limit = integer(call, "limit", 20, 1, 200)
    look()
    found = incidents(open_only=only == "true", since=since, limit=limit)
    return answer({"incidents": [shapes.incident(each) for each in found]})


# Health


@endpoint("GET", "/v1/health/live", None, answers={200: "Health"})
def live(call: Call) -> HttpResponse:
    """Answer while this process serves requests."""
    return answer({"status": "live"})


@endpoint("GET", "/v1/health/ready", None, answers={200: "Health"})
def ready(call: Call) -> HttpResponse:
    """Answer while the queue's database can take jobs; 503 if it does not."""
    engine.run(lambda engine: engine.queues.paused(time.time()))
    return answer({"status": "ready"})
