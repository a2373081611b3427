"""Listeners are woken by the writes of others, and enqueues send few notifications."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from django.db import connections, transaction

import djjp.engine
from djjp.consumer.consumer import Consumer
from djjp.consumer.wakeup import Wakeup, wait
from djjp.engine import Engine, Listener, Outcome
from djjp.models import State
from tests.support.consumers import drain
from tests.support.factories import new_job
from tests.support.processes import eventually


def elsewhere(work: Callable[[Engine], Any]) -> None:
    """Do `work` on a connection of another thread."""

    def run() -> None:
        try:
            work(djjp.engine.current())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def consume_no_more() -> None:
    """Run a consumer that is stopped at once."""
    consumer = Consumer(1)
    consumer.stop()
    assert consumer.run()


def quiet(listener: Listener) -> None:
    """Wait until the listener reports no earlier writes."""
    time.sleep(0.02)  # an enqueue suppresses notifications for some milliseconds after one
    # After a write a listener polls a few times more, and then at its longest interval.
    eventually(lambda: not listener.woken() and listener.interval(3600.0) >= 0.25)


WRITES: dict[str, Callable[[Engine], object]] = {
    "an enqueue": lambda engine: engine.jobs.enqueue(new_job()),
    "a chunk": lambda engine: engine.jobs.enqueue_many([new_job(), new_job()]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_of_another_connection_wakes_a_listener(
    engine: Engine, write: Callable[[Engine], object]
) -> None:
    listener = engine.db.listener()
    quiet(listener)
    elsewhere(write)
    eventually(listener.woken)


def test_a_released_job_wakes_a_listener(engine: Engine) -> None:
    engine.jobs.enqueue(new_job())
    listener = engine.db.listener()

    def release(other: Engine) -> None:
        with other.db.transaction():
            jobs = other.jobs.claim("two", 1, 0.0)
        with other.db.transaction():
            assert not other.jobs.release("two", jobs)

    quiet(listener)
    elsewhere(release)
    eventually(listener.woken)


def test_a_retry_wakes_a_listener(engine: Engine) -> None:
    job = new_job()
    engine.jobs.enqueue(job)
    with engine.db.transaction():
        [claimed] = engine.jobs.claim("one", 1, 0.0)
        engine.jobs.finish("one", [Outcome(claimed, State.SUCCEEDED, 0.0, 0.0)])
    listener = engine.db.listener()
    quiet(listener)
    elsewhere(lambda other: other.control.retry([job.id]))
    eventually(listener.woken)


def test_an_enqueue_wakes_a_listener_when_its_transaction_commits_and_not_before(
    engine: Engine,
) -> None:
    listener = engine.db.listener()
    quiet(listener)
    written, commit = threading.Event(), threading.Event()

    def enqueue(other: Engine) -> None:
        with transaction.atomic(using=other.db.alias):
            other.jobs.enqueue(new_job())
            written.set()
            commit.wait()

    thread = threading.Thread(target=elsewhere, args=[enqueue])
    thread.start()
    written.wait()
    early = listener.woken()
    commit.set()
    thread.join()
    assert not early
    eventually(listener.woken)


def test_without_writes_a_listener_is_not_woken(engine: Engine) -> None:
    listener = engine.db.listener()
    elsewhere(lambda other: other.jobs.enqueue(new_job()))
    eventually(listener.woken)
    quiet(listener)
    for _ in range(50):
        assert not listener.woken()
        # These queries write nothing.
        engine.jobs.has_ready(None, [])
        engine.jobs.next_due()
    assert not listener.woken()


def test_a_rollback_does_not_wake_a_listener(engine: Engine) -> None:
    listener = engine.db.listener()
    quiet(listener)

    def roll_back(other: Engine) -> None:
        with transaction.atomic(using=other.db.alias):
            other.jobs.enqueue(new_job())
            transaction.set_rollback(True, using=other.db.alias)

    elsewhere(roll_back)
    assert not listener.woken()


@pytest.mark.borrowed
def test_a_wake_up_during_other_statements_is_not_lost(engine: Engine) -> None:
    listener = engine.db.listener()
    quiet(listener)
    elsewhere(lambda other: other.jobs.enqueue(new_job()))
    for _ in range(3):
        assert engine.jobs.has_ready(None, [])
        with engine.db.transaction():
            engine.jobs.promote(0.0)
    eventually(listener.woken)


# On SQLite the listener itself reads that there was a write.
@pytest.mark.postgresql_only
def test_a_consumer_does_not_wait_after_a_wake_up_during_other_statements(
    engine: Engine,
) -> None:
    """Once it was received the descriptor is not readable, so that a wait would not end."""
    listener = engine.db.listener()
    quiet(listener)
    assert listener.interval(60.0) > 0
    elsewhere(lambda other: other.jobs.enqueue(new_job()))
    eventually(lambda: engine.jobs.has_ready(None, []) and listener.interval(60.0) == 0)
    assert listener.woken()


# On SQLite each commit is noticed.
@pytest.mark.postgresql_only
def test_a_listener_polls_twice_more_for_suppressed_notifications(engine: Engine) -> None:
    listener = engine.db.listener()
    quiet(listener)
    elsewhere(lambda other: other.jobs.enqueue_many([new_job(), new_job()]))
    with closing(Wakeup()) as wakeup:
        assert [wait(wakeup, listener, 60.0, 60.0) for _ in range(3)] == [True, True, True]
        assert wait(wakeup, listener, 0.5, 60.0) is False


def test_a_listener_is_woken_again_after_its_connection_was_lost(engine: Engine) -> None:
    listener = engine.db.listener()
    engine.db.connection.close()
    listener.fileno()
    quiet(listener)
    elsewhere(lambda other: other.jobs.enqueue(new_job()))
    eventually(listener.woken)


def test_a_listener_always_has_a_next_poll(engine: Engine) -> None:
    """A lost wake-up is harmless only if the queue is polled without one."""
    listener = engine.db.listener()
    for quiet_for in (0.0, 0.05, 1.0, 3600.0):
        assert 0 < listener.interval(quiet_for) <= 1


# PostgreSQL alone has notifications


@pytest.mark.postgresql_only
@pytest.mark.parametrize("here", [drain, consume_no_more], ids=["drained", "stopped"])
def test_a_connection_receives_no_notifications_after_the_end_of_its_consumer(
    engine: Engine, here: Callable[[], object]
) -> None:
    """Nobody would read them, and the server's DROP DATABASE waits for a session whose client does not read."""
    here()
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute("SELECT pg_listening_channels()")
        assert cursor.fetchall() == []


