"""SQLite: one writer at a time, in this process's memory, without a server.

Each statement of the turn is *one step* of SQLite's machine: rows come out as one JSON text, and go in as one, or
as parameters of one statement. Python's driver releases the interpreter lock around every step. Under jobs that
keep the interpreter busy each return costs up to a switch interval (5 ms); a batch of 200 rows stepped one by one
would take a second.

Each statement names its index. Statistics could mislead the planner: gathered while the queue was nearly empty,
they make it read the whole table where one step into an index is enough.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djjp.bounds import READ_TEXT
from djjp.engine.database import Database
from djjp.engine.pipelines import ARRIVED, EDGES
from djjp.engine.records import Problem
from djjp.engine.refusals import Refusal
from djjp.engine.result_paths import IS_TOLERANT
from djjp.engine.rows import TABLE, Key, Rows
from djjp.engine.sqlite import backup, file, requirements
from djjp.engine.sqlite.claim_strategy import SQLiteClaimStrategy
from djjp.engine.sqlite.fence import SQLiteFence
from djjp.engine.sqlite.inserts import SQLiteInserts
from djjp.engine.sqlite.listener import CommitListener
from djjp.engine.sqlite.refusals import classify
from djjp.exceptions import QueueUnavailable

_PRIMARY = f"INDEXED BY sqlite_autoindex_{TABLE}_1"

# By the primary key: the list comes first, and each row of it is looked up. SQLite leaves neither to a hint alone:
# with the statistics of a small table it would read all jobs first, unless the list is MATERIALIZED, and each term
# has a column of the list.
_RESCHEDULE = f"""WITH listed AS MATERIALIZED (
SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS due FROM json_each(%s))
UPDATE {TABLE} {_PRIMARY} SET {{changes}}, run_after = due FROM listed WHERE id = listed.key"""

# OR FAIL, because without it SQLite would first copy each page that it changes, to be able to undo this statement
# alone. A row that is refused undoes the whole transaction anyway.
_COUNT_DOWN = f"""WITH arriving AS MATERIALIZED (
SELECT child, count(*) AS count, 'blocked' AS state FROM {EDGES} AS edge
WHERE parent IN (SELECT value FROM json_each(%s)) GROUP BY child)
UPDATE OR FAIL {TABLE} AS job {_PRIMARY} SET {ARRIVED} FROM arriving
WHERE job.id = arriving.child AND +job.state = arriving.state"""
_COUNT_TOLERANT = _COUNT_DOWN.replace("GROUP BY", f"AND {IS_TOLERANT} GROUP BY")

logger = logging.getLogger("djjp.consumer")

_REFERENCES = """SELECT other.name, key."from" FROM sqlite_master AS other
JOIN pragma_foreign_key_list(other.name) AS key
WHERE other.type = 'table' AND key."table" = %s AND key.on_delete IN ('NO ACTION', 'RESTRICT')"""

# Python's own default, where the alias sets no busy timeout.
_DEFAULT_TIMEOUT = 5.0

# What an alias' `init_command` must not have changed.
_PREPARE = ("PRAGMA reverse_unordered_selects = OFF",)


class SQLiteDatabase(Database):
    """The queue in an SQLite file."""

    inserts_class = SQLiteInserts
    claim_strategy_class = SQLiteClaimStrategy
    fence_class = SQLiteFence
    join = "CROSS JOIN"
    promotion = f"""UPDATE OR FAIL {TABLE} {_PRIMARY} SET state = 'ready' WHERE id IN (
SELECT id FROM {TABLE} INDEXED BY djjp_job_scheduled
WHERE state = 'scheduled' AND run_after <= %s ORDER BY run_after LIMIT %s)"""
    # `datetime()` also takes a number of days, a time without a date, 30 February and 24:00. The column would make
    # '0001' a number.
    is_time = (
        "typeof({0}) = 'text' AND {0} >= '0001-' AND {0} GLOB '[0-9][0-9][0-9][0-9]-*:*'"
        " AND date(substr({0}, 1, 10), '+0 days') = substr({0}, 1, 10)"
        " AND substr({0}, 12, 2) < '24' AND datetime({0}) IS NOT NULL"
    )
    ready_queue_hint = "INDEXED BY djjp_job_ready_queue"
    index_hint = "INDEXED BY {0}"
    # As the partial index has it by Django before 6.1, and since: SQLite compares the text.
    is_live_tag = "NOT ended AND ended = 0"
    is_ordered = (
        "typeof(priority) = 'integer' AND typeof(id) = 'text' AND length(id) = 32"
        " AND id NOT GLOB '*[^0-9a-f]*'"
    )
    references = _REFERENCES
    key_text = "id || ''"  # its JSON cannot have a BLOB
    is_like = "{0} GLOB %s"

    # Transactions and wake-ups

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # Also for an alias whose settings do not set it: see `queue_database`.
        connection: Any = self.connection
        connection.ensure_connection()  # Django reads the mode from the settings on connect
        file.opened(connection)
        self.confirm(connection)
        mode, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
        try:
            with transaction.atomic(using=self.alias):
                yield
        finally:
            connection.transaction_mode = mode
        self.confirm(connection)

    def with_retry(
        self, work: Callable[[], Any], connection: BaseDatabaseWrapper | None = None
    ) -> None:
        # Inside a transaction a retry could only repeat the error: the lock is taken once, at BEGIN.
        connection = connection or self.connection
        if connection.in_atomic_block:
            work()
        else:
            timeout = connection.settings_dict["OPTIONS"].get("timeout", _DEFAULT_TIMEOUT)
            _retry_locked(work, timeout)

    def classify(self, error: BaseException) -> Refusal:
        return classify(error)

    def listener(self) -> CommitListener:
        return CommitListener(self.connection)

    def adopt(self, connection: BaseDatabaseWrapper) -> None:
        if self.alias != "default":  # where the application's settings are its own
            for pragma in _PREPARE:
                connection.connection.execute(pragma)
            connection.connection.text_factory = READ_TEXT
            if connection.connection.execute("PRAGMA busy_timeout").fetchone() == (0,):
                timeout = connection.settings_dict["OPTIONS"].get("timeout", _DEFAULT_TIMEOUT)
                connection.connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
        file.adopt(connection)

    def confirm(self, connection: BaseDatabaseWrapper) -> None:
        if not connection.in_atomic_block and connection.connection is not None:
            file.confirm(connection)

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

    def records(
        self, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]
    ) -> tuple[str, list[Any]]:
        # As parameters: from a JSON text each value would take a search through its row's text.
        named = ", ".join(f"column{at} AS {name}" for at, name in enumerate(columns, 1))
        row = f"({', '.join(['%s'] * len(columns))})"
        values = ", ".join([row] * len(rows))
        return f"(SELECT {named} FROM (VALUES {values})) AS given", [
            each for row in rows for each in row
        ]

    def listed(self, name: str) -> str:
        return f"(SELECT value AS {name} FROM json_each(%s)) AS listed"

    def indexed(self, table: str, index: str | None) -> str:
        name, _, _ = table.partition(" ")
        return f"{table} INDEXED BY {index or f'sqlite_autoindex_{name}_1'}"

    def like(self, glob: str) -> str:
        return glob.replace("[", "[[]")

    def select(self, columns: str) -> str:
        return f"SELECT json_group_array(json_array({columns}))"

    def fetch(self, cursor: Any) -> Rows:
        rows: Rows = json.loads(cursor.fetchone()[0])
        return rows

    def reschedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        text = json.dumps([(key, self.to_param(due)) for key, due in times])
        with self.connection.cursor() as cursor:
            cursor.execute(_RESCHEDULE.format(changes=changes), [text])

    def count_down(self, ended: Collection[Key], *, tolerant: bool = False) -> None:
        now = self.to_param(time.time())
        statement = _COUNT_TOLERANT if tolerant else _COUNT_DOWN
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [self.key_list(ended), now, now])

    # Locks

    def lock_keys(self, keys: Collection[str]) -> None:
        """Do nothing: the transaction holds the file's lock."""

    def runtime_dir(self) -> Path | None:
        """Return a folder beside the file, where all its consumers find it: they are on the same machine."""
        connection: Any = self.connection
        if connection.is_in_memory_db():
            return None
        file = _resolved(str(connection.settings_dict["NAME"]))
        folder = file.with_name(f"{file.name}-consumers")
        return folder if folder.is_dir() or _create_folder(folder, file) else None

    # Times

    def by_index(self, name: str) -> str:
        return f"INDEXED BY {name}"

    def to_seconds(self, value: Any) -> float:
        # A column is converted by Django to its type; the value of an expression is text. Both are in UTC.
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        return float(time.replace(tzinfo=UTC).timestamp())

    def to_param(self, seconds: float) -> Any:
        """Return the text that the ORM writes and compares with: see `InstantField`."""
        whole = int(seconds)
        micro = round((seconds - whole) * 1_000_000)
        if micro == 1_000_000:
            whole, micro = whole + 1, 0
        # The ORM leaves a zero fraction out.
        return f"{_second(whole)}.{micro:06}" if micro else _second(whole)

    # Backup

    def backup(self, target: Path) -> None:
        connection: Any = self.connection
        if connection.is_in_memory_db():
            raise ValueError("the queue is in memory; there is no file to copy")
        try:
            backup.copy(Path(connection.settings_dict["NAME"]), target)
        except sqlite3.Error as error:
            raise QueueUnavailable(f"the queue cannot be copied: {error}") from error

    # Requirements

    def database_identity(self, settings: Mapping[str, Any]) -> Any:
        name = str(settings["NAME"])
        # Two in-memory databases are never the same one, even under one name.
        in_memory = name == ":memory:" or "mode=memory" in name
        if in_memory or "\0" in name:
            return object()
        path = Path(name).resolve()
        try:  # a hard link is another name of the file
            found = path.stat()
        except OSError:
            return path
        return found.st_dev, found.st_ino

    def configuration_problems(self) -> Iterable[Problem]:
        return requirements.configuration_problems(self.connection)

    def server_problems(self) -> Iterable[Problem]:
        return requirements.server_problems(self.connection)


@cache
def _resolved(name: str) -> Path:
    """Return where a file really is, as SQLite finds it: by a symlink or a relative path it has other names.

    It is resolved once: a job can change the process's working directory.
    """
    return Path(name).resolve()


def _create_folder(folder: Path, file: Path) -> bool:
    """Create a folder for those who can use the file, and return whether there is one."""
    try:
        status = file.stat()
        folder.mkdir(exist_ok=True)
        readable = status.st_mode & 0o444
        folder.chmod(status.st_mode & 0o666 | readable >> 2)
        if os.geteuid() == 0:
            os.chown(folder, status.st_uid, status.st_gid)
    except OSError as error:
        _warn(str(error))
        return False
    return True


@cache  # once in a process
def _warn(error: str) -> None:
    logger.warning("consumers have no folder for their locks (%s): heartbeats replace them", error)


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
def _second(whole: int) -> str:
    return str(datetime.fromtimestamp(whole, UTC).replace(tzinfo=None))
