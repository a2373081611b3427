"""Rows of jobs to enqueue, and of consumers."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from django.utils import timezone

from djjp.engine import NewJob
from djjp.ids import new_id
from djjp.models import Consumer, State


def new_job(**given: Any) -> NewJob:
    """Return a ready job called `test.job`, with these fields changed."""
    defaults = {
        "id": new_id(),
        "name": "test.job",
        "queue": "default",
        "priority": 0,
        "state": State.READY,
        "run_after": None,
        "created_at": time.time(),
        "arguments": '{"args":[],"kwargs":{}}',
    }
    return NewJob(**{**defaults, **given})


def consumer_row(name: str = "elsewhere:1:a", *, ago: float = 0.0, **given: Any) -> Consumer:
    """Write the row of a consumer on another machine, with a heartbeat some seconds ago and without a lock."""
    now = timezone.now()
    fields: dict[str, Any] = {
        "host": "elsewhere",
        "pid": 1,
        "concurrency": "threads",
        "concurrency_limit": 10,
        "started_at": now,
        "heartbeat_at": now - timedelta(seconds=ago),
        "locked": False,
    }
    consumer = Consumer(name=name, **fields | given)
    consumer.save()
    return consumer
