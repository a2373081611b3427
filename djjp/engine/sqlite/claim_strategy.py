"""The claim on SQLite: read the first ready jobs, then update them by id, under the file's write lock.

The transaction takes the write lock at BEGIN, so what its SELECT read still holds when its UPDATE writes. Both
statements take and return all rows as one JSON text: see `djjp.engine.sqlite.database`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from djjp.engine.database import ClaimStrategy
from djjp.engine.payloads import LARGE
from djjp.engine.records import Claimed, new_record, require_counts
from djjp.engine.rows import TABLE, Key
from djjp.engine.sqlite.ready import MAX_UNION, leading_queues, ready_query
from djjp.ids import from_hex

# OR FAIL: no value that is set here can be refused. Without it SQLite would first copy each page that it changes,
# to be able to undo this statement alone.
# Long arguments are read later. `claim_keys` and `claim` read the same.
_COLUMNS = f"""id, name, CASE WHEN length(arguments) <= {LARGE} THEN arguments ELSE '' END,
attempts, rescues, flags, claim, queue, created_at, run_after"""

_TAKE = f"""UPDATE OR FAIL {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1
SET state = 'running', consumer = %s, started_at = %s, attempts = attempts + 1, claim = claim + 1
WHERE id IN (SELECT value FROM json_each(%s))"""

_READY_OF = f"""SELECT * FROM {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1
WHERE id IN (SELECT value FROM json_each(%s)) AND +state = 'ready' ORDER BY priority DESC, id"""


class SQLiteClaimStrategy(ClaimStrategy):
    """The claim on an SQLite queue."""

    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[Claimed]:
        claimed: list[Claimed] = []
        while True:
            wanted = limit - len(claimed)
            leading = self._leading(queues)
            if leading is not None and len(leading) == MAX_UNION:
                # Only the first `MAX_UNION` jobs are sure to be in these queues.
                wanted = min(wanted, MAX_UNION)
            jobs = self._claim_first(consumer, wanted, now, leading, exclude_names)
            claimed += jobs
            if len(jobs) < wanted or len(claimed) == limit:
                return claimed

    def claim_keys(self, consumer: str, keys: Sequence[Key], now: float) -> list[Claimed]:
        return self._take(consumer, now, _READY_OF, [json.dumps(list(keys))])

    def ready_keys(
        self, limit: int, queues: Sequence[str] | None, exclude_names: Sequence[str]
    ) -> list[Key]:
        with self._db.connection.cursor() as cursor:
            select, params = ready_query(self._leading(queues), exclude_names)
            cursor.execute(f"SELECT id FROM ({select})", [*params, limit])
            return [key for (key,) in cursor.fetchall()]

    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        with self._db.connection.cursor() as cursor:
            select, params = ready_query(self._leading(queues), exclude_names)
            cursor.execute(f"SELECT 1 FROM ({select})", [*params, 1])
            return cursor.fetchone() is not None

    def _claim_first(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[Claimed]:
        select, params = ready_query(queues, exclude_names)
        return self._take(consumer, now, select, [*params, limit])

    def _take(self, consumer: str, now: float, select: str, params: list[Any]) -> list[Claimed]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT json_group_array(json_array({_COLUMNS})) FROM ({select})", params
            )
            rows = json.loads(cursor.fetchone()[0])
            if rows:
                cursor.execute(
                    _TAKE, [consumer, self._db.to_param(now), json.dumps([row[0] for row in rows])]
                )
        jobs, counts = [], 0
        for id, name, args, tries, rescues, flags, claim, queue, made, due in rows:
            counts |= tries | rescues | flags | claim
            numbers = (tries + 1, rescues, flags, claim + 1)
            values = (from_hex(id), name, args, *numbers, queue, made, due, None, None, None)
            jobs.append(new_record(Claimed, values))
        require_counts(counts)
        return jobs

    def _leading(self, queues: Sequence[str] | None) -> Sequence[str] | None:
        if queues is None or len(queues) <= MAX_UNION:
            return queues
        with self._db.connection.cursor() as cursor:
            cursor.execute(*leading_queues(queues))
            names: list[str] = json.loads(cursor.fetchone()[0])
            return names
