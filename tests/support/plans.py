"""The plans that a database makes for the statements of the engine, and how many rows it reads for them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command
from django.db import transaction
from django.test import override_settings

import djjp.engine
from djjp.databases import queue_database
from djjp.engine import Engine
from tests.support.postgres import postgres_database
from tests.support.projects import alias_for

NOW = 1_767_225_600.0
KEY = "the primary key"


@contextmanager
def rolled_back(engine: Engine) -> Iterator[None]:
    """Open a transaction that is rolled back."""
    with transaction.atomic(using=engine.db.alias):
        yield
        transaction.set_rollback(True, using=engine.db.alias)


def statements(
    engine: Engine, call: Callable[[Engine], object], *, commit: bool = False
) -> list[tuple[str, Any]]:
    """Return the statements that a verb sends to the table of jobs, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def keep(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        # Not the statements of the ORM, with which some cases find their rows: it quotes its names.
        if "djjp_job" in sql and '"djjp_job"' not in sql:
            sent.append((sql, params[0] if many else params))
        return execute(sql, params, many, context)

    around = engine.db.transaction() if commit else rolled_back(engine)
    with around, engine.db.connection.execute_wrapper(keep):
        call(engine)
    assert sent
    return sent


class Plan(NamedTuple):
    """The indexes of a plan, whether it reads or sorts the whole table, and its text for a failure."""

    indexes: set[str]
    scans_all: bool
    sorts_all: bool
    text: str


def sqlite_plan(engine: Engine, sql: str, params: Any) -> Plan:
    with engine.db.connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
        text = "\n".join(step for *_, step in cursor.fetchall())
    used = re.findall(r"(?:djjp_job|job) USING (?:COVERING )?INDEX (\S+)", text)
    return Plan(
        {KEY if name.startswith("sqlite_autoindex_djjp_job") else name for name in used},
        # A Bloom filter is made of all rows.
        scans_all=bool(
            re.search(
                r"SCAN (djjp_job|job)(?! USING (COVERING )?INDEX djjp_job_)"
                r"|BLOOM FILTER ON (djjp_job|job)\b",
                text,
            )
        ),
        sorts_all="TEMP B-TREE" in text,
        text=text,
    )


def postgresql_plan(engine: Engine, sql: str, params: Any) -> Plan:
    with engine.db.connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
        return _read(cursor.fetchone()[0])


def postgresql_plan_in_use(engine: Engine, sql: str, params: Any) -> Plan:
    """Return the plan of the statement that this session has prepared, which the server can have kept.

    Not after a rollback: the driver then discards its prepared statements.
    """
    numbers = iter(range(1, 1000))
    prepared = re.sub("%[sb]", lambda _: f"${next(numbers)}", sql)
    values = ", ".join(_literal(value) for value in params or [])
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE statement = %s", [prepared])
        (name,) = cursor.fetchone()
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {name}" + (f" ({values})" if values else ""))
        return _read(cursor.fetchone()[0])


def _literal(value: Any) -> str:
    from psycopg import sql

    return sql.Literal(value).as_string(None)


def _read(document: Any) -> Plan:
    root = (json.loads(document) if isinstance(document, str) else document)[0]["Plan"]
    indexes, scans, sorts = set[str](), False, False

    def walk(node: Mapping[str, Any], under_sort: bool) -> None:
        """Visit a node. A sort of the rows below a LIMIT, the first jobs of some queues, is a small one."""
        nonlocal scans, sorts
        kind = node["Node Type"]
        under_sort = kind in ("Sort", "Incremental Sort") or (under_sort and kind != "Limit")
        if "Index Name" in node:
            name = node["Index Name"]
            indexes.add(KEY if name == "djjp_job_pkey" else name)
        if node.get("Relation Name") == "djjp_job" and "Scan" in kind:
            # By the primary key a verb looks jobs up, and does not walk along it.
            by_key = node.get("Index Name") == "djjp_job_pkey"
            walks = by_key and "(id = " not in node.get("Index Cond", "")
            scans = scans or kind == "Seq Scan" or walks
            sorts = sorts or under_sort
        for child in node.get("Plans", []):
            walk(child, under_sort)

    walk(root, under_sort=False)
    return Plan(indexes, scans, sorts, json.dumps(root, indent=1))


PLAN = {"sqlite": sqlite_plan, "postgresql": postgresql_plan}
PLAN_IN_USE = {"sqlite": sqlite_plan, "postgresql": postgresql_plan_in_use}
# Otherwise the server could analyse the table at any moment.
UNTOUCHED = {
    "sqlite": [],
    "postgresql": ["ALTER TABLE djjp_job SET (autovacuum_enabled = off)"],
}
ANALYSE = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE djjp_job"}


def run(engine: Engine, *sql: str) -> None:
    with engine.db.connection.cursor() as cursor:
        for statement in sql:
            cursor.execute(statement)


@contextmanager
def new_engine(request: pytest.FixtureRequest, folder: Path, vendor: str) -> Iterator[Engine]:
    """Create the queue's tables in a new database, which is not analysed; yield the engine."""
    with ExitStack() as stack:
        if vendor == "sqlite":
            config = queue_database(folder / f"{secrets.token_hex(4)}.sqlite3")
        else:
            url = stack.enter_context(postgres_database(request.getfixturevalue("postgres_url")))
            config = queue_database(url)
        alias = stack.enter_context(alias_for(config))
        with override_settings(DJJP={"db_name": alias}):
            call_command("migrate", database=alias, verbosity=0)
            engine = djjp.engine.current()
            run(engine, *UNTOUCHED[vendor])
            engine.db.listener()  # sets up the session as a consumer does
            yield engine


def touched(engine: Engine, call: Callable[[Engine], object]) -> int:
    """Return the work for a verb: steps of SQLite's machine, or rows that PostgreSQL reads."""
    if engine.db.connection.vendor == "sqlite":
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        engine.db.connection.ensure_connection()
        driver = engine.db.connection.connection
        with rolled_back(engine):
            driver.set_progress_handler(count, 10)
            try:
                call(engine)
            finally:
                driver.set_progress_handler(None, 0)
        return steps * 10
    return sum(rows_read(engine, *statement) for statement in statements(engine, call))


def rows_read(engine: Engine, sql: str, params: Any) -> int:
    """Return the number of jobs that PostgreSQL reads for a statement."""
    with rolled_back(engine), engine.db.connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
        document = cursor.fetchone()[0]
    return _rows_read((json.loads(document) if isinstance(document, str) else document)[0]["Plan"])


def _rows_read(node: Mapping[str, Any]) -> int:
    below = sum(_rows_read(child) for child in node.get("Plans", []))
    if node.get("Relation Name") != "djjp_job" or "Scan" not in node["Node Type"]:
        return below
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return below + int(rows * node["Actual Loops"])
