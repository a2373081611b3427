"""`queue_database()`: the `DATABASES` entry for a queue.

Settings modules import this module, so it uses no part of Django that needs settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dj_database_url

__all__ = ["queue_database"]

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
        if "?" in text or "#" in text:
            raise ValueError(
                f"{text!r} has options or a fragment, which djjp does not read for SQLite; "
                "in a URL write ? as %3F and # as %23, or give the path"
            )
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


#: What a URL can give only as text: the words of the values that Django and psycopg take as objects.
_TRUTH = {"true": True, "yes": True, "on": True, "1": True}
_UNTRUTH = {"false": False, "no": False, "off": False, "0": False}
_NONE = {"none": None, "null": None, "": None}
_LEVELS = {
    "read uncommitted": 1,
    "read committed": 2,
    "repeatable read": 3,
    "serializable": 4,
    **{str(number): number for number in (1, 2, 3, 4)},
}
_WORDS: dict[str, dict[str, Any]] = {
    "pool": _TRUTH | _UNTRUTH | _NONE,
    "server_side_binding": _TRUTH | _UNTRUTH,
    "prepare_threshold": _NONE | {"false": None, "off": None},
    "isolation_level": _LEVELS | _NONE,
    "assume_role": _NONE,
}


def _parsed_options(given: dict[str, Any]) -> dict[str, Any]:
    """Convert the words of options in a URL into the values that Django and psycopg take.

    libpq itself reads all other options as text.
    """
    options = dict(given)
    for name, words in _WORDS.items():
        if name not in options:
            continue
        text = str(options[name]).lower().replace("_", " ")
        if text in words:
            options[name] = words[text]
        elif text.isdigit() and name == "prepare_threshold":
            options[name] = int(text)
        elif name != "assume_role":
            allowed = ", ".join(filter(None, words))
            number = ", or a whole number" if name == "prepare_threshold" else ""
            raise ValueError(
                f"the queue's URL has {name}={options[name]}; it must be one of {allowed}{number}"
            )
    return options


def _postgresql(config: dict[str, Any]) -> dict[str, Any]:
    # The queue repeats a few statements: with server-side binding each is planned once.
    options = {
        "server_side_binding": True,
        "prepare_threshold": 3,
        # When the server is gone a connection fails within seconds, so that an enqueue does not hang.
        "connect_timeout": 10,
        "tcp_user_timeout": 20_000,
        **_parsed_options(config.get("OPTIONS", {})),
    }
    # Django takes a connection from its pool for each use, and refuses an age for it.
    age = 0 if options.get("pool") else None
    return {**config, "CONN_MAX_AGE": age, "CONN_HEALTH_CHECKS": True, "OPTIONS": options}


def execute_many(cursor: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Execute a statement for each row, as `executemany()` does.

    One by one where a tool observes the cursors, as django-debug-toolbar does: it takes the rows for the
    parameters of one statement, and fails.
    """
    if "cursor" not in vars(cursor.db):
        cursor.executemany(statement, rows)
        return
    for row in rows:
        cursor.execute(statement, row)


def migrate_command(alias: str) -> str:
    """Return the command that creates djjp's tables on an alias, also where an app has replaced `migrate`."""
    from django.core.management import get_commands

    from djjp import conf

    if alias == conf.db_name() and get_commands()["migrate"] != "django.core":
        return "python manage.py djjp migrate"  # a replaced one is for the application's databases
    return f"python manage.py migrate --database={alias}"
