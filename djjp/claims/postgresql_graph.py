"""Pipelines on PostgreSQL: jobs come by COPY, and what is counted down is locked before it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from djjp.claims.base import INSERT_COLUMNS
from djjp.claims.common import TABLE
from djjp.claims.data import Edge, NewJob
from djjp.claims.graph import EDGES, Graph, Key

_COLUMNS = f"{INSERT_COLUMNS}, pipeline, waits_for"
_COPY = f"COPY {TABLE} ({_COLUMNS}) FROM STDIN"
_INSERT = f"""INSERT INTO {TABLE} ({_COLUMNS})
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING"""
_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, place)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) ON CONFLICT (parent, child) DO NOTHING"""


class PostgreSQLGraph(Graph):
    """What differs on PostgreSQL."""

    _locks = True

    def _insert_steps(self, jobs: Sequence[NewJob]) -> None:
        rows = [(*self._row(job), 0, 0, job.pipeline, job.waits_for) for job in jobs]
        connection = self.connection
        with connection.cursor() as cursor:
            try:
                with (
                    transaction.atomic(using=self.alias),
                    connection.wrap_database_errors,
                    cursor.copy(_COPY) as copy,
                ):
                    for row in rows:
                        copy.write_row(row)
            except IntegrityError:  # COPY knows no ON CONFLICT
                cursor.executemany(_INSERT, rows)

    def _keys(self, ids: Iterable[UUID]) -> list[Key]:
        return list(ids)

    def _key_list(self, keys: Iterable[Key]) -> Any:
        return list(keys)

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