@pytest.fixture
def notified(engine: Engine, request: pytest.FixtureRequest) -> Any:
    """A bare connection that listens on the queue's channel."""
    if engine.db.alias != "postgresql":
        pytest.skip("SQLite has no notifications: its listeners notice the writes themselves")
    import psycopg

    with psycopg.connect(request.getfixturevalue("postgres_url"), autocommit=True) as connection:
        connection.execute("LISTEN djjp_ready")
        yield connection


def _count(listening: Any) -> int:
    """Return the number of notifications received; one of our own marks the end."""
    listening.execute("NOTIFY djjp_ready, 'end'")
    count = 0
    for notification in listening.notifies():
        if notification.payload == "end":
            break
        count += 1
    return count


def test_enqueuers_send_one_notification_in_ten_milliseconds_at_most(
    engine: Engine, notified: Any
) -> None:
    time.sleep(0.02)
    began = time.monotonic()
    for _ in range(500):
        engine.jobs.enqueue(new_job())
    took = time.monotonic() - began
    assert 1 <= _count(notified) <= took / 0.01 + 1


def test_a_transaction_sends_one_notification_however_much_it_enqueues(
    engine: Engine, notified: Any
) -> None:
    with transaction.atomic(using=engine.db.alias):
        for _ in range(200):
            engine.jobs.enqueue(new_job())
        engine.jobs.enqueue_many([new_job() for _ in range(50)])
    assert _count(notified) == 1


def test_the_listeners_descriptor_becomes_readable_on_a_notification(
    engine: Engine, notified: Any
) -> None:
    listener = engine.db.listener()
    quiet(listener)
    fd = listener.fileno()
    assert fd is not None
    assert select.select([fd], [], [], 0)[0] == []
    elsewhere(lambda other: other.jobs.enqueue(new_job()))
    assert select.select([fd], [], [], 30)[0] == [fd]
    assert listener.woken()
