"""Pipelines on SQLite: rows come and go as one JSON text, and the file's one lock is all there is to hold."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from djjp.engine.database import INSERT_COLUMNS, MORE_COLUMNS, TABLE
from djjp.engine.pipelines import ARRIVED, EDGES, Key
from djjp.engine.rates import Rates
from djjp.engine.records import Edge, NewJob

_INSERT = f"""INSERT INTO {TABLE} ({INSERT_COLUMNS}, {MORE_COLUMNS})
VALUES ({", ".join(["%s"] * 10)}, 0, 0, {", ".join(["%s"] * 7)}) ON CONFLICT DO NOTHING"""

_INSERT_EDGES = f"""INSERT INTO {EDGES} (parent, child, result_path) SELECT json_extract(value, '$[0]'),
json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(%s) WHERE true
ON CONFLICT (parent, child) DO NOTHING"""

# By this index: the list comes first, and each row of it is looked up.
_SCHEDULE = f"""UPDATE {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1 SET {{changes}}, run_after = due
FROM (SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS due FROM json_each(%s)) AS listed
WHERE id = listed.key"""

_ARRIVAL = f"""WITH arriving AS MATERIALIZED (SELECT child, count(*) AS count FROM {EDGES}
WHERE parent IN (SELECT value FROM json_each(%s)) GROUP BY child)
UPDATE {TABLE} AS job INDEXED BY sqlite_autoindex_{TABLE}_1 SET {ARRIVED} FROM arriving
WHERE job.id = arriving.child AND +job.state = 'blocked'"""


class SQLiteGraph(Rates):
    """What differs on SQLite."""

    _join = "CROSS JOIN"

    def _insert_whole(self, jobs: Sequence[NewJob]) -> None:
        rows = [(*self._row(job), *self._more(job)) for job in jobs]
        with self.connection.cursor() as cursor:
            cursor.executemany(_INSERT, rows)

    def _insert_edges(self, edges: Sequence[Edge]) -> None:
        text = json.dumps([(edge.parent.hex, edge.child.hex, edge.result_path) for edge in edges])
        with self.connection.cursor() as cursor:
            cursor.execute(_INSERT_EDGES, [text])

    def _listed(self, name: str) -> str:
        return f"(SELECT value AS {name} FROM json_each(%s)) AS listed"

    def _arrive(self, good: Collection[Key]) -> None:
        now = self._stamp(time.time())
        with self.connection.cursor() as cursor:
            cursor.execute(_ARRIVAL, [self._key_list(good), now, now])

    def _lock_keys(self, keys: Collection[str]) -> None:
        """The file's lock is held."""

    def _schedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        text = json.dumps([(key, self._stamp(due)) for key, due in times])
        with self.connection.cursor() as cursor:
            cursor.execute(_SCHEDULE.format(changes=changes), [text])

    def _keys(self, ids: Iterable[UUID]) -> list[Key]:
        return [id.hex for id in ids]

    def _key_list(self, keys: Iterable[Key]) -> Any:
        return json.dumps([*keys])

    def _selected(self, columns: str) -> str:
        return f"SELECT json_group_array(json_array({columns}))"

    def _fetched(self, cursor: Any) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = json.loads(cursor.fetchone()[0])
        return rows
