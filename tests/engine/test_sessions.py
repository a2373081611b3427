"""Sessions that are alive and useless are replaced, and no caller gets an error of the driver."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

from djjp import chain, get_job, queues, run_many
from djjp.engine import Engine
from djjp.exceptions import OutcomeUnknown, QueueUnavailable
from djjp.models import Consumer, Job, State
from djjp.monitoring import consumers, counts, latest_jobs
from djjp.schedules import listing
from tests.project.shop.jobs import add, fan_out
from tests.support.consumers import consuming


def forget_statements(engine: Engine) -> None:
    """Have the server forget what this session has prepared, without the driver's knowledge, as a pooler does."""
    for _ in range(6):  # from its third execution on the driver prepares a statement
        add.run_later(1)
    deallocate(engine)


def deallocate(engine: Engine) -> None:
    driver: Any = engine.db.connection.connection
    driver.pgconn.exec_(b"DEALLOCATE ALL")


def make_read_only(engine: Engine) -> None:
    """Have this session refuse to write, as after its server was demoted; a new session is as before."""
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")


def make_query_only(engine: Engine) -> None:
    with engine.db.connection.cursor() as cursor:
        cursor.execute("PRAGMA query_only = on")


def lose_table(engine: Engine) -> None:
    """Have this session look for its tables in a schema without any."""
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SET search_path = pg_catalog")


@pytest.mark.postgresql_only
@pytest.mark.parametrize("spoil", [forget_statements, make_read_only, lose_table])
def test_an_enqueuer_gets_a_new_session_for_a_useless_one(
    engine: Engine, spoil: Callable[[Engine], None]
) -> None:
    add.run_later(1)
    spoil(engine)

    handle = add.run_later(1)
    assert handle.state == State.READY
    spoil(engine)
    run_many([add.bind(1), add.bind(2)])
    spoil(engine)
    chain(add.bind(1), add.bind(2)).run_later()
    spoil(engine)
    handle.cancel()
    assert Job.objects.get(pk=handle.id).state == State.CANCELLED


@pytest.mark.sqlite_only
def test_an_enqueuer_gets_a_new_connection_for_a_useless_one(engine: Engine) -> None:
    add.run_later(1)
    make_query_only(engine)

    assert add.run_later(1).state == State.READY


@contextmanager
def refusing(engine: Engine) -> Iterator[None]:
    """Have each session refuse to write, as on a server that was demoted."""
    options: dict[str, Any] = engine.db.connection.settings_dict["OPTIONS"]
    before = dict(options)
    if "init_command" in options:
        options["init_command"] += "; PRAGMA query_only = on"
    else:
        options["options"] = "-c default_transaction_read_only=on"
    engine.db.connection.close()
    # Of the thread on which coroutines use databases, as earlier tests have left it.
    asyncio.run(sync_to_async(connections.close_all)())
    try:
        yield
    finally:
        options.clear()
        options.update(before)


def refusal(write: Callable[[], object]) -> QueueUnavailable | None:
    try:
        write()
    except QueueUnavailable as error:
        return error
    return None


def test_no_caller_gets_an_error_of_the_driver_and_all_recover(engine: Engine) -> None:
    handle = add.run_later(1)
    writes: dict[str, Callable[[], object]] = {
        "enqueue": lambda: add.run_later(1),
        "many": lambda: run_many([add.bind(1), add.bind(2)]),
        "chain": lambda: chain(add.bind(1), add.bind(2)).run_later(),
        "unique": lambda: add.using(unique_key="one").run_later(1),
        "coroutine": lambda: asyncio.run(add.arun_later(1)),
        "cancel": handle.cancel,
        "pause": lambda: queues.pause("mail"),
        "resume": lambda: queues.resume("mail"),
    }
    with refusing(engine):
        refused = {name: refusal(write) for name, write in writes.items()}
        assert [name for name, error in refused.items() if error is None] == []
        for error in refused.values():
            assert re.search(r"read-?only", str(error))
            assert not isinstance(error, OutcomeUnknown), "nothing was written"
        handle.refresh()
        if (
            connections[engine.db.alias].vendor == "postgresql"
        ):  # SQLite refuses the transaction itself
            with pytest.raises(QueueUnavailable), transaction.atomic(using=engine.db.alias):
                add.run_later(1)

    assert add.run_later(1).state == State.READY
    handle.cancel()
    assert handle.state == State.CANCELLED


def test_no_reader_gets_an_error_of_the_driver(engine: Engine) -> None:
    handle = add.run_later(1)
    known = connections.settings[engine.db.alias]
    before = dict(known)
    engine.db.connection.close()
    known.update(NAME="/nowhere/at/all", HOST="/nowhere")
    reads: list[Callable[[], object]] = [
        handle.refresh,
        handle.retry,
        lambda: handle.join(1),
        lambda: get_job(handle.id),
        counts,
        consumers,
        lambda: latest_jobs(limit=1),
        queues.paused,
        listing,
    ]
    try:
        for read in reads:
            with pytest.raises(QueueUnavailable):
                read()
    finally:
        known.update(before)
    handle.refresh()


@pytest.mark.postgresql_only
@pytest.mark.parametrize("spoil", [deallocate, make_read_only])
def test_a_consumer_gets_a_new_session_for_a_useless_one(
    engine: Engine, spoil: Callable[[Engine], None]
) -> None:
    check_consumer(spoil)


@pytest.mark.sqlite_only
def test_a_consumer_gets_a_new_connection_for_a_useless_one(engine: Engine) -> None:
    check_consumer(make_query_only)


def check_consumer(spoil: Callable[[Engine], None]) -> None:
    with consuming() as consumer:
        for _ in range(6):
            add.run_later(1).join(30)
        consumer._call_queue.call(spoil)  # in a turn, on the consumer's own session
        assert add.run_later(1, 2).join(30) == 3
        assert fan_out.run_later(2).join(30)
        assert Consumer.objects.get().pk == consumer.name
    assert set(Job.objects.values_list("attempts", flat=True)) <= {0, 1}
