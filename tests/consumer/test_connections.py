"""Connections of jobs: kept from job to job while a slot is busy, closed when it rests, and clean for each job."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dj_database_url
import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.signals import connection_created
from django.test import override_settings

from djjp import job, run_many
from djjp.consumer import connections as job_connections
from djjp.engine import Engine
from djjp.models import Job
from tests.support import consumers
from tests.support.consumers import consuming
from tests.support.postgres import TERMINATE, postgres_database
from tests.support.processes import eventually
from tests.support.projects import alias_for

POOLS = ["threads", "asyncio"]
KINDS = ["function", "coroutine"]

#: The alias of the application's database, the connections made there, and what jobs keep.
ALIAS: list[str] = []
MADE: list[Any] = []
KEPT: list[Any] = []


def _made(connection: Any, **kwargs: Any) -> None:
    if connection.alias in ALIAS:
        MADE.append(connection)


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    connection_created.connect(_made)
    yield
    connection_created.disconnect(_made)
    for kept in (ALIAS, MADE, KEPT):
        kept.clear()


@pytest.fixture
def entry(engine: Engine, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The entry in DATABASES of an application's database, which is of the same kind as the queue's."""
    if engine.db.alias == "sqlite":
        yield {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "app.sqlite3")}
        return
    with postgres_database(beside=os.environ["DJJP_TEST_SERVER_URL"]) as url:
        yield dict(dj_database_url.parse(url))


@contextmanager
def application(entry: dict[str, Any], engine: Engine, **settings: Any) -> Iterator[str]:
    """Have a database of the application; all connections to it are closed at the end."""
    with (
        alias_for(entry | settings) as alias,
        override_settings(DJJP={"db_name": engine.db.alias, "outbox": []}),
    ):
        ALIAS.append(alias)
        yield alias
        KEPT.clear()
        connections[alias].close()
        eventually(lambda: all(each.connection is None for each in MADE))


@pytest.fixture
def alias(engine: Engine, entry: dict[str, Any]) -> Iterator[str]:
    with application(entry, engine) as alias:
        yield alias


def execute(sql: str) -> list[Any]:
    with connections[ALIAS[0]].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


@job(name="kept.execute")
def run_sql(sql: str) -> list[Any]:
    return execute(sql)


@job(name="kept.aexecute")
async def arun_sql(sql: str) -> list[Any]:
    result: list[Any] = await sync_to_async(execute)(sql)
    return result


def sql_job(kind: str) -> Any:
    return run_sql if kind == "function" else arun_sql


@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_busy_slots_keep_a_connection_each_and_close_it_at_the_end(
    engine: Engine, alias: str, concurrency: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_connections, "REST", 60.0)
    run_many([sql_job(kind).bind("SELECT 1") for _ in range(200)])

    consumers.drain(4, concurrency=concurrency)

    assert 1 <= len(MADE) <= 8  # a slot for each job at a time, and a thread that is being returned


@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_that_rests_closes_its_connection(
    engine: Engine, alias: str, concurrency: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_connections, "REST", 0.01)
    with consuming(1, concurrency=concurrency):
        assert sql_job(kind).run_later("SELECT 1").join(30)
        eventually(lambda: MADE[0].connection is None)
        assert sql_job(kind).run_later("SELECT 1").join(30)
        assert len(MADE) == 2


@job(name="kept.pause")
async def use_one_session() -> list[Any]:
    """Return rows of a temporary table that was made before a pause, which is longer than a rest."""
    await sync_to_async(execute)("SELECT 1")
    await sync_to_async(execute)("CREATE TEMP TABLE own (number int)")
    await asyncio.sleep(0.2)
    result: list[Any] = await sync_to_async(execute)("SELECT count(*) FROM own")
    return result


@pytest.mark.parametrize("concurrency", POOLS)
def test_a_coroutine_that_awaits_is_no_rest(
    engine: Engine, alias: str, concurrency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_connections, "REST", 0.01)
    with consuming(1, concurrency=concurrency):
        arun_sql.run_later("SELECT 1").join(30)
        assert use_one_session.run_later().join(30) == [(0,)]


@pytest.mark.borrowed
@pytest.mark.postgresql_only
@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_connection_that_broke_is_replaced_before_the_next_job_uses_it(
    engine: Engine, alias: str, concurrency: str, kind: str
) -> None:
    with consuming(1, concurrency=concurrency):
        sql_job(kind).run_later("SELECT 1").join(30)
        execute(TERMINATE)
        assert sql_job(kind).run_later("SELECT 2").join(30) == [(2,)]


