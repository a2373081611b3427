"""Read the row of a job, and its errors: from the queue, or from an outbox until it is relayed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from djjp import engine
from djjp.engine import Engine
from djjp.exceptions import JobDoesNotExist, QueueUnavailable
from djjp.models import Attempt, Job
from djjp.outbox import pending


def as_uuid(id: UUID | str) -> UUID:
    """Return an id, or its text, as a UUID.

    Raises:
        JobDoesNotExist: it is no UUID, so no job has it.
    """
    try:
        return id if isinstance(id, UUID) else UUID(id)
    except (ValueError, AttributeError, TypeError):
        raise JobDoesNotExist(id) from None


def read_row(id: UUID, load: Callable[[Engine], Job | None]) -> Job:
    """Return the row of a job or a pipeline: the queue's, or the one in an outbox until it is relayed.

    Args:
        load: reads it from the queue.

    Raises:
        JobDoesNotExist: neither has it.
        QueueUnavailable: the queue's database does not answer, and no outbox has it.
    """
    try:
        row = engine.run(load) or pending.find(id)
    except QueueUnavailable:
        row = pending.find(id)
        if row is None:
            raise
    # A relay may have moved it between the two reads.
    row = row or engine.run(load)
    if row is None:
        raise JobDoesNotExist(id)
    return row


def load_errors(alias: str, id: UUID) -> list[Attempt]:
    """Return the failed attempts of a job, oldest first."""
    return list(Attempt.objects.using(alias).filter(job_id=id).order_by("pk"))
