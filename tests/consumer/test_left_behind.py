"""Transactions, statements and caches that a job leaves behind on its thread do not reach the next job there."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, connections, transaction
from django.test import override_settings
from django.utils import timezone, translation

from djjp import job
from djjp.consumer import connections as job_connections
from djjp.engine import Engine
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.project.shop.models import Execution
from tests.support.consumers import consuming
from tests.support.processes import eventually

#: Generators that jobs keep: each has left a transaction open.
KEPT: list[Iterator[None]] = []
#: Caches that were made and closed.
MADE: list[CountedCache] = []
CLOSED: list[CountedCache] = []

POOLS = ["threads", "asyncio"]

pytestmark = pytest.mark.one_database  # what jobs leave behind is on the application's database


class CountedCache(LocMemCache):
    """A cache with a connection to a server: it is counted."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        MADE.append(self)

    def close(self, **kwargs: Any) -> None:
        CLOSED.append(self)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    KEPT.clear()
    MADE.clear()
    CLOSED.clear()


def write(key: str) -> int:
    row: int = Execution.objects.create(key=key, process=0, at=0.0).pk
    return row


def in_transaction() -> Iterator[None]:
    with transaction.atomic():
        write("never committed")
        yield
        write("after the end of its job")


@job(name="left.open")
def leave_open() -> None:
    KEPT.append(in_transaction())
    next(KEPT[-1])


@job(name="left.aopen")
async def aleave_open() -> None:
    await sync_to_async(leave_open)()


@job(name="left.enqueue")
def write_and_enqueue(key: str) -> str:
    """Write a row and enqueue a job in one transaction, in which the generators of earlier jobs are closed."""
    with transaction.atomic():
        write(key)
        handle = add.run_later(1, 2)
        KEPT.clear()
        gc.collect()
        write(key)
    return str(handle.id)


@job(name="left.awrite")
async def awrite_and_enqueue(key: str) -> str:
    result: str = await sync_to_async(write_and_enqueue)(key)
    return result


@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize(
    ("leave", "later"), [(leave_open, write_and_enqueue), (aleave_open, awrite_and_enqueue)]
)
def test_a_transaction_left_open_is_rolled_back_and_later_jobs_commit_theirs(
    engine: Engine, concurrency: str, leave: Any, later: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), consuming(1, concurrency=concurrency):
        left = [leave.run_later() for _ in range(3)]
        for handle in left:
            handle.join(30)
        enqueued = [later.run_later("kept").join(30) for _ in range(2)]

    assert Job.objects.filter(pk__in=enqueued).count() == 2
    assert Execution.objects.filter(key="kept").count() == 4
    assert Execution.objects.exclude(key="kept").count() == 0
    logged = [record.getMessage() for record in caplog.records]
    assert (
        f"{leave.name} {left[0].id} has left a transaction open on 'default'; it is rolled back"
        in logged
    )


@transaction.atomic
def write_atomically(key: str) -> None:
    write(key)
    if key == "left":
        leave_open()


@job(name="left.decorated")
def write_by_decorated(key: str) -> None:
    write_atomically(key)


@pytest.mark.sqlite_only
def test_a_decorated_function_goes_on_after_a_transaction_was_left_open_in_it(
    engine: Engine,
) -> None:
    with consuming(1):
        write_by_decorated.run_later("left").join(30)
        write_by_decorated.run_later("later").join(30)

    assert list(Execution.objects.values_list("key", flat=True)) == ["later"]


@job(name="left.autocommit")
def turn_autocommit_off() -> None:
    transaction.set_autocommit(False)
    write("never committed")


@pytest.mark.sqlite_only
@pytest.mark.parametrize("concurrency", POOLS)
def test_autocommit_turned_off_does_not_reach_the_next_job(
    engine: Engine, concurrency: str
) -> None:
    with consuming(1, concurrency=concurrency):
        turn_autocommit_off.run_later().join(30)
        write_and_enqueue.run_later("kept").join(30)

    assert set(Execution.objects.values_list("key", flat=True)) == {"kept"}


@job(name="left.log")
def statements() -> tuple[int, int]:
    """Return how many statements are in the log at the start of a job, and at its end."""
    before = len(connection.queries_log)
    write("one")
    return before, len(connection.queries_log)


@job(name="left.alog")
async def astatements() -> tuple[int, int]:
    result: tuple[int, int] = await sync_to_async(statements)()
    return result


@pytest.mark.sqlite_only
@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("logging_job", [statements, astatements])
def test_the_log_of_statements_is_cleared_after_each_job(
    engine: Engine, concurrency: str, logging_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", None)
    with override_settings(DEBUG=True), consuming(1, concurrency=concurrency):
        found = [logging_job.run_later().join(30) for _ in range(3)]

    assert [before for before, _ in found] == [0, 0, 0]
    assert all(after > 0 for _, after in found)


@job(name="left.cache")
def use_cache() -> None:
    cache.set("key", "value")


@job(name="left.acache")
async def ause_cache() -> None:
    await cache.aset("key", "value")
    await sync_to_async(cache.get)("key")


@pytest.mark.sqlite_only
@pytest.mark.parametrize("concurrency", POOLS)
@pytest.mark.parametrize("using", [use_cache, ause_cache])
def test_jobs_share_the_caches_of_their_slot_which_are_closed_after_each(
    engine: Engine, concurrency: str, using: Any
) -> None:
    backend = f"{CountedCache.__module__}.{CountedCache.__qualname__}"
    with override_settings(CACHES={"default": {"BACKEND": backend}}):
        with consuming(2, concurrency=concurrency):
            for handle in [using.run_later() for _ in range(30)]:
                handle.join(30)

        assert 1 <= len(MADE) <= 4
        assert len(CLOSED) >= 30


@job(name="left.context")
def change_context() -> None:
    translation.activate("de")
    timezone.activate("Asia/Tokyo")


@job(name="left.read_context")
def read_context() -> tuple[str, str]:
    return translation.get_language(), timezone.get_current_timezone_name()


@pytest.mark.sqlite_only
@pytest.mark.parametrize("concurrency", POOLS)
def test_language_and_time_zone_do_not_reach_the_next_job(engine: Engine, concurrency: str) -> None:
    with consuming(1, concurrency=concurrency):
        before = read_context.run_later().join(30)
        change_context.run_later().join(30)
        assert read_context.run_later().join(30) == before


@job(name="left.run")
def query_in_loop() -> tuple[int, bool]:
    """Query in `asyncio.run()`; return what there is, and keep the connection that was used."""

    def query() -> tuple[int, bool]:
        count, was_open = Execution.objects.count(), connection.connection is not None
        USED.append(connections["default"])
        return count, was_open

    return asyncio.run(sync_to_async(query)())


#: Connections that `query_in_loop` has used.
USED: list[Any] = []


@pytest.mark.sqlite_only
@pytest.mark.parametrize("concurrency", POOLS)
def test_a_connection_of_asyncio_run_is_closed_once_its_thread_has_no_job(
    engine: Engine, concurrency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_connections, "REST", 0.01)
    USED.clear()
    with consuming(1, concurrency=concurrency):
        for _ in range(3):
            assert query_in_loop.run_later().join(30) == (0, True)
        add.run_later(1).join(30)
        eventually(lambda: [wrapper.connection for wrapper in USED] == [None, None, None])
