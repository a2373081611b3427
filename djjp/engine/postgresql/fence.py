"""The fence on PostgreSQL: one UPDATE writes the jobs of the batch that pass, and returns their claims.

The rows are locked in the order of their ids, as by each other statement that locks several jobs: sorted here by
their numbers, which is the server's order, and compared faster than ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from djjp.engine.database import Fence
from djjp.engine.records import AS_ASKED, ClaimKey, Entry, Fenced, FencedUpdate, Outcome
from djjp.engine.rows import ENTRIES, TABLE

# Written so that no index of consumers or states fits the condition: each row of the batch is looked up by its id,
# also where the planner takes the batch for larger than the number of running jobs; a condition that always
# holds prevents that, as in the claim. Times are sent as numbers, which need no formatting and parsing.
_FENCED = f"""UPDATE {TABLE} AS job SET {{changes}} FROM {{batch}}
WHERE job.id = row.id AND job.claim = row.claim AND row.claim - row.claim = 0
AND job.consumer || '' = %s AND job.state || '' = 'running'
RETURNING job.id, job.claim, {{cancelled}} AS cancelled"""

# A plain end leaves consumer and attempts unchanged. The server reads binary arrays faster than JSON.
_WRITE_PLAIN_ENDS = _FENCED.format(
    changes="""state = row.state, result = row.result, reason = NULL,
started_at = to_timestamp(row.began), finished_at = to_timestamp(row.ended)""",
    batch="""unnest(%b::uuid[], %b::integer[], %b::text[], %b::text[], %b::float8[], %b::float8[])
AS row(id, claim, state, result, began, ended)""",
    cancelled="false",
)

# A job with a cancel request does not run again.
_RUNS_AGAIN = "row.state IN ('ready', 'scheduled')"
_WRITE_ANY = _FENCED.format(
    changes=f"""
state = CASE WHEN {_RUNS_AGAIN} AND job.cancel_requested THEN 'cancelled' ELSE row.state END,
finished_at = CASE WHEN {_RUNS_AGAIN} AND NOT job.cancel_requested THEN NULL ELSE to_timestamp(row.ended) END,
reason = CASE WHEN row.state NOT IN ('succeeded', 'failed') THEN coalesce(row.reason, job.reason) END,
result = row.result, started_at = to_timestamp(row.began), consumer = row.consumer,
attempts = row.attempts, run_after = coalesce(to_timestamp(row.due), job.run_after)""",
    batch="""json_to_recordset(%s::json) AS row(id uuid, claim integer, state text, result text,
began float8, ended float8, consumer text, attempts integer, due float8, reason text)""",
    cancelled=f"({_RUNS_AGAIN} AND job.cancel_requested)",
)

# In the same statement, because a round trip of its own would cost a turn of one job a sixth. Where all is written
# as asked, which is nearly always, it returns one row without an id, in place of a row for each job.
_COUNTED = f"""WITH written AS ({{update}}), counted AS (
INSERT INTO {ENTRIES} (minute, figures) SELECT %s::bigint, %s::text FROM written
HAVING count(*) = %s AND NOT bool_or(cancelled) RETURNING NULL::uuid, NULL::integer, false)
SELECT * FROM counted UNION ALL
SELECT id, claim, cancelled FROM written WHERE NOT EXISTS (SELECT 1 FROM counted)"""
_COUNT_PLAIN_ENDS, _COUNT_ANY = (
    _COUNTED.format(update=each) for each in (_WRITE_PLAIN_ENDS, _WRITE_ANY)
)


# The id and the claim of a job, and whether it was cancelled in place of running again.
_Written = tuple[UUID, int, bool]


class PostgreSQLFence(Fence):
    """The fence of a PostgreSQL queue."""

    def update_if_running(
        self, consumer: str, updates: Sequence[FencedUpdate], entry: Entry | None = None
    ) -> Fenced:
        updates = sorted(updates, key=attrgetter("id.int"))
        batch = json.dumps([_values(update) for update in updates])
        rows = self._unexpected(_WRITE_ANY, _COUNT_ANY, [batch, consumer], len(updates), entry)
        return AS_ASKED if rows is None else _fenced(((e.id, e.claim) for e in updates), rows)

    def write_ends(self, consumer: str, outcomes: Sequence[Outcome], entry: Entry | None) -> Fenced:
        number = len(outcomes)
        params = [*_columns(sorted(outcomes, key=attrgetter("claimed.id.int"))), consumer]
        rows = self._unexpected(_WRITE_PLAIN_ENDS, _COUNT_PLAIN_ENDS, params, number, entry)
        return AS_ASKED if rows is None else _fenced((o.claimed.key for o in outcomes), rows)

    def _unexpected(
        self, update: str, counted: str, params: list[Any], number: int, entry: Entry | None
    ) -> list[_Written] | None:
        """Write a batch, with its entry if it has one; return what was written, or None if all is as asked."""
        with self._db.connection.cursor() as cursor:
            if entry is None:
                cursor.execute(update, params)
            else:
                cursor.execute(counted, [*params, *entry, number])
            rows: list[_Written] = cursor.fetchall()
        if entry is not None and len(rows) == 1 and rows[0][0] is None:
            return None
        return None if len(rows) == number and not any(row[2] for row in rows) else rows


def _fenced(claims: Iterable[ClaimKey], written: list[_Written]) -> Fenced:
    cancelled = {(id, claim) for id, claim, is_cancelled in written if is_cancelled}
    return Fenced(set(claims) - {(id, claim) for id, claim, _ in written}, cancelled)


def _columns(outcomes: Sequence[Outcome]) -> list[list[Any]]:
    """Return the columns of plain ends."""
    return [
        [outcome.claimed.id for outcome in outcomes],
        [outcome.claimed.claim for outcome in outcomes],
        [outcome.state._value_ for outcome in outcomes],
        [outcome.result for outcome in outcomes],
        [_rounded(outcome.started_at) for outcome in outcomes],
        [_rounded(outcome.finished_at) for outcome in outcomes],
    ]


def _values(update: FencedUpdate) -> dict[str, Any]:
    return {
        "id": update.id.hex,
        "claim": update.claim,
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
    # As `round(seconds, 6)`, which takes twice the time.
    return None if seconds is None else seconds - seconds % 1 + round(seconds % 1 * 1e6) / 1e6
