"""A consumer shows whether it lives, and whether it is ready: in a file, on a port, to systemd."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from djjp import job
from djjp.consumer import health as health_module
from djjp.consumer import health_port
from djjp.consumer.consumer import Consumer
from djjp.consumer.health import AWAY, ChildHealth, Health, HealthFile, SupervisorPipe, Systemd
from djjp.consumer.health_port import HealthPort
from djjp.consumer.process import own_health
from djjp.consumer.supervision import Supervision, own_supervision
from djjp.consumer.supervisor import Supervisor
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from djjp.monitoring.requests import quiet, unquiet
from tests.project.shop.forking import leave_child
from tests.project.shop.jobs import hold_interpreter
from tests.support.consumers import consuming
from tests.support.ports import reserved_port
from tests.support.processes import Processes, eventually

LIVE, READY = (200, {"status": "live"}), (200, {"status": "ready"})
# Waits for a lock for a second, where the usual settings wait for half a minute.
IMPATIENT = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}


def ask(
    port: int, path: str, method: str = "GET", seconds: float = 30
) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.headers["Content-Type"] == "application/json"
        assert "Python" not in str(answer.headers)
        return answer.status, json.loads(body) if body else {}


def unready(reason: str) -> tuple[int, dict[str, str]]:
    return 503, {"status": "not ready", "reason": reason}


def answers(port: int, path: str) -> tuple[int, dict[str, str]] | None:
    try:
        return ask(port, path)
    except ConnectionRefusedError:
        return None


class Signs:
    """Notes what a coordinator shows."""

    def __init__(self) -> None:
        self.given: list[object] = []

    def give(self, is_ready: bool) -> None:
        self.given.append(is_ready)

    def begin_end(self) -> None:
        self.given.append("ends")

    def close(self) -> None:
        self.given.append("closed")


@pytest.fixture
def health() -> Iterator[Health]:
    with Health() as made:
        yield made


@pytest.fixture
def port(health: Health) -> int:
    opened = HealthPort(health, "", 0)
    health.add(opened)
    return opened.port


@pytest.fixture
def number() -> Iterator[int]:
    """Yield the number of a port that a consumer can listen on."""
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture
def other_number() -> Iterator[int]:
    """Yield the number of another port."""
    with reserved_port() as reserved:
        yield reserved


@contextmanager
def observed(health: Health) -> Iterator[Consumer]:
    """Run a consumer that shows its health."""
    with consuming(1) as consumer:
        consumer.on_round = health.note
        consumer.on_ending = lambda running: health.begin_end()
        yield consumer


# What is live, what is ready


def test_a_consumer_is_live_from_its_start_and_ready_from_its_first_round(
    health: Health, port: int
) -> None:
    assert ask(port, "/live") == LIVE
    assert ask(port, "/ready") == unready("it is starting")
    health._round_at -= 30  # the project takes long to load
    assert ask(port, "/live") == LIVE
    assert ask(port, "/ready") == unready("it is starting")

    health.note(None)

    assert ask(port, "/live") == LIVE
    assert ask(port, "/ready") == READY


def test_an_idle_consumer_is_ready_and_a_quiet_one_is_not(
    engine: Engine, health: Health, port: int
) -> None:
    with observed(health) as consumer:
        eventually(lambda: ask(port, "/ready") == READY)
        quiet(consumer.name)
        eventually(lambda: ask(port, "/ready") == unready("it is quiet, as requested"))
        assert ask(port, "/live") == LIVE
        unquiet(consumer.name)
        eventually(lambda: ask(port, "/ready") == READY)


@pytest.mark.one_database
def test_a_consumer_that_waits_for_its_last_jobs_is_live_and_not_ready(
    engine: Engine, health: Health, port: int
) -> None:
    there, go = threading.Event(), threading.Event()

    @job(name="health.wait")
    def wait() -> None:
        there.set()
        go.wait(60)

    signs = Signs()
    health.add(signs)
    try:
        wait.run_later()
        with observed(health) as consumer:
            assert there.wait(30)
            consumer.stop()
            eventually(lambda: ask(port, "/ready") == unready("it is ending"))
            assert ask(port, "/live") == LIVE
            go.set()
    finally:
        go.set()
        del registry._jobs["health.wait"]
    assert signs.given.count("ends") == 1


@pytest.mark.sqlite_only
def test_without_its_database_a_consumer_is_live_and_not_ready(
    processes: Processes, engine: Engine, tmp_path: Path, number: int
) -> None:
    file = tmp_path / "alive"
    options = ("--health-file", str(file), "--health-port", str(number))
    consumer = processes.start("start_consumer", *options, **IMPATIENT)
    eventually(lambda: answers(number, "/ready") == READY)
    name = engine.db.connection.settings_dict["NAME"]

    with closing(sqlite3.connect(name, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        eventually(lambda: ask(number, "/ready") == unready(AWAY))
        before = file.stat().st_mtime_ns
        eventually(lambda: file.stat().st_mtime_ns > before)
        assert ask(number, "/live") == LIVE
        other.execute("ROLLBACK")
    eventually(lambda: ask(number, "/ready") == READY)

    assert processes.end(consumer)[0] == 0
    assert not file.exists()


def test_a_coordinator_that_hangs_is_not_live(
    health: Health, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.note(None)
    monkeypatch.setattr(health_module, "LIVE_WITHIN", -1.0)
    monkeypatch.setattr(health_module, "READY_WITHIN", -1.0)

    for path, status in (("/live", "not live"), ("/ready", "not ready")):
        code, answer = ask(port, path)
        reason = answer.pop("reason")
        assert (code, answer) == (503, {"status": status})
        assert re.fullmatch(r"its coordinator has not gone round for \d+ s", reason)


@pytest.mark.sqlite_only
def test_a_coordinator_whose_database_takes_long_to_answer_is_live_and_not_ready(
    engine: Engine, health: Health, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = engine.db.connection.settings_dict["NAME"]
    there = threading.Event()

    def coordinate() -> None:
        health.note(None)
        monkeypatch.setattr(health_module, "LIVE_WITHIN", -1.0)
        monkeypatch.setattr(health_module, "READY_WITHIN", -1.0)
        with connections[engine.db.alias].cursor() as cursor:
            there.set()
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
        connections.close_all()

    with closing(sqlite3.connect(name, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=coordinate)
        thread.start()
        assert there.wait(30)
        eventually(lambda: ask(port, "/live") == LIVE)
        eventually(lambda: ask(port, "/ready") == unready(AWAY))
        other.execute("ROLLBACK")
    thread.join()


def test_an_answer_waits_for_a_coordinator_that_could_not_go_round(
    health: Health, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a SIGCONT, and after C code that held the interpreter, threads go on in any order."""
    health.note(None)
    health._round_at -= 3600
    monkeypatch.setattr(health_port, "_GRACE", 30.0)

    threading.Timer(0.1, health.note, [None]).start()

    assert ask(port, "/ready") == READY