#: What a job does to its session, by database, and a query that shows it, with the answer of a new session.
CHANGES = {
    "sqlite": [
        ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys", [[1]]),
        ("CREATE TEMP TABLE left (a int)", "SELECT name FROM sqlite_temp_master", []),
        ("ATTACH ':memory:' AS other", "SELECT name FROM pragma_database_list", [["main"]]),
        ("BEGIN IMMEDIATE", "BEGIN IMMEDIATE", []),
    ],
    "postgresql": [
        ("SET statement_timeout = 12345", "SHOW statement_timeout", [["0"]]),
        (
            "SELECT pg_advisory_lock(1)",
            # A server ends a session that was closed a moment later.
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            [],
        ),
        ("CREATE TEMP TABLE rest (a int)", "SELECT to_regclass('rest')", [[None]]),
        ("SELECT set_config('a.b', '1', false)", "SELECT current_setting('a.b', true)", [[None]]),
        (
            "UPDATE pg_settings SET setting = '12345' WHERE name = 'statement_timeout'",
            "SHOW statement_timeout",
            [["0"]],
        ),
        ("EXPLAIN (ANALYZE) CREATE TEMP TABLE r AS SELECT 1", "SELECT to_regclass('r')", [[None]]),
        ("SELECT 1 AS a INTO pg_temp.s", "SELECT to_regclass('s')", [[None]]),
        (
            """SELECT U&"set\\005fconfig"('a.c', '1', false)""",
            "SELECT current_setting('a.c', true)",
            [[None]],
        ),
        ("LISTEN left_channel", "SELECT pg_listening_channels()", []),
        ("BEGIN", "SELECT now() = statement_timestamp()", [[True]]),
    ],
}


@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_job_changes_in_its_session_does_not_reach_the_next_job(
    engine: Engine, alias: str, concurrency: str, kind: str
) -> None:
    with consuming(1, concurrency=concurrency):
        for change, query, new in CHANGES[engine.db.alias]:
            sql_job(kind).run_later("SELECT 1").join(30)
            sql_job(kind).run_later(change).join(30)
            found = sql_job(kind).run_later(query).join(30)
            assert [[*row] for row in found] == new, change


@job(name="kept.unfinished")
def leave_a_read_unfinished() -> None:
    execute("SELECT 1")
    cursor = connections[ALIAS[0]].cursor()
    cursor.execute("SELECT a FROM numbers")
    cursor.fetchone()
    KEPT.append(cursor)


@pytest.mark.sqlite_only
def test_a_read_that_a_job_leaves_unfinished_does_not_show_the_next_job_old_rows(
    engine: Engine, alias: str
) -> None:
    execute("PRAGMA journal_mode = WAL")
    execute("CREATE TABLE numbers (a int)")
    execute("INSERT INTO numbers VALUES (1), (2), (3)")
    with consuming(1):
        leave_a_read_unfinished.run_later().join(30)
        execute("DELETE FROM numbers")
        assert run_sql.run_later("SELECT count(*) FROM numbers").join(30) == [(0,)]


def test_a_connection_is_not_kept_for_ever(
    engine: Engine, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_connections, "KEPT", 0.0)
    run_many([run_sql.bind("SELECT 1") for _ in range(5)])

    consumers.drain(1)

    assert len(MADE) == 5


@pytest.mark.parametrize(("age", "made"), [(1e-6, 5), (None, 1)])
def test_an_age_that_the_project_sets_is_in_force(
    engine: Engine, entry: dict[str, Any], age: float | None, made: int
) -> None:
    with application(entry, engine, CONN_MAX_AGE=age):
        run_many([run_sql.bind("SELECT 1") for _ in range(5)])
        consumers.drain(1)

        assert len(MADE) == made


@pytest.mark.postgresql_only
def test_a_connection_of_a_pool_goes_back_to_it_after_each_job(
    engine: Engine, entry: dict[str, Any]
) -> None:
    pytest.importorskip("psycopg_pool")
    pool = {"min_size": 1, "max_size": 1, "timeout": 20}
    with application(entry, engine, OPTIONS={**entry["OPTIONS"], "pool": pool}) as alias:
        run_many([run_sql.bind("SELECT 1") for _ in range(20)])
        consumers.drain(4)
        connections[alias].close_pool()  # type: ignore[attr-defined]  # of PostgreSQL only
        assert {*Job.objects.values_list("state", flat=True)} == {"succeeded"}


def test_wrappers_and_statements_of_the_project_are_as_before(engine: Engine, alias: str) -> None:
    with consuming(1):
        assert run_in_wrapper.run_later().join(30) == ["SELECT 2"]
        assert run_in_wrapper.run_later().join(30) == ["SELECT 2"]


@job(name="kept.wrapper")
def run_in_wrapper() -> list[str]:
    """Open the connection inside `execute_wrapper()`, and return the statements that the wrapper saw."""
    seen: list[str] = []

    def see(execute: Any, sql: str, *arguments: Any) -> Any:
        seen.append(sql)
        return execute(sql, *arguments)

    with connections[ALIAS[0]].execute_wrapper(see):
        execute("SELECT 2")
    execute("SELECT 3")
    return seen
