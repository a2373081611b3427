"""The claim on PostgreSQL: lock the first ready jobs, skip rows that other consumers lock, update them at once.

A consumer first claims behind its session's marks, so that it does not read the dead index entries of jobs that
were claimed before: see `djjp.engine.postgresql.watermark`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import TABLE, Database
from djjp.engine.postgresql.ready import (
    INDEXES,
    ready_after_marks,
    ready_query,
    ready_within_horizon,
)
from djjp.engine.postgresql.watermark import Marks, marks_of
from djjp.engine.records import Claimed

# MATERIALIZED: a plain sub-select may be evaluated again and claim more than its limit. The condition always
# holds; because of it the planner expects a single picked job, which is looked up by id. Planned while the table
# had a handful of rows, the statement would else read the whole primary key, also while the table grows.
_CLAIM = f"""WITH picked AS MATERIALIZED ({{ready}})
UPDATE {TABLE} AS job SET state = 'running', consumer = %s, started_at = %s, attempts = job.attempts + 1
FROM picked WHERE job.id = picked.id AND picked.priority - picked.priority = 0
RETURNING job.id, job.name, job.arguments, job.attempts, job.rescues, job.flags, job.queue, job.priority"""

# The number of entries, dead ones too, that this session's scans have read in the indexes of ready jobs.
_ENTRIES_READ = (
    "SELECT sum(pg_stat_get_xact_tuples_returned(name::regclass)) FROM unnest(%s::text[]) AS name"
)

Query = tuple[str, list[Any]]
# The first columns of `_CLAIM` are the fields of `Claimed` except the last, the input.
_CLAIMED = len(Claimed._fields) - 1


class _Row(NamedTuple):
    """A claimed job: the fields of `Claimed`, then its queue and priority."""

    id: UUID
    name: str
    arguments: str
    attempts: int
    rescues: int
    flags: int
    queue: str
    priority: int


def claim(
    db: Database,
    consumer: str,
    limit: int,
    now: float,
    queues: Sequence[str] | None,
    exclude_names: Sequence[str],
) -> list[Claimed]:
    """Claim up to `limit` jobs: see `Jobs.claim`."""
    marks = _marks(db, queues, exclude_names)
    rows: list[_Row] = []
    if marks.valid:
        ready = ready_after_marks(marks, queues, exclude_names, limit, lock=True)
        rows = _take(db, ready, consumer, now)
        marks.advance(_positions(rows, queues), may_go_back=False)
    if (rest := limit - len(rows)) > 0:
        if marks.due:
            started, before = time.monotonic(), _entries_read(db)
            first = _take_first(db, consumer, rest, now, queues, exclude_names)
            marks.observe(_entries_read(db) - before - len(first), time.monotonic() - started)
            # If these were all ready jobs, none is left to go back to.
            marks.advance(_positions(first, queues), may_go_back=len(first) == rest)
        else:
            first = _take_first(db, consumer, rest, now, queues, exclude_names)
        rows += first
    # RETURNING keeps no order.
    rows.sort(key=lambda row: (-row.priority, row.id))
    return [Claimed._make((*row[:_CLAIMED], None)) for row in rows]


def has_ready(db: Database, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
    """Return whether `claim` would find a job."""
    db.connection.ensure_connection()
    marks = _marks(db, queues, exclude_names)
    if marks.valid and _finds(db, ready_after_marks(marks, queues, exclude_names, 1, lock=False)):
        return True
    return _finds(db, ready_query(queues, exclude_names, 1, lock=False))


def _marks(db: Database, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> Marks:
    db.connection.ensure_connection()
    return marks_of(db.connection.connection, queues, exclude_names)


def _take_first(
    db: Database,
    consumer: str,
    limit: int,
    now: float,
    queues: Sequence[str] | None,
    exclude_names: Sequence[str],
) -> list[_Row]:
    """Claim from the start of the order, not behind the marks."""
    rows: list[_Row] = []
    if queues is not None and len(queues) > 1:
        rows = _take(db, ready_within_horizon(queues, exclude_names, limit), consumer, now)
    if len(rows) < limit:
        ready = ready_query(queues, exclude_names, limit - len(rows), lock=True)
        rows += _take(db, ready, consumer, now)
    return rows


def _take(db: Database, ready: Query, consumer: str, now: float) -> list[_Row]:
    select, params = ready
    with db.connection.cursor() as cursor:
        cursor.execute(_CLAIM.format(ready=select), [*params, consumer, db.to_param(now)])
        return [_Row._make(row) for row in cursor.fetchall()]


def _finds(db: Database, ready: Query) -> bool:
    select, params = ready
    with db.connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM ({select}) AS ready LIMIT 1", params)
        return cursor.fetchone() is not None


def _entries_read(db: Database) -> int:
    with db.connection.cursor() as cursor:
        cursor.execute(_ENTRIES_READ, [INDEXES])
        (count,) = cursor.fetchone()
        return int(count)


def _positions(
    rows: Sequence[_Row], queues: Sequence[str] | None
) -> list[tuple[str | None, int, UUID]]:
    """Return the positions of claimed rows: in the order of their queue, or of all queues together."""
    return [(None if queues is None else row.queue, row.priority, row.id) for row in rows]