def test_the_bounds_allow_for_a_job_that_holds_the_interpreter_for_half_a_minute() -> None:
    assert health_module.LIVE_WITHIN >= 45


@pytest.mark.sqlite_only
@pytest.mark.end_to_end
def test_a_job_that_holds_the_interpreter_for_half_a_minute_leaves_each_consumer_live(
    processes: Processes, engine: Engine, number: int, other_number: int
) -> None:
    one, several = number, other_number
    processes.consumer("--queues", "one", "--health-port", str(one))
    options = ("--processes", "2", "--health-port", str(several))
    processes.consumer("--queues", "several", *options)
    eventually(lambda: answers(one, "/ready") == answers(several, "/ready") == READY, 60)

    for queue in ("one", "several"):
        hold_interpreter.using(queue=queue).run_later(queue, 31.0)
    eventually(lambda: ask(several, "/ready")[0] == 503, 60)
    assert ask(several, "/live") == LIVE
    # This one has no supervisor, and answers as soon as the job lets go.
    assert ask(one, "/live", seconds=120) == LIVE
    eventually(lambda: ask(one, "/ready") == READY)  # after its next round
    eventually(lambda: ask(several, "/ready") == READY, 60)
    assert ask(several, "/live") == LIVE
    eventually(lambda: Job.objects.filter(state="succeeded").count() == 2)
    assert {job.rescues for job in Job.objects.all()} == {0}


