"""The queue's database: the only part of the engine that differs by vendor.

`Database` gives the concerns of the engine an alias with its connection, transactions, rows, ids and times in
the form that the database uses, inserts, locks and wake-ups. Each vendor's folder implements it, and has a
module of the same name for each large part: `claim_strategy`, `fence`, `inserts`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from djjp.engine.records import Claimed, Edge, FencedUpdate, NewJob, Problem
from djjp.models import Job

TABLE = Job._meta.db_table

#: An id as a cursor returns it. The engine keeps ids in this form between statements: a turn handles thousands.
Key = Any
Rows = Sequence[Sequence[Any]]

# The columns of an insert are the fields of `NewJob`. Few jobs have a value in a field from here on.
_FIRST_RARE = NewJob._fields.index("pipeline")
_PLAIN, _RARE = NewJob._fields[:_FIRST_RARE], NewJob._fields[_FIRST_RARE:]


def _columns(fields: Sequence[str]) -> str:
    return ", ".join((*fields, "attempts", "rescues"))


def _values(fields: Sequence[str]) -> str:
    return ", ".join([*["%s"] * len(fields), "0", "0"])


#: The columns and values of an insert of a plain job, and of one with all that a job can have.
PLAIN_COLUMNS, PLAIN_VALUES = _columns(_PLAIN), _values(_PLAIN)
ALL_COLUMNS, ALL_VALUES = _columns(NewJob._fields), _values(NewJob._fields)


class Listener(Protocol):
    """Reports to a waiting consumer that another process wrote to the queue.

    A lost wake-up is harmless: the consumer polls again after `interval()` in any case.
    """

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable on a wake-up, or None where only `woken()` reports one."""

    def woken(self) -> bool:
        """Return whether another process wrote since the last call."""

    def interval(self, quiet: float) -> float:
        """Return the seconds until the next call of `woken()` is due, after `quiet` seconds without work."""


