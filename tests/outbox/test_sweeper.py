"""The sweeper relays rows left behind, on a thread and a connection of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

import djjp.engine
from djjp.engine import Engine
from djjp.models import Job, Relayed
from djjp.outbox import receipts, sweeper, table
from djjp.outbox.sweeper import Sweeper
from tests.outbox.conftest import Application, execute, queued, waiting
from tests.outbox.test_relay import leave
from tests.project.shop.jobs import add
from tests.support.processes import eventually
from tests.support.projects import alias_for


@contextmanager
def sweeping(aliases: list[str], call: Callable[..., Any] = djjp.engine.run) -> Iterator[Sweeper]:
    thread = Sweeper(call, aliases)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
        assert not any(each.is_alive() for each in thread._started)


def test_rows_left_behind_are_relayed(engine: Engine, application: Application) -> None:
    before = leave(3, application.alias)
    with sweeping([application.alias]):
        eventually(lambda: queued() == before)
        while_it_runs = leave(2, application.alias)
        eventually(lambda: queued() == before + while_it_runs)
    assert application.waiting() == 0


def test_each_outbox_is_swept(engine: Engine, second: Application) -> None:
    ids = leave() + leave(1, second.alias)
    with sweeping(table.outboxes()):
        eventually(lambda: queued() == ids)


def test_the_queue_is_reached_through_the_given_call_only(engine: Engine) -> None:
    """A consumer uses one connection to the queue: here a thread stands for its coordinator."""
    ids = leave(2)
    opened: set[str] = set()

    def call(verb: Callable[[Engine], Any]) -> Any:
        assert threading.current_thread().name == "djjp-sweeper"
        opened.update(c.alias for c in connections.all(initialized_only=True) if c.connection)
        return consumer.submit(lambda: verb(djjp.engine.current())).result(30)

    with ThreadPoolExecutor(1) as consumer:
        with sweeping(["default"], call):
            eventually(lambda: queued() == ids)
        consumer.submit(connections.close_all).result(30)
    assert opened == {"default"}


def test_a_lock_in_one_database_delays_no_other_outbox(engine: Engine, second: Application) -> None:
    ids = leave(1, second.alias)
    with sweeping(table.outboxes()):
        with transaction.atomic(second.alias):
            execute(second.alias)  # no other connection can write there now
            ids += leave(1)
            eventually(lambda: ids[-1] in queued())
        eventually(lambda: set(queued()) == set(ids) and second.waiting() == 0)


def test_a_stuck_sweep_does_not_prevent_the_consumers_end(
    engine: Engine, second: Application
) -> None:
    leave(1, second.alias)
    sweeper = Sweeper(djjp.engine.run, [second.alias])
    with transaction.atomic(second.alias):
        execute(second.alias)
        sweeper.start()
        eventually(lambda: len(queued()) == 1)  # and now its row should be deleted
        sweeper.stop(timeout=0.01)
    eventually(lambda: not any(thread.is_alive() for thread in sweeper._started))


def test_an_outage_is_logged_once_and_rows_are_swept_after_it(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_INTERVAL", 0.02)
    ids = leave(2)
    away, calls = threading.Event(), []
    away.set()

    def call(verb: Callable[[Engine], Any]) -> Any:
        calls.append(verb)
        if away.is_set():
            raise OperationalError("no route to host")
        return djjp.engine.run(verb)

    with caplog.at_level(logging.INFO, "djjp.outbox"), sweeping(["default"], call):
        eventually(lambda: len(calls) > 4)
        assert waiting() == ids
        away.clear()
        eventually(lambda: queued() == ids)
        eventually(lambda: len(caplog.messages) == 2)
    first, last = caplog.messages
    assert "the outbox of 'default' cannot be swept" in first
    assert "no route to host" in first
    assert "swept again" in last


def test_an_unreachable_application_database_is_logged_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread connects by the settings, and this alias leads nowhere."""
    monkeypatch.setattr(sweeper, "_INTERVAL", 0.02)
    nowhere = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/app.sqlite3"}
    ids = leave(1)
    with alias_for(nowhere) as alias, sweeping([alias, "default"]) as thread:
        eventually(lambda: queued() == ids)
        assert thread.first_pass_done.wait(30)
        eventually(lambda: caplog.messages)
    (said,) = caplog.messages
    assert repr(alias) in said


def test_a_missing_table_is_reported_with_the_fix(
    engine: Engine, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bare = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "bare.sqlite3")}
    with alias_for(bare) as alias:
        with sweeping([alias]) as thread:
            assert thread.first_pass_done.wait(30)
            eventually(lambda: caplog.messages)
        (said,) = caplog.messages
        assert f"python manage.py migrate --database={alias}" in said


def test_the_sweeper_prunes_receipts_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "KEEP_RECEIPTS", 0.05)
    monkeypatch.setattr(sweeper, "_INTERVAL", 0.02)
    with transaction.atomic():
        add.run_later(1)
    assert Relayed.objects.count() == 1
    with sweeping(["default"]):
        eventually(lambda: not Relayed.objects.exists())
    assert Job.objects.count() == 1


def test_without_an_outbox_there_is_nothing_to_do(engine: Engine) -> None:
    with sweeping([]) as thread:
        assert thread.first_pass_done.is_set()
        assert thread._started == []
