"""Inserts on SQLite: jobs one by one or many at a time, edges and receipts as one JSON text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from djjp.engine.database import (
    ALL_COLUMNS,
    ALL_VALUES,
    PLAIN_COLUMNS,
    PLAIN_VALUES,
    TABLE,
    Database,
)
from djjp.engine.pipelines import EDGES
from djjp.engine.receipts import RELAYED
from djjp.engine.records import Edge, NewJob

# A call that is repeated, in another turn, can find its row in the table.
_INSERT = f"""INSERT INTO {TABLE} ({PLAIN_COLUMNS}) VALUES ({PLAIN_VALUES})
ON CONFLICT (id) DO NOTHING"""
_DRIVERS_INSERT = _INSERT.replace("%s", "?")

_INSERT_WHOLE = f"""INSERT INTO {TABLE} ({ALL_COLUMNS}) VALUES ({ALL_VALUES})
ON CONFLICT DO NOTHING"""

_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, result_path) SELECT json_extract(value, '$[0]'),
json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(%s) WHERE true
ON CONFLICT (parent, child) DO NOTHING"""

_RECORD_RECEIPTS = f"""INSERT INTO {RELAYED} (id, relayed_at) SELECT value, %s FROM json_each(%s) WHERE true
ON CONFLICT (id) DO NOTHING RETURNING id"""


def plain(db: Database, job: NewJob) -> None:
    """Insert one plain job."""
    row = _row(db, job)
    db.with_retry(lambda: _insert(db.connection, row))


def many(db: Database, jobs: Sequence[NewJob]) -> None:
    """Insert plain jobs, all or none of them."""
    to_param = cache(db.to_param)  # most have the same time
    rows = [_row(db, job, to_param(job.created_at)) for job in jobs]

    def insert() -> None:
        with db.transaction(), db.connection.cursor() as cursor:
            cursor.executemany(_INSERT, rows)

    db.with_retry(insert)


def whole(db: Database, jobs: Sequence[NewJob]) -> None:
    """Insert jobs with all that they can have."""
    rows = [(*_row(db, job), *_rare(db, job)) for job in jobs]
    with db.connection.cursor() as cursor:
        cursor.executemany(_INSERT_WHOLE, rows)


def edges(db: Database, new: Sequence[Edge]) -> None:
    """Insert the edges of a pipeline."""
    text = json.dumps([(edge.parent.hex, edge.child.hex, edge.result_path) for edge in new])
    with db.connection.cursor() as cursor:
        cursor.execute(_INSERT_EDGES, [text])


def receipts(db: Database, ids: Sequence[UUID], now: float) -> set[UUID]:
    """Insert the receipts that are missing; return their ids."""
    with db.connection.cursor() as cursor:
        cursor.execute(_RECORD_RECEIPTS, [db.to_param(now), db.id_list(ids)])
        return {UUID(id) for (id,) in cursor.fetchall()}


def _row(db: Database, job: NewJob, created: str | None = None) -> tuple[Any, ...]:
    """Return the values of a plain job, in the order of `NewJob`."""
    return (
        f"{job.id.int:032x}",  # the value of `hex`, which takes longer
        job.name,
        job.queue,
        job.priority,
        job.state._value_,
        None if job.run_after is None else db.to_param(job.run_after),
        created or db.to_param(job.created_at),
        job.arguments,
        job.on_crash._value_,
        job.flags,
    )


def _rare(db: Database, job: NewJob) -> tuple[Any, ...]:
    """Return the values that few jobs have, in the order of `NewJob`."""
    return (
        None if job.pipeline is None else job.pipeline.hex,
        job.waits_for,
        job.unique_key,
        job.limit_key,
        job.limit_max,
        job.limit_per,
        None if job.expires_at is None else db.to_param(job.expires_at),
    )


def _insert(connection: Any, row: tuple[Any, ...]) -> None:
    """Insert one job by Django's cursor while the statements are observed, else by the raw driver cursor.

    Django's cursor and its translation of the placeholders make an insert take half as long again.
    """
    # "cursor": a TestCase has replaced the method, because the TestCase does not list this database.
    if connection.queries_logged or connection.execute_wrappers or "cursor" in vars(connection):
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, row)
        return
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors:
        connection.connection.execute(_DRIVERS_INSERT, row)
