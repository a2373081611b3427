"""Inserts on PostgreSQL: one job by INSERT, many by COPY."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from djjp.databases import execute_many
from djjp.engine.database import Inserts
from djjp.engine.pipelines import EDGES
from djjp.engine.postgresql.copy_rows import lines
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
from djjp.models import Flag

# A call that is repeated after its connection was lost can find its row in the table.
_INSERT = f"""INSERT INTO {TABLE} ({PLAIN_COLUMNS}) VALUES ({PLAIN_VALUES})
ON CONFLICT (id) DO NOTHING"""
_COPY = f"COPY {TABLE} ({PLAIN_COLUMNS}) FROM STDIN"
# The number of lines that go to the driver at once.
_LINES_AT_ONCE = 100

_INSERT_WHOLE = f"""INSERT INTO {TABLE} ({ALL_COLUMNS}) VALUES ({ALL_VALUES})
ON CONFLICT DO NOTHING"""
_COPY_WHOLE = f"COPY {TABLE} ({ALL_COLUMNS}) FROM STDIN"

# Of the jobs that are in the table: some of these can have met the holder of their unique key.
_INSERT_TAGS = f"""INSERT INTO {TAGS} (tag, job_id) SELECT tags.value, job.id FROM {TABLE} AS job,
json_array_elements_text(job.options::json -> 'tags') AS tags (value) WHERE job.id = ANY(%s)
ON CONFLICT (tag, job_id) DO NOTHING"""

_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, result_path)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) ON CONFLICT (parent, child) DO NOTHING"""

_RECORD_RECEIPTS = f"""INSERT INTO {RELAYED} (id, relayed_at) SELECT unnest(%s::uuid[]), %s::timestamptz
ON CONFLICT (id) DO NOTHING RETURNING id"""


class PostgreSQLInserts(Inserts):
    """The inserts of a PostgreSQL queue."""

    def plain(self, job: NewJob) -> None:
        connection = self._db.connection
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, self._row(job))
        # After the commit, in a commit of its own, which waits for no disk: the lock that a notification takes
        # would otherwise make each enqueuer's commit wait for those of all others.
        self._db.notify(connection)

    def many(self, jobs: Sequence[NewJob]) -> None:
        with transaction.atomic(using=self._db.alias):
            try:
                with transaction.atomic(using=self._db.alias):
                    self._copy(jobs)
            except IntegrityError:  # COPY has no ON CONFLICT
                with self._db.connection.cursor() as cursor:
                    execute_many(cursor, _INSERT, [self._row(job) for job in jobs])
        self._db.notify()

    def _copy(self, jobs: Sequence[NewJob]) -> None:
        connection = self._db.connection
        with (
            connection.cursor() as cursor,
            connection.wrap_database_errors,
            cursor.copy(_COPY) as copy,
        ):
            for first in range(0, len(jobs), _LINES_AT_ONCE):
                copy.write(lines(jobs[first : first + _LINES_AT_ONCE]))

    def whole(self, jobs: Sequence[NewJob]) -> None:
        self._whole(jobs)
        if tagged := [job.id for job in jobs if job.flags & Flag.TAGGED]:
            with self._db.connection.cursor() as cursor:
                cursor.execute(_INSERT_TAGS, [tagged])

    def _whole(self, jobs: Sequence[NewJob]) -> None:
        rows = [(*self._row(job), *self._rare(job)) for job in jobs]
        connection = self._db.connection
        with connection.cursor() as cursor:
            # COPY has no ON CONFLICT.
            if len(jobs) == 1 or any(job.unique_key is not None for job in jobs):
                execute_many(cursor, _INSERT_WHOLE, rows)
                return
            try:
                with (
                    transaction.atomic(using=self._db.alias),
                    connection.wrap_database_errors,
                    cursor.copy(_COPY_WHOLE) as copy,
                ):
                    for row in rows:
                        copy.write_row((*row, 0, 0))  # attempts and rescues
            except IntegrityError:
                execute_many(cursor, _INSERT_WHOLE, rows)

    def edges(self, new: Sequence[Edge]) -> None:
        columns = [list(column) for column in zip(*new, strict=True)] or [[], [], []]
        with self._db.connection.cursor() as cursor:
            cursor.execute(_INSERT_EDGES, columns)

    def receipts(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(_RECORD_RECEIPTS, [self._db.id_list(ids), self._db.to_param(now)])
            return {id for (id,) in cursor.fetchall()}

    def _row(self, job: NewJob) -> tuple[Any, ...]:
        """Return the values of a plain job, in the order of `NewJob`."""
        return (
            job.id,
            job.name,
            job.queue,
            job.priority,
            job.state._value_,
            None if job.run_after is None else self._db.to_param(job.run_after),
            self._db.to_param(job.created_at),
            job.arguments,
            job.on_crash._value_,
            job.flags,
        )

    def _rare(self, job: NewJob) -> tuple[Any, ...]:
        """Return the values that few jobs have, in the order of `NewJob`."""
        return (
            job.pipeline,
            job.waits_for,
            job.unique_key,
            job.limit_key,
            job.limit_max,
            job.limit_per,
            None if job.expires_at is None else self._db.to_param(job.expires_at),
            job.options,
            job.context,
        )
