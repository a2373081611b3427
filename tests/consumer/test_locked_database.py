"""A locked database neither fails an enqueue within its timeout nor ends a consumer's heartbeats."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connections
from django.test import override_settings

from djjp import run_many
from djjp.consumer.consumer import Consumer
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.processes import eventually
from tests.support.staying import let_end, stay


@pytest.fixture
def impatient(engine: Engine) -> Iterator[None]:
    """Make new connections to the SQLite queue wait only a moment for a lock."""
    options = connections.settings[engine.db.alias]["OPTIONS"]
    before = options["timeout"]
    options["timeout"] = 0.1
    connections[engine.db.alias].close()
    yield
    options["timeout"] = before
    connections[engine.db.alias].close()


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Hold the write lock, as another program would."""
    other = sqlite3.connect(engine.db.connection.settings_dict["NAME"], isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@pytest.mark.sqlite_only
def test_an_enqueue_waits_for_a_locked_database(
    engine: Engine,
) -> None:
    handles = []

    def enqueue() -> None:
        handles.append(add.run_later(1))
        handles.extend(run_many(add.bind(i) for i in range(3)))
        connections.close_all()

    enqueuer = threading.Thread(target=enqueue)
    with locked(engine):
        enqueuer.start()
        time.sleep(1)
        assert handles == []
    enqueuer.join()
    assert len(handles) == 4


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("impatient")
def test_an_enqueue_that_has_waited_for_its_timeout_gets_one_clear_error(engine: Engine) -> None:
    with locked(engine), pytest.raises(QueueUnavailable, match="locked"):
        add.run_later(1)
    assert add.run_later(1).state == "ready"


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("impatient")
@override_settings(DJJP={"db_name": "sqlite", "heartbeat_limit": 0.5})
def test_a_locked_database_does_not_end_the_heartbeats(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer keeps its name, and outcomes of the meantime are written after the lock."""
    consumer = Consumer(2)
    thread = threading.Thread(target=_run, args=[consumer])
    handle = stay.run_later()
    with caplog.at_level(logging.WARNING, "djjp"):
        thread.start()
        eventually(lambda: Job.objects.filter(state="running").exists())
        before = ConsumerRow.objects.get()
        with locked(engine):
            let_end()
            eventually(lambda: "locked" in caplog.text)
            time.sleep(0.7)
        handle.join(30)
        eventually(lambda: ConsumerRow.objects.get().heartbeat_at > before.heartbeat_at)
        consumer.stop()
        thread.join()

    assert (handle.attempts, Job.objects.get().consumer) == (1, before.name)
    assert "taken for dead" not in caplog.text
    assert not ConsumerRow.objects.exists()


def _run(consumer: Consumer) -> None:
    try:
        consumer.run()
    finally:
        connections.close_all()
