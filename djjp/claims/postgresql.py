"""The verbs on PostgreSQL: many writers, row locks that skip, COPY, and LISTEN for wake-ups."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djjp.claims.base import INSERT_COLUMNS, TABLE, Claims
from djjp.claims.data import Claimed, NewJob, Problem, Settled

CHANNEL = "djjp_ready"

_INSERT = f"INSERT INTO {TABLE} ({INSERT_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0, 0)"
_INSERT_AND_NOTIFY = f"WITH enqueued AS ({_INSERT}) SELECT pg_notify('{CHANNEL}', '')"
_COPY = f"COPY {TABLE} ({INSERT_COLUMNS}) FROM STDIN"

# MATERIALIZED: a plain sub-select may be evaluated again and claim more than its limit.
_CLAIM = f"""WITH picked AS MATERIALIZED ({{heads}})
UPDATE {TABLE} AS job SET state = 'running', consumer = %s, started_at = %s, attempts = job.attempts + 1
FROM picked WHERE job.id = picked.id
RETURNING job.id, job.name, job.arguments, job.attempts, job.priority"""

# The fence is written so that no index of consumers or states fits it: each row of the batch is looked
# up by its id, also where the planner takes the batch for longer than what runs.
_SETTLE = f"""UPDATE {TABLE} AS job SET state = row.state, result = row.result,
started_at = row.started_at, finished_at = row.finished_at,
consumer = row.consumer, attempts = row.attempts
FROM json_to_recordset(%s::json) AS row(id uuid, attempt integer, state text, result text,
started_at timestamptz, finished_at timestamptz, consumer text, attempts integer)
WHERE job.id = row.id AND job.attempts = row.attempt
AND job.consumer || '' = %s AND job.state || '' = 'running'
RETURNING job.id"""

# The statements of a turn have one good plan each, along an index. Without statistics, as on a queue
# that was filled faster than autovacuum looks, the planner would rather read all ready rows and sort
# them, or begin a batch of outcomes at everything that runs.
_SESSION = "; ".join(
    f"SET {plan} = off"
    for plan in (
        "enable_seqscan",
        "enable_bitmapscan",
        "enable_sort",
        "enable_hashjoin",
        "enable_mergejoin",
    )
)

# NOTIFY takes a lock of the whole cluster at commit. One in this many seconds and process is enough,
# because a consumer that was woken looks again after longer than this: see `Notifications.interval`.
_QUIET = 0.005
_last_notify = 0.0


class PostgreSQLClaims(Claims):
    """The queue in a PostgreSQL database."""

    max_queues = 10_000

    _id_in = "id = ANY(%s)"

    def enqueue(self, job: NewJob) -> None:
        connection = self.connection
        statement = _INSERT_AND_NOTIFY if self._may_notify(connection) else _INSERT
        with connection.cursor() as cursor:
            cursor.execute(statement, self._row(job))

    def enqueue_many(self, jobs: Sequence[NewJob]) -> None:
        connection = self.connection
        with transaction.atomic(using=self.alias):
            with (
                connection.cursor() as cursor,
                connection.wrap_database_errors,
                cursor.copy(_COPY) as copy,
            ):
                for job in jobs:
                    copy.write_row((*self._row(job), 0, 0))
            self.announce()

    def _row(self, job: NewJob) -> tuple[Any, ...]:
        return (
            job.id,
            job.name,
            job.queue,
            job.priority,
            job.state.value,
            None if job.run_after is None else self._stamp(job.run_after),
            self._stamp(job.created_at),
            job.arguments,
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
        heads, params = _heads(queues, without, limit, lock=True)
        with self.connection.cursor() as cursor:
            cursor.execute(_CLAIM.format(heads=heads), [*params, consumer, self._stamp(now)])
            rows = cursor.fetchall()
        # RETURNING keeps no order.
        rows.sort(key=lambda row: (-row[4], row[0]))
        return [Claimed(*row[:4]) for row in rows]

    def has_ready(self, queues: Sequence[str] | None, without: Sequence[str]) -> bool:
        heads, params = _heads(queues, without, 1, lock=False)
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM ({heads}) AS heads LIMIT 1", params)
            return cursor.fetchone() is not None

    def _settle(self, consumer: str, rows: Sequence[Settled]) -> set[UUID]:
        batch = json.dumps(
            [
                {
                    "id": id.hex,
                    "attempt": attempt,
                    "state": state,
                    "result": result,
                    "started_at": None if started_at is None else str(self._stamp(started_at)),
                    "finished_at": None if finished_at is None else str(self._stamp(finished_at)),
                    "consumer": by,
                    "attempts": attempts,
                }
                for id, attempt, state, result, started_at, finished_at, by, attempts in rows
            ]
        )
        with self.connection.cursor() as cursor:
            cursor.execute(_SETTLE, [batch, consumer])
            return {id for (id,) in cursor.fetchall()}

    def _id_list(self, ids: Iterable[UUID]) -> Any:
        return list(ids)

    def announce(self) -> None:
        connection = self.connection
        if self._may_notify(connection):
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_notify('{CHANNEL}', '')")

    def _may_notify(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether a notification is owed now.

        Inside a transaction it is always: nobody can tell when it commits, and the server folds
        equal notifications of one transaction into one.
        """
        global _last_notify
        if connection.in_atomic_block:
            return True
        now = time.monotonic()
        if now - _last_notify < _QUIET:
            return False
        _last_notify = now
        return True

    def listener(self) -> Notifications:
        return Notifications(self)

    def _place(self, settings: Mapping[str, Any]) -> Any:
        options = settings.get("OPTIONS") or {}
        host = settings.get("HOST") or options.get("host") or options.get("service")
        return [str(part or "") for part in (host, settings.get("PORT"), settings["NAME"])]

    def server_problems(self) -> Iterable[Problem]:
        version = self.connection.pg_version  # type: ignore[attr-defined]  # only this wrapper has it
        if version < 14_00_00:
            yield Problem(
                "E006",
                f"djjp needs PostgreSQL 14 or newer; the queue's server is {version // 10_000}",
                "Move the queue to a newer server, or to an SQLite file.",
            )


