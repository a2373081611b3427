"""A queue as years leave it, made in a minute: rows copied from a real one, by one statement for each state."""

from __future__ import annotations

import time
from typing import NamedTuple
from uuid import UUID

from django.db import connections

from benchmarks.jobs import noop
from djjp.engine import Claimed, Engine, NewJob, Outcome
from djjp.ids import new_id
from djjp.models import Job, State

CONSUMER = "scale"


class Size(NamedTuple):
    """How many jobs of each kind, over how many queues."""

    ready: int
    finished: int
    scheduled: int
    queues: int

    def __str__(self) -> str:
        return (
            f"{self.ready:,} ready, {self.finished:,} finished, {self.scheduled:,} scheduled, "
            f"{self.queues:,} queues"
        )


SMALL = Size(ready=1_000, finished=0, scheduled=0, queues=1)

# Ids are as the enqueuer makes them, ordered by time; here a millisecond apart, and in hexadecimal digits.
_SQLITE = (
    "printf('%%012x70008%%015x', %s + i, i)",
    "WITH RECURSIVE series(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < %s)",
    "series",
)
_POSTGRESQL = (
    "(lpad(to_hex(%s + i), 12, '0') || '70008' || lpad(to_hex(i), 15, '0'))::uuid",
    "WITH series(i) AS (SELECT generate_series(0::bigint, %s::bigint - 1))",
    "series",
)


def fill(engine: Engine, size: Size) -> None:
    """Fill an empty queue."""
    first = int(time.time() * 1000) - size.ready - size.finished - size.scheduled - 3_600_000
    _copies(engine, finished(engine), size.finished, size.queues, first)
    _copies(engine, ready(engine, "q0"), size.ready, size.queues, first + size.finished)
    scheduled = _enqueued(engine, "q0", State.SCHEDULED, time.time() + 86_400)
    _copies(engine, scheduled, size.scheduled, size.queues, first + size.finished + size.ready)
    with connections[engine.db.alias].cursor() as cursor:
        # What the databases do by themselves in the hour after.
        if engine.db.connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            cursor.execute("VACUUM (ANALYZE) djjp_job")
            cursor.execute("CHECKPOINT")


def ready(engine: Engine, name: str) -> UUID:
    """One more ready job."""
    return _enqueued(engine, name, State.READY, None)


def finished(engine: Engine) -> UUID:
    """One more job that was run, by the verbs that a consumer uses."""
    id = ready(engine, "q0")
    with engine.db.transaction():
        claimed = engine.jobs.claim(CONSUMER, 1, time.time())
    with engine.db.transaction():
        engine.jobs.finish(CONSUMER, outcomes(claimed))
    return id


def outcomes(claimed: list[Claimed]) -> list[Outcome]:
    """That all of them succeeded."""
    now = time.time()
    return [Outcome(job, State.SUCCEEDED, now, now, "null") for job in claimed]


def new(name: str, state: State = State.READY, run_after: float | None = None) -> NewJob:
    """A job as `run_later` would write it."""
    arguments = '{"args": [1], "kwargs": {}}'
    return NewJob(new_id(), noop.name, name, 0, state, run_after, time.time(), arguments)


def _enqueued(engine: Engine, name: str, state: State, run_after: float | None) -> UUID:
    job = new(name, state, run_after)
    engine.jobs.enqueue(job)
    return job.id


def _copies(engine: Engine, template: UUID, count: int, queues: int, first: int) -> None:
    """Copies of a row, over all queues in turn; the row itself goes."""
    sqlite = engine.db.connection.vendor == "sqlite"
    id, series, source = _SQLITE if sqlite else _POSTGRESQL
    columns = [field.attname for field in Job._meta.concrete_fields]
    values = {"id": id, "queue": "'q' || (i %% %s)"}
    selected = ", ".join(values.get(column, f"template.{column}") for column in columns)
    key = template.hex if sqlite else template
    with connections[engine.db.alias].cursor() as cursor:
        if count:
            cursor.execute(
                f"{series} INSERT INTO djjp_job ({', '.join(columns)}) SELECT {selected} "
                f"FROM {source} CROSS JOIN djjp_job AS template WHERE template.id = %s",
                [count, first, queues, key],
            )
        cursor.execute("DELETE FROM djjp_job WHERE id = %s", [key])
