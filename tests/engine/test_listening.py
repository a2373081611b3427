"""Behind a pooler: a consumer that cannot hear PostgreSQL notices it, or is told, and polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import connections, transaction
from django.test import override_settings

from djjp import conf
from djjp.engine import Claims
from djjp.engine.postgresql import listener as listening
from djjp.models import Consumer
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.factories import new_job
from tests.support.processes import eventually

on_postgresql = pytest.mark.parametrize("queue", ["postgresql"], indirect=True)


@pytest.fixture
def deaf() -> Any:
    return override_settings(DJJP={**settings.DJJP, "listen": False})


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PROBE_EVERY", 0.2)
    monkeypatch.setattr(listening, "PROBE_WITHIN", 0.1)


def run(queue: Claims, statement: str) -> list[Any]:
    with queue.connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def hears(listener: Any) -> Callable[[], bool]:
    def look() -> bool:
        listener.woken()
        return listener._fallback is None

    return look


@on_postgresql
def test_a_listener_that_hears_itself_goes_on_listening(
    queue: Claims, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener = queue.listener()
    until = time.monotonic() + 1.0
    heard = 0
    while time.monotonic() < until:
        heard += listener.woken()
        time.sleep(0.01)

    assert heard == 0
    assert caplog.records == []


@on_postgresql
def test_one_that_has_stopped_to_hear_says_so_once_and_is_woken_by_the_clock(
    queue: Claims, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener: Any = queue.listener()
    assert hears(listener)()
    listener._listen = lambda: "SELECT 1"  # as if LISTEN went to another session
    run(queue, "UNLISTEN *")

    eventually(lambda: not hears(listener)())
    time.sleep(0.6)
    assert not hears(listener)()

    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "pooler" in caplog.text
    listener.interval(0.0)
    eventually(listener.woken)
    assert listener.interval(60.0) <= 0.25


@on_postgresql
def test_one_that_was_silenced_for_a_while_hears_again(queue: Claims, soon: None) -> None:
    listener = queue.listener()
    assert hears(listener)()
    run(queue, "UNLISTEN *")
    eventually(lambda: not hears(listener)())
    eventually(hears(listener))


@on_postgresql
def test_none_takes_the_silence_of_an_open_transaction_for_a_pooler(
    queue: Claims, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener = queue.listener()
    with transaction.atomic(using=queue.alias):
        for _ in range(50):
            listener.woken()
            time.sleep(0.01)
    assert caplog.records == []


@on_postgresql
def test_without_listening_nothing_is_left_on_the_session(queue: Claims, deaf: Any) -> None:
    """What a pooler hands to the next client is as it was."""
    connections[queue.alias].close()
    with deaf:
        listener = queue.listener()
        queue.enqueue(new_job())
        with queue.turn():
            assert len(queue.claim("one", 1, 0.0)) == 1
            inside = run(queue, "SHOW enable_seqscan"), run(queue, "SHOW lock_timeout")
        assert not queue.hold("host:1:a")
        queue.let_go("host:1:a")
        assert listener.fileno() is None
    assert inside == ([("off",)], [("2s",)])
    assert run(queue, "SHOW enable_seqscan") == [("on",)]
    assert run(queue, "SHOW lock_timeout") == [("0",)]
    assert run(queue, "SELECT * FROM pg_listening_channels()") == []
    assert (
        run(queue, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
        == []
    )
    connections[queue.alias].close()


@on_postgresql
def test_a_consumer_that_does_not_listen_polls_and_lives_by_its_heartbeat(
    queue: Claims, deaf: Any
) -> None:
    with deaf, consuming(2):
        eventually(lambda: Consumer.objects.filter(locked=False).exists())
        with override_settings(DJJP={**settings.DJJP, "listen": True}):
            handle = add.run_later(1)
        assert handle.join(30) == 1


def test_listening_is_the_default_and_changes_nothing_on_sqlite(queue: Claims, deaf: Any) -> None:
    assert conf.current().listen is True
    if queue.alias == "sqlite":
        with deaf, consuming(2):
            assert add.run_later(1).join(30) == 1
            assert Consumer.objects.get().locked