class Notifications:
    """Makes a connection a consumer's, and hears NOTIFY on it."""

    def __init__(self, claims: PostgreSQLClaims) -> None:
        self._claims = claims
        self._driver: Any = None
        self._heard = False
        self._adopt()

    def fileno(self) -> int | None:
        self._adopt()
        fd: int = self._driver.fileno()
        return fd

    def woken(self) -> bool:
        self._driver.pgconn.consume_input()
        while self._driver.pgconn.notifies() is not None:
            self._heard = True
        heard, self._heard = self._heard, False
        return heard

    def interval(self, quiet: float) -> float:
        # Just after work, an enqueuer may have kept quiet because its last notification is so young.
        return 2 * _QUIET if quiet < 4 * _QUIET else 1.0

    def looks(self) -> float:
        return 1.0

    def _adopt(self) -> None:
        connection = self._claims.connection
        connection.ensure_connection()
        if connection.connection is self._driver:
            return
        self._driver = connection.connection
        # Called for what arrives in the middle of another statement.
        self._driver.add_notify_handler(self._hear)
        self._driver.execute(f"{_SESSION}; LISTEN {CHANNEL}")

    def _hear(self, notification: Any) -> None:
        self._heard = True


def _heads(
    queues: Sequence[str] | None, without: Sequence[str], limit: int, *, lock: bool
) -> tuple[str, list[Any]]:
    """A SELECT of the first ready jobs in the order of the claim, and its parameters.

    For some queues it takes the head of each, from its own place in the index; so a million jobs in
    a queue that is not served are never met.
    """
    passed = " AND name <> ALL(%s)" if without else ""
    names: list[Any] = [list(without)] if without else []
    source = f"SELECT id, priority FROM {TABLE} WHERE state = 'ready'"
    order = "ORDER BY priority DESC, id LIMIT %s"
    skip = " FOR UPDATE SKIP LOCKED" if lock else ""
    if queues is None:
        return f"{source}{passed} {order}{skip}", [*names, limit]
    # A queue named twice would give its jobs twice.
    queues = list(dict.fromkeys(queues))
    if len(queues) == 1:
        return f"{source} AND queue = %s{passed} {order}{skip}", [queues[0], *names, limit]
    head = f"{source} AND queue = served.queue{passed} {order}{skip}"
    heads = (
        "SELECT head.id, head.priority FROM unnest(%s::text[]) AS served(queue)"
        f" CROSS JOIN LATERAL ({head}) AS head {order}"
    )
    return heads, [queues, *names, limit, limit]
