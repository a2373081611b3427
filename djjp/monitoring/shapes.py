"""Shapes: facts as the JSON documents that commands print and programs read. `schema.json` describes each.

Times are ISO 8601 in UTC. Arguments and results are as the codec writes them, and nothing is decoded: a row whose
job is gone, or whose text is damaged, has its document too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from djjp import schedules
from djjp.durations import to_seconds, to_utc
from djjp.jobs import shown
from djjp.models import FINISHED, Attempt, Job, Schedule, Token
from djjp.monitoring.causes import Cause
from djjp.monitoring.consumers import ConsumerInfo
from djjp.monitoring.failures import Failures
from djjp.monitoring.incidents import Incident
from djjp.monitoring.jobs import Page
from djjp.monitoring.operations import OperationInfo, Preview
from djjp.monitoring.overview import Overview, QueueInfo
from djjp.monitoring.pipelines import PipelineInfo
from djjp.monitoring.requests import JobStack
from djjp.monitoring.totals import Figures, Histogram

Document = dict[str, Any]


@cache
def schema() -> Document:
    """Return the JSON Schema (2020-12) of all documents; each is in `$defs`."""
    found: Document = json.loads(Path(__file__).with_name("schema.json").read_text("utf-8"))
    return found


def seconds(value: datetime | float) -> float:
    """Return a time in seconds since the epoch."""
    return to_seconds(value) if isinstance(value, datetime) else value


def time(value: datetime | float | None) -> str | None:
    """Return a time in ISO 8601 with microseconds, in UTC."""
    if value is None:
        return None
    return to_utc(seconds(value)).isoformat(timespec="microseconds")[:-6] + "Z"


def job(row: Job) -> Document:
    """Return a job as lists show it: without arguments and result."""
    done, total = row.progress_done, row.progress_total
    return {
        "id": str(row.pk),
        "name": row.name,
        "queue": row.queue,
        "priority": row.priority,
        "state": str(row.state),
        "attempts": row.attempts,
        "rescues": row.rescues,
        "created_at": time(row.created_at),
        "run_after": time(row.run_after),
        "started_at": time(row.started_at),
        "finished_at": time(row.finished_at) if row.state in FINISHED else None,
        "expires_at": time(row.expires_at),
        "consumer": row.consumer,
        "progress": None if done is None else {"done": done, "total": total},
        "tags": row.tags,
        "unique_key": row.unique_key,
        "pipeline": None if row.pipeline is None else str(row.pipeline),
        "reason": row.reason,
    }


def page(found: Page) -> Document:
    """Return a page of jobs."""
    return {
        "jobs": [job(row) for row in found.jobs],
        "next": found.next,
        "looked_back_to": time(found.looked_back_to),
    }


def whole_job(row: Job, errors: list[Attempt]) -> Document:
    """Return a job with its errors, and with its arguments and its result as far as they can be shown."""
    call = _loaded(shown.arguments(row.name, row.arguments, row.flags))
    args, kwargs = (
        (call.get("args"), call.get("kwargs")) if isinstance(call, dict) else (call, None)
    )
    return {
        **job(row),
        "args": args,
        "kwargs": kwargs,
        "result": None if row.result is None else _loaded(shown.result(row.result)),
        "errors": [
            {
                "attempt": error.number,
                "exception_class": error.exception_class,
                "message": error.message,
                "traceback": error.traceback,
                "finished_at": time(error.finished_at),
            }
            for error in errors
        ],
    }


def _loaded(text: str) -> Any:
    """Return the codec's text as JSON; a text that is damaged as it is."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, TypeError, RecursionError):
        return text


def pause(name: str, paused: bool, until: datetime | None) -> Document:
    """Return what a pause or a resume has changed."""
    return {"name": name, "paused": paused, "paused_until": time(until)}


def consumer(info: ConsumerInfo) -> Document:
    """Return a consumer with the jobs that it runs."""
    return {
        "name": info.name,
        "life": str(info.life),
        "quiet": info.quiet,
        "queues": info.queues,
        "busy": info.busy,
        "limit": info.limit,
        "ahead": info.claimed_ahead,
        "concurrency": info.concurrency,
        "started_at": time(info.started_at),
        "heartbeat_at": time(info.heartbeat_at),
        "release": info.release or None,
        "runs": [
            {"name": runs.name, "jobs": runs.jobs, "since": time(runs.since)} for runs in info.runs
        ],
    }


def job_stack(found: JobStack) -> Document:
    """Return the stacks of a running job."""
    return {
        "id": str(found.id),
        "name": found.name,
        "queue": found.queue,
        "since": time(found.since),
        "stacks": [
            {
                "kind": stack.kind,
                "task": stack.task or None,
                "calls": [call._asdict() for call in stack.calls],
            }
            for stack in found.stacks
        ],
    }


def queue(info: QueueInfo) -> Document:
    """Return a queue as it is now."""
    return {
        "name": info.name,
        **info.counts,
        "lower_bounds": info.lower_bounds,
        "oldest_wait": info.oldest_wait,
        "in_per_minute": info.in_per_minute,
        "out_per_minute": info.out_per_minute,
        "paused": info.is_paused,
        "paused_until": time(info.paused_until),
        "served_by": info.served_by,
    }


