"""The coordinator wakes for whichever comes first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from djjp import queues
from djjp.consumer import consumer as coordinator
from djjp.consumer.wakeup import Wakeup, wait
from djjp.engine import Engine
from djjp.models import Consumer, Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually

pytestmark = pytest.mark.both_databases

FOR_EVER = 60.0


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


def ring_later(wakeup: Wakeup) -> None:
    wakeup.armed = True
    threading.Timer(0.05, wakeup.set).start()


def test_a_wakeup_from_another_thread_ends_the_wait(wakeup: Wakeup) -> None:
    ring_later(wakeup)

    assert wait(wakeup, None, FOR_EVER, 0.0) is False
    assert not wakeup.armed


def test_a_wakeup_from_a_signal_handler_ends_the_wait(wakeup: Wakeup) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: wakeup.set())
    try:
        wakeup.armed = True
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        wait(wakeup, None, FOR_EVER, 0.0)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert not wakeup.armed


def test_a_wakeup_before_the_wait_is_not_lost(wakeup: Wakeup) -> None:
    wakeup.armed = True
    wakeup.set()

    wait(wakeup, None, FOR_EVER, 0.0)

    assert not wakeup.armed


def test_a_wakeup_that_is_not_armed_fills_no_buffer(wakeup: Wakeup) -> None:
    for _ in range(1_000_000):
        wakeup.set()

    assert wait(wakeup, None, 0.01, 0.0) is False


def test_a_wakeup_ends_a_wait_that_also_listens_to_the_database(
    wakeup: Wakeup, engine: Engine
) -> None:
    ring_later(wakeup)

    assert wait(wakeup, engine.db.listener(), FOR_EVER, 0.0) is False


def test_a_write_of_another_process_ends_the_wait(
    wakeup: Wakeup, engine: Engine, processes: Processes
) -> None:
    listener = engine.db.listener()
    listener.woken()
    code = (
        "import django; django.setup(); from tests.project.shop.jobs import add; add.run_later(1)"
    )
    processes.python(code)

    assert wait(wakeup, listener, FOR_EVER, 0.0) is True


def test_without_writes_the_wait_ends_at_its_timeout(wakeup: Wakeup, engine: Engine) -> None:
    listener = engine.db.listener()
    listener.woken()
    began = time.monotonic()

    assert wait(wakeup, listener, 0.1, 0.0) is False
    assert time.monotonic() - began >= 0.1


def test_own_writes_wake_nobody_on_sqlite_and_at_most_the_writer_on_postgres(
    engine: Engine,
) -> None:
    listener = engine.db.listener()
    listener.woken()
    add.run_later(1)

    assert listener.woken() in (True, False)
    assert listener.woken() is False


def test_a_wakeup_after_the_close_has_no_effect() -> None:
    """The job's outcome was in the last turn, before the job set the wake-up."""
    wakeup = Wakeup()
    wakeup.armed = True
    wakeup.close()
    wakeup.set()
    assert not wakeup.armed


def test_jobs_enqueued_one_soon_after_the_other_are_all_claimed_without_a_poll(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enqueuer does not tell of each one, and the consumer may be in the middle of the one before."""
    monkeypatch.setattr(coordinator, "_POLL_EVERY", 3600.0)
    with consuming(2):
        eventually(Consumer.objects.exists)
        for gap in [0.0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.011] * 5:
            add.run_later(1)
            time.sleep(gap)
            assert add.run_later(1).join(30) == 1
            time.sleep(0.03)


@pytest.fixture
def never_polled(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[coordinator.Consumer]:
    """Yield an idle consumer that hears of the work of others from its listener only."""
    monkeypatch.setattr(coordinator, "_POLL_EVERY", 3600.0)
    with consuming(2) as consumer:
        assert add.run_later(1).join(30) == 1
        yield consumer


def test_an_idle_consumer_claims_a_new_job_before_it_reads_what_else_is_new(
    never_polled: coordinator.Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = never_polled._engine.jobs
    rounds: list[list[str]] = [[]]
    never_polled.on_round = lambda _: rounds.append([])

    def spied(name: str) -> None:
        method = getattr(jobs, name)

        def spy(*args: Any, **given: Any) -> Any:
            rounds[-1].append(name)
            return method(*args, **given)

        monkeypatch.setattr(jobs, name, spy)

    for name in ("claim", "outlook"):
        spied(name)
    eventually(lambda: len(never_polled._ledger) == 0)
    assert add.run_later(1).join(30) == 1
    eventually(lambda: any("outlook" in each for each in rounds if "claim" in each))

    assert next(each[0] for each in rounds if "claim" in each) == "claim"


@pytest.mark.usefixtures("never_polled")
def test_an_idle_consumer_hears_of_pauses_and_their_end() -> None:
    queues.pause("mail")
    kept = add.using(queue="mail").run_later(1)
    assert add.run_later(2).join(30) == 2
    assert add.run_later(3).join(30) == 3
    assert Job.objects.get(pk=kept.id).attempts == 0

    queues.resume("mail")
    assert kept.join(30) == 1


@pytest.mark.usefixtures("never_polled")
def test_an_idle_consumer_hears_of_jobs_that_are_due_later() -> None:
    assert add.using(run_after=timedelta(seconds=0.2)).run_later(1).join(30) == 1
