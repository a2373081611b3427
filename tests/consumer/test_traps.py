"""Traps that others fell into, and that consumers in this process can meet."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings

from djjp import job, run_many
from djjp.consumer.consumer import Consumer
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from tests.project.shop.jobs import add, nap
from tests.support.processes import Processes, eventually


@job(name="traps.memory")
def memory() -> int:
    """The bytes that Python's objects take, once what nobody needs is gone."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# Trap 4: `database is locked` surfacing to the enqueuer or killing the heartbeat


@pytest.fixture
def impatient(engine: Engine) -> Iterator[None]:
    """New connections to the SQLite queue wait for a lock no longer than a moment."""
    options = connections.settings[engine.db.alias]["OPTIONS"]
    before = options["timeout"]
    options["timeout"] = 0.1
    connections[engine.db.alias].close()
    yield
    options["timeout"] = before
    connections[engine.db.alias].close()


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Another program holds the write lock."""
    other = sqlite3.connect(engine.db.connection.settings_dict["NAME"], isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@pytest.mark.sqlite_only
def test_trap_4_a_locked_database_does_not_surface_to_the_enqueuer_who_has_patience(
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
def test_trap_4_beyond_its_patience_the_enqueuer_gets_one_clear_error(engine: Engine) -> None:
    with locked(engine), pytest.raises(QueueUnavailable, match="locked"):
        add.run_later(1)
    assert add.run_later(1).state == "ready"


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("impatient")
@override_settings(DJJP={"db_name": "sqlite", "heartbeat_limit": 0.5})
def test_trap_4_a_locked_database_does_not_kill_the_heartbeat(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer goes on as who it was, and what ended meanwhile is written when it can be."""
    consumer = Consumer(2)
    thread = threading.Thread(target=_run, args=[consumer])
    handle = nap.run_later(0.5)
    with caplog.at_level(logging.WARNING, "djjp"):
        thread.start()
        eventually(lambda: Job.objects.filter(state="running").exists())
        before = ConsumerRow.objects.get()
        with locked(engine):
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


# Trap 15: calling the consumer inside a TestCase closing the test's connection


def test_trap_15_a_consumer_inside_a_transaction_leaves_it_open_and_its_connection_alone(
    engine: Engine,
) -> None:
    with transaction.atomic(using=engine.db.alias), ExitStack() as stack:
        handle = add.run_later(1, b=2)
        stack.enter_context(transaction.atomic(using="default"))
        before = [connections[alias].connection for alias in ("default", engine.db.alias)]

        call_command("start_consumer", "--drain")

        assert handle.join(0) == 3
        after = [connections[alias].connection for alias in ("default", engine.db.alias)]
        assert None not in after
        assert all(one is other for one, other in zip(before, after, strict=True))
        assert connections[engine.db.alias].in_atomic_block
        transaction.set_rollback(True, using=engine.db.alias)
    assert not Job.objects.exists(), "what happened in the transaction went with it"
    assert not ConsumerRow.objects.exists()


# Trap 18: memory that grows with the number of jobs run


@pytest.mark.end_to_end
@pytest.mark.parametrize("debug", [False, True])
def test_trap_18_memory_does_not_grow_with_the_number_of_jobs_run(
    engine: Engine, debug: bool
) -> None:
    """Also with `DEBUG`, where Django keeps the statements that each connection has run."""
    # By then the line of claimed jobs has been as long as it gets.
    run_many(add.bind(i) for i in range(4000))
    first = memory.run_later()
    run_many(add.bind(i) for i in range(20_000))
    last = memory.run_later()
    tracemalloc.start()
    try:
        with override_settings(DEBUG=debug):
            assert Consumer(2, drain=True).run()
    finally:
        tracemalloc.stop()
        connections.close_all()

    assert Job.objects.filter(state="succeeded").count() == 24_002
    assert last.join(0) - first.join(0) < 400_000  # 20 bytes a job


# Trap 9: pruning that never runs while the queue is busy


def test_trap_9_finished_jobs_are_pruned_while_the_queue_is_busy(
    engine: Engine, processes: Processes
) -> None:
    """Each job enqueues the next: a consumer that prunes when it is idle never would."""
    old = run_many(add.bind(i) for i in range(3))
    busy = processes.start(
        "start_consumer",
        "--concurrency-limit",
        "2",
        DJJP_TEST_SETTINGS='{"keep_succeeded": 0.2}',
    )
    for handle in old:
        handle.join(30)
    over = threading.Event()

    def feed() -> None:
        while not over.is_set():
            run_many(nap.bind(0.01) for _ in range(40))
            eventually(lambda: Job.objects.filter(state="ready").count() < 20)
        connections.close_all()

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        eventually(lambda: not Job.objects.filter(pk__in=[h.id for h in old]).exists(), within=60)
        assert Job.objects.filter(state="running").exists()
    finally:
        over.set()
        feeder.join()
    assert processes.end(busy)[0] == 0
