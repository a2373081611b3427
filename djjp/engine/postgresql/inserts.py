"""Inserts on PostgreSQL: one job by INSERT, many by COPY."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from djjp.engine.database import (
    ALL_COLUMNS,
    ALL_VALUES,
    PLAIN_COLUMNS,
    PLAIN_VALUES,
    TABLE,
    Database,
)
from djjp.engine.pipelines import EDGES
from djjp.engine.postgresql.copy_rows import lines
from djjp.engine.receipts import RELAYED
from djjp.engine.records import Edge, NewJob

# A call that is repeated after its connection was lost can find its row in the table.
_INSERT = f"""INSERT INTO {TABLE} ({PLAIN_COLUMNS}) VALUES ({PLAIN_VALUES})
ON CONFLICT (id) DO NOTHING"""
_COPY = f"COPY {TABLE} ({PLAIN_COLUMNS}) FROM STDIN"
# The number of lines that go to the driver at once.
_LINES_AT_ONCE = 100

_INSERT_WHOLE = f"""INSERT INTO {TABLE} ({ALL_COLUMNS}) VALUES ({ALL_VALUES})
ON CONFLICT DO NOTHING"""
_COPY_WHOLE = f"COPY {TABLE} ({ALL_COLUMNS}) FROM STDIN"

_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, result_path)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) ON CONFLICT (parent, child) DO NOTHING"""

_RECORD_RECEIPTS = f"""INSERT INTO {RELAYED} (id, relayed_at) SELECT unnest(%s::uuid[]), %s::timestamptz
ON CONFLICT (id) DO NOTHING RETURNING id"""


def plain(db: Database, job: NewJob) -> None:
    """Insert one plain job."""
    with db.connection.cursor() as cursor:
        cursor.execute(_INSERT, _row(db, job))


def many(db: Database, jobs: Sequence[NewJob]) -> None:
    """Insert plain jobs, all or none of them."""
    with transaction.atomic(using=db.alias):
        try:
            with transaction.atomic(using=db.alias):
                _copy(db, jobs)
        except IntegrityError:  # COPY has no ON CONFLICT
            with db.connection.cursor() as cursor:
                cursor.executemany(_INSERT, [_row(db, job) for job in jobs])


def _copy(db: Database, jobs: Sequence[NewJob]) -> None:
    connection = db.connection
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(_COPY) as copy,
    ):
        for first in range(0, len(jobs), _LINES_AT_ONCE):
            copy.write(lines(jobs[first : first + _LINES_AT_ONCE]))


def whole(db: Database, jobs: Sequence[NewJob]) -> None:
    """Insert jobs with all that they can have."""
    rows = [(*_row(db, job), *_rare(db, job)) for job in jobs]
    connection = db.connection
    with connection.cursor() as cursor:
        # COPY has no ON CONFLICT.
        if len(jobs) == 1 or any(job.unique_key is not None for job in jobs):
            cursor.executemany(_INSERT_WHOLE, rows)
            return
        try:
            with (
                transaction.atomic(using=db.alias),
                connection.wrap_database_errors,
                cursor.copy(_COPY_WHOLE) as copy,
            ):
                for row in rows:
                    copy.write_row((*row, 0, 0))  # attempts and rescues
        except IntegrityError:
            cursor.executemany(_INSERT_WHOLE, rows)


def edges(db: Database, new: Sequence[Edge]) -> None:
    """Insert the edges of a pipeline."""
    columns = [list(column) for column in zip(*new, strict=True)] or [[], [], []]
    with db.connection.cursor() as cursor:
        cursor.execute(_INSERT_EDGES, columns)


def receipts(db: Database, ids: Sequence[UUID], now: float) -> set[UUID]:
    """Insert the receipts that are missing; return their ids."""
    with db.connection.cursor() as cursor:
        cursor.execute(_RECORD_RECEIPTS, [db.id_list(ids), db.to_param(now)])
        return {id for (id,) in cursor.fetchall()}


def _row(db: Database, job: NewJob) -> tuple[Any, ...]:
    """Return the values of a plain job, in the order of `NewJob`."""
    return (
        job.id,
        job.name,
        job.queue,
        job.priority,
        job.state._value_,
        None if job.run_after is None else db.to_param(job.run_after),
        db.to_param(job.created_at),
        job.arguments,
        job.on_crash._value_,
        job.flags,
    )


def _rare(db: Database, job: NewJob) -> tuple[Any, ...]:
    """Return the values that few jobs have, in the order of `NewJob`."""
    return (
        job.pipeline,
        job.waits_for,
        job.unique_key,
        job.limit_key,
        job.limit_max,
        job.limit_per,
        None if job.expires_at is None else db.to_param(job.expires_at),
    )
