"""OpenTelemetry: a span around each enqueue and each run, in one trace from a request to the last attempt.

`DJJP["instruments"]` names `djjp.contrib.opentelemetry.Tracing`. The trace travels in the context of the job, as
W3C trace context. `docs/tracing.md` has the spans and their attributes. It needs `djjp[opentelemetry]`.

A run is a child of the enqueue, except where that has enqueued more than `MOST_CHILDREN` jobs, and in what
`expand()` makes: there each run is a trace of its own with a link, because nobody can read a trace of
thousands of spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from djjp.exceptions import Retry
from djjp.instruments import Call, Instrument, JobRun

__all__ = ["Tracing"]

#: The number of jobs of one enqueue up to which their runs are in its trace.
MOST_CHILDREN = 100
#: The key of the context that has the jobs of a pipeline whose runs are in its trace, [] for none.
CHILDREN = "tracechildren"

_NO_SDK = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_propagator = TraceContextTextMapPropagator()


class Tracing(Instrument):
    """The instrument that makes spans with the tracer provider of the process; without one it does nothing."""

    def enqueue(
        self, calls: Sequence[Call], context: dict[str, Any]
    ) -> AbstractContextManager[object]:
        """Return the span of an enqueue, and put its trace into the context."""
        return _enqueue(calls, context) if _has_sdk() else nullcontext()

    def run(self, job: JobRun) -> AbstractContextManager[object]:
        """Return the span of a run."""
        return _run(job) if _has_sdk() else nullcontext()


def _has_sdk() -> bool:
    return not isinstance(trace.get_tracer_provider(), _NO_SDK)


@contextmanager
def _enqueue(calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
    with trace.get_tracer("djjp").start_as_current_span(
        f"enqueue {_subject(calls)}", kind=SpanKind.PRODUCER, attributes=_of_calls(calls)
    ):
        _propagator.inject(context)
        if len(calls) > MOST_CHILDREN:
            context[CHILDREN] = []
        elif any(call.pipeline is not None for call in calls):
            context[CHILDREN] = [_short(call.id) for call in calls]
        yield


def _subject(calls: Sequence[Call]) -> str:
    if any(call.pipeline is not None for call in calls):
        return "pipeline"
    names = {call.name for call in calls}
    return names.pop() if len(names) == 1 else "batch"


def _of_calls(calls: Sequence[Call]) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "messaging.system": "djjp",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
    }
    of_all = {
        "messaging.destination.name": {call.queue for call in calls},
        "djjp.job.name": {call.name for call in calls},
        "djjp.pipeline.id": {str(call.pipeline) for call in calls if call.pipeline},
        "djjp.schedule": {call.schedule for call in calls if call.schedule},
    }
    found |= {key: values.pop() for key, values in of_all.items() if len(values) == 1}
    if len(calls) == 1:
        found["messaging.message.id"] = str(calls[0].id)
    else:
        found["messaging.batch.message_count"] = len(calls)
    return found


@contextmanager
def _run(job: JobRun) -> Iterator[None]:
    parent, links = _origin(job)
    with trace.get_tracer("djjp").start_as_current_span(
        f"run {job.name}",
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes=_of_run(job),
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        finally:
            _end(span, job)


def _origin(job: JobRun) -> tuple[Context, list[Link]]:
    """Return the parent of a run, and its links: one of them is the enqueue, if that has a trace."""
    origin = _propagator.extract(
        {key: each for key, each in job.context.items() if isinstance(each, str)}, Context()
    )
    children = job.context.get(CHILDREN)
    if not isinstance(children, list) or _short(job.id) in children:
        return origin, []
    enqueue = trace.get_current_span(origin).get_span_context()
    return Context(), [Link(enqueue)] if enqueue.is_valid else []


def _short(id: UUID) -> str:
    """Return the random end of an id: 100 of them fit into a context."""
    return id.hex[-8:]


def _of_run(job: JobRun) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "messaging.system": "djjp",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": job.queue,
        "messaging.message.id": str(job.id),
        "messaging.client.id": job.consumer,
        "djjp.job.name": job.name,
        "djjp.job.attempt": job.attempt,
        "djjp.job.rescues": job.rescues,
    }
    return found if job.waited is None else found | {"djjp.job.waited": job.waited}


def _end(span: Span, job: JobRun) -> None:
    if job.outcome is not None:
        span.set_attribute("djjp.job.outcome", job.outcome)
    error = job.exception
    if (
        error is None
        or job.outcome == "cancelled"
        or (isinstance(error, Retry) and job.outcome == "retry")
    ):
        return
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    span.record_exception(error)
    span.set_attribute("error.type", name)
    span.set_status(Status(StatusCode.ERROR, f"{name}: {error}"))
