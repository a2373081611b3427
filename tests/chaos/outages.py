"""What is done to the queue's database while jobs run: the same list of troubles for both, each its own way."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from tests.support.postgres import TERMINATE, Server

Trouble = Callable[[float], None]


def of_sqlite(path: str) -> dict[str, Trouble]:
    """Troubles of an SQLite file."""

    def lock(seconds: float) -> None:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    return {"lock storms": lock}


def of_postgresql(server: Server) -> dict[str, Trouble]:
    """Troubles of a server."""
    import psycopg

    @contextmanager
    def session() -> Iterator[Any]:
        with suppress(psycopg.OperationalError), psycopg.connect(server.url) as connection:
            yield connection

    def lock_table(seconds: float) -> None:
        with session() as connection:
            connection.execute("LOCK TABLE djjp_job IN ACCESS EXCLUSIVE MODE")
            time.sleep(seconds)

    def lock_rows(seconds: float) -> None:
        with session() as connection:
            connection.execute(
                "SELECT id FROM djjp_job WHERE state IN ('ready', 'running') LIMIT 200 FOR UPDATE"
            )
            time.sleep(seconds)

    def terminate(seconds: float) -> None:
        with session() as connection:
            connection.execute(TERMINATE)

    def restart(seconds: float) -> None:
        server.stop()
        time.sleep(seconds)
        server.start()

    return {
        "lock storms": lock_table,
        "row locks": lock_rows,
        "terminations": terminate,
        "restarts": restart,
    }