class Database(ABC):
    """One database alias. It holds no connection: each thread uses its own one."""

    #: The join that makes the planner read the first of two tables first.
    join = "JOIN"
    #: Whether other transactions can write at the same time, so that rows must be locked.
    locks_rows = False
    #: What makes a SELECT lock its rows and skip rows that other transactions have locked.
    skip_locked = ""
    #: The statement that makes scheduled jobs ready up to a time.
    promotion = f"UPDATE {TABLE} SET state = 'ready' WHERE state = 'scheduled' AND run_after <= %s"

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    # Transactions and wake-ups

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open one transaction, such as the one in which a consumer finishes and claims: its turn."""
        with transaction.atomic(using=self.alias):
            yield

    def with_retry(self, work: Callable[[], Any]) -> None:
        """Do `work`, and repeat it where the database refuses a lock that it grants a moment later."""
        work()

    def notify(self) -> None:  # noqa: B027  (SQLite's listeners notice each write, so it needs no notification)
        """Wake idle consumers once the open transaction commits."""

    @abstractmethod
    def listener(self) -> Listener:
        """Return a listener on this thread's connection."""

    # Rows

    @abstractmethod
    def in_ids(self, column: str) -> str:
        """Return the condition that a column is in one parameter, which `id_list` or `key_list` makes."""

    @abstractmethod
    def id_list(self, ids: Iterable[UUID]) -> Any: ...

    @abstractmethod
    def key_list(self, keys: Iterable[Key]) -> Any: ...

    @abstractmethod
    def keys(self, ids: Iterable[UUID]) -> list[Key]:
        """Return ids in the form in which a cursor returns them."""

    @abstractmethod
    def to_uuid(self, value: object) -> UUID:
        """Return the id that a cursor returned."""

    @abstractmethod
    def listed(self, name: str) -> str:
        """Return a FROM item with the texts of one parameter, as a column of this name."""

    def select(self, columns: str) -> str:
        """Return the beginning of a SELECT of many rows, which `fetch` reads."""
        return f"SELECT {columns}"

    def fetch(self, cursor: Any) -> Rows:
        rows: Rows = cursor.fetchall()
        return rows

    def rows(
        self, columns: str, rest: str, keys: Iterable[Key], column: str = "id", before: str = ""
    ) -> Rows:
        """Return the rows of `{before} SELECT {columns} {rest}`; `{ids}` means that `column` is in `keys`."""
        statement = f"{before} {self.select(columns)} {rest}"
        statement = statement.format(ids=self.in_ids(column), join=self.join)
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [self.key_list(keys)])
            return self.fetch(cursor)

    def lock_rows(self, columns: str, condition: str, keys: Iterable[Key]) -> Rows:
        """Lock those of these jobs that meet a condition, and return them."""
        return self.rows(columns, f"FROM {TABLE} WHERE {{ids}} AND {condition}", keys)

    def update(self, changes: str, values: list[Any], keys: Collection[Key]) -> None:
        """Change these jobs."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET {changes} WHERE {self.in_ids('id')}",
                [*values, self.key_list(keys)],
            )

    def update_if(
        self, changes: str, condition: str, values: list[Any], ids: Iterable[UUID]
    ) -> int:
        """Change those of these jobs that meet a condition; return their number."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET {changes} WHERE {self.in_ids('id')} AND {condition}",
                [*values, self.id_list(ids)],
            )
            count: int = cursor.rowcount
            return count

    @abstractmethod
    def reschedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        """Change jobs, each with a `run_after` of its own."""

    @abstractmethod
    def count_down(self, succeeded: Collection[Key]) -> None:
        """Count down the dependents of jobs that have succeeded, and wake consumers for those that can run."""

    # Inserts

    @abstractmethod
    def insert_plain(self, job: NewJob) -> None:
        """Insert a job without constraints, in a transaction of its own unless one is open."""

    @abstractmethod
    def insert_many(self, jobs: Sequence[NewJob]) -> None:
        """Insert jobs without constraints, all or none of them."""

    @abstractmethod
    def insert_whole(self, jobs: Sequence[NewJob]) -> None:
        """Insert jobs with all that they can have, except those whose id or unique key is in the table."""

    @abstractmethod
    def insert_edges(self, edges: Sequence[Edge]) -> None: ...

    @abstractmethod
    def record_receipts(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        """Write the receipts that are missing; return their ids.

        A receipt that another transaction has written and not committed is waited for.
        """

    # The turn

    @abstractmethod
    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[Claimed]:
        """Claim jobs by this database's claim strategy: see `Jobs.claim`."""

    @abstractmethod
    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        """Return whether `claim` would find a job, without taking a lock."""

    @abstractmethod
    def update_if_running(self, consumer: str, updates: Sequence[FencedUpdate]) -> set[UUID]:
        """Update each job that `consumer` still runs in that attempt; return their ids. This is the fence."""

    # Locks

    @abstractmethod
    def lock_keys(self, keys: Collection[str]) -> None:
        """Hold the locks of these limit keys until the transaction ends."""

    @abstractmethod
    def acquire_lock(self, consumer: str) -> bool:
        """Take, or keep, the lock that dies with this process; return whether others can test it."""

    @abstractmethod
    def release_lock(self, consumer: str) -> None: ...

    @abstractmethod
    def is_locked(self, consumer: str) -> bool:
        """Return whether any process holds a consumer's lock."""

    @abstractmethod
    def runtime_dir(self) -> Path | None:
        """Return the folder that the consumers of one machine share for start journals, or None for none."""

    # Times

    def clock(self) -> float:
        """Return the seconds since the epoch by a clock that all consumers share."""
        return time.time()

    def to_seconds(self, value: Any) -> float:
        """Convert a time that this database returned; a naive one is in the zone that Django keeps it in."""
        if timezone.is_naive(value):
            zone = self.connection.timezone or timezone.get_default_timezone()
            value = timezone.make_aware(value, zone)
        seconds: float = value.timestamp()
        return seconds

    def to_param(self, seconds: float) -> Any:
        """Convert a time to the form in which a parameter carries it to this database."""
        return datetime.fromtimestamp(seconds, UTC)

    # Requirements

    @abstractmethod
    def identity(self, settings: Mapping[str, Any]) -> Any:
        """Return a value that is equal for two aliases of one database."""

    def configuration_problems(self) -> Iterable[Problem]:
        """Return what is wrong with the alias's settings on this vendor, without connecting."""
        return []

    @abstractmethod
    def server_problems(self) -> Iterable[Problem]:
        """Return what is wrong with the database itself."""

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        """Return the statements that set how tables are stored, each with the statement that undoes it."""
        return []
