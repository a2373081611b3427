"""One job with its errors, from the queue or from an outbox until it is relayed."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from djjp import engine
from djjp.engine import Engine
from djjp.jobs.reading import as_uuid, load_errors, read_row
from djjp.models import Attempt, Flag, Job, State


class JobInFull(NamedTuple):
    """A job's row with its result, and its failed attempts, oldest first."""

    row: Job
    errors: list[Attempt]


def one_job(id: UUID | str) -> JobInFull:
    """Return a job with its errors.

    Raises:
        JobDoesNotExist: neither the queue nor an outbox has it.
        QueueUnavailable: the queue's database does not answer, and no outbox has it.
    """
    key = as_uuid(id)
    row = read_row(key, lambda engine: _load(engine, key))
    return JobInFull(row, engine.run(lambda engine: load_errors(engine.db.alias, key)))


def _load(engine: Engine, id: UUID) -> Job | None:
    row = Job.objects.using(engine.db.alias).filter(pk=id).first()
    if row is not None and row.flags & Flag.COLLECTS and row.state == State.SUCCEEDED:
        row.result = row.result or engine.inputs.results(id)
    return row
