"""Behind a pooler: a consumer that receives no notifications detects that, or is configured for it, and polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import connections, transaction
from django.test import override_settings

from djjp import conf
from djjp.engine import Engine
from djjp.engine.postgresql import listener as listening
from djjp.models import Consumer
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.factories import new_job
from tests.support.processes import eventually


@pytest.fixture
def not_listening() -> Any:
    return override_settings(DJJP={**settings.DJJP, "listen": False})


@pytest.fixture
def frequent_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PROBE_EVERY", 0.2)
    monkeypatch.setattr(listening, "PROBE_WITHIN", 0.1)


def run(engine: Engine, statement: str) -> list[Any]:
    with engine.db.connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def receives(listener: Any) -> Callable[[], bool]:
    def poll() -> bool:
        listener.woken()
        return listener._fallback is None

    return poll


@pytest.mark.postgresql_only
def test_a_listener_that_receives_its_own_probes_goes_on_listening(
    engine: Engine,
    frequent_probes: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine takes its time for one.
    monkeypatch.setattr(listening, "PROBE_WITHIN", 60.0)
    listener: Any = engine.db.listener()
    woken = [listener.woken()]

    def next_probe_arrives(sent: list[float]) -> bool:
        """Return whether a probe was sent since the given times, and has arrived."""
        woken.append(listener.woken())
        return listener._next_probe not in sent and listener._probed_at is None

    sent: list[float] = []
    for _ in range(5):
        eventually(lambda: next_probe_arrives(sent))
        sent.append(listener._next_probe)

    assert not any(woken)
    assert caplog.records == []
    assert listener.unheard() is None


@pytest.mark.postgresql_only
def test_a_listener_that_misses_its_probes_warns_once_and_polls(
    engine: Engine, frequent_probes: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener: Any = engine.db.listener()
    assert receives(listener)()
    listener._listen = lambda: "SELECT 1"  # as if LISTEN went to another session
    run(engine, "UNLISTEN *")

    eventually(lambda: not receives(listener)())
    time.sleep(0.6)
    assert not receives(listener)()

    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "pooler" in caplog.text
    assert listener.unheard() == "no notifications of PostgreSQL arrive"
    listener.interval(0.0)
    eventually(listener.woken)
    assert listener.interval(60.0) <= 0.25


@pytest.mark.postgresql_only
def test_a_listener_that_missed_its_probes_for_a_while_receives_again(
    engine: Engine, frequent_probes: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener = engine.db.listener()
    assert receives(listener)()
    run(engine, "UNLISTEN *")
    # It may poll for a short time only, but has warned of it.
    eventually(lambda: (listener.woken(), caplog.records)[1])
    eventually(receives(listener))
    assert listener.unheard() is None


@pytest.mark.postgresql_only
def test_a_listener_in_an_open_transaction_does_not_suspect_a_pooler(
    engine: Engine, frequent_probes: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener = engine.db.listener()
    with transaction.atomic(using=engine.db.alias):
        for _ in range(50):
            listener.woken()
            time.sleep(0.01)
    assert caplog.records == []


@pytest.mark.postgresql_only
def test_without_listening_nothing_is_left_on_the_session(
    engine: Engine, not_listening: Any
) -> None:
    """The session that a pooler hands to the next client is unchanged."""
    connections[engine.db.alias].close()
    with not_listening:
        listener = engine.db.listener()
        engine.jobs.enqueue(new_job())
        with engine.db.transaction():
            assert len(engine.jobs.claim("one", 1, 0.0)) == 1
            inside = run(engine, "SHOW enable_seqscan"), run(engine, "SHOW lock_timeout")
        assert not engine.consumers.acquire_lock("host:1:a")
        engine.consumers.release_lock("host:1:a")
        assert listener.fileno() is None
    assert inside == ([("off",)], [("500ms",)])
    assert run(engine, "SHOW enable_seqscan") == [("on",)]
    assert run(engine, "SHOW lock_timeout") == [("0",)]
    assert run(engine, "SELECT * FROM pg_listening_channels()") == []
    assert (
        run(engine, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
        == []
    )
    connections[engine.db.alias].close()


@pytest.mark.postgresql_only
def test_a_consumer_that_does_not_listen_polls_and_relies_on_its_heartbeat(
    engine: Engine, not_listening: Any
) -> None:
    with not_listening, consuming(2):
        eventually(lambda: Consumer.objects.filter(locked=False).exists())
        with override_settings(DJJP={**settings.DJJP, "listen": True}):
            handle = add.run_later(1)
        assert handle.join(30) == 1


def test_listening_is_the_default_and_changes_nothing_on_sqlite(
    engine: Engine, not_listening: Any
) -> None:
    assert conf.current().listen is True
    if engine.db.alias == "sqlite":
        with not_listening, consuming(2):
            assert add.run_later(1).join(30) == 1
            assert Consumer.objects.get().locked
