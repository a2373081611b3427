"""The verbs on SQLite: one writer at a time, in this process's memory, with no server to ask.

Each statement of the turn is *one step* of SQLite's machine: rows go in and come out as one JSON
text. Python's driver gives the interpreter lock away around every step, and under jobs that keep
the interpreter busy each return costs up to a switch interval (5 ms); a batch of 200 rows stepped
one by one would take a second. The transaction takes the write lock at BEGIN, so what its SELECT
read still holds when its UPDATE writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, TypeVar
from uuid import UUID

from django.core.signals import setting_changed
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.dispatch import receiver

from djjp.engine.database import INSERT_COLUMNS, TABLE, moment
from djjp.engine.jobs import Claims
from djjp.engine.receipts import RELAYED
from djjp.engine.records import PLAIN_ENDS, Claimed, NewJob, Settled
from djjp.engine.sqlite.database import SQLiteHouse
from djjp.engine.sqlite.pipelines import SQLiteGraph
from djjp.engine.sqlite.ready import MAX_UNION, leading_queues, ready_query
from djjp.ids import from_hex

T = TypeVar("T")

# A call that is repeated, in another turn, may find its row there.
_INSERT = f"""INSERT INTO {TABLE} ({INSERT_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0)
ON CONFLICT (id) DO NOTHING"""

_NOTE_RELAYED = f"""INSERT INTO {RELAYED} (id, relayed_at) SELECT value, %s FROM json_each(%s) WHERE true
ON CONFLICT (id) DO NOTHING RETURNING id"""

_DRIVERS_INSERT = _INSERT.replace("%s", "?")

# Each statement says its plan by itself. Statistics could mislead the planner: gathered while the queue
# was nearly empty, they make it read the whole table for what is one step into an index.
_PRIMARY = f"{TABLE} INDEXED BY sqlite_autoindex_{TABLE}_1"

# OR FAIL: no value that is set here can be refused; SQLite would else first copy each page that it changes,
# for the case that it has to undo this statement alone.
_TAKE = f"""UPDATE OR FAIL {_PRIMARY}
SET state = 'running', consumer = %s, started_at = %s, attempts = attempts + 1
WHERE id IN (SELECT value FROM json_each(%s))"""

# CROSS JOIN: the batch comes first, each row of it is looked up.
_FENCE = f"""SELECT {{what}} FROM json_each(%s) AS row CROSS JOIN {TABLE} AS job
ON job.id = json_extract(row.value, '$[0]') AND job.attempts = json_extract(row.value, '$[1]')
AND +job.consumer = %s AND +job.state = 'running'"""
_PASS = _FENCE.format(what="count(*)")
_PASSING = _FENCE.format(what="json_group_array(job.id)")

# Upserts that never insert, for behind the fence each id is there. As an UPDATE … FROM one would leave the
# order of the join to the planner. Each value of a row costs a look through its text: an end leaves
# consumer and attempt as the fence has found them.
_SETTLE_ENDED = f"""INSERT INTO {TABLE} (id, state, result, started_at, finished_at,
name, queue, priority, attempts, rescues, created_at, arguments)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
json_extract(value, '$[4]'), json_extract(value, '$[5]'),
'', '', 0, 0, 0, '', '' FROM json_each(%s) WHERE true
ON CONFLICT (id) DO UPDATE SET state = excluded.state, result = excluded.result,
started_at = excluded.started_at, finished_at = excluded.finished_at, reason = NULL"""

# A job that someone wants to stop does not run again.
_SETTLE_ANY = f"""INSERT INTO {TABLE} (id, state, result, started_at, finished_at, consumer, attempts,
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


def _retry_locked(work: Callable[[], T], timeout: float) -> T:
    """Do `work` again while SQLite says 'locked' before the busy timeout has passed, as it may at once."""
    until = time.monotonic() + timeout
    while True:
        try:
            return work()
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.05)


class SQLiteClaims(SQLiteGraph, SQLiteHouse, Claims):
    """The queue in an SQLite file."""

    def _within(self, column: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(%s))"

    def _enqueue(self, job: NewJob) -> None:
        connection: Any = self.connection
        row = self._row(job)
        self._write(connection, lambda: _insert(connection, row))

    def _enqueue_many(self, jobs: Sequence[NewJob]) -> None:
        stamp = cache(self._stamp)  # of most it is the same
        rows = [self._row(job, stamp(job.created_at)) for job in jobs]

        def insert() -> None:
            with self.turn(), self.connection.cursor() as cursor:
                cursor.executemany(_INSERT, rows)

        self._write(self.connection, insert)

    def _patiently(self, work: Callable[[], Any]) -> None:
        self._write(self.connection, work)

    def _note_relayed(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        with self.connection.cursor() as cursor:
            cursor.execute(_NOTE_RELAYED, [self._stamp(now), self._id_list(ids)])
            return {UUID(id) for (id,) in cursor.fetchall()}

    def _write(self, connection: BaseDatabaseWrapper, work: Callable[[], Any]) -> None:
        """Inside a transaction a retry could only repeat the error: the lock is taken once, at BEGIN."""
        if connection.in_atomic_block:
            work()
        else:
            # Python's own default, where the alias says nothing.
            _retry_locked(work, connection.settings_dict["OPTIONS"].get("timeout", 5.0))

    def _row(self, job: NewJob, created: str | None = None) -> tuple[Any, ...]:
        return (
            f"{job.id.int:032x}",  # as `hex` has it, which asks more
            job.name,
            job.queue,
            job.priority,
            job.state._value_,
            None if job.run_after is None else self._stamp(job.run_after),
            created or self._stamp(job.created_at),
            job.arguments,
            job.on_crash._value_,
            job.flags,
        )

    @contextmanager
    def turn(self) -> Iterator[None]:
        # Also for an alias whose settings do not say so: see `queue_database`.
        connection: Any = self.connection
        connection.ensure_connection()  # only then does Django know the mode
        mode, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
        try:
            with transaction.atomic(using=self.alias):
                yield
        finally:
            connection.transaction_mode = mode

    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        *,
        queues: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> list[Claimed]:
        wanted, served, queues = limit, queues, self._foremost(queues)
        if queues is not None and len(queues) == MAX_UNION:
            limit = min(limit, MAX_UNION)
        with self.connection.cursor() as cursor:
            heads, params = ready_query(queues, without)
            columns = "id, name, arguments, attempts, rescues, flags"
            cursor.execute(
                f"SELECT json_group_array(json_array({columns})) FROM ({heads})",
                [*params, limit],
            )
            rows = json.loads(cursor.fetchone()[0])
            if rows:
                cursor.execute(
                    _TAKE, [consumer, self._stamp(now), json.dumps([r[0] for r in rows])]
                )
        jobs = [Claimed(from_hex(row[0]), row[1], row[2], row[3] + 1, *row[4:]) for row in rows]
        if len(jobs) == limit < wanted:  # there may be more
            more = self.claim(consumer, wanted - limit, now, queues=served, without=without)
            return self.handed(jobs) + more
        return self.handed(jobs)

    def _foremost(self, queues: Sequence[str] | None) -> Sequence[str] | None:
        if queues is None or len(queues) <= MAX_UNION:
            return queues
        with self.connection.cursor() as cursor:
            cursor.execute(*leading_queues(queues))
            names: list[str] = json.loads(cursor.fetchone()[0])
            return names

    def has_ready(self, queues: Sequence[str] | None, without: Sequence[str]) -> bool:
        with self.connection.cursor() as cursor:
            heads, params = ready_query(self._foremost(queues), without)
            cursor.execute(f"SELECT 1 FROM ({heads})", [*params, 1])
            return cursor.fetchone() is not None

    def _settle(self, consumer: str, rows: Sequence[Settled]) -> set[UUID]:
        ended = all(row.state in PLAIN_ENDS for row in rows)
        values = [self._end(row) if ended else self._values(row) for row in rows]
        accepted = {row.id for row in rows}
        with self.connection.cursor() as cursor:
            batch = json.dumps(values)
            cursor.execute(_PASS, [batch, consumer])
            if cursor.fetchone()[0] < len(rows):  # seldom: who then?
                cursor.execute(_PASSING, [batch, consumer])
                passing = set(json.loads(cursor.fetchone()[0]))
                accepted = {row.id for row in rows if row.id.hex in passing}
                batch = json.dumps([each for each in values if each[0] in passing])
            if accepted:
                cursor.execute(_SETTLE_ENDED if ended else _SETTLE_ANY, [batch])
        return accepted

    def _end(self, row: Settled) -> tuple[Any, ...]:
        started, finished = row.started_at, row.finished_at
        return (
            row.id.hex,
            row.attempt,
            row.state,
            row.result,
            None if started is None else self._stamp(started),
            None if finished is None else self._stamp(finished),
        )

    def _values(self, row: Settled) -> tuple[Any, ...]:
        due = None if row.run_after is None else self._stamp(row.run_after)
        return (*self._end(row), row.consumer, row.attempts, due, row.reason)

    def _id_list(self, ids: Iterable[UUID]) -> Any:
        return json.dumps([id.hex for id in ids])

    def _uuid(self, value: object) -> UUID:
        return UUID(str(value))

    def _seconds(self, value: Any) -> float:
        # A column comes as Django has its type converted; what is reckoned from one is text.
        return super()._seconds(datetime.fromisoformat(value) if isinstance(value, str) else value)

    def _stamp(self, seconds: float) -> Any:
        """The text that the ORM writes and compares with."""
        whole = int(seconds)
        micro = round((seconds - whole) * 1_000_000)
        if micro == 1_000_000:
            whole, micro = whole + 1, 0
        # The ORM leaves a zero fraction out.
        return f"{_second(self.alias, whole)}.{micro:06}" if micro else _second(self.alias, whole)


def _insert(connection: Any, row: tuple[Any, ...]) -> None:
    """Insert one job: by Django's cursor while somebody watches the statements, else beneath it.

    The cursor and its translation of the placeholders take half as long again as the insert.
    """
    # "cursor": a TestCase has put its own in the way, because it does not name this database.
    if connection.queries_logged or connection.execute_wrappers or "cursor" in vars(connection):
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, row)
        return
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors:
        connection.connection.execute(_DRIVERS_INSERT, row)


@lru_cache(maxsize=64)
def _second(alias: str, whole: int) -> str:
    return str(connections[alias].ops.adapt_datetimefield_value(moment(whole)))


@receiver(setting_changed)
def _forget_seconds(**kwargs: object) -> None:
    """Time zones are settings, and tests override them."""
    _second.cache_clear()
