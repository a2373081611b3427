"""Sessions that a role, a database or OPTIONS set in odd ways: the queue works as on any other."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections
from django.test import override_settings
from psycopg import ClientCursor

import djjp.engine
from djjp import Limit, Rate, chain, group, run_many
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.engine.postgresql.database import PostgreSQLDatabase
from djjp.exceptions import JobFailed
from djjp.jobs import RegisteredJob
from djjp.models import Consumer, Flag, Job, Schedule
from djjp.schedules import declared
from tests.project.shop.jobs import add, echo, fail
from tests.support.consumers import consuming, drain
from tests.support.databases import QUEUES
from tests.support.engine_calls import NOW, at_once, claim, enqueue, register_consumer, take
from tests.support.projects import alias_for
from tests.support.schedules import registered

ODD = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_deferrable": "on",
    "statement_timeout": "30ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "20ms",
    "idle_session_timeout": "50ms",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "search_path": '"$user", public, pg_temp',
    "bytea_output": "escape",
    "extra_float_digits": "-10",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "plan_cache_mode": "force_generic_plan",
    "jit": "on",
    "jit_above_cost": "0",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "join_collapse_limit": "1",
    "work_mem": "64kB",
    "exit_on_error": "on",
    "synchronous_commit": "off",
    "lc_messages": "C",
}
LEVELS = {3: "repeatable read", 4: "serializable"}
ODD_TEXT = "größe → Ω\\'"


def work_through(engine: Engine) -> None:
    """Enqueue and run jobs of each kind, with two consumers."""
    running: list[None] = []
    most = [0]

    def overlap() -> None:
        running.append(None)
        most.append(len(running))
        time.sleep(0.002)
        running.pop()

    with ExitStack() as stack:

        def register(name: str, **options: Any) -> RegisteredJob[..., Any]:
            return stack.enter_context(registered(f"test.{name}", **options))

        alone = register("alone", function=overlap, limit=Limit("alone", 1))
        rated = register("rated", limit=Rate("rated", 3, per=0.2))
        single = register("single", unique_key="single")
        register("often", every=timedelta(days=400, seconds=1.5))
        stack.enter_context(consuming(4))
        stack.enter_context(consuming(4))

        waited_for = [
            *run_many(alone.bind() for _ in range(30)),
            *run_many(rated.bind() for _ in range(5)),
            *run_many(echo.using(queue=ODD_TEXT).bind(n) for n in range(3)),
        ]
        later = echo.using(run_after=timedelta(seconds=0.2)).run_later(ODD_TEXT)
        pipeline = chain(add.bind(1, 2), group(add.bind(3), add.bind(4)), echo.bind()).run_later()
        failing = fail.run_later(ODD_TEXT)
        held = single.using(run_after=timedelta(hours=1)).run_later()
        assert single.run_later().id == held.id
        held.cancel()

        for handle in waited_for:
            handle.join(30)
        assert max(most) == 1
        assert later.join(30) == [[ODD_TEXT], {}]
        assert pipeline.join(30) == [[[7, 6]], {}] or pipeline.result == [[[6, 7]], {}]
        assert held.state == "cancelled"
        with pytest.raises(JobFailed, match=re.escape(ODD_TEXT)):
            failing.join(30)
        assert Job.objects.filter(queue=ODD_TEXT).count() == 3
        schedules_fire(engine)
    rescued(engine)


def schedules_fire(engine: Engine) -> None:
    """Read a schedule's interval and its time to the microsecond, and fire it by them."""
    [schedule] = Schedule.objects.filter(name="test.often")
    assert schedule.every == timedelta(days=400, seconds=1.5)
    Schedule.objects.filter(pk=schedule.pk).update(fired_until=1_767_225_600.123456)
    [schedule] = engine.schedules.all()
    due = [(schedule.fired_until + 0.123456, echo.bind().to_row())]
    assert engine.schedules.fire(schedule, due) == 1
    engine.schedules.sync(declared(), time.time())


