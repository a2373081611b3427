"""The claim on SQLite: read the first ready jobs, then update them by id, under the file's write lock.

The transaction takes the write lock at BEGIN, so what its SELECT read still holds when its UPDATE writes. Both
statements take and return all rows as one JSON text: see `djjp.engine.sqlite.database`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from itertools import chain, repeat
from operator import or_
from typing import Any

from djjp.engine.database import ClaimStrategy
from djjp.engine.payloads import LARGE
from djjp.engine.records import Claimed, new_record, require_counts
from djjp.engine.rows import TABLE, Key
from djjp.engine.sqlite.ready import MAX_UNION, leading_queues, ready_query
from djjp.ids import from_hex

# Long arguments are read later.
_COLUMNS = (
    "id",
    "name",
    f"CASE WHEN length(arguments) <= {LARGE} THEN arguments ELSE '' END",
    "attempts",
    "rescues",
    "flags",
    "claim",
    "queue",
    "created_at",
    "run_after",
)
# Column by column, which takes a tenth less time than row by row: Python makes no list of each row.
_READ = f"SELECT json_array({', '.join(f'json_group_array({each})' for each in _COLUMNS)}) FROM ({{select}})"

# OR FAIL as in `djjp.engine.sqlite.database`.
_TAKE = f"""UPDATE OR FAIL {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1
SET state = 'running', consumer = %s, started_at = %s, attempts = attempts + 1, claim = claim + 1
WHERE id IN (SELECT value FROM json_each(%s))"""

_READY_OF = f"""SELECT * FROM {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1
WHERE id IN (SELECT value FROM json_each(%s)) AND +state = 'ready' ORDER BY priority DESC, id"""

# The input, the options and the context.
_READ_LATER = (repeat(None), repeat(None), repeat(None))


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
            cursor.execute(_READ.format(select=select), params)
            columns = json.loads(cursor.fetchone()[0])
            ids, names, arguments, attempts, rescues, flags, claims, *others = columns
            if ids:
                cursor.execute(_TAKE, [consumer, self._db.to_param(now), json.dumps(ids)])
        require_counts(reduce(or_, chain(attempts, rescues, flags, claims), 0))
        rows = zip(
            map(from_hex, ids),
            names,
            arguments,
            [number + 1 for number in attempts],
            rescues,
            flags,
            [number + 1 for number in claims],
            *others,
            *_READ_LATER,
            strict=False,
        )
        return [new_record(Claimed, row) for row in rows]

    def _leading(self, queues: Sequence[str] | None) -> Sequence[str] | None:
        if queues is None or len(queues) <= MAX_UNION:
            return queues
        with self._db.connection.cursor() as cursor:
            cursor.execute(*leading_queues(queues))
            names: list[str] = json.loads(cursor.fetchone()[0])
            return names
