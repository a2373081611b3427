"""Rows to enqueue."""

from __future__ import annotations

import time
from typing import Any

from djjp.engine import NewJob
from djjp.ids import new_id
from djjp.models import State


def new_job(**given: Any) -> NewJob:
    """A ready job called `test.job`, but for what is given."""
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
    return NewJob(**{**defaults, **given})  # type: ignore[arg-type]  # each under its own name
