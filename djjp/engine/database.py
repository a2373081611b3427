"""The queue's database: the only part of the engine that differs by vendor.

`Database` gives the concerns of the engine an alias with its connection, transactions, locks and wake-ups, and
rows, ids and times in the form that the database uses. It composes its three large parts once: `Inserts`,
`ClaimStrategy` and `Fence`. A vendor's folder has `database.py`, `inserts.py`, `claim_strategy.py` and `fence.py`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djjp.durations import to_seconds
from djjp.engine.listener import Listener
from djjp.engine.records import Claimed, Edge, Entry, Fenced, FencedUpdate, NewJob, Outcome, Problem
from djjp.engine.refusals import Refusal
from djjp.engine.rows import Key, RowAccess


class Component:
    """A component of a database, which uses the database's connection, transactions and conversions."""

    def __init__(self, db: Database) -> None:
        self._db = db


class Inserts(Component, ABC):
    """New rows: jobs, the edges of pipelines, and receipts."""

    @abstractmethod
    def plain(self, job: NewJob) -> None:
        """Insert a job without constraints, in a transaction of its own unless one is open."""

    @abstractmethod
    def many(self, jobs: Sequence[NewJob]) -> None:
        """Insert jobs without constraints, all or none of them."""

    @abstractmethod
    def whole(self, jobs: Sequence[NewJob]) -> None:
        """Insert jobs with all that they can have, except those whose id or unique key is in the table."""

    @abstractmethod
    def edges(self, new: Sequence[Edge]) -> None:
        """Insert the edges of a pipeline that are missing."""

    @abstractmethod
    def receipts(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        """Insert the receipts that are missing; return their ids.

        A receipt that another transaction has written and not committed is waited for.
        """


class ClaimStrategy(Component, ABC):
    """How ready jobs are found, and claimed by one consumer only."""

    @abstractmethod
    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[Claimed]:
        """Claim up to `limit` jobs: see `Jobs.claim`."""

    @abstractmethod
    def claim_keys(self, consumer: str, keys: Sequence[Key], now: float) -> list[Claimed]:
        """Claim those of these jobs that are ready."""

    @abstractmethod
    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        """Return whether `claim` would find a job, without taking a lock."""

    @abstractmethod
    def ready_keys(
        self, limit: int, queues: Sequence[str] | None, exclude_names: Sequence[str]
    ) -> list[Key]:
        """Return the jobs that `claim` would take, without taking a lock, and whatever their rows contain."""


class Fence(Component, ABC):
    """The guard of every report on a job: see `djjp.engine.jobs`."""

    @abstractmethod
    def update_if_running(
        self, consumer: str, updates: Sequence[FencedUpdate], entry: Entry | None = None
    ) -> Fenced:
        """Update the jobs that run by these claims of `consumer`.

        Args:
            entry: what to append to the totals, if the result is `AS_ASKED`.
        """

    @abstractmethod
    def write_ends(self, consumer: str, outcomes: Sequence[Outcome], entry: Entry | None) -> Fenced:
        """Do as `update_if_running` for outcomes all of which are `PLAIN_ENDS`: those of a drain."""


class Database(RowAccess):
    """One database alias. It holds no connection: each thread uses its own one."""

    inserts_class: type[Inserts]
    claim_strategy_class: type[ClaimStrategy]
    fence_class: type[Fence]

    #: Whether other transactions can write at the same time, so that rows must be locked.
    locks_rows = False
    #: Whether a transaction sees what others commit meanwhile.
    sees_commits_in_transaction = False
    #: What makes a SELECT lock its rows and skip rows that other transactions have locked.
    skip_locked = ""
    #: The statement that makes scheduled jobs ready up to a time: the first ones, up to a number.
    promotion: str
    #: The earliest due time, as `to_seconds` reads it, and the condition that a column has a time.
    next_due = "min(run_after)"
    is_time: str
    #: An expression for a time, as `to_seconds` reads it.
    moment = "{0}"
    #: The condition that the id and the priority of a job are such: others, by hand, have no place in its order.
    is_ordered = "priority IS NOT NULL"
    #: The function that joins texts of several rows.
    joined = "group_concat"
    #: The condition of a tag whose job can be live.
    is_live_tag = "NOT ended"
    #: The condition that a ready job is in one queue, and what makes the planner find it by the index of queues.
    of_queue, ready_queue_hint = "queue = {0}", ""
    #: What makes a SELECT use an index of this name; "" where the planner is free to.
    index_hint = ""
    #: A SELECT of the tables and columns with foreign keys that forbid to delete rows of a table.
    references: str

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.inserts = self.inserts_class(self)
        self.claim_strategy = self.claim_strategy_class(self)
        self.fence = self.fence_class(self)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    # Transactions and wake-ups

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open one transaction, such as the one in which a consumer finishes and claims: its turn."""
        with transaction.atomic(using=self.alias):
            yield

    @contextmanager
    def planned(self) -> Iterator[None]:
        """Have statements planned as those of a consumer, also where tables were never analyzed.

        Not inside a transaction that is open, which can be the application's.
        """
        yield

    def adopt(self, connection: BaseDatabaseWrapper) -> None:
        """Give a connection that was just opened what djjp needs, whatever the database or OPTIONS set."""

    def confirm(self, connection: BaseDatabaseWrapper) -> None:
        """Raise OperationalError if a connection writes to a file that was replaced since it was opened.

        Before a write, which could overwrite what others have committed; after it, because it may be lost.
        """

    def with_retry(
        self, work: Callable[[], Any], connection: BaseDatabaseWrapper | None = None
    ) -> None:
        """Do `work`, and repeat it where the database refuses a lock that it grants a moment later.

        Args:
            connection: this thread's connection; None to look it up.
        """
        work()

    @abstractmethod
    def classify(self, error: BaseException) -> Refusal:
        """Return the kind of an error that was raised while the database was used."""

    def notify(self, connection: BaseDatabaseWrapper | None = None) -> None:
        """Wake idle consumers once the open transaction commits.

        Args:
            connection: this thread's connection to the queue; None to look it up.
        """

    @abstractmethod
    def listener(self) -> Listener:
        """Return a listener on this thread's connection."""

    # Locks

    @abstractmethod
    def lock_keys(self, keys: Collection[str]) -> None:
        """Hold the locks of these limit keys until the transaction ends."""

    def try_lock(self, name: str) -> bool:
        """Hold the lock of this name until the transaction ends; return False if another transaction holds it."""
        return True

    def acquire_lock(self, consumer: str) -> bool | None:
        """Take, or keep, the lock that ends with this session; None where there are no sessions."""

    def release_lock(self, consumer: str) -> None:
        """Release the session's lock."""

    def are_locked(self, consumers: Sequence[str]) -> dict[str, bool]:
        """Return, by name, whether any session holds the locks of consumers; none where there are no sessions."""
        return {}

    def is_locked(self, consumer: str) -> bool | None:
        """Return whether any session holds a consumer's lock; None where there are no sessions."""

    @abstractmethod
    def runtime_dir(self) -> Path | None:
        """Return the folder that the consumers of one machine share for locks and journals; None for none."""

    def connect_timeout(self) -> float | None:
        """Return the seconds after which an attempt to connect fails; None where it needs no time."""

    # Times

    def clock(self) -> float:
        """Return the seconds since the epoch by a clock that all consumers share."""
        return time.time()

    def up_for(self) -> float:
        """Return the seconds since the start of the server; infinite where there is none."""
        return inf

    def to_seconds(self, value: Any) -> float:
        """Convert a time that this database returned; a naive one is in `TIME_ZONE`."""
        return to_seconds(value)

    def to_param(self, seconds: float) -> Any:
        """Convert a time to the form in which a parameter carries it to this database."""
        return datetime.fromtimestamp(seconds, UTC)

    @abstractmethod
    def backup(self, target: Path) -> None:
        """Copy the live database, which must be in a file, into a new one.

        Raises ValueError, OSError or QueueUnavailable.
        """

    # Requirements

    @abstractmethod
    def database_identity(self, settings: Mapping[str, Any]) -> Any:
        """Return a value that is equal for two aliases of one database."""

    def configuration_problems(self) -> Iterable[Problem]:
        """Return what is wrong with the alias's settings on this vendor, without connecting."""
        return []

    @abstractmethod
    def server_problems(self) -> Iterable[Problem]:
        """Return what is wrong with the database itself."""

    def schemas_with(self, table: str) -> Sequence[str]:
        """Return the names of the schemas that have a table of this name; none where there are no schemas."""
        return []

    def invalid_indexes(self) -> Collection[str]:
        """Return the names of the indexes that are not used, because they were not built to their end."""
        return ()

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        """Return the statements that set how tables are stored, each with the statement that undoes it."""
        return []
