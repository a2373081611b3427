"""Finds a job that is enqueued and that the queue does not show yet."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import connections

from djjp import conf
from djjp.claims import coordinator, moment
from djjp.models import Job
from djjp.outbox import payload, rows


def find(id: UUID) -> Job | None:
    """The job as the queue will have it, in an outbox or in this thread's own transaction on the queue."""
    for alias in rows.outboxes():
        for row in rows.read(alias, [id]):
            return _as_row(row.text)
    queue = conf.current().db_name
    if coordinator.get() is not None and connections[queue].in_atomic_block:
        # A consumer's coordinator looks from outside of the transaction in which this job enqueued.
        return Job.objects.using(queue).filter(pk=id).first()
    return None


def _as_row(text: str) -> Job:
    """A row that is not saved anywhere."""
    known = {field.name for field in Job._meta.concrete_fields}
    values: dict[str, Any] = {
        name: value for name, value in payload.from_text(text)._asdict().items() if name in known
    }
    for name in ("run_after", "created_at"):
        if values[name] is not None:
            values[name] = moment(values[name])
    return Job(**values)
