"""Requirements of a queue on PostgreSQL: psycopg 3, a new server, sessions that can write, storage parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.backends.postgresql.psycopg_any import is_psycopg3

from djjp.engine.records import Problem
from djjp.engine.rows import ENTRIES, TABLE

# Each job leaves two dead rows behind. By default the server removes them once they are a fifth of the table:
# where millions of finished jobs are kept, hundreds of thousands of rows.
_VACUUM = {"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_threshold": "1000"}


def configuration_problems(alias: str) -> Iterator[Problem]:
    """Yield what is wrong with the driver, without connecting."""
    if not is_psycopg3:
        yield Problem(
            "E007",
            f"the queue's alias {alias!r} is on PostgreSQL, for which djjp needs psycopg 3; "
            "only psycopg2 is installed",
            "Install the driver: pip install 'djjp[postgres]'.",
        )


def server_problems(connection: Any) -> Iterator[Problem]:
    """Yield what is wrong with the server, and with the sessions that it gives."""
    version = connection.pg_version
    if version < 14_00_00:
        yield Problem(
            "E006",
            f"djjp needs PostgreSQL 14 or newer; the queue's server is {version // 10_000}",
            "Move the queue to a newer server, or to an SQLite file.",
        )
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        (read_only,) = cursor.fetchone()
    if read_only == "on":
        yield Problem(
            "E015",
            f"the queue's alias {connection.alias!r} can only read: the server is a standby, "
            "or its role or database sets default_transaction_read_only",
            "Connect to the primary server, or: ALTER ROLE ... RESET default_transaction_read_only.",
        )


def storage_parameters() -> list[tuple[str, str]]:
    """Return the statements that set how tables are stored, each with the statement that undoes it."""
    wanted = ", ".join(f"{name} = {value}" for name, value in _VACUUM.items())
    # To compress an entry takes a twentieth of the time of the statement that writes it, and it is soon deleted.
    figures = f"ALTER TABLE {ENTRIES} ALTER COLUMN figures SET STORAGE"
    return [
        (
            f"ALTER TABLE {TABLE} SET ({wanted})",
            f"ALTER TABLE {TABLE} RESET ({', '.join(_VACUUM)})",
        ),
        (f"{figures} EXTERNAL", f"{figures} EXTENDED"),
    ]
