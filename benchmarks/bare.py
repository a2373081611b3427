"""The same work by `sqlite3` and `psycopg` alone: the baseline for djjp's figures.

Rows are prepared beforehand, arguments stay text and no job is run, so only the statements, the driver and
the database are measured. The table and its indexes are djjp's own.
"""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.jobs import noop
from djjp.ids import new_id

Row = tuple[Any, ...]

CHUNK = 1_000
CONSUMER = "bare"

_COLUMNS = "id, name, queue, priority, state, created_at, arguments, attempts, rescues"
#: For Django's cursor and psycopg; the parameters are rows of `rows_for`.
INSERT = f"INSERT INTO djjp_job ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, 0, 0)"


def rows_for(alias: str, jobs: int) -> list[Row]:
    """Return rows of new jobs, each value in the form that the database's driver takes."""
    text = alias == "sqlite"
    rows = []
    for number in range(jobs):
        id, now = new_id(), datetime.now(UTC)
        rows.append(
            (
                id.hex if text else id,
                noop.name,
                "default",
                0,
                "ready",
                now.replace(tzinfo=None).isoformat(" ") if text else now,
                f'{{"args": [{number}], "kwargs": {{}}}}',
            )
        )
    return rows


class Bare(ABC):
    """One driver's connection, in autocommit."""

    @abstractmethod
    def insert(self, rows: Sequence[Row]) -> None:
        """Insert row by row, each in its own transaction."""

    @abstractmethod
    def insert_many(self, rows: Sequence[Row]) -> None:
        """Insert in chunks, each in one transaction, by the driver's fastest method."""

    def drain(self, batch: int) -> int:
        """Finish the last batch and claim the next in one transaction, until no job is left.

        Returns:
            The number of jobs.
        """
        total, claimed = 0, self._turn([], batch)
        while claimed:
            total += len(claimed)
            claimed = self._turn(claimed, batch)
        return total

    @abstractmethod
    def _turn(self, ended: Sequence[Row], batch: int) -> Sequence[Row]:
        """Run one transaction; return the claimed rows: id, name, arguments, attempts."""


class BareSQLite(Bare):
    """`sqlite3`, with the same pragmas as the queue's own connection."""

    _INSERT = INSERT.replace("%s", "?")
    _FINISH = """UPDATE djjp_job SET state = 'succeeded', result = 'null', started_at = ?,
        finished_at = ? WHERE id = ? AND attempts = ? AND consumer = ? AND state = 'running'"""
    _CLAIM = """UPDATE djjp_job SET state = 'running', consumer = ?, started_at = ?,
        attempts = attempts + 1 WHERE id IN (
        SELECT id FROM djjp_job WHERE state = 'ready' AND rescues = 0 ORDER BY priority DESC, id LIMIT ?)
        RETURNING id, name, arguments, attempts"""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")

    def insert(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._connection.execute(self._INSERT, row)

    def insert_many(self, rows: Sequence[Row]) -> None:
        for first in range(0, len(rows), CHUNK):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(self._INSERT, rows[first : first + CHUNK])
            self._connection.execute("COMMIT")

    def _turn(self, ended: Sequence[Row], batch: int) -> Sequence[Row]:
        now = str(datetime.now(UTC).replace(tzinfo=None))
        self._connection.execute("BEGIN IMMEDIATE")
        if ended:
            outcomes = [(now, now, id, attempts, CONSUMER) for id, _, _, attempts in ended]
            self._connection.executemany(self._FINISH, outcomes)
        claimed: list[Row] = self._connection.execute(
            self._CLAIM, [CONSUMER, now, batch]
        ).fetchall()
        self._connection.execute("COMMIT")
        return claimed


class BarePostgreSQL(Bare):
    """`psycopg`, with every statement prepared, and a claim that must use the order of its index.

    The planner has no statistics for a table that is minutes old, and would sort all ready rows.
    """

    _COPY = f"COPY djjp_job ({_COLUMNS}) FROM STDIN"
    _FINISH = """UPDATE djjp_job AS job SET state = 'succeeded', result = 'null', started_at = %s,
        finished_at = %s FROM unnest(%s::uuid[], %s::int[]) AS ended(id, attempts)
        WHERE job.id = ended.id AND job.attempts = ended.attempts AND job.consumer = %s
        AND job.state = 'running'"""
    _CLAIM = """WITH picked AS MATERIALIZED (SELECT id FROM djjp_job WHERE state = 'ready' AND rescues = 0
        ORDER BY priority DESC, id LIMIT %s FOR UPDATE SKIP LOCKED)
        UPDATE djjp_job AS job SET state = 'running', consumer = %s, started_at = %s,
        attempts = job.attempts + 1 FROM picked WHERE job.id = picked.id
        RETURNING job.id, job.name, job.arguments, job.attempts"""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.execute("SET enable_sort = off")
        connection.execute("SET enable_bitmapscan = off")

    def insert(self, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor:
            for row in rows:
                cursor.execute(INSERT, row, prepare=True)

    def insert_many(self, rows: Sequence[Row]) -> None:
        for first in range(0, len(rows), CHUNK):
            with self._connection.cursor() as cursor, cursor.copy(self._COPY) as copy:
                for row in rows[first : first + CHUNK]:
                    copy.write_row((*row, 0, 0))

    def _turn(self, ended: Sequence[Row], batch: int) -> Sequence[Row]:
        now = datetime.now(UTC)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            if ended:
                ids, attempts = [row[0] for row in ended], [row[3] for row in ended]
                cursor.execute(self._FINISH, [now, now, ids, attempts, CONSUMER], prepare=True)
            cursor.execute(self._CLAIM, [batch, CONSUMER, now], prepare=True)
            claimed: list[Row] = cursor.fetchall()
        return claimed


@contextmanager
def bare(alias: str) -> Iterator[Bare]:
    """Open a separate connection to the queue's database, beside Django's."""
    if alias == "sqlite":
        path = Path(os.environ["DJJP_BENCH_HOME"]) / "queue.sqlite3"
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            yield BareSQLite(connection)
        return
    import psycopg

    with psycopg.connect(os.environ["DJJP_BENCH_POSTGRES_URL"], autocommit=True) as server:
        yield BarePostgreSQL(server)
