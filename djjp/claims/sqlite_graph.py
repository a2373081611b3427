"""Pipelines on SQLite: rows come and go as one JSON text, and the file's one lock is all there is to hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from djjp.claims.base import INSERT_COLUMNS
from djjp.claims.common import TABLE
from djjp.claims.data import Edge, NewJob
from djjp.claims.graph import EDGES, Graph, Key

_INSERT = f"""INSERT INTO {TABLE} ({INSERT_COLUMNS}, pipeline, waits_for)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0, %s, %s) ON CONFLICT (id) DO NOTHING"""

_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, place) SELECT json_extract(value, '$[0]'),
json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(%s) WHERE true
ON CONFLICT (parent, child) DO NOTHING"""


class SQLiteGraph(Graph):
    """What differs on SQLite."""

    _join = "CROSS JOIN"

    def _insert_steps(self, jobs: Sequence[NewJob]) -> None:
        rows = [
            (*self._row(job), job.pipeline.hex if job.pipeline else None, job.waits_for)
            for job in jobs
        ]
        with self.connection.cursor() as cursor:
            cursor.executemany(_INSERT, rows)

    def _insert_edges(self, edges: Sequence[Edge]) -> None:
        text = json.dumps([(edge.parent.hex, edge.child.hex, edge.place) for edge in edges])
        with self.connection.cursor() as cursor:
            cursor.execute(_INSERT_EDGES, [text])

    def _keys(self, ids: Iterable[UUID]) -> list[Key]:
        return [id.hex for id in ids]

    def _key_list(self, keys: Iterable[Key]) -> Any:
        return json.dumps([*keys])

    def _selected(self, columns: str) -> str:
        return f"SELECT json_group_array(json_array({columns}))"

    def _fetched(self, cursor: Any) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = json.loads(cursor.fetchone()[0])
        return rows
