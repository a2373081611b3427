"""Inserts on SQLite: jobs one by one or many at a time, edges and receipts as one JSON text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from djjp.engine.database import Inserts
from djjp.engine.pipelines import EDGES
from djjp.engine.receipts import RELAYED
from djjp.engine.records import (
    ALL_COLUMNS,
    ALL_VALUES,
    PLAIN_COLUMNS,
    PLAIN_VALUES,
    Edge,
    NewJob,
)
from djjp.engine.rows import TABLE, TAGS
from djjp.engine.sqlite.raw import BatchStatement, RawStatement
from djjp.models import Flag

# A call that is repeated, in another turn, can find its row in the table.
_INSERT = RawStatement(
    f"INSERT INTO {TABLE} ({PLAIN_COLUMNS}) VALUES ({PLAIN_VALUES}) ON CONFLICT (id) DO NOTHING"
)
_INSERT_MANY = BatchStatement(
    f"INSERT INTO {TABLE} ({PLAIN_COLUMNS}) VALUES {{rows}} ON CONFLICT (id) DO NOTHING",
    row=f"({PLAIN_VALUES})",
    most=64,
)
_INSERT_WHOLE = BatchStatement(
    f"INSERT INTO {TABLE} ({ALL_COLUMNS}) VALUES {{rows}} ON CONFLICT DO NOTHING",
    row=f"({ALL_VALUES})",
    most=32,
)

# Of the jobs that are in the table: some of these can have met the holder of their unique key.
_INSERT_TAGS = f"""INSERT INTO {TAGS} (tag, job_id) SELECT tags.value, job.id FROM {TABLE} AS job,
json_each(job.options, '$.tags') AS tags WHERE job.id IN (SELECT value FROM json_each(%s))
ON CONFLICT (tag, job_id) DO NOTHING"""

_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, result_path) SELECT json_extract(value, '$[0]'),
json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(%s) WHERE true
ON CONFLICT (parent, child) DO NOTHING"""

_RECORD_RECEIPTS = f"""INSERT INTO {RELAYED} (id, relayed_at) SELECT value, %s FROM json_each(%s) WHERE true
ON CONFLICT (id) DO NOTHING RETURNING id"""


class SQLiteInserts(Inserts):
    """The inserts of an SQLite queue."""

    def plain(self, job: NewJob) -> None:
        row, connection = self._row(job), self._db.connection
        self._db.with_retry(lambda: _INSERT.execute(connection, row), connection)

    def many(self, jobs: Sequence[NewJob]) -> None:
        to_param = cache(self._db.to_param)  # most have the same time
        rows = [self._row(job, to_param(job.created_at)) for job in jobs]

        def insert() -> None:
            with self._db.transaction():
                _INSERT_MANY.execute(self._db.connection, rows)

        self._db.with_retry(insert)

    def whole(self, jobs: Sequence[NewJob]) -> None:
        rows = [(*self._row(job), *self._rare(job)) for job in jobs]
        _INSERT_WHOLE.execute(self._db.connection, rows)
        if tagged := [job.id for job in jobs if job.flags & Flag.TAGGED]:
            with self._db.connection.cursor() as cursor:
                cursor.execute(_INSERT_TAGS, [self._db.id_list(tagged)])

    def edges(self, new: Sequence[Edge]) -> None:
        text = json.dumps([(edge.parent.hex, edge.child.hex, edge.result_path) for edge in new])
        with self._db.connection.cursor() as cursor:
            cursor.execute(_INSERT_EDGES, [text])

    def receipts(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(_RECORD_RECEIPTS, [self._db.to_param(now), self._db.id_list(ids)])
            return {UUID(id) for (id,) in cursor.fetchall()}

    def _row(self, job: NewJob, created: str | None = None) -> tuple[Any, ...]:
        """Return the values of a plain job, in the order of `NewJob`."""
        return (
            f"{job.id.int:032x}",  # the value of `hex`, which takes longer
            job.name,
            job.queue,
            job.priority,
            job.state._value_,
            None if job.run_after is None else self._db.to_param(job.run_after),
            created or self._db.to_param(job.created_at),
            job.arguments,
            job.on_crash._value_,
            job.flags,
        )

    def _rare(self, job: NewJob) -> tuple[Any, ...]:
        """Return the values that few jobs have, in the order of `NewJob`."""
        return (
            None if job.pipeline is None else job.pipeline.hex,
            job.waits_for,
            job.unique_key,
            job.limit_key,
            job.limit_max,
            job.limit_per,
            None if job.expires_at is None else self._db.to_param(job.expires_at),
            job.options,
            job.context,
        )
