"""The heartbeat: a consumer shows that it lives by its row, its lock and its heartbeats."""

from __future__ import annotations

import os
import socket
import time

import pytest
from django.db import connections

from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.engine import Engine
from djjp.models import Consumer
from tests.support.engine_calls import at_once, lives
from tests.support.processes import eventually


def test_a_registered_consumer_shows_all_its_attributes(engine: Engine) -> None:
    name = ConsumerName.new().text
    before = time.time()
    presence = Heartbeat(engine, name, queues=["mail", "bulk"], slots=7)
    presence.register()

    shown = Consumer.objects.get()
    assert (shown.name, shown.host, shown.pid) == (name, socket.gethostname(), os.getpid())
    assert (shown.queues, shown.concurrency, shown.concurrency_limit) == (
        '["mail", "bulk"]',
        "threads",
        7,
    )
    assert before <= shown.started_at.timestamp() <= time.time()
    assert shown.heartbeat_at == shown.started_at
    assert shown.locked
    assert at_once(lambda own: lives(own, name)) == [True]

    assert presence.beat()
    assert Consumer.objects.get().heartbeat_at > shown.heartbeat_at
    presence.deregister()
    assert not Consumer.objects.exists()
    assert at_once(lambda own: lives(own, name)) == [False]


def test_names_contain_host_and_process_and_are_unique() -> None:
    names = {ConsumerName.new().text for _ in range(100)}
    assert len(names) == 100
    assert {name.rpartition(":")[0] for name in names} == {f"{socket.gethostname()}:{os.getpid()}"}


def test_the_next_beat_of_a_consumer_that_was_declared_dead_returns_false(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    assert presence.beat()
    Consumer.objects.all().delete()
    assert not presence.beat()
    assert not Consumer.objects.exists()
    presence.deregister()


@pytest.mark.postgresql_only
def test_a_beat_takes_the_lock_again_after_a_session_was_terminated(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    connections[engine.db.alias].close()
    eventually(lambda: at_once(lambda own: own.db.is_locked(presence.name)) == [False])
    assert presence.beat()
    assert at_once(lambda own: own.db.is_locked(presence.name)) == [True]
    presence.deregister()