@pytest.mark.sqlite_only
@pytest.mark.end_to_end
def test_a_consumer_whose_job_holds_the_interpreter_or_that_is_stopped_shows_it_and_recovers(
    processes: Processes, engine: Engine, tmp_path: Path, number: int
) -> None:
    file = tmp_path / "alive"
    consumer = processes.consumer("--health-file", str(file), "--health-port", str(number))
    eventually(lambda: answers(number, "/ready") == READY)

    handle = hold_interpreter.run_later("hold", 8.0)
    eventually(lambda: time.time() - file.stat().st_mtime > 2)
    # Both are answered as soon as the job lets go: nothing has to be restarted, and it claims again.
    assert ask(number, "/live") == LIVE
    eventually(lambda: ask(number, "/ready") == READY)  # after its next round
    handle.join(30)

    consumer.send_signal(signal.SIGSTOP)
    eventually(lambda: time.time() - file.stat().st_mtime > 2)
    with socket.create_connection(("127.0.0.1", number), 1) as client:
        client.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            client.recv(100)
    consumer.send_signal(signal.SIGCONT)
    assert ask(number, "/live") == LIVE
    eventually(lambda: ask(number, "/ready") == READY)  # after its next round
    assert processes.end(consumer) == (0, "")


# The port


def test_the_port_answers_these_pages_only(health: Health, port: int) -> None:
    health.note(None)
    assert ask(port, "/live/?verbose") == ask(port, "/v1/health/live") == LIVE
    assert ask(port, "/v1/health/ready") == READY
    assert ask(port, "/live", "HEAD") == (200, {})
    assert ask(port, "/")[0] == ask(port, "/v1/jobs")[0] == 404
    assert ask(port, "/live", "POST")[0] == 405
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert b"Bad request" in client.recv(1000)


def test_the_port_answers_on_ipv6_too(health: Health, port: int) -> None:
    try:
        client = socket.create_connection(("::1", port), 30)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with client:
        client.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")


def test_a_slow_client_delays_neither_another_one_nor_the_end(health: Health, number: int) -> None:
    health.add(HealthPort(health, "", number))
    health.note(None)
    with socket.create_connection(("127.0.0.1", number), 30) as slow:
        slow.sendall(b"GET /li")
        assert ask(number, "/live") == LIVE
        health.close()
        assert slow.recv(100) == b""
    assert not [t for t in threading.enumerate() if t.name.startswith("djjp-health")]
    with socket.create_server(("127.0.0.1", number)):
        pass  # it is free again


@pytest.mark.one_database
def test_a_port_that_is_taken_is_named(engine: Engine) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104
        number = taken.getsockname()[1]
        with pytest.raises(CommandError) as ended:
            call_command("start_consumer", "--drain", "--health-port", str(number))

    assert ended.value.returncode == 1
    assert str(ended.value) == (
        "the consumer does not start: the health port cannot be opened: "
        f"port {number}: Address already in use"
    )


@pytest.mark.one_database
@pytest.mark.parametrize("host", ["\udcff", "a..b", "a" * 300])
def test_an_address_that_no_host_can_have_is_named(engine: Engine, number: int, host: str) -> None:
    with pytest.raises(CommandError, match="the health port cannot be opened: ") as ended:
        call_command("start_consumer", "--drain", health_port=number, health_host=host)
    assert ascii(host)[1:-1] in str(ended.value)


@pytest.mark.parametrize(
    "option", [("--health-port", "0"), ("--health-port", "web"), ("--health-file", "/")]
)
def test_a_value_that_is_none_is_refused(option: tuple[str, str]) -> None:
    with pytest.raises(click.BadParameter):  # exit code 2
        call_command("start_consumer", "--drain", *option)


def test_the_host_is_that_of_the_option(number: int) -> None:
    with own_health(None, file=None, host="127.0.0.1", port=number) as health:
        (opened,) = health._signs
        assert isinstance(opened, HealthPort)
        assert opened._server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.sqlite_only
