"""PostgreSQL: many writers, row locks that skip, COPY, advisory locks, and LISTEN for wake-ups."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from djjp import conf
from djjp.engine.database import TABLE, Database, Key, Listener, Rows
from djjp.engine.pipelines import ARRIVED, EDGES
from djjp.engine.postgresql import claim_strategy, fence, inserts
from djjp.engine.postgresql.listener import (
    CHANNEL,
    QUIET,
    SEEN,
    Notifications,
    Polls,
    session_settings,
)
from djjp.engine.records import Claimed, Edge, FencedUpdate, NewJob, Problem

_NOTIFY = f"SELECT pg_notify('{CHANNEL}', '')"

_RESCHEDULE = f"""UPDATE {TABLE} SET {{changes}}, run_after = listed.due
FROM unnest(%s::uuid[], %s::timestamptz[]) AS listed(key, due) WHERE id = listed.key"""

# The rows are locked in the order of their ids before any is changed; each is looked up by id, also where the
# planner has no statistics yet. The consumer that runs this claims next, and needs no notification.
_COUNT_DOWN = f"""WITH arriving AS MATERIALIZED (SELECT job.id, counted.count FROM (
SELECT child, count(*) AS count FROM unnest(%s::uuid[]) AS ended(id)
CROSS JOIN LATERAL (SELECT child FROM {EDGES} WHERE parent = ended.id OFFSET 0) AS edge
GROUP BY child ORDER BY child) AS counted
CROSS JOIN LATERAL (SELECT id FROM {TABLE} WHERE id = child AND state = 'blocked' FOR UPDATE) AS job),
changed AS (UPDATE {TABLE} AS job SET {ARRIVED} FROM arriving
WHERE job.id = arriving.id AND arriving.count - arriving.count = 0 RETURNING job.state)
SELECT pg_notify('{CHANNEL}', '{SEEN}')
WHERE %s AND EXISTS (SELECT FROM changed WHERE state IN ('ready', 'scheduled'))"""

_MINE = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = %s"""

# Each job leaves two dead rows behind. By default the server removes them once they are a fifth of the table:
# where millions of finished jobs are kept, hundreds of thousands of rows.
_VACUUM = {"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_threshold": "1000"}

_last_notify = 0.0


