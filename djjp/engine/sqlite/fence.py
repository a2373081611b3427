"""The fence on SQLite: a batch of plain ends is written at once, and again in two steps if one is refused.

The two steps read which jobs of the batch pass, then write those. The transaction holds the write lock, so what
passes the SELECT still passes at the write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from djjp.engine.database import Fence
from djjp.engine.records import (
    AS_ASKED,
    RUN_AGAIN,
    Entry,
    Fenced,
    FencedUpdate,
    Outcome,
    update_for,
)
from djjp.engine.rows import APPEND, TABLE
from djjp.engine.sqlite.raw import BatchStatement, RawStatement

# CROSS JOIN: the batch comes first, each row of it is looked up.
_FENCE = f"""SELECT {{what}} FROM json_each(%s) AS row CROSS JOIN {TABLE} AS job
ON job.id = json_extract(row.value, '$[0]') AND job.claim = json_extract(row.value, '$[1]')
AND +job.consumer = %s AND +job.state = 'running'"""
_COUNT_PASSING = _FENCE.format(what="count(*), total(+job.cancel_requested)")
_PASSING = _FENCE.format(
    what="json_group_array(json_array(job.id, job.claim, job.cancel_requested))"
)

# A plain end leaves consumer and attempts unchanged.
_WRITE_END = RawStatement(
    f"""UPDATE {TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1
SET state = %s, result = %s, started_at = %s, finished_at = %s, reason = NULL
WHERE id = %s AND claim = %s AND +consumer = %s AND +state = 'running'"""
)

# The same for several jobs, which takes half the time of the two steps that parse a batch as JSON. Python counts
# the rows of a statement only if its first word is UPDATE, so no WITH can name the columns. OR FAIL as in
# `djjp.engine.sqlite.database`, and the order of the join too: each term has a column of the batch.
_WRITE_ENDS = BatchStatement(
    f"""UPDATE OR FAIL {TABLE} AS job INDEXED BY sqlite_autoindex_{TABLE}_1
SET state = column1, result = column2, started_at = column3, finished_at = column4, reason = NULL
FROM (VALUES {{rows}}) AS ended
WHERE job.id = column5 AND job.claim = column6 AND +job.consumer = column7 AND +job.state = column8""",
    row="(%s, %s, %s, %s, %s, %s, %s, 'running')",
    most=128,
    filler=(None,) * 7,  # the id NULL finds no job
)

# Upserts that never insert, because behind the fence each id exists. A job with a cancel request does not run
# again.
_WRITE_ANY = f"""INSERT INTO {TABLE} (id, state, result, started_at, finished_at, consumer, attempts,
run_after, reason, name, queue, priority, rescues, created_at, arguments)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]'),
json_extract(value, '$[7]'), json_extract(value, '$[8]'), json_extract(value, '$[9]'),
'', '', 0, 0, '', '' FROM json_each(%s) WHERE true
ON CONFLICT (id) DO UPDATE SET result = excluded.result, started_at = excluded.started_at,
consumer = excluded.consumer, attempts = excluded.attempts,
state = CASE WHEN excluded.state IN ('ready', 'scheduled') AND {TABLE}.cancel_requested
        THEN 'cancelled' ELSE excluded.state END,
finished_at = CASE WHEN excluded.state IN ('ready', 'scheduled') AND NOT {TABLE}.cancel_requested
        THEN NULL ELSE excluded.finished_at END,
reason = CASE WHEN excluded.state NOT IN ('succeeded', 'failed')
        THEN coalesce(excluded.reason, {TABLE}.reason) END,
run_after = coalesce(excluded.run_after, {TABLE}.run_after)"""

_APPEND = APPEND.replace("%s", "?")


class SQLiteFence(Fence):
    """The fence of an SQLite queue."""

    def update_if_running(
        self, consumer: str, updates: Sequence[FencedUpdate], entry: Entry | None = None
    ) -> Fenced:
        values = [self._values(update) for update in updates]
        fenced = AS_ASKED
        with self._db.connection.cursor() as cursor:
            batch = json.dumps(values)
            cursor.execute(_COUNT_PASSING, [batch, consumer])
            passes, requests = cursor.fetchone()
            # Seldom: only then read which ones pass, and which of those will not run again.
            if passes < len(updates) or requests:
                cursor.execute(_PASSING, [batch, consumer])
                passing = {
                    (id, claim): request for id, claim, request in json.loads(cursor.fetchone()[0])
                }
                fenced = _fenced(updates, passing)
                batch = json.dumps([each for each in values if each[:2] in passing])
            if passes:
                cursor.execute(_WRITE_ANY, [batch])
        if entry is not None and fenced is AS_ASKED:
            self._append(entry)
        return fenced

    def write_ends(self, consumer: str, outcomes: Sequence[Outcome], entry: Entry | None) -> Fenced:
        if self._write_all(consumer, outcomes, entry):
            return AS_ASKED
        updates = [update_for(consumer, outcome) for outcome in outcomes]
        return self.update_if_running(consumer, updates, entry)

    def _write_all(self, consumer: str, outcomes: Sequence[Outcome], entry: Entry | None) -> bool:
        """Write plain ends; return False, with nothing written, unless all pass."""
        to_text = self._db.to_param
        rows = [
            (
                state._value_,
                result,
                to_text(started),
                to_text(finished),
                f"{job.id.int:032x}",  # the value of `hex`, which takes longer
                job.claim,
                consumer,
            )
            for job, state, started, finished, result, _, _, _ in outcomes
        ]
        connection = self._db.connection
        if len(rows) == 1:  # it is written, or is not, and needs no savepoint
            passed = _WRITE_END.execute(connection, rows[0]) == 1
        else:
            with connection.cursor() as cursor:
                cursor.execute("SAVEPOINT djjp_fence")
                passed = _WRITE_ENDS.execute(connection, rows) == len(rows)
                if not passed:
                    cursor.execute("ROLLBACK TO djjp_fence")
                cursor.execute("RELEASE djjp_fence")
        if passed and entry is not None:
            self._append(entry)
        return passed

    def _append(self, entry: Entry) -> None:
        # By the driver itself: Django's cursor would take longer than the insert, which each turn makes.
        connection: Any = self._db.connection
        with connection.wrap_database_errors:
            connection.connection.execute(_APPEND, entry)

    def _values(self, update: FencedUpdate) -> tuple[Any, ...]:
        return (
            update.id.hex,
            update.claim,
            update.state,
            update.result,
            self._time(update.started_at),
            self._time(update.finished_at),
            update.consumer,
            update.attempts,
            self._time(update.run_after),
            update.reason,
        )

    def _time(self, seconds: float | None) -> str | None:
        return None if seconds is None else self._db.to_param(seconds)


def _fenced(updates: Sequence[FencedUpdate], passing: Mapping[tuple[str, int], int]) -> Fenced:
    keys = {(update.id.hex, update.claim): update for update in updates}
    return Fenced(
        refused={(each.id, each.claim) for key, each in keys.items() if key not in passing},
        cancelled={
            (each.id, each.claim)
            for key, each in keys.items()
            if each.state in RUN_AGAIN and passing.get(key)
        },
    )
