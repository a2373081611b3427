"""Rows that other transactions have locked: outcomes of these wait, and everything else goes on."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from django.db import OperationalError, connections
from django.test import override_settings

import djjp.engine
from djjp import run_many
from djjp.databases import queue_database
from djjp.engine import Engine, Refusal
from djjp.engine.database import Database
from djjp.engine.sqlite import backup
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming, drain
from tests.support.engine_calls import at_once, claim, done, enqueue, finish
from tests.support.processes import eventually
from tests.support.projects import alias_for
from tests.support.staying import let_end, stay


@contextmanager
def row_locked(*ids: UUID) -> Iterator[None]:
    """Somebody's transaction has changed these rows and is open."""
    import psycopg

    with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as other:
        other.execute("UPDATE djjp_job SET cancel_requested = true WHERE id = ANY(%s)", [list(ids)])
        yield
        other.rollback()


def state(id: UUID) -> str:
    return str(Job.objects.get(pk=id).state)


def be_patient(engine: Engine) -> None:
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '120s'")


@pytest.mark.postgresql_only
def test_an_outcome_whose_row_is_locked_waits_while_all_others_are_written(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    locked = [stay.run_later() for _ in range(3)]
    with consuming(4) as consumer:
        eventually(lambda: Job.objects.filter(state="running").count() == 3)
        with row_locked(*[handle.id for handle in locked]):
            let_end()
            eventually(lambda: caplog.text.count("has locked the row") == 3)
            # From now on a turn that waits for a locked row waits for longer than a join.
            consumer._call_queue.call(be_patient)
            for _ in range(3):
                for quick in run_many(add.bind(number) for number in range(20)):
                    quick.join(30)
            assert {state(handle.id) for handle in locked} == {"running"}
            # They need no slots.
            eventually(lambda: consumer._turn.room() >= 4)
        for handle in locked:
            handle.join(30)
    assert caplog.text.count("has locked the row") == 3


@pytest.mark.postgresql_only
def test_a_dependent_that_is_locked_delays_its_parent_only(engine: Engine) -> None:
    from djjp import chain

    pipeline = chain(stay.bind(), add.using().bind()).run_later()
    with consuming(4):
        eventually(lambda: Job.objects.filter(state="running").exists())
        with row_locked(pipeline.id):
            let_end()
            time.sleep(0.5)
            for handle in run_many(add.bind(number) for number in range(20)):
                handle.join(30)
            assert Job.objects.exclude(pk=pipeline.id).filter(state="running").exists()
        eventually(lambda: state(pipeline.id) == "succeeded")


@pytest.mark.postgresql_only
def test_a_consumer_ends_although_a_row_is_locked(engine: Engine) -> None:
    locked = stay.run_later()
    with consuming(2, shutdown_timeout=1.0) as consumer:
        eventually(lambda: Job.objects.filter(state="running").exists())
        with row_locked(locked.id):
            let_end()
            time.sleep(1.0)
            consumer.stop()
            eventually(lambda: consumer._stops and not engine.consumers.peers(), within=30)
    assert state(locked.id) == "running"


@pytest.mark.postgresql_only
def test_a_locked_table_is_an_outage_and_no_outcome_is_lost(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    import psycopg

    handles = [stay.run_later() for _ in range(4)]
    with consuming(4):
        eventually(lambda: Job.objects.filter(state="running").count() == 4)
        with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as other:
            other.execute("LOCK TABLE djjp_job IN ACCESS EXCLUSIVE MODE")
            let_end()
            eventually(lambda: "the queue's database refused" in caplog.text)
        for handle in handles:
            handle.join(30)
    assert set(Job.objects.values_list("attempts", "rescues")) == {(1, 0)}


# Deadlocks


@pytest.mark.postgresql_only
def test_finishes_and_cancels_of_the_same_jobs_never_end_in_a_deadlock(engine: Engine) -> None:
    """Both lock the rows in the order of the ids, whatever the order in which they name them."""
    for _ in range(15):
        enqueue(engine, 40)
        jobs = claim(engine)

        def cancel(engine: Engine, jobs: list = jobs) -> int:  # type: ignore[type-arg]
            return engine.control.cancel([job.id for job in jobs], 1.0)

        def end(engine: Engine, jobs: list = jobs) -> object:  # type: ignore[type-arg]
            return finish(engine, "one", *[done(job) for job in reversed(jobs)])

        at_once(cancel, end)


@pytest.mark.postgresql_only
def test_a_call_that_lost_a_deadlock_is_made_again(engine: Engine) -> None:
    first, second = enqueue(engine, 2)
    met = threading.Barrier(2)
    crossed = threading.Event()
    calls: list[str] = []
    ended: list[str] = []
    one_has_ended = threading.Event()

    def crosswise(name: str, ids: list[UUID]) -> None:
        try:

            def verb(engine: Engine) -> None:
                if name in calls:
                    one_has_ended.wait(30)
                with engine.db.transaction():
                    engine.db.lock_rows("id", "true", ids[:1])
                    if not crossed.is_set():
                        met.wait(30)
                        crossed.set()
                    calls.append(name)
                    engine.db.lock_rows("id", "true", ids[1:])

            djjp.engine.run(verb)
            ended.append(name)
            one_has_ended.set()
        finally:
            connections.close_all()

    threads = [
        threading.Thread(target=crosswise, args=["one", [first, second]]),
        threading.Thread(target=crosswise, args=["two", [second, first]]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ended) == ["one", "two"]
    assert len(calls) == 3


def test_a_turn_that_lost_a_conflict_is_taken_again_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handles = run_many(add.bind(number) for number in range(5))
    finish_jobs, lost = engine.jobs.finish, OperationalError("deadlock detected")
    classify = Database.classify
    failures = [lost, lost]

    def fail(consumer: str, outcomes: object) -> object:
        if failures:
            raise failures.pop()
        return finish_jobs(consumer, outcomes)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.jobs, "finish", fail)
    kind = type(engine.db)
    classify = kind.classify
    monkeypatch.setattr(
        kind,
        "classify",
        lambda db, error: Refusal.CONFLICT if error is lost else classify(db, error),
    )
    drain()
    assert [handle.join(0) for handle in handles] == [0, 1, 2, 3, 4]
    assert failures == []
    assert "refused" not in caplog.text


# SQLite's lock of the file


@pytest.fixture
def rollback_journal(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """A queue's file in the mode in which a writer excludes readers, as other settings than djjp's do."""
    file = tmp_path / "queue.sqlite3"
    backup.copy(Path(str(connections[engine.db.alias].settings_dict["NAME"])), file)
    config = queue_database(file)
    init = config["OPTIONS"]["init_command"]
    assert "journal_mode" in init
    config["OPTIONS"]["init_command"] = re.sub(
        r"journal_mode\s*=\s*\w+", "journal_mode = DELETE", init
    )
    # The mode changes here, while nobody else has the file: later the change would be refused at once.
    with closing(sqlite3.connect(file)) as alone:
        alone.execute("PRAGMA journal_mode = DELETE")
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        yield file


@pytest.mark.sqlite_only
def test_an_exclusive_lock_for_longer_than_a_consumer_waits_ends_no_consumer(
    rollback_journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with consuming(2):
        add.run_later(1).join(30)
        with closing(sqlite3.connect(rollback_journal, timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            eventually(lambda: "the queue's database refused" in caplog.text)
            time.sleep(1)
            other.execute("ROLLBACK")
        add.run_later(2).join(30)
