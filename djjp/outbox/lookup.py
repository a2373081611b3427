"""Finds a job that is enqueued and that the queue does not show yet."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import connections

from djjp import conf
from djjp.durations import to_datetime
from djjp.engine import NewGraph, coordinator
from djjp.models import Job
from djjp.outbox import serialization, table


def find(id: UUID) -> Job | None:
    """The job as the queue will have it, in an outbox or in this thread's own transaction on the queue."""
    for alias in table.outboxes():
        for row in table.read(alias, [id]):
            return _as_row(row.text, id)
    queue = conf.current().db_name
    if coordinator.get() is not None and connections[queue].in_atomic_block:
        # A consumer's coordinator looks from outside of the transaction in which this job enqueued.
        return Job.objects.using(queue).filter(pk=id).first()
    return None


def _as_row(text: str, id: UUID) -> Job:
    """A row that is not saved anywhere: of a pipeline, that of its last job; of a group, of its first."""
    known = {field.name for field in Job._meta.concrete_fields}
    job = serialization.from_text(text)
    if isinstance(job, NewGraph):
        job = next((each for each in reversed(job.jobs) if each.id == id), job.jobs[0])
    values: dict[str, Any] = {name: value for name, value in job._asdict().items() if name in known}
    for name in ("run_after", "created_at"):
        if values[name] is not None:
            values[name] = to_datetime(values[name])
    return Job(**values)
