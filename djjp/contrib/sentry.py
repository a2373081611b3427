"""Sentry: errors of jobs with their facts, spans of the queue, and check-ins of schedules.

`DJJP["instruments"]` names `djjp.contrib.sentry.Reporting`. `docs/sentry.md` has what is sent. It needs
`djjp[sentry]`, and a process in which `sentry_sdk.init()` was called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import sentry_sdk
from django.conf import settings
from sentry_sdk.utils import event_from_exception

from djjp import redaction
from djjp.instruments import Call, Instrument, JobRun
from djjp.jobs import registry

__all__ = ["Reporting", "ReportingWithArguments"]

#: The key of the context that has the name of the schedule that has fired the job.
SCHEDULE = "sentry-schedule"

# A longer one would take the place of the rest of the context.
_LONGEST_BAGGAGE = 2000
_TRACE, _BAGGAGE = "sentry-trace", "baggage"
_CHECK_INS = {"succeeded": "ok", "cancelled": "ok", "failed": "error"}


class Reporting(Instrument):
    """The instrument that reports to Sentry. In a process without a client it does nothing.

    Attributes:
        sends_arguments: whether the values of variables are in the frames of errors, the arguments among them.
    """

    sends_arguments = False

    def enqueue(
        self, calls: Sequence[Call], context: dict[str, Any]
    ) -> AbstractContextManager[object]:
        """Return the span of an enqueue, and put its trace into the context."""
        return _enqueue(calls, context) if sentry_sdk.is_initialized() else nullcontext()

    def run(self, job: JobRun) -> AbstractContextManager[object]:
        """Return the scope and the transaction of a run."""
        return _run(job, self.sends_arguments) if sentry_sdk.is_initialized() else nullcontext()


class ReportingWithArguments(Reporting):
    """An instrument that also sends the values of variables, redacted as `DJJP["redact"]` has it."""

    sends_arguments = True


@contextmanager
def _enqueue(calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
    names, queues = {call.name for call in calls}, {call.queue for call in calls}
    name = names.pop() if len(names) == 1 else "several jobs"
    with sentry_sdk.start_span(op="queue.publish", name=name) as span:
        span.set_data("messaging.system", "djjp")
        if len(queues) == 1:
            span.set_data("messaging.destination.name", queues.pop())
        if len(calls) == 1:
            span.set_data("messaging.message.id", str(calls[0].id))
        else:
            span.set_data("messaging.batch.message_count", len(calls))
        if trace := sentry_sdk.get_traceparent():
            context[_TRACE] = trace
        baggage = sentry_sdk.get_baggage()
        if baggage and len(baggage) <= _LONGEST_BAGGAGE:
            context[_BAGGAGE] = baggage
        if len(calls) == 1 and calls[0].schedule is not None:
            context[SCHEDULE] = calls[0].schedule
        yield


@contextmanager
def _run(job: JobRun, sends_arguments: bool) -> Iterator[None]:
    with sentry_sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        scope.set_tag("djjp.job", job.name)
        scope.set_tag("djjp.queue", job.queue)
        scope.set_context("djjp", _facts(job))
        scope.add_event_processor(_with_redacted if sends_arguments else _without_arguments)
        headers = {key: job.context[key] for key in (_TRACE, _BAGGAGE) if _is_text(job, key)}
        _check_in(job)
        transaction = sentry_sdk.continue_trace(
            headers, op="queue.process", name=job.name, source="task"
        )
        with sentry_sdk.start_transaction(transaction):
            transaction.set_data("messaging.system", "djjp")
            transaction.set_data("messaging.destination.name", job.queue)
            transaction.set_data("messaging.message.id", str(job.id))
            transaction.set_data("messaging.message.retry.count", job.attempt - 1)
            if job.waited is not None:
                transaction.set_data("messaging.message.receive.latency", job.waited * 1000)
            try:
                yield
            finally:
                transaction.set_status("internal_error" if job.outcome == "failed" else "ok")
                scope.set_context("djjp", _facts(job))
                _report(job)
                _check_in(job)


def _is_text(job: JobRun, key: str) -> bool:
    return isinstance(job.context.get(key), str)


def _facts(job: JobRun) -> dict[str, Any]:
    return {
        "id": str(job.id),
        "name": job.name,
        "queue": job.queue,
        "attempt": job.attempt,
        "rescues": job.rescues,
        "consumer": job.consumer,
        "enqueued_at": job.enqueued_at.isoformat(),
        "started_at": job.started_at.isoformat(),
        "outcome": job.outcome,
    }


def _report(job: JobRun) -> None:
    """Report the exception of a job that has failed for good."""
    if job.outcome == "failed" and job.exception is not None:
        event, hint = event_from_exception(
            job.exception,
            client_options=sentry_sdk.get_client().options,
            mechanism={"type": "djjp", "handled": False},
        )
        sentry_sdk.capture_event(event, hint)


# Arguments


def _without_arguments(event: Any, hint: Any) -> Any:
    """Take the values of variables out of an event."""
    for frame in _frames(event):
        frame.pop("vars", None)
    return event


def _with_redacted(event: Any, hint: Any) -> Any:
    """Redact the values of the variables of an event. Those of djjp's own frames have arguments without names."""
    for frame in _frames(event):
        if str(frame.get("module")).startswith("djjp."):
            frame.pop("vars", None)
        elif "vars" in frame:
            frame["vars"] = _redacted(frame["vars"])
    return event


