"""Pipelines on PostgreSQL: jobs come by COPY, and what is counted down is locked before it is read."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from djjp import conf
from djjp.engine.database import INSERT_COLUMNS, MORE_COLUMNS, TABLE
from djjp.engine.pipelines import ARRIVED, EDGES, Key
from djjp.engine.postgresql.listener import CHANNEL, SEEN
from djjp.engine.rates import Rates
from djjp.engine.records import Edge, NewJob

_COLUMNS = f"{INSERT_COLUMNS}, {MORE_COLUMNS}"
_COPY = f"COPY {TABLE} ({_COLUMNS}) FROM STDIN"
_INSERT = f"""INSERT INTO {TABLE} ({_COLUMNS})
VALUES ({", ".join(["%s"] * 19)}) ON CONFLICT DO NOTHING"""
_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, result_path)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) ON CONFLICT (parent, child) DO NOTHING"""

_SCHEDULE = f"""UPDATE {TABLE} SET {{changes}}, run_after = listed.due
FROM unnest(%s::uuid[], %s::timestamptz[]) AS listed(key, due) WHERE id = listed.key"""

# The rows are locked in the order of their ids before any is changed; each is looked up, also where the planner
# does not know the tables yet. Whoever runs this claims next, and needs no notification.
_ARRIVAL = f"""WITH arriving AS MATERIALIZED (SELECT job.id, counted.count FROM (
SELECT child, count(*) AS count FROM unnest(%s::uuid[]) AS ended(id)
CROSS JOIN LATERAL (SELECT child FROM {EDGES} WHERE parent = ended.id OFFSET 0) AS edge
GROUP BY child ORDER BY child) AS counted
CROSS JOIN LATERAL (SELECT id FROM {TABLE} WHERE id = child AND state = 'blocked' FOR UPDATE) AS job),
changed AS (UPDATE {TABLE} AS job SET {ARRIVED} FROM arriving
WHERE job.id = arriving.id AND arriving.count - arriving.count = 0 RETURNING job.state)
SELECT pg_notify('{CHANNEL}', '{SEEN}')
WHERE %s AND EXISTS (SELECT FROM changed WHERE state IN ('ready', 'scheduled'))"""


class PostgreSQLGraph(Rates):
    """What differs on PostgreSQL."""

    _locks = True

    _skip_locked = " FOR UPDATE SKIP LOCKED"

    def _insert_whole(self, jobs: Sequence[NewJob]) -> None:
        rows = [(*self._row(job), 0, 0, *self._more(job)) for job in jobs]
        connection = self.connection
        with connection.cursor() as cursor:
            # COPY knows no ON CONFLICT.
            if len(jobs) == 1 or any(job.unique_key is not None for job in jobs):
                cursor.executemany(_INSERT, rows)
                return
            try:
                with (
                    transaction.atomic(using=self.alias),
                    connection.wrap_database_errors,
                    cursor.copy(_COPY) as copy,
                ):
                    for row in rows:
                        copy.write_row(row)
            except IntegrityError:
                cursor.executemany(_INSERT, rows)

    def _listed(self, name: str) -> str:
        return f"unnest(%s::text[]) AS listed({name})"

    def _lock_keys(self, keys: Collection[str]) -> None:
        # In the order of what is locked: two keys may share a lock.
        locks = sorted({_lock(key) for key in keys})
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_advisory_xact_lock(lock)) FROM unnest(%s::bigint[]) AS held(lock)",
                [locks],
            )

    def _clock(self) -> float:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
            (now,) = cursor.fetchone()
            return float(now)

    def _schedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        keys, due = [key for key, _ in times], [self._stamp(at) for _, at in times]
        with self.connection.cursor() as cursor:
            cursor.execute(_SCHEDULE.format(changes=changes), [keys, due])

    def _keys(self, ids: Iterable[UUID]) -> list[Key]:
        return list(ids)

    def _key_list(self, keys: Iterable[Key]) -> Any:
        return list(keys)

    def _arrive(self, good: Collection[Key]) -> None:
        now = self._stamp(time.time())
        with self.connection.cursor() as cursor:
            cursor.execute(_ARRIVAL, [list(good), now, now, conf.current().listen])

    def _held(self, columns: str, condition: str, keys: Iterable[Key]) -> Sequence[Sequence[Any]]:
        # One after the other, in the order of the ids: a sub-select that locks is not pulled up.
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {columns} FROM unnest(%s::uuid[]) AS wanted(wanted_id) CROSS JOIN LATERAL"
                f" (SELECT * FROM {TABLE} WHERE id = wanted_id AND {condition} FOR UPDATE) AS job",
                [sorted(keys)],
            )
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
            return rows

    def _insert_edges(self, edges: Sequence[Edge]) -> None:
        columns = [list(column) for column in zip(*edges, strict=True)] or [[], [], []]
        with self.connection.cursor() as cursor:
            cursor.execute(_INSERT_EDGES, columns)


def _lock(key: str) -> int:
    """The number of a limit's key among the server's advisory locks."""
    return int.from_bytes(
        blake2b(f"djjp limit {key}".encode(), digest_size=8).digest(), signed=True
    )