def test_a_child_that_a_job_forks_does_not_keep_the_port(
    processes: Processes, engine: Engine, number: int
) -> None:
    consumer = processes.consumer("--health-port", str(number))
    child = leave_child.run_later(60.0).join(30)
    try:
        consumer.send_signal(signal.SIGTERM)
        assert consumer.wait(60) == 0
        with socket.create_server(("127.0.0.1", number)):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


# The file


def test_a_file_that_cannot_be_written_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    file = HealthFile(folder / "alive")
    for _ in range(3):
        file.give(is_ready=True)
    folder.mkdir()
    file.give(is_ready=True)
    assert (folder / "alive").exists()

    file.close()

    assert not (folder / "alive").exists()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("the health file cannot be written: ")
    assert str(folder / "alive") in record.getMessage()


def test_a_file_is_found_after_a_job_has_changed_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = HealthFile(Path("alive"))
    monkeypatch.chdir("/")
    file.give(is_ready=False)
    assert (tmp_path / "alive").exists()


def test_signs_are_given_at_a_change_and_every_half_second_and_no_oftener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert health_module._SIGN_EVERY == 0.5
    monkeypatch.setattr(health_module, "_SIGN_EVERY", 60.0)  # between two calls on a busy machine
    signs = Signs()
    with Health([signs]) as health:
        for _ in range(3):
            health.note(None)
        health.note("it is quiet")
        health._sign_at = 0.0
        health.note("it is quiet")
    health.close()
    assert signs.given == [True, False, False, "ends", "closed"]


# systemd


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Yield a socket as systemd has it, and its address for the environment."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@djjp-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0"))
        receiver.settimeout(30)
        yield receiver, address


def notification(receiver: socket.socket) -> str:
    return receiver.recv(1000).decode()


def test_systemd_is_notified_of_the_first_readiness_each_sign_and_the_end(
    systemd: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "90000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with own_health(None, file=None, host=None, port=None) as health:
        health.note("it is starting")
        health.note(None)
        health._sign_at = 0.0
        health.note(None)

    received = [notification(receiver) for _ in range(5)]
    assert received == ["WATCHDOG=1", "READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
    # Programs that a job starts must not speak for the consumer.
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "")],
    ids=["of another process", "no watchdog"],
)
def test_without_a_watchdog_of_this_process_none_is_notified(
    systemd: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    receiver, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "90000000")
    monkeypatch.setenv(name, value)
    with own_health(None, file=None, host=None, port=None) as health:
        health.note(None)
    assert [notification(receiver) for _ in range(2)] == ["READY=1", "STOPPING=1"]