def _frames(event: Any) -> Iterator[dict[str, Any]]:
    for source in (*_values(event, "exception"), *_values(event, "threads"), event):
        yield from (source.get("stacktrace") or {}).get("frames") or ()


def _values(event: Any, key: str) -> list[Any]:
    return list((event.get(key) or {}).get("values") or ())


def _redacted(given: Any) -> Any:
    if isinstance(given, dict):
        return {
            key: redaction.substitute() if redaction.hides(str(key)) else _redacted(value)
            for key, value in given.items()
        }
    return [_redacted(each) for each in given] if isinstance(given, list) else given


# Check-ins


def _check_in(job: JobRun) -> None:
    """Report to the monitor of a schedule that its job runs, or how it has ended."""
    schedule = job.context.get(SCHEDULE)
    status = "in_progress" if job.outcome is None else _CHECK_INS.get(job.outcome)
    is_repeated = job.outcome is None and (job.attempt > 1 or job.rescues > 0)
    if not isinstance(schedule, str) or status is None or is_repeated:
        return
    config: Any = _monitor(schedule)
    sentry_sdk.crons.capture_checkin(
        monitor_slug=_slug(schedule),
        check_in_id=job.id.hex,
        status=status,
        monitor_config=config,
    )


def _slug(name: str) -> str:
    """Return the name of the monitor of a schedule: Sentry allows 50 letters, digits, - and _."""
    return "".join(each if each.isascii() and each.isalnum() else "-" for each in name.lower())[
        -50:
    ]


def _monitor(schedule: str) -> dict[str, Any] | None:
    """Return the configuration of the monitor of a schedule in the code; None if Sentry cannot have one.

    A schedule in the code has the name of its job. Sentry has no intervals of parts of a minute.
    """
    job = registry.find(schedule)
    if job is None or not job.options.is_scheduled:
        return None
    options = job.options
    if options.cron:
        return {
            "schedule": {"type": "crontab", "value": options.cron},
            "timezone": options.tz or settings.TIME_ZONE,
        }
    minutes, rest = divmod(_span(options.every), timedelta(minutes=1))
    if rest or not minutes:
        return None
    return {"schedule": {"type": "interval", "value": minutes, "unit": "minute"}}


def _span(every: Any) -> timedelta:
    return every if isinstance(every, timedelta) else timedelta(seconds=float(every or 0))
