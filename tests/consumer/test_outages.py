"""The queue's database is locked, restarted or gone for a while: what was done is written when it is back."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from djjp import job
from djjp.consumer.consumer import Consumer
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.jobs import registry
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from tests.project.shop.jobs import add, nap
from tests.support.postgres import TERMINATE, Server
from tests.support.processes import Processes, eventually
from tests.support.projects import alias_for

pytestmark = pytest.mark.end_to_end

# Waits for a lock for a second, where the usual settings wait for half a minute.
IMPATIENT = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Somebody else holds the lock that every write of jobs needs."""
    settings = engine.db.connection.settings_dict
    if engine.db.alias == "sqlite":
        with closing(sqlite3.connect(settings["NAME"], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        import psycopg

        with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as other:
            other.execute("LOCK TABLE djjp_job IN ACCESS EXCLUSIVE MODE")
            yield


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that may be stopped, with the queue on it."""
    before = dict(connections.settings["postgresql"])
    connections["postgresql"].close()
    connections.settings["postgresql"].update(queue_database(own_server.url))
    monkeypatch.setenv("DJJP_TEST_SERVER_URL", own_server.url)
    with override_settings(DJJP={"db_name": "postgresql"}):
        call_command("migrate", database="postgresql", verbosity=0)
        yield own_server
        own_server.start()
        connections["postgresql"].close()
        Job.objects.all().delete()
        ConsumerRow.objects.all().delete()
    connections["postgresql"].close()
    connections.settings["postgresql"].update(before)


def wait_for(consumer: subprocess.Popen[str], text: str) -> str:
    """Read the log of a consumer up to a line with this text; all that was read."""
    assert consumer.stderr is not None
    lines = []
    for line in consumer.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not said: {lines}")


def running() -> int:
    return Job.objects.filter(state="running").count()


# Locks


def test_outcomes_wait_behind_a_lock_and_each_is_written_once(
    processes: Processes, engine: Engine
) -> None:
    handles = [nap.run_later(0.3) for _ in range(4)]
    consumer = processes.start("start_consumer", "--concurrency-limit", "2", **IMPATIENT)
    eventually(lambda: running() == 2)

    with locked(engine):
        said = wait_for(consumer, "again in 0.2 s")
    for handle in handles:
        handle.join(60)
    code, err = processes.end(consumer)

    assert code == 0
    rows = Job.objects.values_list("state", "attempts", "rescues")
    assert list(rows) == [("succeeded", 1, 0)] * 4
    # One line for each try, and nothing else.
    assert said.count("\n") == said.count("the queue's database refused")
    assert "Traceback" not in said + err


@pytest.mark.sqlite_only
def test_an_enqueuer_is_refused_in_time_by_a_locked_file_and_nothing_is_written(
    processes: Processes, engine: Engine
) -> None:
    code = """
import django; django.setup()
from djjp import run_many
from djjp.exceptions import QueueUnavailable
from tests.project.shop.jobs import add
for enqueue in (lambda: add.run_later(1), lambda: run_many([add.bind(2), add.bind(3)])):
    try:
        enqueue()
    except QueueUnavailable as error:
        print(error)
"""
    with locked(engine):
        out, err = processes.python(code, **IMPATIENT).communicate(timeout=60)

    assert err == ""
    assert (
        out.splitlines()
        == ["the queue's database 'sqlite' did not take the call: database is locked"] * 2
    )
    assert not Job.objects.exists()


@pytest.mark.sqlite_only
def test_a_consumer_that_starts_while_the_file_is_locked_waits_for_it(
    processes: Processes, engine: Engine
) -> None:
    handle = add.run_later(1)
    with locked(engine):
        consumer = processes.start("start_consumer", **IMPATIENT)
        wait_for(consumer, "again in 0.1 s")

    assert handle.join(60) == 1
    assert processes.end(consumer)[0] == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_a_consumer_ends_while_the_database_is_away_and_others_rescue_its_jobs(
    processes: Processes, engine: Engine, signals: int
) -> None:
    handle = nap.run_later(3600)
    timeout = {"DJJP_TEST_SHUTDOWN_TIMEOUT": "0.5" if signals == 1 else "3600"}
    consumer = processes.start("start_consumer", **timeout)
    eventually(running)

    with locked(engine):
        wait_for(consumer, "refused")
        for _ in range(signals - 1):
            consumer.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                consumer.wait(0.5)
        code, err = processes.end(consumer)

    assert code == 1
    assert "1 jobs are left to be rescued" in err
    first = Job.objects.get(pk=handle.id)
    assert (first.state, first.rescues) == ("running", 0)
    processes.consumer()
    eventually(lambda: Job.objects.filter(state="running", rescues=1, attempts=2).exists())


@pytest.fixture
def opening() -> Iterator[tuple[Any, threading.Event, threading.Event]]:
    """A job that enqueues another when it is let, and the events that say it is there and let it."""
    there, go = threading.Event(), threading.Event()

    def enqueue() -> str:
        there.set()
        go.wait(60)
        try:
            return str(add.run_later(1).id)
        except QueueUnavailable as error:
            return str(error)

    registered = job(name="test.enqueue_during_an_outage")(enqueue)
    yield registered, there, go
    del registry._jobs[registered.name]


def test_a_job_that_enqueues_while_the_database_is_away_is_refused_in_time(
    engine: Engine, opening: tuple[Any, threading.Event, threading.Event]
) -> None:
    function, there, go = opening
    handle = function.run_later()
    consumer = Consumer(1, drain=True)
    consumer._call_queue._timeout = 0.5
    ended: list[bool] = []

    def run() -> None:
        ended.append(consumer.run())
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    assert there.wait(60)
    with locked(engine):
        go.set()
        eventually(lambda: consumer._ledger.has_writes, within=60)
    thread.join()

    assert ended == [True]
    assert (
        handle.join(0)
        == f"the queue's database '{engine.db.alias}' did not take the call within 0.5 s"
    )
    assert not Job.objects.filter(name=add.name).exists()


# Sessions that are terminated


def terminate() -> None:
    import psycopg

    with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"], autocommit=True) as other:
        other.execute(TERMINATE)


@pytest.mark.postgresql_only
def test_a_lost_connection_is_replaced_and_the_enqueue_writes_one_row(engine: Engine) -> None:
    add.run_later(1)
    terminate()
    add.run_later(2)

    assert Job.objects.count() == 2


@pytest.mark.postgresql_only
def test_consumers_whose_sessions_are_terminated_come_back_and_nobody_takes_their_jobs(
    processes: Processes, engine: Engine
) -> None:
    handles = [nap.run_later(8.0) for _ in range(2)]
    # Of two slots at most, so that one waits for a wake-up by the session that it loses.
    consumers = [processes.consumer("--concurrency-limit", "2") for _ in range(2)]
    eventually(lambda: running() == 2 and ConsumerRow.objects.count() == 2)

    terminate()
    for handle in handles:
        handle.join(60)
    endings = [processes.end(consumer) for consumer in consumers]

    assert [code for code, _ in endings] == [0, 0]
    assert set(Job.objects.values_list("state", "attempts", "rescues")) == {("succeeded", 1, 0)}
    for _, err in endings:
        assert "Traceback" not in err
        assert "dead" not in err


# A server that is stopped


def test_a_server_that_comes_back_gets_the_outcomes_of_what_ran_meanwhile(
    processes_on_server: Processes, server: Server
) -> None:
    handles = [nap.run_later(1.0) for _ in range(6)]
    consumer = processes_on_server.consumer("--concurrency-limit", "3")
    eventually(lambda: running() == 3)

    connections["postgresql"].close()
    server.stop()
    wait_for(consumer, "again in 1.6 s")
    server.start()
    for handle in handles:
        handle.join(60)
    code, err = processes_on_server.end(consumer)

    assert code == 0, err
    assert set(Job.objects.values_list("state", "attempts", "rescues")) == {("succeeded", 1, 0)}


def test_an_enqueuer_is_told_which_database_is_away(server: Server) -> None:
    add.run_later(1)
    server.stop()
    with pytest.raises(QueueUnavailable, match="database 'postgresql' did not take the call"):
        add.run_later(2)

    server.start()
    add.run_later(3)

    assert [row.arguments for row in Job.objects.order_by("pk")] == [
        '{"args":[1],"kwargs":{}}',
        '{"args":[3],"kwargs":{}}',
    ]


@pytest.fixture
def processes_on_server(server: Server) -> Iterator[Processes]:
    started = Processes("postgresql")
    yield started
    started.kill()


# The application's connections


def test_a_thread_of_the_pool_closes_its_connections_to_every_database_when_it_ends(
    engine: Engine, tmp_path: Path
) -> None:
    """They are kept from job to job, as these aliases ask for."""
    keep = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "more", "CONN_MAX_AGE": None}
    seen: list[tuple[Any, ...]] = []

    with alias_for(keep) as one, alias_for(keep) as other:

        def look() -> None:
            for alias in (one, other):
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT 1")
            seen.append(tuple((connections[a], connections[a].connection) for a in (one, other)))

        registered = job(name="test.look")(look)
        try:
            for _ in range(2):
                registered.run_later()
            Consumer(1, drain=True).run()
        finally:
            del registry._jobs[registered.name]

        assert seen[0] == seen[1]
        assert all(driver is not None for _, driver in seen[0])
        eventually(lambda: all(wrapper.connection is None for wrapper, _ in seen[0]))
