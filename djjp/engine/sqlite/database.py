"""SQLite: one writer at a time, in this process's memory, without a server.

Each statement of the turn is *one step* of SQLite's machine: rows go in and come out as one JSON text. Python's
driver releases the interpreter lock around every step, and under jobs that keep the interpreter busy each
return costs up to a switch interval (5 ms); a batch of 200 rows stepped one by one would take a second.

Each statement names its index. Statistics could mislead the planner: gathered while the queue was nearly empty,
they make it read the whole table where one step into an index is enough.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.signals import setting_changed
from django.db import OperationalError, connections, transaction
from django.dispatch import receiver

from djjp.durations import to_datetime
from djjp.engine.database import TABLE, Database, Key, Rows
from djjp.engine.pipelines import ARRIVED, EDGES
from djjp.engine.records import Claimed, Edge, FencedUpdate, NewJob, Problem
from djjp.engine.sqlite import claim_strategy, fence, inserts, lockfile
from djjp.engine.sqlite.listener import CommitListener

_PRIMARY = f"INDEXED BY sqlite_autoindex_{TABLE}_1"

# By the primary key: the list comes first, and each row of it is looked up.
_RESCHEDULE = f"""UPDATE {TABLE} {_PRIMARY} SET {{changes}}, run_after = due
FROM (SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS due FROM json_each(%s)) AS listed
WHERE id = listed.key"""

_COUNT_DOWN = f"""WITH arriving AS MATERIALIZED (SELECT child, count(*) AS count FROM {EDGES}
WHERE parent IN (SELECT value FROM json_each(%s)) GROUP BY child)
UPDATE {TABLE} AS job {_PRIMARY} SET {ARRIVED} FROM arriving
WHERE job.id = arriving.child AND +job.state = 'blocked'"""

# Python's own default, where the alias sets no busy timeout.
_DEFAULT_TIMEOUT = 5.0


class SQLiteDatabase(Database):
    """The queue in an SQLite file."""

    join = "CROSS JOIN"

    # Transactions and wake-ups

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # Also for an alias whose settings do not set it: see `queue_database`.
        connection: Any = self.connection
        connection.ensure_connection()  # only then does Django know the mode
        mode, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
        try:
            with transaction.atomic(using=self.alias):
                yield
        finally:
            connection.transaction_mode = mode

    def with_retry(self, work: Callable[[], Any]) -> None:
        # Inside a transaction a retry could only repeat the error: the lock is taken once, at BEGIN.
        connection = self.connection
        if connection.in_atomic_block:
            work()
        else:
            _retry_locked(
                work, connection.settings_dict["OPTIONS"].get("timeout", _DEFAULT_TIMEOUT)
            )

    def listener(self) -> CommitListener:
        return CommitListener(self.connection)

    # Rows

    def in_ids(self, column: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(%s))"

    def id_list(self, ids: Iterable[UUID]) -> Any:
        return json.dumps([id.hex for id in ids])

    def key_list(self, keys: Iterable[Key]) -> Any:
        return json.dumps([*keys])

    def keys(self, ids: Iterable[UUID]) -> list[Key]:
        return [id.hex for id in ids]

    def to_uuid(self, value: object) -> UUID:
        return UUID(str(value))

    def listed(self, name: str) -> str:
        return f"(SELECT value AS {name} FROM json_each(%s)) AS listed"

    def select(self, columns: str) -> str:
        return f"SELECT json_group_array(json_array({columns}))"

    def fetch(self, cursor: Any) -> Rows:
        rows: Rows = json.loads(cursor.fetchone()[0])
        return rows

    def reschedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        text = json.dumps([(key, self.to_param(due)) for key, due in times])
        with self.connection.cursor() as cursor:
            cursor.execute(_RESCHEDULE.format(changes=changes), [text])

    def count_down(self, succeeded: Collection[Key]) -> None:
        now = self.to_param(time.time())
        with self.connection.cursor() as cursor:
            cursor.execute(_COUNT_DOWN, [self.key_list(succeeded), now, now])

    # Inserts

    def insert_plain(self, job: NewJob) -> None:
        inserts.plain(self, job)

    def insert_many(self, jobs: Sequence[NewJob]) -> None:
        inserts.many(self, jobs)

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
        """Do nothing: the transaction holds the file's lock."""

    def acquire_lock(self, consumer: str) -> bool:
        folder = self.runtime_dir()
        return folder is not None and lockfile.acquire(_lock(folder, consumer))

    def release_lock(self, consumer: str) -> None:
        if (folder := self.runtime_dir()) is not None:
            lockfile.release(_lock(folder, consumer))

    def is_locked(self, consumer: str) -> bool:
        folder = self.runtime_dir()
        return folder is not None and lockfile.is_locked(_lock(folder, consumer))

    def runtime_dir(self) -> Path | None:
        """Return a folder beside the file, where all its consumers find it: they are on the same machine."""
        connection: Any = self.connection
        if connection.is_in_memory_db():
            return None
        folder = Path(f"{connection.settings_dict['NAME']}-consumers")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    # Times

    def to_seconds(self, value: Any) -> float:
        # A column is converted by Django to its type; the value of an expression is text.
        return super().to_seconds(
            datetime.fromisoformat(value) if isinstance(value, str) else value
        )

    def to_param(self, seconds: float) -> Any:
        """Return the text that the ORM writes and compares with."""
        whole = int(seconds)
        micro = round((seconds - whole) * 1_000_000)
        if micro == 1_000_000:
            whole, micro = whole + 1, 0
        # The ORM leaves a zero fraction out.
        return f"{_second(self.alias, whole)}.{micro:06}" if micro else _second(self.alias, whole)

    # Requirements

    def identity(self, settings: Mapping[str, Any]) -> Any:
        name = str(settings["NAME"])
        # Two in-memory databases are never the same one, even under one name.
        in_memory = name == ":memory:" or "mode=memory" in name
        return object() if in_memory else Path(name).resolve()

    def configuration_problems(self) -> Iterable[Problem]:
        name = self.connection.settings_dict["NAME"]
        # Under this name Django's test runner keeps the queue for a test run, where it belongs.
        if self.connection.is_in_memory_db() and not str(name).startswith("file:memorydb_"):  # type: ignore[attr-defined]  # only SQLite's wrapper has it
            yield Problem(
                "E005",
                f"the queue's alias {self.alias!r} is an in-memory SQLite database ({str(name)!r}), "
                "which no other process can see",
                "Give it a file: queue_database(BASE_DIR / 'queue.sqlite3').",
            )

    def server_problems(self) -> Iterable[Problem]:
        self.connection.ensure_connection()
        if sqlite3.sqlite_version_info < (3, 35):
            yield Problem(
                "E006",
                f"djjp needs SQLite 3.35 or newer; this Python has {sqlite3.sqlite_version}",
                "Use a Python built with a newer SQLite, or keep the queue in PostgreSQL.",
            )


def _lock(folder: Path, consumer: str) -> Path:
    return folder / f"{consumer.replace(':', '-')}.lock"


def _retry_locked(work: Callable[[], Any], timeout: float) -> None:
    """Repeat `work` while SQLite reports 'locked' before the busy timeout has passed: it can do so at once."""
    until = time.monotonic() + timeout
    while True:
        try:
            work()
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.05)
        else:
            return


@lru_cache(maxsize=64)
def _second(alias: str, whole: int) -> str:
    return str(connections[alias].ops.adapt_datetimefield_value(to_datetime(whole)))


@receiver(setting_changed)
def _forget_seconds(**kwargs: object) -> None:
    """Empty the cache: time zones are settings, and tests override them."""
    _second.cache_clear()
