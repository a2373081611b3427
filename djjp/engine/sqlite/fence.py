"""The fence on SQLite: first read which jobs of the batch pass, then write those.

The transaction holds the write lock, so what passes the SELECT still passes at the write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from djjp.engine.database import TABLE, Database
from djjp.engine.records import PLAIN_ENDS, FencedUpdate

# CROSS JOIN: the batch comes first, each row of it is looked up.
_FENCE = f"""SELECT {{what}} FROM json_each(%s) AS row CROSS JOIN {TABLE} AS job
ON job.id = json_extract(row.value, '$[0]') AND job.attempts = json_extract(row.value, '$[1]')
AND +job.consumer = %s AND +job.state = 'running'"""
_COUNT_PASSING = _FENCE.format(what="count(*)")
_PASSING = _FENCE.format(what="json_group_array(job.id)")

# Upserts that never insert, because behind the fence each id exists. An UPDATE … FROM would leave the order of the
# join to the planner. Each value costs a search through its row's text, so a plain end does not write consumer
# and attempt, which it leaves unchanged.
_WRITE_PLAIN_ENDS = f"""INSERT INTO {TABLE} (id, state, result, started_at, finished_at,
name, queue, priority, attempts, rescues, created_at, arguments)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
json_extract(value, '$[4]'), json_extract(value, '$[5]'),
'', '', 0, 0, 0, '', '' FROM json_each(%s) WHERE true
ON CONFLICT (id) DO UPDATE SET state = excluded.state, result = excluded.result,
started_at = excluded.started_at, finished_at = excluded.finished_at, reason = NULL"""

# A job with a cancel request does not run again.
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


def update_if_running(db: Database, consumer: str, updates: Sequence[FencedUpdate]) -> set[UUID]:
    """Write the updates that pass the fence; return their ids."""
    plain = all(update.state in PLAIN_ENDS for update in updates)
    values = [_end(db, update) if plain else _values(db, update) for update in updates]
    accepted = {update.id for update in updates}
    with db.connection.cursor() as cursor:
        batch = json.dumps(values)
        cursor.execute(_COUNT_PASSING, [batch, consumer])
        if cursor.fetchone()[0] < len(updates):  # seldom: only then read which ones pass
            cursor.execute(_PASSING, [batch, consumer])
            passing = set(json.loads(cursor.fetchone()[0]))
            accepted = {update.id for update in updates if update.id.hex in passing}
            batch = json.dumps([each for each in values if each[0] in passing])
        if accepted:
            cursor.execute(_WRITE_PLAIN_ENDS if plain else _WRITE_ANY, [batch])
    return accepted


def _end(db: Database, update: FencedUpdate) -> tuple[Any, ...]:
    started, finished = update.started_at, update.finished_at
    return (
        update.id.hex,
        update.attempt,
        update.state,
        update.result,
        None if started is None else db.to_param(started),
        None if finished is None else db.to_param(finished),
    )


def _values(db: Database, update: FencedUpdate) -> tuple[Any, ...]:
    due = None if update.run_after is None else db.to_param(update.run_after)
    return (*_end(db, update), update.consumer, update.attempts, due, update.reason)
