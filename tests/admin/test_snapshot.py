"""However many dashboards are open, a web process reads the queue once a second; an error is not kept."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import override_settings

from djjp.admin import snapshot
from djjp.admin.snapshot import Snapshots, Taken
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.models import Job

PATIENCE = 20.0


class Reader:
    """Counts its reads; `gate` holds them, and `error` is what the next one raises."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.snapshots = Snapshots(self.read)

    def read(self, key: str) -> int:
        self.reads.append(key)
        self.begun.set()
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        Job.objects.count()
        return len(self.reads)

    def get(self) -> Taken[int]:
        """Return the snapshot in a thread, whose connections end with it."""
        try:
            return self.snapshots.get()
        finally:
            connections.close_all()


@pytest.fixture
def reader(engine: Engine) -> Reader:
    return Reader()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now[0])
    monkeypatch.setattr(snapshot, "time", clock)
    return now


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_a_second_has_one_read(reader: Reader, clock: list[float]) -> None:
    assert [reader.snapshots.get().value for _ in range(50)] == [1] * 50
    clock[0] += 0.99
    assert reader.snapshots.get().value == 1
    clock[0] += 0.02
    assert reader.snapshots.get().value == 2


def test_each_key_has_its_own_and_there_are_no_more_than_keys(
    reader: Reader, clock: list[float]
) -> None:
    for _ in range(3):
        for key in ("1h", "24h"):
            reader.snapshots.get(key)
        clock[0] += 2
    assert reader.reads == ["1h", "24h"] * 3
    assert len(reader.snapshots._found) == 2


@pytest.mark.usefixtures("clock")  # a thread can begin more than a second after the others
def test_threads_that_come_during_a_read_wait_for_it(
    reader: Reader, pool: ThreadPoolExecutor
) -> None:
    reader.gate.clear()
    results = [pool.submit(reader.get) for _ in range(8)]
    assert reader.begun.wait(PATIENCE)
    reader.gate.set()

    taken = [each.result(PATIENCE) for each in results]

    assert reader.reads == [""]
    assert len({id(each) for each in taken}) == 1


@pytest.mark.usefixtures("clock")
def test_coroutines_share_a_read(reader: Reader) -> None:
    async def both() -> list[int]:
        get = sync_to_async(reader.get, thread_sensitive=False)
        return [each.value for each in await asyncio.gather(*(get() for _ in range(8)))]

    assert asyncio.run(both()) == [1] * 8


def test_an_error_is_raised_for_all_that_wait_and_is_not_kept(
    reader: Reader, pool: ThreadPoolExecutor
) -> None:
    reader.error = QueueUnavailable("away")
    reader.gate.clear()
    results = [pool.submit(reader.get) for _ in range(3)]
    assert reader.begun.wait(PATIENCE)
    reader.gate.set()
    errors = [each.exception(PATIENCE) for each in results]

    # One that came after the error has read again.
    assert {str(error) for error in errors if error is not None} == {"away"}
    assert reader.snapshots.get().value >= 2


def test_an_error_is_followed_by_a_read_at_once(reader: Reader, clock: list[float]) -> None:
    reader.error = QueueUnavailable("away")
    with pytest.raises(QueueUnavailable, match="away"):
        reader.snapshots.get()
    assert reader.snapshots.get().value == 2


def test_a_request_does_not_wait_for_ever_for_the_read_of_another(
    reader: Reader, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.gate.clear()
    first = pool.submit(reader.get)
    assert reader.begun.wait(PATIENCE)
    monkeypatch.setattr(snapshot, "PATIENCE", 0.01)
    with pytest.raises(QueueUnavailable, match="has not answered within"):
        reader.snapshots.get()
    monkeypatch.setattr(snapshot, "PATIENCE", PATIENCE)
    reader.gate.set()
    assert first.result(PATIENCE).value == 1


def test_a_read_that_takes_long_takes_a_twentieth_of_the_time_at_most(
    reader: Reader, clock: list[float]
) -> None:
    def read(key: str) -> int:
        clock[0] += 3
        return reader.read(key)

    slow = Snapshots(read)
    assert slow.get().cost.seconds == 3
    clock[0] += 56.9
    assert slow.get().value == 1
    clock[0] += 0.2
    assert slow.get().value == 2


def test_a_change_by_this_process_is_read_at_once(reader: Reader) -> None:
    reader.snapshots.get()
    snapshot.clear()
    assert reader.snapshots.get().value == 2


def test_a_change_of_the_settings_forgets_snapshots(reader: Reader, engine: Engine) -> None:
    reader.snapshots.get()
    with override_settings(DJJP={"db_name": engine.db.alias, "concurrency_limit": 3}):
        assert reader.snapshots.get().value == 2


def test_a_snapshot_has_its_time_and_its_cost(reader: Reader) -> None:
    taken = reader.snapshots.get()
    assert abs(taken.at - time.time()) < 60
    assert taken.cost.statements == 1
    assert taken.cost.seconds >= 0


def test_no_transaction_is_open_after_a_read(reader: Reader, engine: Engine) -> None:
    reader.snapshots.get()
    connection = connections[engine.db.alias]
    assert not connection.in_atomic_block
    assert not connection.execute_wrappers
    if connection.vendor == "postgresql":
        assert connection.connection is not None
        assert connection.connection.info.transaction_status.name == "IDLE"
    elif connection.connection is not None:
        assert not connection.connection.in_transaction


def test_a_child_does_not_wait_for_the_read_of_its_parent(
    reader: Reader, pool: ThreadPoolExecutor
) -> None:
    reader.gate.clear()
    first = pool.submit(reader.get)
    assert reader.begun.wait(PATIENCE)
    reader.snapshots.after_fork()  # what a child does
    reader.gate.set()
    assert first.result(PATIENCE).value == 1
    assert reader.snapshots.get().value == 2
