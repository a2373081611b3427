"""Session state: a statement counts as harmless only if it leaves nothing in its session."""

from __future__ import annotations

from typing import Any

import pytest

from djjp.consumer.session_state import is_unchanged_by

HARMLESS = [
    "SELECT 1",
    "  select count(*) from lock_table",
    "(SELECT 1) UNION (SELECT 2)",
    "/* a view */ /* a * b */ SELECT 1",
    "-- why\nUPDATE shop SET a = 1",
    'INSERT INTO "stock_lock" ("id") VALUES (%s)',
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "SELECT a FROM b FOR UPDATE SKIP LOCKED",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_try_advisory_xact_lock_shared(1)",
    'SAVEPOINT "s1"',
    'RELEASE SAVEPOINT "s1"',
    'ROLLBACK TO SAVEPOINT "s1"',
    "SET CONSTRAINTS ALL IMMEDIATE",
    "BEGIN IMMEDIATE",
    "DELETE FROM a;",
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN SELECT 1",
    "INSERT OR IGNORE INTO a SELECT b.target_lock FROM b",
    'SELECT "shop_settings"."pointinto" FROM "shop_settings"',
    "MERGE INTO a USING b ON true WHEN NOT MATCHED THEN DO NOTHING",
    "REPLACE INTO a VALUES (1)",
    "INSERT INTO a VALUES (1)" + ", (1)" * 5_000,
]
CHANGING: list[Any] = [
    "SET statement_timeout = 1",
    "set session transaction read only",
    "RESET ALL",
    "PRAGMA foreign_keys = OFF",
    "ATTACH 'a' AS b",
    "CREATE TEMPORARY TABLE a (b int)",
    "SELECT 1 INTO TEMP a",
    "SELECT 1 INTO @a",
    "SELECT @a := 1",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared (1)",
    "SELECT GET_LOCK('a', 1)",
    "SELECT GET_LOCK/**/('a', 1)",
    'SELECT "pg_advisory_lock"(7)',
    "SELECT pg_advisory_lock/**/(8)",
    "select PG_TRY_ADVISORY_LOCK -- a comment\n(8)",
    """SELECT U&"set\\005fconfig"('work_mem', '99kB', false)""",
    "UPDATE pg_settings SET setting = '77' WHERE name = 'work_mem'",
    "WITH a AS (UPDATE pg_catalog.\"pg_settings\" SET setting = '77') SELECT 1",
    "EXPLAIN (ANALYZE) CREATE TEMP TABLE a AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    'SELECT 1 AS x INTO pg_temp."left"',
    "SELECT 1 AS x INTO/**/TEMP a",
    "SELECT pg_replication_origin_session_setup('a')",
    "SELECT set_config('a.b', '1', false)",
    "LOCK TABLES a WRITE",
    "USE other",
    "LISTEN a",
    "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
    "CALL anything()",
    "DO $$ BEGIN PERFORM 1; END $$",
    "SELECT 1; SET a = 1",
    "/*!40101 SET NAMES utf8 */ SELECT 1",
    "SELECTED",
    "",
    b"SELECT 1",
    None,
    "SET a = " + "1" * 20_000,
]


@pytest.mark.parametrize("sql", HARMLESS, ids=lambda sql: sql[:30])
def test_reads_and_writes_of_rows_are_harmless(sql: str) -> None:
    assert is_unchanged_by(sql)


@pytest.mark.parametrize("sql", CHANGING, ids=lambda sql: str(sql)[:30])
def test_everything_else_can_change_the_session(sql: Any) -> None:
    assert not is_unchanged_by(sql)
