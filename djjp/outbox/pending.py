"""Jobs that are enqueued but not yet visible in the queue: find one by id, or cancel it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connections

from djjp import conf, engine
from djjp.durations import to_datetime
from djjp.engine import Engine, NewGraph
from djjp.models import Job
from djjp.outbox import relay, serialization, table


def find(id: UUID) -> Job | None:
    """Return a job as the queue will store it, from an outbox or from this thread's transaction on the queue."""
    for alias in table.outboxes():
        for row in table.read(alias, [id]):
            return _unsaved_job(row.text, id)
    queue_alias = conf.current().db_name
    if engine.coordinator.get() is not None and connections[queue_alias].in_atomic_block:
        # A consumer's coordinator reads outside of the transaction in which this job enqueued.
        return Job.objects.using(queue_alias).filter(pk=id).first()
    return None


def cancel(id: UUID) -> bool:
    """Cancel the job or pipeline with this id in an outbox; return whether an outbox had it.

    Inside a transaction of its database the row is marked as cancelled, so that the cancellation commits
    or vanishes with the data, as the job does. Outside of one the row is relayed first and cancelled in
    the queue, because only there a relay in progress and this call cannot miss each other.
    """
    for alias in table.outboxes():
        for row in table.read(alias, [id]):
            if connections[alias].in_atomic_block:
                table.replace_text(alias, id, serialization.cancelled(row.text))
            else:
                relay.relay(alias, [id])
                engine.run(partial(_cancel, [job.id for job in serialization.jobs_of(row.text)]))
            return True
    return False


def _cancel(ids: Sequence[UUID], engine: Engine) -> int:
    return engine.control.cancel(ids, time.time())


def _unsaved_job(text: str, id: UUID) -> Job:
    """Build a `Job` that is not saved: for a pipeline its last job, for a group its first."""
    columns = {field.name for field in Job._meta.concrete_fields}
    job = serialization.from_text(text)
    if isinstance(job, NewGraph):
        job = next((each for each in reversed(job.jobs) if each.id == id), job.jobs[0])
    values: dict[str, Any] = {
        name: value for name, value in job._asdict().items() if name in columns
    }
    for name in ("run_after", "created_at"):
        if values[name] is not None:
            values[name] = to_datetime(values[name])
    return Job(**values)
