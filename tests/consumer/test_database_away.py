"""The queue's database is locked, restarted or away for a while: outcomes are written when it is back."""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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
from djjp.engine.postgresql import session
from djjp.exceptions import QueueUnavailable
from djjp.jobs import registry
from djjp.models import Consumer as ConsumerRow
from djjp.models import Incident, Job
from djjp.monitoring.detection import look
from tests.project.shop.jobs import add, nap
from tests.support.consumers import consuming
from tests.support.jobs import registered
from tests.support.ports import reserved_port
from tests.support.postgres import AWAITS_LOCK, TERMINATE, Server
from tests.support.processes import Processes, eventually
from tests.support.projects import alias_for

pytestmark = pytest.mark.end_to_end

# Waits for a lock for a second, where the usual settings wait for half a minute.
IMPATIENT = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}


@contextmanager
def locked(engine: Engine) -> Iterator[Callable[[], bool]]:
    """Hold, on another connection, the lock that every write of jobs needs.

    Yield whether a transaction that has begun waits for it; on SQLite none begins.
    """
    settings = engine.db.connection.settings_dict
    if engine.db.alias == "sqlite":
        with closing(sqlite3.connect(settings["NAME"], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield lambda: True
    else:
        import psycopg

        with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as other:
            other.execute("LOCK TABLE djjp_job IN ACCESS EXCLUSIVE MODE")
            yield lambda: other.execute(AWAITS_LOCK).fetchall() == [(True,)]


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server with the queue on it, which the test can stop."""
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


@pytest.fixture
def port() -> Iterator[int]:
    """Yield a port that a consumer can listen on."""
    with reserved_port() as reserved:
        yield reserved


def health(port: int, page: str) -> int | None:
    """Return the status with which a consumer answers; None if it does not listen yet."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", f"/{page}")
            return connection.getresponse().status
    except ConnectionRefusedError:
        return None


def wait_for(consumer: subprocess.Popen[str], text: str) -> str:
    """Read the log of a consumer up to a line with this text; return the log so far."""
    assert consumer.stderr is not None
    lines = []
    for line in consumer.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not logged: {lines}")


def running() -> int:
    return Job.objects.filter(state="running").count()


# Locks


def test_outcomes_wait_behind_a_lock_and_each_is_written_once(
    processes: Processes, engine: Engine
) -> None:
    handles = [nap.run_later(1.0) for _ in range(4)]
    consumer = processes.start("start_consumer", "--concurrency-limit", "2", **IMPATIENT)
    eventually(lambda: running() == 2)

    with locked(engine):
        logged = wait_for(consumer, "again in 0.2 s")
    for handle in handles:
        handle.join(60)
    code, err = processes.end(consumer)

    assert code == 0
    rows = Job.objects.values_list("state", "attempts", "rescues")
    assert list(rows) == [("succeeded", 1, 0)] * 4
    # One line for each try, and nothing else.
    assert logged.count("\n") == logged.count("the queue's database refused")
    assert "Traceback" not in logged + err


@pytest.mark.sqlite_only
def test_an_enqueue_into_a_locked_file_fails_in_time_and_writes_nothing(
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


@pytest.mark.postgresql_only
def test_consumers_that_come_back_after_an_outage_are_no_incident(
    processes: Processes, engine: Engine, server: Server
) -> None:
    """Nor for a page that is shown before they have reconnected."""
    consumers = [processes.start("start_consumer", **IMPATIENT) for _ in range(2)]
    eventually(lambda: ConsumerRow.objects.count() == 2)
    server.stop()
    for consumer in consumers:
        wait_for(consumer, "again in 1.6 s")
    server.start()
    connections["postgresql"].close()
    look()
    handle = add.run_later(2)
    look()
    assert handle.join(60) == 2
    look()
    assert [processes.end(consumer)[0] for consumer in consumers] == [0, 0]
    assert list(Incident.objects.values_list("kind", "subject")) == []


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
    assert "1 jobs are left for other consumers to rescue" in err
    first = Job.objects.get(pk=handle.id)
    assert (first.state, first.rescues) == ("running", 0)
    processes.consumer()
    eventually(lambda: Job.objects.filter(state="running", rescues=1, attempts=2).exists())


def test_a_job_that_enqueues_while_the_database_is_away_is_refused_in_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the consumer's turn waits for the database."""
    # The turn must not be refused before the call is.
    monkeypatch.setattr(session, "_TIMEOUTS", ("lock_timeout = '60s'", "statement_timeout = 0"))
    away, in_turn, answered = (threading.Event() for _ in range(3))
    both_started = threading.Barrier(3)

    def end() -> None:
        both_started.wait(60)
        away.wait(60)

    def enqueue() -> str:
        both_started.wait(60)
        in_turn.wait(60)
        try:
            return str(add.run_later(1).id)
        except QueueUnavailable as error:
            return str(error)
        finally:
            answered.set()

    with (
        registered("test.end_during_an_outage", end) as ends,
        registered("test.enqueue_during_an_outage", enqueue) as enqueues,
    ):
        ends.run_later()
        handle = enqueues.run_later()
        with consuming() as consumer:
            consumer._call_queue._timeout = 0.1
            both_started.wait(60)
            with locked(engine) as awaited:
                away.set()
                eventually(awaited)
                in_turn.set()
                assert answered.wait(60)
            answer = handle.join(60)

    assert answer == f"the queue's database '{engine.db.alias}' did not take the call within 0.1 s"
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
def test_consumers_whose_sessions_are_terminated_reconnect_and_keep_their_jobs(
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
        assert " dead" not in err


# A server that is stopped


def test_without_its_server_a_consumer_is_live_and_not_ready(
    processes_on_server: Processes, server: Server, tmp_path: Path, port: int
) -> None:
    file = tmp_path / "alive"
    consumer = processes_on_server.consumer(
        *("--health-file", str(file), "--health-port", str(port))
    )
    eventually(lambda: health(port, "ready") == 200)

    connections["postgresql"].close()
    server.stop()
    eventually(lambda: health(port, "ready") == 503)
    wait_for(consumer, "again in 1.6 s")
    before = file.stat().st_mtime_ns
    eventually(lambda: file.stat().st_mtime_ns > before)
    assert (health(port, "live"), health(port, "ready")) == (200, 503)

    server.start()
    eventually(lambda: health(port, "ready") == 200)
    assert processes_on_server.end(consumer)[0] == 0


def test_a_server_that_comes_back_gets_the_outcomes_of_jobs_that_ran_meanwhile(
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


IMPATIENT_HEALTH = """
import sys
import django; django.setup()
from django.core.management import call_command
from djjp.consumer import health
health.LIVE_WITHIN = health.READY_WITHIN = 2.0
call_command("start_consumer", "--health-port", sys.argv[1])
"""


def test_a_server_that_answers_nothing_makes_a_consumer_unready_and_leaves_it_live(
    processes_on_server: Processes, server: Server, port: int
) -> None:
    """Its coordinator hangs in one statement, for longer than a live one may take for a round."""
    consumer = processes_on_server.program(sys.executable, "-c", IMPATIENT_HEALTH, str(port))
    eventually(lambda: health(port, "ready") == 200)
    connections["postgresql"].close()

    with server.frozen():
        eventually(lambda: health(port, "ready") == 503)
        assert health(port, "live") == 200
    eventually(lambda: health(port, "ready") == 200)
    assert processes_on_server.end(consumer)[0] == 0


@pytest.mark.parametrize("place", ["this machine", "another machine"])
def test_a_consumer_that_starts_after_an_outage_judges_nobody_who_still_pauses(
    processes_on_server: Processes, server: Server, tmp_path: Path, place: str
) -> None:
    """The other consumer's session is gone, and its next attempt to connect comes some seconds later."""
    handle = nap.run_later(12.0)
    first = processes_on_server.consumer()
    eventually(lambda: running() == 1)
    connections["postgresql"].close()
    server.stop()
    wait_for(first, "again in 5.0 s")
    server.start()

    elsewhere = {"TMPDIR": str(tmp_path)} if place == "another machine" else {}
    second = processes_on_server.start("start_consumer", **elsewhere)

    handle.join(30)
    assert (handle.attempts, Job.objects.get(pk=handle.id).rescues) == (1, 0)
    assert "is dead" not in processes_on_server.end(second)[1]
    assert processes_on_server.end(first)[0] == 0


def test_the_error_of_an_enqueue_names_the_database_that_is_away(server: Server) -> None:
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
    """They stay open from job to job, as the settings of these aliases require."""
    keep = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "more", "CONN_MAX_AGE": None}
    seen: list[tuple[Any, ...]] = []

    with alias_for(keep) as one, alias_for(keep) as other:

        def query() -> None:
            for alias in (one, other):
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT 1")
            seen.append(tuple((connections[a], connections[a].connection) for a in (one, other)))

        registered = job(name="test.query")(query)
        try:
            for _ in range(2):
                registered.run_later()
            Consumer(1, drain=True).run()
        finally:
            del registry._jobs[registered.name]

        assert seen[0] == seen[1]
        assert all(driver is not None for _, driver in seen[0])
        eventually(lambda: all(wrapper.connection is None for wrapper, _ in seen[0]))
