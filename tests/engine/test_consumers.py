"""The registry of consumers: rows, heartbeats, locks, and the jobs that they run."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from contextlib import suppress
from typing import Any

import pytest
from django.db import connections, transaction

from djjp.engine import Engine, Peer, Progress
from djjp.engine.postgresql.database import PostgreSQLDatabase
from djjp.models import Job
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    finish,
    lives,
    register_consumer,
    release,
    row,
)
from tests.support.processes import Processes, eventually
from tests.support.projects import alias_for


def test_peers_read_the_heartbeat_and_lock_of_a_registered_consumer(engine: Engine) -> None:
    two, one = (
        register_consumer(engine, "two", NOW + 0.000_001, locked=False),
        register_consumer(engine, "one"),
    )
    assert engine.consumers.peers() == [one, two]
    again = register_consumer(engine, "one", NOW + 5)
    assert engine.consumers.peers() == [again, two]


def test_a_heartbeat_updates_the_row_and_reports_a_missing_one(engine: Engine) -> None:
    register_consumer(engine, "one")
    two = register_consumer(engine, "two")
    assert engine.consumers.heartbeat("one", NOW + 2.5, locked=False)
    assert engine.consumers.peers() == [Peer("one", NOW + 2.5, locked=False), two]
    engine.consumers.deregister("one")
    assert not engine.consumers.heartbeat("one", NOW + 3, locked=True)
    assert engine.consumers.peers() == [two], (
        "a row that others have taken away does not come back by a beat"
    )


def test_orphans_are_consumers_with_running_jobs_and_no_row(engine: Engine) -> None:
    register_consumer(engine, "known")
    enqueue(engine, 5)
    claim(engine, "ghost", 2)
    claim(engine, "known", 1)
    release(engine, "gone", *claim(engine, "gone", 1))
    finish(engine, "ended", *map(done, claim(engine, "ended", 1)))
    assert engine.consumers.consumers_without_row() == [Peer("ghost", None, locked=True)]


def test_running_jobs_are_returned_with_their_attempts(engine: Engine) -> None:
    enqueue(engine, 3)
    first, second = claim(engine, "one", 2)
    claim(engine, "two", 1)
    Job.objects.filter(pk=second.id).update(attempts=4)
    assert engine.consumers.running_jobs("one") == {first.key: 1, second.key: 4}
    assert engine.consumers.running_jobs("nobody") == {}


# The lock that is freed with its process

HOLDER = """
import django; django.setup()
import signal
from djjp import engine

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
consumers = engine.current().consumers
print(
    *(consumers.liveness(engine.Peer(name, 0.0, True)).name for name in ("mine", "nobody's")), flush=True
)
for _ in range(2):
    print(*[consumers.acquire_lock(name) for name in ("theirs", "theirs", "another")], flush=True)
    signal.sigwait({signal.SIGUSR1})
    consumers.release_lock("theirs")
    print("let go", flush=True)
    signal.sigwait({signal.SIGUSR1})
