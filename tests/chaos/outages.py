"""Troubles of the queue's database while jobs run: locks, programs that read its file, lost sessions, restarts."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.postgres import TERMINATE, Server
from tests.support.proxy import Proxy

Trouble = Callable[[float], None]

#: A process that SQLite takes for the last one, where the others' locks were dropped.
COME_AND_GO = """
import contextlib, sqlite3, sys
with contextlib.closing(sqlite3.connect(sys.argv[1], timeout=30)) as connection:
    connection.execute("SELECT count(*) FROM djjp_job").fetchone()
"""


def of_sqlite(path: str) -> dict[str, Trouble]:
    """Return the troubles of an SQLite file."""

    def lock(seconds: float) -> None:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    def read(seconds: float) -> None:
        # In this process, which enqueues: it drops SQLite's locks. Then another process comes and goes.
        Path(path).read_bytes()
        subprocess.run([sys.executable, "-c", COME_AND_GO, path], check=True)

    return {"lock storms": lock, "reads of the file": read}


def of_postgresql(server: Server, proxy: Proxy) -> dict[str, Trouble]:
    """Return the troubles of a PostgreSQL server, and of a proxy before it, which the consumers use."""
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

    def lose_answers(seconds: float) -> None:
        proxy.lose(4)
        time.sleep(seconds)

    return {
        "lost answers": lose_answers,
        "lock storms": lock_table,
        "row locks": lock_rows,
        "terminations": terminate,
        "restarts": restart,
    }
