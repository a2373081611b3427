"""The verbs on PostgreSQL: many writers, row locks that skip, COPY, and LISTEN for wake-ups."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djjp import conf
from djjp.engine.database import INSERT_COLUMNS, TABLE
from djjp.engine.jobs import Claims
from djjp.engine.postgresql.copy_rows import lines
from djjp.engine.postgresql.database import PostgreSQLHouse
from djjp.engine.postgresql.listener import CHANNEL, QUIET
from djjp.engine.postgresql.pipelines import PostgreSQLGraph
from djjp.engine.postgresql.ready import (
    INDEXES,
    ready_after_marks,
    ready_query,
    ready_within_horizon,
)
from djjp.engine.postgresql.watermark import Marks, marks_of
from djjp.engine.receipts import RELAYED
from djjp.engine.records import PLAIN_ENDS, Claimed, NewJob, Settled
from djjp.jsontext import quoted

# A call that is repeated after its connection was lost may find its row there.
_INSERT = f"""INSERT INTO {TABLE} ({INSERT_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0)
ON CONFLICT (id) DO NOTHING"""
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', '')"
_NOTE_RELAYED = f"""INSERT INTO {RELAYED} (id, relayed_at) SELECT unnest(%s::uuid[]), %s::timestamptz
ON CONFLICT (id) DO NOTHING RETURNING id"""
_COPY = f"COPY {TABLE} ({INSERT_COLUMNS}) FROM STDIN"
# How many lines of it go to the driver at once.
_PORTION = 100

# MATERIALIZED: a plain sub-select may be evaluated again and claim more than its limit. The condition always
# holds; by it the planner takes what was picked for a single job, which is looked up. Planned while the table
# had a handful of rows, the statement would else read the whole primary key, and go on to while it grows.
_CLAIM = f"""WITH picked AS MATERIALIZED ({{heads}})
UPDATE {TABLE} AS job SET state = 'running', consumer = %s, started_at = %s, attempts = job.attempts + 1
FROM picked WHERE job.id = picked.id AND picked.priority - picked.priority = 0
RETURNING job.id, job.name, job.arguments, job.attempts, job.rescues, job.flags, job.queue, job.priority"""

# How many entries this session's scans have met in the indexes of ready jobs, also those that are dead.
_MET = (
    "SELECT sum(pg_stat_get_xact_tuples_returned(name::regclass)) FROM unnest(%s::text[]) AS name"
)

# The fence is written so that no index of consumers or states fits it: each row of the batch is looked
# up by its id, also where the planner takes the batch for longer than what runs, which a condition that
# always holds prevents, as above. Times come as numbers, which nobody has to write as text and read again.
_FENCED = f"""UPDATE {TABLE} AS job SET {{changes}}
FROM json_to_recordset(%s::json) AS row(id uuid, attempt integer, state text, result text,
began float8, ended float8, consumer text, attempts integer, due float8, reason text)
WHERE job.id = row.id AND job.attempts = row.attempt AND row.attempt - row.attempt = 0
AND job.consumer || '' = %s AND job.state || '' = 'running'
RETURNING job.id"""

# An end leaves consumer and attempt as the fence has found them.
_SETTLE_ENDED = _FENCED.format(
    changes="""state = row.state, result = row.result, reason = NULL,
started_at = to_timestamp(row.began), finished_at = to_timestamp(row.ended)"""
)

# A job that someone wants to stop does not run again.
_SETTLE_ANY = _FENCED.format(
    changes="""
state = CASE WHEN row.state IN ('ready', 'scheduled') AND job.cancel_requested
        THEN 'cancelled' ELSE row.state END,
finished_at = CASE WHEN row.state IN ('ready', 'scheduled') AND NOT job.cancel_requested
        THEN NULL ELSE to_timestamp(row.ended) END,
reason = CASE WHEN row.state NOT IN ('succeeded', 'failed') THEN coalesce(row.reason, job.reason) END,
result = row.result, started_at = to_timestamp(row.began), consumer = row.consumer,
attempts = row.attempts, run_after = coalesce(to_timestamp(row.due), job.run_after)"""
)

_last_notify = 0.0


class PostgreSQLClaims(PostgreSQLGraph, PostgreSQLHouse, Claims):
    """The queue in a PostgreSQL database."""

    # What another consumer is about to promote is passed over: two that wait for each other's rows would be
    # in each other's way for good.
    _promotion = f"""WITH due AS MATERIALIZED (SELECT id FROM {TABLE}
WHERE state = 'scheduled' AND run_after <= %s ORDER BY run_after FOR UPDATE SKIP LOCKED)
UPDATE {TABLE} AS job SET state = 'ready' FROM due WHERE job.id = due.id"""

    def _within(self, column: str) -> str:
        return f"{column} = ANY(%s)"

    def _enqueue(self, job: NewJob) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(_INSERT, self._row(job))
        # After the commit, and with one of its own, which waits for no disk: the lock that a notification takes
        # would else make each enqueuer's commit wait for those of all others.
        self.announce()

    def _enqueue_many(self, jobs: Sequence[NewJob]) -> None:
        with transaction.atomic(using=self.alias):
            try:
                with transaction.atomic(using=self.alias):
                    self._copy(jobs)
            except IntegrityError:  # COPY knows no ON CONFLICT
                with self.connection.cursor() as cursor:
                    cursor.executemany(_INSERT, [self._row(job) for job in jobs])
        self.announce()

    def _note_relayed(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        with self.connection.cursor() as cursor:
            cursor.execute(_NOTE_RELAYED, [self._id_list(ids), self._stamp(now)])
            return {id for (id,) in cursor.fetchall()}

    def _copy(self, jobs: Sequence[NewJob]) -> None:
        connection = self.connection
        with (
            connection.cursor() as cursor,
            connection.wrap_database_errors,
            cursor.copy(_COPY) as copy,
        ):
            for first in range(0, len(jobs), _PORTION):
                copy.write(lines(jobs[first : first + _PORTION]))

    def _row(self, job: NewJob) -> tuple[Any, ...]:
        return (
            job.id,
            job.name,
            job.queue,
            job.priority,
            job.state._value_,
            None if job.run_after is None else self._stamp(job.run_after),
            self._stamp(job.created_at),
            job.arguments,
            job.on_crash._value_,
            job.flags,
        )

    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        *,
        queues: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> list[Claimed]:
        marks = self._marks(queues, without)
        rows: list[Any] = []
        if marks.valid:
            rows = self._take(
                ready_after_marks(marks, queues, without, limit, lock=True), consumer, now
            )
            marks.advance(_places(rows, queues), may_go_back=False)
        if (rest := limit - len(rows)) > 0:
            if marks.due:
                began, before = time.monotonic(), self._met()
                first = self._take_first(consumer, rest, now, queues, without)
                marks.observe(self._met() - before - len(first), time.monotonic() - began)
                # Where that was all there is, nothing is left to go back to.
                marks.advance(_places(first, queues), may_go_back=len(first) == rest)
            else:
                first = self._take_first(consumer, rest, now, queues, without)
            rows += first
        # RETURNING keeps no order.
        rows.sort(key=lambda row: (-row[7], row[0]))
        return self.handed([Claimed(*row[:6]) for row in rows])

    def has_ready(self, queues: Sequence[str] | None, without: Sequence[str]) -> bool:
        self.connection.ensure_connection()
        marks = self._marks(queues, without)
        if marks.valid and self._finds(ready_after_marks(marks, queues, without, 1, lock=False)):
            return True
        return self._finds(ready_query(queues, without, 1, lock=False))

    def _marks(self, queues: Sequence[str] | None, without: Sequence[str]) -> Marks:
        self.connection.ensure_connection()
        return marks_of(self.connection.connection, queues, without)

    def _take_first(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        without: Sequence[str],
    ) -> list[Any]:
        rows: list[Any] = []
        if queues is not None and len(queues) > 1:
            rows = self._take(ready_within_horizon(queues, without, limit), consumer, now)
        if len(rows) < limit:
            heads = ready_query(queues, without, limit - len(rows), lock=True)
            rows += self._take(heads, consumer, now)
        return rows

    def _take(self, heads: tuple[str, list[Any]], consumer: str, now: float) -> list[Any]:
        select, params = heads
        with self.connection.cursor() as cursor:
            cursor.execute(_CLAIM.format(heads=select), [*params, consumer, self._stamp(now)])
            rows: list[Any] = cursor.fetchall()
            return rows

    def _finds(self, heads: tuple[str, list[Any]]) -> bool:
        select, params = heads
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM ({select}) AS heads LIMIT 1", params)
            return cursor.fetchone() is not None

    def _met(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(_MET, [INDEXES])
            (count,) = cursor.fetchone()
            return int(count)

    def _settle(self, consumer: str, rows: Sequence[Settled]) -> set[UUID]:
        ended = all(row.state in PLAIN_ENDS for row in rows)
        batch = _ends(rows) if ended else json.dumps([_values(row) for row in rows])
        with self.connection.cursor() as cursor:
            cursor.execute(_SETTLE_ENDED if ended else _SETTLE_ANY, [batch, consumer])
            if cursor.rowcount == len(rows):  # nearly always: no need to read who
                return {row.id for row in rows}
            return {id for (id,) in cursor.fetchall()}

    def _id_list(self, ids: Iterable[UUID]) -> Any:
        return list(ids)

    def _uuid(self, value: object) -> UUID:
        return cast(UUID, value)

    def announce(self) -> None:
        connection: Any = self.connection
        if self._may_notify(connection):
            connection.ensure_connection()
            # Beneath Django's cursor, which would take longer than the server.
            with connection.wrap_database_errors:
                connection.connection.execute(_NOTIFY)

    def _may_notify(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether a notification is owed now: never where nobody listens.

        Inside a transaction it is always: nobody can tell when it commits, and the server folds
        equal notifications of one transaction into one.
        """
        global _last_notify
        if not conf.current().listen:
            return False
        if connection.in_atomic_block:
            return True
        now = time.monotonic()
        if now - _last_notify < QUIET:
            return False
        _last_notify = now
        return True


def _ends(rows: Sequence[Settled]) -> str:
    """Plain ends as `_values` has them. There may be thousands in a second, and this takes a third of the time."""
    each = [
        f'{{"id":"{row.id.int:032x}","attempt":{row.attempt},"state":"{row.state}",'
        f'"result":{quoted(row.result)},"began":{row.started_at:.6f},"ended":{row.finished_at:.6f}}}'
        for row in rows
    ]
    return f"[{','.join(each)}]"


def _values(row: Settled) -> dict[str, Any]:
    return {
        "id": row.id.hex,
        "attempt": row.attempt,
        "state": row.state,
        "result": row.result,
        "began": _rounded(row.started_at),
        "ended": _rounded(row.finished_at),
        "consumer": row.consumer,
        "attempts": row.attempts,
        "due": _rounded(row.run_after),
        "reason": row.reason,
    }


def _rounded(seconds: float | None) -> float | None:
    """To microseconds, here: a half one is rounded the other way by the server."""
    return None if seconds is None else round(seconds, 6)


def _places(
    rows: Sequence[Any], queues: Sequence[str] | None
) -> list[tuple[str | None, int, UUID]]:
    """Where claimed rows stood: in the order of their queue, or of all queues together."""
    return [(None if queues is None else row[6], row[7], row[0]) for row in rows]