class PostgreSQLDatabase(Database):
    """The queue in a PostgreSQL database."""

    locks_rows = True
    skip_locked = " FOR UPDATE SKIP LOCKED"
    # Rows that another consumer is about to promote are skipped: two consumers that waited for each other's rows
    # would deadlock.
    promotion = f"""WITH due AS MATERIALIZED (SELECT id FROM {TABLE}
WHERE state = 'scheduled' AND run_after <= %s ORDER BY run_after FOR UPDATE SKIP LOCKED)
UPDATE {TABLE} AS job SET state = 'ready' FROM due WHERE job.id = due.id"""

    # Transactions and wake-ups

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            if not conf.current().listen:
                # After this transaction a pooler can give the session to another client.
                with self.connection.cursor() as cursor:
                    cursor.execute(session_settings("SET LOCAL"))
            yield

    def notify(self) -> None:
        connection: Any = self.connection
        if _must_notify(connection):
            connection.ensure_connection()
            # By the raw driver cursor: Django's cursor would take longer than the server.
            with connection.wrap_database_errors:
                connection.connection.execute(_NOTIFY)

    def listener(self) -> Listener:
        return Notifications(self.connection) if conf.current().listen else Polls()

    # Rows

    def in_ids(self, column: str) -> str:
        return f"{column} = ANY(%s)"

    def id_list(self, ids: Iterable[UUID]) -> Any:
        return list(ids)

    def key_list(self, keys: Iterable[Key]) -> Any:
        return list(keys)

    def keys(self, ids: Iterable[UUID]) -> list[Key]:
        return list(ids)

    def to_uuid(self, value: object) -> UUID:
        return cast(UUID, value)

    def listed(self, name: str) -> str:
        return f"unnest(%s::text[]) AS listed({name})"

    def lock_rows(self, columns: str, condition: str, keys: Iterable[Key]) -> Rows:
        # One after the other, in the order of the ids: a sub-select that locks is not pulled up.
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {columns} FROM unnest(%s::uuid[]) AS wanted(wanted_id) CROSS JOIN LATERAL"
                f" (SELECT * FROM {TABLE} WHERE id = wanted_id AND {condition} FOR UPDATE) AS job",
                [sorted(keys)],
            )
            rows: Rows = cursor.fetchall()
            return rows

    def reschedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        keys, due = [key for key, _ in times], [self.to_param(at) for _, at in times]
        with self.connection.cursor() as cursor:
            cursor.execute(_RESCHEDULE.format(changes=changes), [keys, due])

    def count_down(self, succeeded: Collection[Key]) -> None:
        now = self.to_param(time.time())
        with self.connection.cursor() as cursor:
            cursor.execute(_COUNT_DOWN, [list(succeeded), now, now, conf.current().listen])

    # Inserts

    def insert_plain(self, job: NewJob) -> None:
        inserts.plain(self, job)
        # After the commit, in a commit of its own, which waits for no disk: the lock that a notification takes
        # would otherwise make each enqueuer's commit wait for those of all others.
        self.notify()

    def insert_many(self, jobs: Sequence[NewJob]) -> None:
        inserts.many(self, jobs)
        self.notify()

    def insert_whole(self, jobs: Sequence[NewJob]) -> None:
        inserts.whole(self, jobs)

    def insert_edges(self, edges: Sequence[Edge]) -> None:
        inserts.edges(self, edges)

    def record_receipts(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        return inserts.receipts(self, ids, now)

    # The turn

    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[Claimed]:
        return claim_strategy.claim(self, consumer, limit, now, queues, exclude_names)

    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        return claim_strategy.has_ready(self, queues, exclude_names)

    def update_if_running(self, consumer: str, updates: Sequence[FencedUpdate]) -> set[UUID]:
        return fence.update_if_running(self, consumer, updates)

    # Locks

    def lock_keys(self, keys: Collection[str]) -> None:
        # In the order of the locks: two keys can share one.
        locks = sorted({_lock_number(f"djjp limit {key}") for key in keys})
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_advisory_xact_lock(lock)) FROM unnest(%s::bigint[]) AS held(lock)",
                [locks],
            )

    def acquire_lock(self, consumer: str) -> bool:
        if not conf.current().listen:
            return False
        connection: Any = self.connection
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_backend_pid(), EXISTS ({_MINE})", [_lock_number(consumer)])
            pid, mine = cursor.fetchone()
            if pid != connection.connection.info.backend_pid:
                # A pooler stands between: the session that would hold the lock is not this process's.
                return False
            if not mine:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [_lock_number(consumer)])
                (mine,) = cursor.fetchone()
            return bool(mine)

    def release_lock(self, consumer: str) -> None:
        if not conf.current().listen:
            return
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT pg_advisory_unlock(%s) WHERE EXISTS ({_MINE})",
                [_lock_number(consumer), _lock_number(consumer)],
            )

    def is_locked(self, consumer: str) -> bool:
        with self.connection.cursor() as cursor:
            # Shared, so that consumers that test at the same moment do not take each other for the holder.
            cursor.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", [_lock_number(consumer)])
            (free,) = cursor.fetchone()
            return not free

    def runtime_dir(self) -> Path | None:
        """Return a folder in this user's temporary directory; consumers on other machines can't read it."""
        if not hasattr(os, "getuid"):
            return None
        folder = Path(tempfile.gettempdir()) / f"djjp-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        return folder if ours else None

    # Times

    def clock(self) -> float:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
            (now,) = cursor.fetchone()
            return float(now)

    # Requirements

    def identity(self, settings: Mapping[str, Any]) -> Any:
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

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        wanted = ", ".join(f"{name} = {value}" for name, value in _VACUUM.items())
        return [
            (
                f"ALTER TABLE {TABLE} SET ({wanted})",
                f"ALTER TABLE {TABLE} RESET ({', '.join(_VACUUM)})",
            )
        ]


def _must_notify(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a notification is due now: never where no consumer listens.

    Inside a transaction it always is: the time of the commit is unknown, and the server folds equal
    notifications of one transaction into one.
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


def _lock_number(name: str) -> int:
    """Return the number of a name among the server's advisory locks."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
