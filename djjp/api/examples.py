"""Examples of the bodies and of the answers, by the names of their shapes; a test validates each."""

from __future__ import annotations

from typing import Any

_ID, _PIPELINE = "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722", "01a20ea1-30c5-7899-9bf1-a6a7d8c6d700"
_CREATED, _ENDED = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:01.250000Z"

_JOB = {
    "id": _ID,
    "name": "shop.jobs.add",
    "queue": "default",
    "priority": 0,
    "state": "succeeded",
    "attempts": 1,
    "rescues": 0,
    "created_at": _CREATED,
    "run_after": _CREATED,
    "started_at": "2026-01-31T12:00:01.000000Z",
    "finished_at": _ENDED,
    "expires_at": None,
    "consumer": "web-1:4711",
    "progress": {"done": 2, "total": 2},
    "tags": ["tenant-42"],
    "unique_key": None,
    "pipeline": None,
    "reason": None,
}
_WHOLE_JOB = {**_JOB, "args": [1], "kwargs": {"b": 2}, "result": 3, "errors": []}
_DURATIONS = {
    "count": 1,
    "seconds": 0.25,
    "p50": 0.25,
    "p95": 0.25,
    "p99": 0.25,
    "buckets": {"-2": 1},
}
_FIGURES = {
    "queue": "default",
    "name": None,
    "starts_at": None,
    "succeeded": 1,
    "failed": 0,
    "cancelled": 0,
    "retried": 0,
    "rescued": 0,
    "late": 0,
    "wait": _DURATIONS,
    "run": _DURATIONS,
}
_OPERATION = {
    "id": _ID,
    "verb": "retry",
    "argument": None,
    "filter": "state:failed name:shop.*",
    "state": "done",
    "matched": 3,
    "done": 2,
    "skipped": {"it has not ended": 1},
    "requested_by": "api:reports",
    "error": None,
    "created_at": _CREATED,
    "started_at": _CREATED,
    "finished_at": _ENDED,
}
_QUEUE = {
    "name": "default",
    "ready": 3,
    "scheduled": 0,
    "blocked": 0,
    "running": 1,
    "lower_bounds": [],
    "oldest_wait": 1.5,
    "in_per_minute": 60.0,
    "out_per_minute": 58.0,
    "paused": False,
    "paused_until": None,
    "served_by": ["web-1:4711"],
}
_SCHEDULE = {
    "name": "shop.jobs.report",
    "job": "shop.jobs.report",
    "source": "code",
    "cron": "0 6 * * *",
    "tz": "Europe/Vienna",
    "every": None,
    "catch_up": "once",
    "enabled": True,
    "next_at": "2026-02-01T05:00:00.000000Z",
    "last_at": "2026-01-31T05:00:00.000000Z",
    "last_job": _ID,
    "problem": None,
}
_CONSUMER = {
    "name": "web-1:4711",
    "life": "alive",
    "quiet": False,
    "queues": None,
    "busy": 1,
    "limit": 4,
    "ahead": 0,
    "concurrency": "threads",
    "started_at": _CREATED,
    "heartbeat_at": _ENDED,
    "release": "2026.1",
    "runs": [{"name": "shop.jobs.add", "jobs": 1, "since": _CREATED}],
}

#: One answer of each shape.
OF_SHAPES: dict[str, Any] = {
    "AnyJob": _WHOLE_JOB,
    "Consumers": {"consumers": [_CONSUMER]},
    "Explanation": {
        "job": {**_JOB, "state": "ready", "started_at": None, "finished_at": None},
        "causes": [
            {
                "code": "paused",
                "sentence": "the queue 'default' is paused",
                "remedy": "manage.py djjp resume default",
                "facts": {"until": None},
            }
        ],
    },
    "Failures": {
        "failures": [
            {
                "name": "shop.jobs.add",
                "exception_class": "builtins.ValueError",
                "frame": {"file": "shop/jobs.py", "line": 17, "function": "add"},
                "message": "",
                "count": 3,
                "newest": _ENDED,
                "oldest": _CREATED,
                "example": _ID,
                "counts": [0, 0, 3],
            }
        ],
        "since": _CREATED,
        "until": _ENDED,
        "looked_back_to": None,
    },
    "Health": {"status": "live"},
    "Ids": {"jobs": [{"id": _ID}]},
    "Incidents": {
        "incidents": [
            {
                "id": _ID,
                "kind": "no_consumer",
                "subject": "mail",
                "severity": 1,
                "opened_at": _CREATED,
                "seen_at": _ENDED,
                "closed_at": None,
                "sentence": "no consumer serves the queue mail, in which 3 jobs are ready",
                "remedy": "manage.py start_consumer --queues mail",
                "facts": {"ready": 3},
            }
        ]
    },
    "Jobs": {"jobs": [_JOB], "next": None, "looked_back_to": None},
    "Metrics": '# TYPE djjp_ready gauge\ndjjp_ready{queue="default"} 3.0\n',
    "OpenAPI": {"openapi": "3.1.0", "info": {"title": "djjp", "version": "1.0"}, "paths": {}},
    "Operation": _OPERATION,
    "Operations": {"operations": [_OPERATION]},
    "Pause": {"name": "mail", "paused": True, "paused_until": _ENDED},
    "Pipeline": {
        "id": _PIPELINE,
        "state": "running",
        "sentence": "1 of 2 steps has ended",
        "progress": {"done": 1, "total": 2},
        "counts": {"succeeded": 1, "ready": 1},
        "has_more": False,
        "created_at": _CREATED,
        "started_at": _CREATED,
        "finished_at": None,
        "outbox": None,
        "steps": [
            {
                "id": _ID,
                "name": "shop.jobs.add",
                "queue": "default",
                "state": "succeeded",
                "attempts": 1,
                "on_failure": False,
            }
        ],
    },
    "Preview": {
        "verb": "retry",
        "dry_run": True,
        "matched": 3,
        "has_more": False,
        "sampled": 3,
        "possible": 2,
        "skipped": {"it has not ended": 1},
    },
    "Queues": {"queues": [_QUEUE]},
    "Schedule": _SCHEDULE,
    "Schedules": {"schedules": [_SCHEDULE]},
    "Stats": {"since": _CREATED, "until": _ENDED, "by": "queue", "live": 4, "stats": [_FIGURES]},
}

#: The bodies of the requests that enqueue nothing, by the names of their models.
OF_BODIES: dict[str, Any] = {
    "NewOperation": {
        "verb": "retry",
        "filter": {"state": "failed", "name": "shop.*", "since": "2h"},
        "dry_run": True,
    },
    "Pause": {"seconds": 60},
}
