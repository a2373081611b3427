"""The coordinator wakes for whichever comes first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from djjp.consumer import consumer as coordinator
from djjp.consumer.wakeup import Bell, wait
from djjp.engine import Engine
from djjp.models import Consumer
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually

FOR_EVER = 60.0


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def ring_later(bell: Bell) -> None:
    bell.awaited = True
    threading.Timer(0.05, bell.ring).start()


def test_a_ring_from_another_thread_ends_the_wait(bell: Bell) -> None:
    ring_later(bell)

    assert wait(bell, None, FOR_EVER, 0.0) is False
    assert not bell.awaited


def test_a_ring_from_a_signal_handler_ends_the_wait(bell: Bell) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: bell.ring())
    try:
        bell.awaited = True
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        wait(bell, None, FOR_EVER, 0.0)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert not bell.awaited


def test_a_ring_that_came_before_the_wait_is_not_lost(bell: Bell) -> None:
    bell.awaited = True
    bell.ring()

    wait(bell, None, FOR_EVER, 0.0)

    assert not bell.awaited


def test_a_bell_that_nobody_awaits_fills_no_buffer(bell: Bell) -> None:
    for _ in range(1_000_000):
        bell.ring()

    assert wait(bell, None, 0.01, 0.0) is False


def test_a_ring_ends_a_wait_that_also_hears_the_database(bell: Bell, engine: Engine) -> None:
    ring_later(bell)

    assert wait(bell, engine.db.listener(), FOR_EVER, 0.0) is False


def test_a_write_of_another_process_ends_the_wait(
    bell: Bell, engine: Engine, processes: Processes
) -> None:
    listener = engine.db.listener()
    listener.woken()
    code = (
        "import django; django.setup(); from tests.project.shop.jobs import add; add.run_later(1)"
    )
    processes.python(code)

    assert wait(bell, listener, FOR_EVER, 0.0) is True


def test_a_quiet_database_lets_the_time_run_out(bell: Bell, engine: Engine) -> None:
    listener = engine.db.listener()
    listener.woken()
    began = time.monotonic()

    assert wait(bell, listener, 0.1, 0.0) is False
    assert time.monotonic() - began >= 0.1


def test_own_writes_wake_nobody_on_sqlite_and_oneself_harmlessly_on_postgres(
    engine: Engine,
) -> None:
    listener = engine.db.listener()
    listener.woken()
    add.run_later(1)

    assert listener.woken() in (True, False)
    assert listener.woken() is False


def test_a_job_that_ends_as_its_consumer_does_rings_in_vain() -> None:
    """Its outcome was in the last turn, before it came to ring."""
    bell = Bell()
    bell.awaited = True
    bell.close()
    bell.ring()


def test_jobs_that_come_one_soon_after_the_other_are_all_picked_up_though_nobody_looks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enqueuer does not tell of each one, and the consumer may be in the middle of the one before."""
    monkeypatch.setattr(coordinator, "_LOOK_EVERY", 3600.0)
    with consuming(2):
        eventually(Consumer.objects.exists)
        for gap in [0.0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.011] * 5:
            add.run_later(1)
            time.sleep(gap)
            assert add.run_later(1).join(10) == 1
            time.sleep(0.03)