def test_a_socket_that_refuses_is_logged_once_and_readiness_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    systemd = Systemd(str(tmp_path / "notify"), has_watchdog=True)
    systemd.give(is_ready=True)
    systemd.give(is_ready=True)
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "systemd cannot be notified"
    ]
    with closing(systemd), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        systemd.give(is_ready=True)
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "vsock:2:1234"])
def test_another_kind_of_address_is_left_alone(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert Systemd.of_environment() is None


@pytest.mark.sqlite_only
@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_a_unit_is_ready_when_its_consumer_is_and_stops_with_it(
    processes: Processes, engine: Engine, systemd: tuple[socket.socket, str]
) -> None:
    receiver, address = systemd
    consumer = processes.start("start_consumer", NOTIFY_SOCKET=address, WATCHDOG_USEC="90000000")
    assert [notification(receiver) for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert ConsumerRow.objects.count() == 1

    assert processes.end(consumer) == (0, "")

    received = [notification(receiver)]
    while received[-1] == "WATCHDOG=1":
        received.append(notification(receiver))
    assert received[-1] == "STOPPING=1"


# Several processes


def child_health() -> tuple[ChildHealth, Health]:
    """Return what a supervisor has of a child, and what the child has."""
    kept = ChildHealth()
    given = os.dup(kept.writing)
    kept.close_writing()
    return kept, Health([SupervisorPipe(given)])


@pytest.fixture
def supervisor(health: Health) -> Iterator[tuple[Supervisor, Health, list[Health]]]:
    """Yield a supervisor of two children, its health, and theirs."""
    signs = Signs()
    health.add(signs)
    made = Supervisor(["true"], 2, health=health)
    theirs = []
    for child in made._children:
        child.health, own = child_health()
        theirs.append(own)
    yield made, health, theirs
    for child, own in zip(made._children, theirs, strict=True):
        own.close()
        if child.health:
            child.health.close()
    made._wakeup.close()


def test_a_round_of_a_supervisor_counts_once_each_child_has_given_a_sign(
    supervisor: tuple[Supervisor, Health, list[Health]],
) -> None:
    made, health, (one, other) = supervisor
    made._show_health()
    assert health.obstacle == "none of its processes is ready"  # both are starting
    one.note(None)
    other.note("it is quiet")
    made._show_health()
    assert health.obstacle is None

    before = health._round_at
    one.note("it is quiet")  # the other one gives no sign any more
    made._show_health()
    assert health._round_at == before
    other._sign_at = 0.0
    other.note("it is quiet")
    made._show_health()
    assert health._round_at > before
    assert health.obstacle == "none of its processes is ready"


def test_children_that_wait_for_their_database_for_over_a_minute_make_a_supervisor_not_live(
    supervisor: tuple[Supervisor, Health, list[Health]], port: int
) -> None:
    made, health, children = supervisor
    for child in children:
        child.note(None)
    made._show_health()
    assert ask(port, "/ready") == READY
    health._round_at -= health_module.LIVE_WITHIN + 1  # no child has given a sign since
    made._show_health()
    status, document = ask(port, "/live")
    assert (status, document["status"]) == (503, "not live")
    for child in children:
        child._sign_at = 0.0
        child.note(None)
    made._show_health()
    assert ask(port, "/live") == LIVE


def test_a_child_that_does_not_get_to_its_first_round_is_not_live_for_ever(
    supervisor: tuple[Supervisor, Health, list[Health]],
) -> None:
    made, health, (one, _) = supervisor
    for child in made._children:
        assert child.health
        child.health._may_start_until = 0.0
    before = health._round_at
    one.note(None)
    made._show_health()
    assert health._round_at == before


def test_a_child_gives_its_signs_to_its_supervisor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ChildHealth()
    for name, value in Supervision(1, "token", kept.writing).environment().items():
        monkeypatch.setenv(name, value)
    supervision = own_supervision()
    assert supervision == (1, "token", kept.writing)

    with own_health(supervision, file="never", host=None, port=1) as health:
        assert not os.get_inheritable(kept.writing)
        health.note(None)
        assert kept.is_live()
        assert kept.is_ready

    kept.close()
    assert not Path("never").exists()


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_a_supervisor_answers_for_its_children(
    processes: Processes,
    engine: Engine,
    tmp_path: Path,
    number: int,
    systemd: tuple[socket.socket, str],
) -> None:
    file = tmp_path / "alive"
    receiver, address = systemd
    options = ("--processes", "2", "--health-file", str(file), "--health-port", str(number))
    supervisor = processes.start("start_consumer", *options, NOTIFY_SOCKET=address)
    assert notification(receiver) == "READY=1"
    # Until its first round, a child counts as starting for a minute.
    eventually(
        lambda: sum(row.heartbeat_at > row.started_at for row in ConsumerRow.objects.all()) == 2
    )
    eventually(lambda: answers(number, "/ready") == READY)
    child = ConsumerRow.objects.first()
    assert child is not None

    os.kill(child.pid, signal.SIGSTOP)
    eventually(lambda: time.time() - file.stat().st_mtime > 3)
    os.kill(child.pid, signal.SIGCONT)
    eventually(lambda: time.time() - file.stat().st_mtime < 1)
    eventually(lambda: ask(number, "/ready") == READY)

    assert processes.end(supervisor) == (0, "")
    assert notification(receiver) == "STOPPING=1"  # and no child has spoken for it
    assert not file.exists()