def rescued(engine: Engine) -> None:
    """Rescue a job of a dead consumer, and run it."""
    [id] = enqueue(engine)
    claim(engine, "dead")
    peer = register_consumer(engine, "dead")
    assert engine.rescue.rescue_jobs(peer, NOW + 9, max_rescues=3, started={(id, 1)})
    assert not Consumer.objects.filter(pk="dead").exists()
    assert state_of(id) == "ready"
    Job.objects.filter(pk=id).delete()
    drain()


def state_of(id: UUID) -> str:
    return Job.objects.get(pk=id).state


# PostgreSQL: what a role sets


@contextmanager
def role_setting(engine: Engine, name: str, value: str) -> Iterator[None]:
    """Let new sessions of this role in this database begin with a setting."""
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute("SELECT current_user, current_database()")
        role, database = cursor.fetchone()
        where = f'ALTER ROLE "{role}" IN DATABASE "{database}"'
        literal = value if name == "search_path" else f"'{value}'"
        cursor.execute(f"{where} SET {name} = {literal}")
        connections[engine.db.alias].close()
        try:
            yield
        finally:
            with connections[engine.db.alias].cursor() as again:
                again.execute("SET default_transaction_read_only = off")
                again.execute(f"{where} RESET {name}")
            connections[engine.db.alias].close()


@pytest.mark.end_to_end
@pytest.mark.postgresql_only
@pytest.mark.parametrize("name", ODD)
def test_whatever_a_role_sets(engine: Engine, name: str) -> None:
    with role_setting(engine, name, ODD[name]):
        assert run_checks(tags=["djjp"], databases=[engine.db.alias]) == []
        work_through(engine)


@pytest.mark.postgresql_only
def test_a_role_that_can_only_read_is_refused(engine: Engine) -> None:
    with role_setting(engine, "default_transaction_read_only", "on"):
        [message] = run_checks(tags=["djjp"], databases=[engine.db.alias])
    assert message.id == "djjp.E015"
    assert "RESET default_transaction_read_only" in str(message.hint)


# Isolation


def isolation(engine: Engine) -> str:
    """Return what a turn's transaction gets from the server."""
    with engine.db.transaction(), connections[engine.db.alias].cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        return str(cursor.fetchone()[0])


@pytest.mark.postgresql_only
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("listen", [True, False])
def test_each_statement_of_a_turn_sees_what_was_committed_before_it(
    engine: Engine, level: str, listen: bool
) -> None:
    with (
        override_settings(DJJP={"db_name": engine.db.alias, "listen": listen}),
        role_setting(engine, "default_transaction_isolation", level),
    ):
        assert isolation(engine) == "read committed"


@pytest.mark.postgresql_only
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_limit_counts_a_job_that_another_consumer_has_started_meanwhile(
    engine: Engine, level: str
) -> None:
    """Both claim a job before either counts: a snapshot from the time of the claim lets both run."""
    claimed, other_runs = threading.Event(), threading.Event()

    def first(engine: Engine) -> int:
        with engine.db.transaction():
            jobs = engine.jobs.claim("one", 1, NOW)
            claimed.set()
            assert other_runs.wait(30)
            return len(engine.admission.admit(jobs).jobs)

    def second(engine: Engine) -> int:
        assert claimed.wait(30)
        try:
            return len(take(engine, "two", limit=1))
        finally:
            other_runs.set()

    enqueue(engine, 2, flags=Flag.LIMITED, limit_key="alone", limit_max=1)
    with role_setting(engine, "default_transaction_isolation", level):
        assert at_once(first, second) == [0, 1]
    assert sorted(Job.objects.values_list("state", flat=True)) == ["blocked", "running"]


