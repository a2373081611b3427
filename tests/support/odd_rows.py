"""Rows by hand: values that no code of djjp writes, in tables that let them in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import Error as DatabaseError
from django.db import connections, transaction

from djjp.engine import Engine
from tests.support.postgres import PATIENTLY

#: Values of PostgreSQL's types that no row of djjp has, as SQL.
ODD: dict[str, list[str]] = {
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "double precision": ["'NaN'", "'Infinity'", "'-Infinity'", "-1", "1e308"],
    "timestamp with time zone": ["'infinity'", "'-infinity'", "'0001-01-01 BC'"],
    "interval": ["'170000000 years'", "'-5 years'"],
    "text": ["''", "'\x7f'", "'{'", "'null'", "'[]'"],
    "jsonb": ["'null'", "'{}'", """'[1, null, {"a": []}]'"""],
    "character varying": ["''", "'\x7f'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'"],
    "boolean": ["true"],
}
#: SQLite has no types: whatever is written is kept, also a text that is no UTF-8.
UNTYPED = ["X'FF00'", "CAST(X'FF' AS TEXT)", "'text'", "''", "-1", "3.5", "9e999", "X''"]


@contextmanager
def without_constraints(engine: Engine, table: str) -> Iterator[None]:
    """Let columns be NULL and out of their ranges, as in another version's table; empty the table at the end."""
    before, undo = "", []
    with engine.db.connection.cursor() as cursor:
        if engine.db.alias == "sqlite":
            cursor.execute("PRAGMA ignore_check_constraints = ON")
            cursor.execute("PRAGMA foreign_keys = OFF")
            cursor.execute(
                "SELECT sql FROM sqlite_master WHERE name = %s AND type = 'table'", [table]
            )
            (before,) = cursor.fetchone()
            rewrite(cursor, table, before.replace(" NOT NULL", ""))
        else:
            undo = _drop_constraints(cursor, table)
    try:
        yield
    finally:
        with connections[engine.db.alias].cursor() as cursor:
            cursor.execute("DELETE FROM djjp_attempt")
            cursor.execute(f"DELETE FROM {table}")
            if engine.db.alias == "sqlite":
                rewrite(cursor, table, before)
                cursor.execute("PRAGMA ignore_check_constraints = OFF")
            for statement in reversed(undo):
                cursor.execute(statement)
        connections[engine.db.alias].close()


def rewrite(cursor: Any, table: str, sql: str) -> None:
    """Give an SQLite table other constraints, without a copy of its rows."""
    cursor.execute("PRAGMA writable_schema = ON")
    cursor.execute(
        "UPDATE sqlite_master SET sql = %s WHERE name = %s AND type = 'table'", [sql, table]
    )
    cursor.execute("PRAGMA writable_schema = RESET")


def _drop_constraints(cursor: Any, table: str) -> list[str]:
    """Drop the constraints of a table of PostgreSQL, except its keys; return how to create them again."""
    undo = []
    cursor.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND contype IN ('c', 'f')",
        [table],
    )
    for name, definition in cursor.fetchall():
        cursor.execute(f'{PATIENTLY}ALTER TABLE {table} DROP CONSTRAINT "{name}"')
        undo.append(f'{PATIENTLY}ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attnotnull"
        " AND attnum <> ALL(SELECT unnest(conkey) FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND contype = 'p')",
        [table, table],
    )
    for (column,) in cursor.fetchall():
        cursor.execute(f'{PATIENTLY}ALTER TABLE {table} ALTER "{column}" DROP NOT NULL')
        undo.append(f'{PATIENTLY}ALTER TABLE {table} ALTER "{column}" SET NOT NULL')
    return undo


def insert_odd(engine: Engine, table: str, usual: Callable[[], dict[str, Any]]) -> int:
    """Insert a row for each odd value of each column, otherwise as `usual()`; return their number."""
    [model] = [m for m in apps.get_app_config("djjp").get_models() if m._meta.db_table == table]
    count = 0
    for field in model._meta.concrete_fields:
        if field.get_internal_type() == "BigAutoField":  # a large one takes all further numbers
            continue
        column = str(field.column)
        for value in _odd_values(engine, table, column):
            row = {name: given for name, given in usual().items() if name != column}
            columns = ", ".join([*row, column])
            values = ", ".join([*["%s"] * len(row), value])
            given = [key_of(engine, each) for each in row.values()]
            try:
                with transaction.atomic(engine.db.alias), engine.db.connection.cursor() as cursor:
                    cursor.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})", given)
            except DatabaseError:  # NULL in a key, or a key twice
                continue
            count += 1
    return count


def _odd_values(engine: Engine, table: str, column: str) -> list[str]:
    if engine.db.alias == "sqlite":
        return ["NULL", *UNTYPED]
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            "SELECT data_type FROM information_schema.columns"
            " WHERE table_name = %s AND column_name = %s",
            [table, column],
        )
        (kind,) = cursor.fetchone()
    return ["NULL", *ODD[kind]]


def key_of(engine: Engine, value: Any) -> Any:
    return value.hex if isinstance(value, uuid.UUID) and engine.db.alias == "sqlite" else value
