"""PostgreSQL: many writers, row locks that skip, COPY, advisory locks, and LISTEN for wake-ups."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from djjp import conf
from djjp.engine.database import Database
from djjp.engine.listener import Listener
from djjp.engine.pipelines import ARRIVED, EDGES
from djjp.engine.postgresql import requirements, runtime_dir, session
from djjp.engine.postgresql.catalog import INVALID_INDEXES, MINE, REFERENCES, SCHEMAS
from djjp.engine.postgresql.claim_strategy import PostgreSQLClaimStrategy
from djjp.engine.postgresql.fence import PostgreSQLFence
from djjp.engine.postgresql.inserts import PostgreSQLInserts
from djjp.engine.postgresql.listener import (
    CHANNEL,
    QUIET,
    SEEN,
    Notifications,
    Polls,
)
from djjp.engine.postgresql.refusals import classify
from djjp.engine.records import Problem
from djjp.engine.refusals import Refusal
from djjp.engine.result_paths import IS_TOLERANT
from djjp.engine.rows import TABLE, Key, Rows

logger = logging.getLogger("djjp")

_NOTIFY = f"SELECT pg_notify('{CHANNEL}', '')"

_RESCHEDULE = f"""UPDATE {TABLE} SET {{changes}}, run_after = listed.due
FROM unnest(%s::uuid[], %s::timestamptz[]) AS listed(key, due) WHERE id = listed.key"""

# The rows are locked in the order of their ids before any is changed; each is looked up by id, also where the
# planner has no statistics yet. The consumer that runs this claims next, and needs no notification.
_COUNT_DOWN = f"""WITH arriving AS MATERIALIZED (SELECT job.id, counted.count FROM (
SELECT child, count(*) AS count FROM unnest(%s::uuid[]) AS ended(id)
CROSS JOIN LATERAL (SELECT child FROM {EDGES} AS edge WHERE parent = ended.id OFFSET 0) AS edge
GROUP BY child ORDER BY child) AS counted
CROSS JOIN LATERAL (SELECT id FROM {TABLE} WHERE id = child AND state = 'blocked' FOR UPDATE) AS job),
changed AS (UPDATE {TABLE} AS job SET {ARRIVED} FROM arriving
WHERE job.id = arriving.id AND arriving.count - arriving.count = 0 RETURNING job.state)
SELECT pg_notify('{CHANNEL}', '{SEEN}')
WHERE %s AND EXISTS (SELECT FROM changed WHERE state IN ('ready', 'scheduled'))"""
_COUNT_TOLERANT = _COUNT_DOWN.replace("OFFSET 0", f"AND {IS_TOLERANT} OFFSET 0")

# For a transaction that leaves out what others have locked: it waits for no other lock for long.
_HURRY = "SET LOCAL lock_timeout = '50ms'"

# The driver's own default, if the alias sets no `connect_timeout`.
_CONNECT_TIMEOUT = 130.0

_last_notify = 0.0


class PostgreSQLDatabase(Database):
    """The queue in a PostgreSQL database."""

    inserts_class = PostgreSQLInserts
    claim_strategy_class = PostgreSQLClaimStrategy
    fence_class = PostgreSQLFence
    locks_rows = True
    sees_commits_in_transaction = True
    skip_locked = " FOR UPDATE SKIP LOCKED"
    # Rows that another consumer is about to promote are skipped: two consumers that waited for each other's rows
    # would deadlock.
    promotion = f"""WITH due AS MATERIALIZED (SELECT id FROM {TABLE}
WHERE state = 'scheduled' AND run_after <= %s ORDER BY run_after LIMIT %s FOR UPDATE SKIP LOCKED)
UPDATE {TABLE} AS job SET state = 'ready' FROM due WHERE job.id = due.id"""
    of_queue = "queue = ANY(ARRAY[{0}, {0}])"  # see `djjp.engine.postgresql.ready`
    # As a number: the driver cannot read an infinite time.
    next_due = "extract(epoch FROM min(run_after))::float8"
    moment = "extract(epoch FROM {0})::float8"
    # The driver reads no infinite time, none before the year 1 and none after 9999.
    is_time = "coalesce(extract(year FROM {0}) BETWEEN 1 AND 9999, false)"
    joined = "string_agg"
    references = REFERENCES
    # With `=` the planner ignores the column in ORDER BY, and can choose another index with the rest of the order.
    is_one = "{0} = ANY(ARRAY[{1}, {1}])"
    # One row in eight million. Otherwise it can prefer the primary key, which has the order of the ids.
    expects_few = "uuid_hash(id) - uuid_hash(id) = ALL ('{0, 0, 0}'::int[])"
    is_like = "{0} LIKE %s"

    # Transactions and wake-ups

    def adopt(self, connection: BaseDatabaseWrapper) -> None:
        if self.alias != "default":  # where the application's sessions are its own
            driver: Any = connection.connection
            if not conf.current().listen:
                # A pooler can run each statement in another session, which has not prepared it.
                driver.prepare_threshold = None
            session.prepare(driver)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            if not conf.current().listen:
                # After this transaction a pooler can give the session to another client.
                connection: Any = self.connection
                with connection.cursor() as cursor:
                    cursor.execute(session.transaction_settings(connection.connection))
            yield

    def classify(self, error: BaseException) -> Refusal:
        return classify(error)

    def notify(self, connection: Any = None) -> None:
        connection = connection or self.connection
        if not _must_notify(connection):
            return
        try:
            connection.ensure_connection()
            # By the raw driver cursor: Django's cursor would take longer than the server.
            with connection.wrap_database_errors:
                connection.connection.execute(_NOTIFY)
        except DatabaseError as error:
            if connection.in_atomic_block:
                raise
            # What it announces is committed, and consumers poll once a second in any case.
            logger.warning("consumers of %r were not notified: %s", self.alias, error)
            connection.close()

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

    def records(
        self, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]
    ) -> tuple[str, list[Any]]:
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        text = json.dumps([dict(zip(columns, row, strict=True)) for row in rows])
        return f"json_to_recordset(%s::json) AS given({typed})", [text]

    def listed(self, name: str) -> str:
        return f"unnest(%s::text[]) AS listed({name})"

    def like(self, glob: str) -> str:
        escaped = re.sub(r"[\\%_]", r"\\\g<0>", glob)
        return escaped.replace("*", "%").replace("?", "_")

    def locked_elsewhere(self, ids: Collection[UUID]) -> set[UUID]:
        rest = f"FROM {TABLE} WHERE {{ids}}"
        with self.connection.cursor() as cursor:
            cursor.execute(_HURRY)
        free = {id for (id,) in self.rows("id", f"{rest} ORDER BY id{self.skip_locked}", ids)}
        if not (missing := set(ids) - free):
            return missing
        return {id for (id,) in self.rows("id", rest, missing)}  # without the deleted ones

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

    def count_down(self, ended: Collection[Key], *, tolerant: bool = False) -> None:
        now = self.to_param(time.time())
        statement = _COUNT_TOLERANT if tolerant else _COUNT_DOWN
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [list(ended), now, now, conf.current().listen])

    @contextmanager
    def planned(self) -> Iterator[None]:
        if self.connection.in_atomic_block:
            yield
            return
        with self.transaction():
            with self.connection.cursor() as cursor:
                cursor.execute(session.planner_settings())
            yield

    # Locks

    def lock_keys(self, keys: Collection[str]) -> None:
        # In the order of the locks: two keys can share one.
        locks = sorted({_lock_number(f"djjp limit {key}") for key in keys})
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_advisory_xact_lock(lock)) FROM unnest(%s::bigint[]) AS held(lock)",
                [locks],
            )

    def try_lock(self, name: str) -> bool:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_lock_number(name)])
            (is_held,) = cursor.fetchone()
            return bool(is_held)

    def acquire_lock(self, consumer: str) -> bool:
        if not conf.current().listen:
            return False
        connection: Any = self.connection
        with connection.wrap_database_errors, connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_backend_pid(), EXISTS ({MINE})", [_lock_number(consumer)])
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
                f"SELECT pg_advisory_unlock(%s) WHERE EXISTS ({MINE})",
                [_lock_number(consumer), _lock_number(consumer)],
            )

    def are_locked(self, consumers: Sequence[str]) -> dict[str, bool]:
        numbers = [_lock_number(name) for name in consumers]
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_try_advisory_xact_lock_shared(number) FROM unnest(%s::bigint[])"
                " WITH ORDINALITY AS each(number, place) ORDER BY place",
                [numbers],
            )
            free = [row[0] for row in cursor.fetchall()]
        return {name: not is_free for name, is_free in zip(consumers, free, strict=True)}

    def is_locked(self, consumer: str) -> bool:
        with self.connection.cursor() as cursor:
            # Shared, so that consumers that test at the same moment do not take each other for the holder.
            cursor.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", [_lock_number(consumer)])
            (free,) = cursor.fetchone()
            return not free

    def runtime_dir(self) -> Path | None:
        """Return a folder in the temporary directory; consumers on other machines cannot read it."""
        return runtime_dir.find()

    def connect_timeout(self) -> float:
        options = self.connection.settings_dict["OPTIONS"]
        return float(options.get("connect_timeout") or _CONNECT_TIMEOUT)

    # Times

    def clock(self) -> float:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
            (now,) = cursor.fetchone()
            return float(now)

    def up_for(self) -> float:
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8"
            )
            (up,) = cursor.fetchone()
            return float(up)

    def to_seconds(self, value: Any) -> float:
        return value if isinstance(value, float) else super().to_seconds(value)

    # Backup

    def backup(self, target: Path) -> None:
        raise ValueError(
            "the queue is in PostgreSQL; back it up with PostgreSQL's own pg_dump, or with the server"
        )

    # Requirements

    def database_identity(self, settings: Mapping[str, Any]) -> Any:
        options = settings.get("OPTIONS") or {}
        host = settings.get("HOST") or options.get("host") or options.get("service")
        return [str(part or "") for part in (host, settings.get("PORT"), settings["NAME"])]

    def configuration_problems(self) -> Iterable[Problem]:
        return requirements.configuration_problems(self.alias)

    def server_problems(self) -> Iterable[Problem]:
        return requirements.server_problems(self.connection)

    def schemas_with(self, table: str) -> Sequence[str]:
        with self.connection.cursor() as cursor:
            cursor.execute(SCHEMAS, [table])
            return [name for (name,) in cursor.fetchall()]

    def invalid_indexes(self) -> Collection[str]:
        with self.connection.cursor() as cursor:
            cursor.execute(INVALID_INDEXES)
            return {name for (name,) in cursor.fetchall()}

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        return requirements.storage_parameters()


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
    # Later than now is an instant of a library that moves time, in tests: it must not silence the process.
    if 0 <= now - _last_notify < QUIET:
        return False
    _last_notify = now
    return True


def _lock_number(name: str) -> int:
    """Return the number of a name among the server's advisory locks."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