"""


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.both_databases
def test_other_processes_see_a_lock_until_it_is_released_or_its_process_dies(
    engine: Engine, processes: Processes
) -> None:
    assert engine.consumers.acquire_lock("mine")
    holder = processes.python(HOLDER)
    nothing = "UNKNOWN" if engine.db.alias == "sqlite" else "CUT_OFF"
    assert line(holder) == f"LIVES {nothing}"

    assert line(holder) == "True True True", "to hold what one holds is to keep it"
    assert lives(engine, "theirs")
    assert not engine.consumers.acquire_lock("theirs"), "one lock has one holder"
    assert not lives(engine, "nobody's")

    holder.send_signal(signal.SIGUSR1)
    assert line(holder) == "let go"
    assert not lives(engine, "theirs")
    assert lives(engine, "another")

    holder.send_signal(signal.SIGUSR1)
    assert line(holder) == "True True True"
    holder.send_signal(signal.SIGSTOP)
    assert lives(engine, "theirs"), "stopped is not dead"
    holder.kill()
    eventually(lambda: not lives(engine, "theirs"))
    engine.consumers.release_lock("mine")
    assert not lives(engine, "mine")


def test_the_lock_of_another_process_is_not_released(engine: Engine) -> None:
    """A server would warn of each such call in its log and to the caller."""
    said: list[object] = []
    engine.db.connection.ensure_connection()
    driver: Any = engine.db.connection.connection
    if engine.db.alias == "postgresql":
        driver.add_notice_handler(said.append)
    engine.consumers.release_lock("nobody's")
    assert not lives(engine, "nobody's")
    assert said == []


def test_concurrent_tests_of_a_lock_are_not_mistaken_for_its_holder(
    engine: Engine,
) -> None:
    with transaction.atomic(
        using=engine.db.alias
    ):  # where a lock taken by the test itself would last
        assert not lives(engine, "theirs")
        assert at_once(lambda engine: lives(engine, "theirs")) == [False]


@pytest.mark.postgresql_only
def test_a_terminated_session_frees_the_lock_and_the_next_one_takes_it_again(
    engine: Engine,
) -> None:
    assert engine.consumers.acquire_lock("mine")
    connection: Any = engine.db.connection
    pid = connection.connection.info.backend_pid

    def terminate(engine: Engine) -> None:
        with engine.db.connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])

    at_once(terminate)
    connection.close()
    eventually(lambda: at_once(lambda engine: engine.db.is_locked("mine")) == [False])
    assert engine.consumers.acquire_lock("mine")
    assert at_once(lambda engine: engine.db.is_locked("mine")) == [True]
    engine.consumers.release_lock("mine")


class Pooler(threading.Thread):
    """Forwards the bytes of one client to a server; like a pooler, it gives the session a number of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self._server = host, port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]

    def run(self) -> None:
        with self._door:
            client, _ = self._door.accept()
        host, port = self._server
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
        else:
            server = socket.create_connection((host, port))
        with client, server, server.makefile("rb") as answers:
            threading.Thread(target=self._hand_on, args=[client, server], daemon=True).start()
            self._renumber(client, answers)
            self._hand_on(server, client)

    def _renumber(self, client: socket.socket, answers: Any) -> None:
        """Forward the server's bytes until it names the process of the session, and name another."""
        kind = b""
        while kind != b"K":
            kind, length = answers.read(1), answers.read(4)
            body = answers.read(int.from_bytes(length, "big") - 4)
            client.sendall(kind + length + (bytes(4) + body[4:] if kind == b"K" else body))
        client.sendall(answers.read1())

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.mark.postgresql_only
def test_behind_a_pooler_locks_cannot_be_tested(engine: Engine) -> None:
    """The session that would hold the lock is not this process's, and outlives the process."""
    engine.db.connection.ensure_connection()
    server: Any = engine.db.connection.connection
    pooler = Pooler(server.info.host, server.info.port)
    pooler.start()
    options = dict(engine.db.connection.settings_dict["OPTIONS"])
    options |= {"host": "127.0.0.1", "sslmode": "disable", "gssencmode": "disable"}
    there = {"HOST": "127.0.0.1", "PORT": pooler.port, "OPTIONS": options}
    with alias_for(connections.settings[engine.db.alias] | there) as alias:
        assert not PostgreSQLDatabase(alias).acquire_lock("mine")
        assert not PostgreSQLDatabase(alias).is_locked("mine")
    assert not lives(engine, "mine")
    pooler.join(30)


# Running jobs: their progress, and requests to stop them


def test_progress_is_recorded_for_the_running_attempt_only(engine: Engine) -> None:
    enqueue(engine, 2)
    first, second = claim(engine, "one")
    engine.jobs.record_progress("one", [Progress(first, 3, 10), Progress(second, 7, None)])
    assert (row(first.id)["progress_done"], row(first.id)["progress_total"]) == (3, 10)
    assert (row(second.id)["progress_done"], row(second.id)["progress_total"]) == (7, None)

    engine.jobs.record_progress("two", [Progress(first, 9, 9)])
    engine.jobs.record_progress("one", [Progress(first._replace(claim=2), 9, 9)])
    finish(engine, "one", done(second))
    engine.jobs.record_progress("one", [Progress(second, 9, 9)])
    assert [row(job.id)["progress_done"] for job in (first, second)] == [3, 7]


def test_a_consumer_reads_which_of_its_running_jobs_to_stop(engine: Engine) -> None:
    enqueue(engine, 6)
    mine, theirs = claim(engine, "one", 3), claim(engine, "two", 2)
    assert engine.jobs.to_cancel("one") == []
    ids = [job.id for job in [*mine[1:], *theirs]]
    engine.control.cancel(
        [*ids, *Job.objects.filter(state="ready").values_list("pk", flat=True)], NOW
    )
    finish(engine, "one", done(mine[2]))

    assert engine.jobs.to_cancel("one") == [mine[1].key]
    assert set(engine.jobs.to_cancel("two")) == {job.key for job in theirs}
