"""The fence on PostgreSQL: one UPDATE writes the jobs of the batch that pass, and returns their ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from djjp.engine.database import TABLE, Database
from djjp.engine.records import PLAIN_ENDS, FencedUpdate
from djjp.jsontext import quoted

# Written so that no index of consumers or states fits the condition: each row of the batch is looked up by its id,
# also where the planner takes the batch for larger than the number of running jobs; a condition that always
# holds prevents that, as in the claim. Times are sent as numbers, which need no formatting and parsing.
_FENCED = f"""UPDATE {TABLE} AS job SET {{changes}}
FROM json_to_recordset(%s::json) AS row(id uuid, attempt integer, state text, result text,
began float8, ended float8, consumer text, attempts integer, due float8, reason text)
WHERE job.id = row.id AND job.attempts = row.attempt AND row.attempt - row.attempt = 0
AND job.consumer || '' = %s AND job.state || '' = 'running'
RETURNING job.id"""

# A plain end leaves consumer and attempt unchanged.
_WRITE_PLAIN_ENDS = _FENCED.format(
    changes="""state = row.state, result = row.result, reason = NULL,
started_at = to_timestamp(row.began), finished_at = to_timestamp(row.ended)"""
)

# A job with a cancel request does not run again.
_WRITE_ANY = _FENCED.format(
    changes="""
state = CASE WHEN row.state IN ('ready', 'scheduled') AND job.cancel_requested
        THEN 'cancelled' ELSE row.state END,
finished_at = CASE WHEN row.state IN ('ready', 'scheduled') AND NOT job.cancel_requested
        THEN NULL ELSE to_timestamp(row.ended) END,
reason = CASE WHEN row.state NOT IN ('succeeded', 'failed') THEN coalesce(row.reason, job.reason) END,
result = row.result, started_at = to_timestamp(row.began), consumer = row.consumer,
attempts = row.attempts, run_after = coalesce(to_timestamp(row.due), job.run_after)"""
)


def update_if_running(db: Database, consumer: str, updates: Sequence[FencedUpdate]) -> set[UUID]:
    """Write the updates that pass the fence; return their ids."""
    plain = all(update.state in PLAIN_ENDS for update in updates)
    batch = _ends(updates) if plain else json.dumps([_values(update) for update in updates])
    with db.connection.cursor() as cursor:
        cursor.execute(_WRITE_PLAIN_ENDS if plain else _WRITE_ANY, [batch, consumer])
        if cursor.rowcount == len(updates):  # nearly always: no need to read the ids
            return {update.id for update in updates}
        return {id for (id,) in cursor.fetchall()}


def _ends(updates: Sequence[FencedUpdate]) -> str:
    """Return plain ends as JSON. There can be thousands in a second, and this takes a third of the time."""
    each = [
        f'{{"id":"{row.id.int:032x}","attempt":{row.attempt},"state":"{row.state}",'
        f'"result":{quoted(row.result)},"began":{row.started_at:.6f},"ended":{row.finished_at:.6f}}}'
        for row in updates
    ]
    return f"[{','.join(each)}]"


def _values(update: FencedUpdate) -> dict[str, Any]:
    return {
        "id": update.id.hex,
        "attempt": update.attempt,
        "state": update.state,
        "result": update.result,
        "began": _rounded(update.started_at),
        "ended": _rounded(update.finished_at),
        "consumer": update.consumer,
        "attempts": update.attempts,
        "due": _rounded(update.run_after),
        "reason": update.reason,
    }


def _rounded(seconds: float | None) -> float | None:
    """Round to microseconds here, because the server rounds a half the other way."""
    return None if seconds is None else round(seconds, 6)
