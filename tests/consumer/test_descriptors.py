"""A process that has no file descriptor left, because a job has taken all: its consumer goes on, or ends well."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from djjp import job
from djjp.consumer.health import Health
from djjp.consumer.health_port import HealthPort
from djjp.consumer.pool import thread_supply
from djjp.engine import Engine
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from tests.project.shop.jobs import add, nap
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually
from tests.support.staying import let_end, start_staying, stay

pytestmark = pytest.mark.both_databases

# A consumer whose coordinator meets an error that nothing expects, once a job runs.
BROKEN = """
import django; django.setup()
from django.core.management import call_command
from djjp.consumer.consumer import Consumer
def broken(self, listener, work=Consumer._work):
    work(self, listener)
    if self._pool.running():
        raise ValueError("unheard of")
Consumer._work = broken
call_command("start_consumer")
"""


@job(name="descriptors.coroutine")
async def coroutine() -> int:
    return 1


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Have the system refuse each further descriptor to this process; those that are open stay."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_jobs_run_while_no_descriptor_is_left(engine: Engine) -> None:
    with consuming(2):
        assert add.run_later(1).join(30) == 1
        with no_descriptors():
            for number in range(3):
                assert add.run_later(number).join(30) == number
                time.sleep(0.1)  # the consumer waits


def test_what_the_system_refuses_is_an_outage_that_harms_no_job(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    start_staying()
    with consuming(1) as consumer:
        handle = stay.run_later()
        eventually(lambda: Job.objects.filter(state="running").exists())
        listener: Any = consumer._listener
        woken, refusals = listener.woken, iter([errno.EMFILE, errno.ENFILE, errno.EIO])

        def refused() -> bool:
            for number in refusals:
                raise OSError(number, os.strerror(number))
            return bool(woken())

        listener.woken = refused
        eventually(lambda: "again in 0.4 s" in caplog.text)
        let_end()
        assert handle.join(60) == 1

    assert list(Job.objects.values_list("attempts", "rescues")) == [(1, 0)]
    text = (
        f"the system refused this consumer ([Errno 24] {os.strerror(errno.EMFILE)}); again in 0.1 s"
    )
    assert text in caplog.messages


def test_an_event_loop_without_a_descriptor_is_started_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(thread_supply, "RETRY_AFTER", 0.2)
    refusals, new_event_loop = iter(range(3)), asyncio.new_event_loop

    def refused() -> Any:
        for _ in refusals:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return new_event_loop()

    monkeypatch.setattr(asyncio, "new_event_loop", refused)
    with consuming(1, concurrency="asyncio"):
        assert add.run_later(1).join(30) == 1
        assert coroutine.run_later().join(60) == 1

    assert caplog.text.count("the system refuses a thread ([Errno 24]") == 1
    assert list(Job.objects.values_list("attempts", "rescues")) == [(1, 0)] * 2


def test_an_error_that_nothing_expects_releases_the_jobs_and_ends_in_one_line(
    engine: Engine, processes: Processes
) -> None:
    nap.run_later(120.0)
    consumer = processes.python(BROKEN)
    _, err = consumer.communicate(timeout=120)

    assert consumer.returncode == 1
    lines = [line for line in err.splitlines() if "ends by an error" in line]
    assert len(lines) == 1, err
    assert lines[0].endswith("ends by an error (ValueError: unheard of); it releases its jobs")
    assert err.count("Traceback") == 1
    assert list(Job.objects.values_list("state", "rescues")) == [("ready", 0)]
    assert not ConsumerRow.objects.exists()


@pytest.mark.one_database
def test_a_health_port_without_a_descriptor_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    accept = socket.socket.accept

    def counting(listening: socket.socket) -> Any:
        asked.append(time.monotonic())
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", counting)
    with closing(HealthPort(Health(), "127.0.0.1", 0)) as port, socket.socket() as client:
        with no_descriptors():
            client.connect(("127.0.0.1", port.port))
            eventually(lambda: asked)
            time.sleep(1.0)
        assert len(asked) <= 10
        client.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
