"""What the benchmark asks of a queue, whichever it is. One module beside this one answers for each.

An adapter is imported where its queue is not installed too, to say so: it imports the queue inside its
methods. Those that enqueue and consume run in processes of their own (`child.py`), one after the other,
for two of these libraries in one process would share settings.
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

#: Jobs in one call where a queue enqueues in bulk.
CHUNK = 1_000


class Store(NamedTuple):
    """Where one round keeps its jobs; made for it, and gone after it."""

    kind: str  # sqlite, postgresql or redis
    place: str  # the path of a file, or a URL
    folder: Path


class Peer(ABC):
    """One queue at its best settings.

    Attributes:
        name: what tables and `--only` call it; also the adapter's module.
        distribution: what pip calls it.
        stores: kinds of stores that it is measured on.
        settings: what was chosen, as the table says it; `{slots}` stands for `fastest`.
        fastest: slots at once that run jobs which do nothing the fastest.
        most: jobs at most, for a slow one; rates are compared.
        bulk: whether it can enqueue many jobs in one call.
    """

    name: str
    distribution: str
    stores: Sequence[str]
    settings: str
    most = 20_000
    fastest = 10
    bulk = True

    def missing(self) -> str | None:
        """Why it cannot be measured here, if it cannot."""
        try:
            version(self.distribution)
        except PackageNotFoundError:
            return f"{self.distribution} is not installed"
        return None

    def version(self) -> str:
        return version(self.distribution)

    @abstractmethod
    def prepare(self, store: Store) -> None:
        """Make its tables."""

    @abstractmethod
    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        """Enqueue `job` ("noop" or "nap") with each value; returns the seconds that this took."""

    @abstractmethod
    def consume(self, store: Store, slots: int | None) -> None:
        """Run jobs until the process is ended.

        Args:
            slots: how many at once; None for `fastest`.
        """

    def processes(self, slots: int | None) -> int:
        """How many processes have to `consume` to give so many slots."""
        return 1

    #: Counts the jobs whose end is not written yet.
    unfinished_sql = ""

    def unfinished(self, store: Store) -> int:
        """How many jobs have not come to their end, as the store has it. Called in the parent."""
        if store.kind == "sqlite":
            with closing(sqlite3.connect(store.place, timeout=30)) as connection:
                return int(connection.execute(self.unfinished_sql).fetchone()[0])
        import psycopg

        with psycopg.connect(store.place) as server:
            row = server.execute(self.unfinished_sql.encode()).fetchone()
            return int(row[0]) if row else 0


def timed(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chunks(values: Sequence[float]) -> list[Sequence[float]]:
    """The values in portions for calls that enqueue in bulk."""
    return [values[first : first + CHUNK] for first in range(0, len(values), CHUNK)]
