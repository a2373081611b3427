"""The interface of a queue in the benchmark. Each queue has an adapter module beside this one.

An adapter is imported even if its queue is not installed, to report that, so it imports the queue inside its
methods. The methods that enqueue and consume run in separate processes (`child.py`), one after the other,
because two of these libraries in one process would share settings.
"""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

#: The number of jobs in one call that enqueues in bulk.
CHUNK = 1_000


class Store(NamedTuple):
    """The store for the jobs of one round, created before it and removed after it."""

    kind: str  # sqlite, postgresql or redis
    place: str  # the path of a file, or a URL
    folder: Path


class Peer(ABC):
    """One queue at its best settings.

    Attributes:
        name: its name in tables and in `--only`; also that of the adapter's module.
        distribution: its name on PyPI.
        stores: the kinds of stores on which it is measured.
        settings: the chosen settings, as text for the table; `{slots}` stands for `fastest`.
        fastest: the number of slots that runs jobs that do nothing at the highest rate.
        most: the maximum number of jobs, lower for a slow queue, because rates are compared.
        bulk: True if it can enqueue many jobs in one call.
    """

    name: str
    distribution: str
    stores: Sequence[str]
    settings: str
    most = 20_000
    fastest = 10
    bulk = True

    def missing(self) -> str | None:
        """Return the reason why it cannot be measured here; None if it can."""
        try:
            version(self.distribution)
        except PackageNotFoundError:
            return f"{self.distribution} is not installed"
        return None

    def version(self) -> str:
        return version(self.distribution)

    @abstractmethod
    def prepare(self, store: Store) -> None:
        """Create its tables."""

    @abstractmethod
    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        """Enqueue `job` ("noop" or "nap") with each value; return the seconds."""

    @abstractmethod
    def consume(self, store: Store, slots: int | None) -> None:
        """Run jobs until the process is killed.

        Args:
            slots: the number of jobs at once; None for `fastest`.
        """

    def processes(self, slots: int | None) -> int:
        """Return the number of processes that must `consume` for this number of slots."""
        return 1

    #: Counts the jobs whose outcome is not written yet.
    unfinished_sql = ""

    def unfinished(self, store: Store) -> int:
        """Return the number of jobs that have not ended, read from the store. Called in the parent."""
        if store.kind == "sqlite":
            with closing(sqlite3.connect(store.place, timeout=30)) as connection:
                return int(connection.execute(self.unfinished_sql).fetchone()[0])
        import psycopg

        with psycopg.connect(store.place) as server:
            row = server.execute(self.unfinished_sql.encode()).fetchone()
            return int(row[0]) if row else 0


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chunks(values: Sequence[float]) -> list[Sequence[float]]:
    """Return the values in chunks, for calls that enqueue in bulk."""
    return [values[first : first + CHUNK] for first in range(0, len(values), CHUNK)]
