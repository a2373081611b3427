"""The turn on both databases: one transaction, whole or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from djjp.engine import Engine
from djjp.engine.sqlite.database import SQLiteDatabase
from djjp.models import Job, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    everything,
    failed,
    one,
)
from tests.support.factories import new_job
from tests.support.projects import alias_for


def test_a_turn_that_raises_changes_nothing(engine: Engine) -> None:
    job = one(engine)
    enqueue(engine, 3)
    enqueue(engine, state=State.SCHEDULED, run_after=NOW)
    before = everything()

    def break_off() -> None:
        with engine.db.transaction():
            assert engine.jobs.finish("one", [failed(job)]) == set()
            engine.jobs.enqueue(new_job())
            engine.jobs.promote(NOW)
            assert len(engine.jobs.claim("one", 100, NOW)) == 5
            assert engine.control.retry([job.id]) == 1
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert everything() == before


def test_a_turn_is_one_transaction_that_other_connections_see_whole(engine: Engine) -> None:
    job = one(engine)
    enqueue(engine)
    with engine.db.transaction():
        engine.jobs.finish("one", [done(job)])
        engine.jobs.claim("one", 1, NOW)
        [seen] = at_once(lambda _: sorted(Job.objects.values_list("state", flat=True)))
    assert seen == ["ready", "running"]
    assert sorted(Job.objects.values_list("state", flat=True)) == ["running", "succeeded"]


def test_a_turn_can_open_the_connection_of_its_thread(engine: Engine) -> None:
    """No verb needs a connection that is already open."""
    job = new_job()
    at_once(lambda own: own.jobs.enqueue_many([job]))
    [taken] = at_once(claim)
    assert [claimed.id for claimed in taken] == [job.id]


def test_an_sqlite_turn_takes_the_write_lock_first_with_any_settings(
    tmp_path: Path,
) -> None:
    """Otherwise what it read could have changed when it writes. Another connection tries the lock."""
    path = tmp_path / "queue.sqlite3"
    with alias_for({"ENGINE": "django.db.backends.sqlite3", "NAME": path}) as alias:
        locked = pytest.raises(sqlite3.OperationalError, match="locked")
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with SQLiteDatabase(alias).transaction(), locked:
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.close()