def overview(found: Overview) -> Document:
    """Return what the queue does now."""
    return {
        "ok": not found.incidents,
        "sentence": found.sentence,
        "incidents": [incident(each) for each in found.incidents],
        "queues": [queue(each) for each in found.queues],
        "consumers": [consumer(each) for each in found.consumers],
        "overdue_schedules": [schedule(each) for each in found.overdue],
        "outboxes": [each._asdict() for each in found.outboxes],
    }


def failures(found: Failures) -> Document:
    """Return groups of failed attempts."""
    return {
        "failures": [
            {
                "name": group.name,
                "exception_class": group.exception_class,
                "frame": None if group.frame is None else group.frame._asdict(),
                "message": group.message,
                "count": group.count,
                "newest": time(group.newest),
                "oldest": time(group.oldest),
                "example": str(group.example),
                "counts": group.counts,
            }
            for group in found.groups
        ],
        "since": time(found.since),
        "until": time(found.until),
        "looked_back_to": time(found.looked_back_to),
    }


def stats(
    found: Sequence[Figures],
    queues: Sequence[QueueInfo],
    *,
    since: datetime,
    by: str | None,
) -> Document:
    """Return what has ended since a time, and how many jobs wait and run now.

    Args:
        queues: those whose jobs count as live.
        by: what `found` is grouped by; None for one group.
    """
    return {
        "since": time(since),
        "until": time(datetime.now(UTC)),
        "by": by,
        "live": sum(each.counts["ready"] + each.counts["running"] for each in queues),
        "stats": [figures(each) for each in found],
    }


def figures(each: Figures) -> Document:
    """Return what has ended, of one group."""
    return {
        "queue": each.queue or None,
        "name": each.name or None,
        "starts_at": time(each.starts_at),
        "succeeded": each.succeeded,
        "failed": each.failed,
        "cancelled": each.cancelled,
        "retried": each.retried,
        "rescued": each.rescued,
        "late": each.late,
        "wait": _durations(each.waits),
        "run": _durations(each.runs),
    }


def _durations(found: Histogram) -> Document:
    return {
        "count": found.count,
        "seconds": found.seconds,
        "p50": found.percentile(50),
        "p95": found.percentile(95),
        "p99": found.percentile(99),
        "buckets": {str(bucket): number for bucket, number in sorted(found.buckets.items())},
    }


def incident(found: Incident) -> Document:
    """Return an incident with its sentence and its remedy."""
    return {
        "id": str(found.id),
        "kind": found.kind,
        "subject": found.subject,
        "severity": found.severity,
        "opened_at": time(found.opened_at),
        "seen_at": time(found.seen_at),
        "closed_at": time(found.closed_at),
        "sentence": found.sentence,
        "remedy": found.remedy,
        "facts": found.facts,
    }


def explanation(row: Job, causes: Sequence[Cause]) -> Document:
    """Return a job with the causes that keep it from running, worst first."""
    return {"job": job(row), "causes": [cause._asdict() for cause in causes]}


def operation(info: OperationInfo) -> Document:
    """Return an operation with what it has done."""
    return {
        "id": str(info.id),
        "verb": str(info.verb),
        "argument": info.argument or None,
        "filter": info.filter,
        "state": str(info.state),
        "matched": info.matched,
        "done": info.done,
        "skipped": info.skipped,
        "requested_by": info.requested_by,
        "error": info.error or None,
        "created_at": time(info.created_at),
        "started_at": time(info.started_at),
        "finished_at": time(info.finished_at),
    }


def preview(found: Preview) -> Document:
    """Return what an operation would do."""
    return {
        "verb": str(found.verb),
        "dry_run": True,
        "matched": found.matched,
        "has_more": found.has_more,
        "sampled": found.sampled,
        "possible": found.possible,
        "skipped": found.skipped,
    }


def pipeline(info: PipelineInfo) -> Document:
    """Return a pipeline with its steps and its `on_failure` jobs."""
    done, total = info.progress
    return {
        "id": str(info.id),
        "state": str(info.state),
        "sentence": info.sentence,
        "progress": {"done": done, "total": total},
        "counts": info.counts,
        "has_more": not info.is_exact,
        "created_at": time(info.created_at),
        "started_at": time(info.started_at),
        "finished_at": time(info.finished_at),
        "outbox": info.outbox,
        "steps": [
            {
                "id": str(step.id),
                "name": step.name,
                "queue": step.queue,
                "state": step.state,
                "attempts": step.attempts,
                "on_failure": step.is_on_failure,
            }
            for step in info.graph.steps
            if not step.is_hidden
        ],
    }


def schedule(row: Schedule) -> Document:
    """Return a schedule with its next occurrence, or why this process cannot fire it."""
    problem = schedules.problem(row)
    following = schedules.next_occurrence(row) if row.enabled and problem is None else None
    return {
        "name": row.name,
        "job": row.job,
        "source": str(row.source),
        "cron": row.cron or None,
        "tz": row.tz or None,
        "every": None if row.every is None else row.every.total_seconds(),
        "catch_up": str(row.catch_up),
        "enabled": row.enabled,
        "next_at": time(following),
        "last_at": time(row.last_occurrence),
        "last_job": None if row.last_job is None else str(row.last_job),
        "problem": problem,
    }


def token(row: Token) -> Document:
    """Return a token, of which nothing shows the text."""
    return {
        "name": row.name,
        "scope": row.scope,
        "jobs": row.jobs,
        "queues": row.queues,
        "arguments": row.arguments,
        "created_at": time(row.created_at),
        "expires_at": time(row.expires_at),
        "last_used_at": time(row.last_used_at),
    }