@pytest.mark.skipif("postgresql" not in QUEUES, reason="there is no PostgreSQL")
@pytest.mark.parametrize("options", [{"isolation_level": 3}, {"isolation_level": 4}])
@pytest.mark.parametrize("db_name", ["own", "default"])
def test_options_of_the_alias_set_the_isolation_of_no_consumer(
    postgres_url: str, options: dict[str, Any], db_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = queue_database(postgres_url)
    config["OPTIONS"] |= options
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        if (
            db_name == "default"
        ):  # an alias of the application's: only consumers have their own sessions
            monkeypatch.setattr(PostgreSQLDatabase, "adopt", lambda *given: None)
        engine = djjp.engine.for_alias(alias)
        assert isolation(engine) == (
            "read committed" if db_name == "own" else LEVELS[options["isolation_level"]]
        )
        engine.db.listener()
        assert isolation(engine) == "read committed"


@pytest.mark.skipif("postgresql" not in QUEUES, reason="there is no PostgreSQL")
def test_the_server_binds_the_statements_of_a_consumer_whatever_its_alias_sets(
    postgres_url: str,
) -> None:
    config = queue_database(postgres_url)
    config["OPTIONS"]["server_side_binding"] = False
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        engine = djjp.engine.for_alias(alias)
        with engine.db.connection.cursor() as cursor:
            assert isinstance(cursor.cursor, ClientCursor)
        engine.db.listener()
        with engine.db.connection.cursor() as cursor:
            assert not isinstance(cursor.cursor, ClientCursor)


# SQLite: what OPTIONS set


@pytest.mark.end_to_end
@pytest.mark.skipif("sqlite" not in QUEUES, reason="there is no SQLite")
@pytest.mark.parametrize(
    "options",
    [
        {"transaction_mode": "DEFERRED"},
        {"transaction_mode": "EXCLUSIVE"},
        {"transaction_mode": None},
        {"isolation_level": "DEFERRED"},
        {"cached_statements": 0},
        {"detect_types": 0},
        {"timeout": 1},
        {"init_command": "PRAGMA journal_mode=DELETE"},
        {"init_command": "PRAGMA journal_mode=TRUNCATE"},
        {"init_command": "PRAGMA foreign_keys=OFF"},
        {"init_command": "PRAGMA reverse_unordered_selects=ON"},
        {"init_command": "PRAGMA recursive_triggers=ON; PRAGMA case_sensitive_like=ON"},
        {"init_command": "PRAGMA busy_timeout=0; PRAGMA journal_mode=WAL"},
        {"init_command": "PRAGMA automatic_index=OFF; PRAGMA temp_store=1; PRAGMA cache_size=1"},
    ],
)
def test_whatever_options_set_on_sqlite(options: dict[str, Any], tmp_path: Path) -> None:
    config = queue_database(tmp_path / "queue.sqlite3")
    config["OPTIONS"] = {"timeout": 5, **options}
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        call_command("migrate", database=alias, verbosity=0)
        assert run_checks(tags=["djjp"], databases=[alias]) == []
        work_through(djjp.engine.current())


@pytest.mark.skipif("sqlite" not in QUEUES, reason="there is no SQLite")
@pytest.mark.parametrize(
    ("pragmas", "words"),
    [
        ("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode=WAL", "locking_mode exclusive"),
        ("pragma main.locking_mode(exclusive)", "locking_mode exclusive"),
        ("PRAGMA query_only=ON", "query_only 1"),
        ("PRAGMA journal_mode=OFF", "journal_mode off"),
        ("PRAGMA journal_mode=MEMORY", "journal_mode memory"),
        ("PRAGMA encoding='UTF-16'", "encoding utf-16le"),
    ],
)
def test_pragmas_that_others_or_a_crash_cannot_live_with_are_refused(
    pragmas: str, words: str, tmp_path: Path
) -> None:
    config = queue_database(tmp_path / "queue.sqlite3")
    config["OPTIONS"]["init_command"] = pragmas
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        [message] = run_checks(tags=["djjp"], databases=[alias])
    assert message.id == "djjp.E015"
    assert words in message.msg
    assert f"DATABASES[{alias!r}]" in str(message.hint)
