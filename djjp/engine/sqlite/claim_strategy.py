"""The claim on SQLite: read the first ready jobs, then update them by id, under the file's write lock.

The transaction takes the write lock at BEGIN, so what its SELECT read still holds when its UPDATE writes. Both
statements take and return all rows as one JSON text: see `djjp.engine.sqlite.database`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from djjp.engine.database import TABLE, Database
from djjp.engine.records import Claimed
from djjp.engine.sqlite.ready import MAX_UNION, leading_queues, ready_query
from djjp.ids import from_hex

# OR FAIL: no value that is set here can be refused. Without it SQLite would first copy each page that it changes,
# to be able to undo this statement alone.
_TAKE = f"""UPDATE OR FAIL {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1
SET state = 'running', consumer = %s, started_at = %s, attempts = attempts + 1
WHERE id IN (SELECT value FROM json_each(%s))"""


def claim(
    db: Database,
    consumer: str,
    limit: int,
    now: float,
    queues: Sequence[str] | None,
    exclude_names: Sequence[str],
) -> list[Claimed]:
    """Claim up to `limit` jobs: see `Jobs.claim`."""
    claimed: list[Claimed] = []
    while True:
        wanted = limit - len(claimed)
        leading = _leading(db, queues)
        if leading is not None and len(leading) == MAX_UNION:
            # Only the first `MAX_UNION` jobs are sure to be in these queues.
            wanted = min(wanted, MAX_UNION)
        jobs = _claim_first(db, consumer, wanted, now, leading, exclude_names)
        claimed += jobs
        if len(jobs) < wanted or len(claimed) == limit:
            return claimed


def has_ready(db: Database, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
    """Return whether `claim` would find a job."""
    with db.connection.cursor() as cursor:
        select, params = ready_query(_leading(db, queues), exclude_names)
        cursor.execute(f"SELECT 1 FROM ({select})", [*params, 1])
        return cursor.fetchone() is not None


def _claim_first(
    db: Database,
    consumer: str,
    limit: int,
    now: float,
    queues: Sequence[str] | None,
    exclude_names: Sequence[str],
) -> list[Claimed]:
    with db.connection.cursor() as cursor:
        select, params = ready_query(queues, exclude_names)
        columns = "id, name, arguments, attempts, rescues, flags"
        cursor.execute(
            f"SELECT json_group_array(json_array({columns})) FROM ({select})", [*params, limit]
        )
        rows = json.loads(cursor.fetchone()[0])
        if rows:
            cursor.execute(
                _TAKE, [consumer, db.to_param(now), json.dumps([row[0] for row in rows])]
            )
    return [Claimed(from_hex(row[0]), row[1], row[2], row[3] + 1, *row[4:]) for row in rows]


def _leading(db: Database, queues: Sequence[str] | None) -> Sequence[str] | None:
    if queues is None or len(queues) <= MAX_UNION:
        return queues
    with db.connection.cursor() as cursor:
        cursor.execute(*leading_queues(queues))
        names: list[str] = json.loads(cursor.fetchone()[0])
        return names
