"""`queue_database()`: the `DATABASES` entry for a queue.

Settings modules import this module, so it uses no part of Django that needs settings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dj_database_url

ENV = "DJJP_DATABASE_URL"

_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


def queue_database(
    default: str | Path, *, synchronous: str = "NORMAL", busy_timeout: float = 30.0
) -> dict[str, Any]:
    """Return the `DATABASES` entry of the queue.

    The environment variable `DJJP_DATABASE_URL`, if set, overrides `default`, so that one
    settings module serves a laptop on SQLite and a server on Postgres.

    Args:
        default: the path of an SQLite file, or a database URL (`postgres://user:pass@host/name`).
        synchronous: SQLite's `PRAGMA synchronous`. NORMAL survives every crash of a process, and a
            power cut loses at most the last commits; FULL keeps those too and writes more slowly.
        busy_timeout: seconds that an SQLite statement waits for another writer.

    Raises:
        ValueError: the URL cannot be read, or names a database that cannot hold a queue.
    """
    text = os.environ.get(ENV) or str(default)
    if "://" not in text:
        return _sqlite(text, synchronous, busy_timeout)
    config: dict[str, Any] = dict(dj_database_url.parse(text, conn_max_age=None))
    if config["ENGINE"].endswith("sqlite3"):
        return _sqlite(str(config["NAME"]), synchronous, busy_timeout)
    if config["ENGINE"].endswith(("postgresql", "postgis")):
        return _postgresql(config)
    raise ValueError(
        f"djjp keeps its queue in SQLite or PostgreSQL; {ENV} or the default names {config['ENGINE']}"
    )


def _sqlite(path: str, synchronous: str, busy_timeout: float) -> dict[str, Any]:
    if synchronous.upper() not in _SYNCHRONOUS:
        raise ValueError(
            f"synchronous is {synchronous!r}; it must be one of {', '.join(_SYNCHRONOUS)}"
        )
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            # A transaction that reads first and writes later fails at once when another process has written
            # in between; IMMEDIATE takes the write lock at BEGIN, where the busy timeout applies.
            "transaction_mode": "IMMEDIATE",
            "timeout": busy_timeout,
            # Each commit writes whole pages, and a queue's rows are small: with pages of 1 KiB an insert
            # costs half. Only a new file accepts the page size. The log is checkpointed at the usual 4 MB.
            "init_command": "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; "
            f"PRAGMA wal_autocheckpoint=4000; PRAGMA synchronous={synchronous.upper()}",
        },
    }


def _postgresql(config: dict[str, Any]) -> dict[str, Any]:
    # The queue repeats a few statements: with server-side binding each is planned once.
    options = {
        "server_side_binding": True,
        "prepare_threshold": 3,
        # When the server is gone a connection fails within seconds, so that an enqueue does not hang.
        "connect_timeout": 10,
        "tcp_user_timeout": 20_000,
        **config.get("OPTIONS", {}),
    }
    return {**config, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True, "OPTIONS": options}
