"""A relay writes into the queue only outside of transactions that somebody else commits or rolls back."""

from __future__ import annotations

import itertools
import json
import signal
import unittest
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase, override_settings

from djjp.engine import Engine
from djjp.models import Job
from djjp.outbox import relay
from tests.outbox.conftest import Application, queued, run_and_prune, undone, waiting
from tests.outbox.test_relay import CHILD
from tests.project.shop.jobs import add
from tests.support.processes import Processes

#: What a process does before its block of the application's database: it begins a transaction of the queue.
OUTER = "outer = transaction.atomic(current().db.alias); outer.__enter__()"


@pytest.fixture
def queue_beside(engine: Engine, second: Application) -> Iterator[str]:
    """The queue in a database of the application, `second` beside it, and both in DJJP["outbox"]."""
    alias = engine.db.alias
    with override_settings(DJJP={"db_name": alias, "outbox": [alias, second.alias]}):
        yield alias


@pytest.mark.parametrize("savepoints", [False, True])
def test_a_rollback_around_the_relay_loses_no_committed_job(
    engine: Engine, second: Application, queue_beside: str, savepoints: bool
) -> None:
    savepoint = transaction.atomic(second.alias) if savepoints else ExitStack()
    with undone(queue_beside), transaction.atomic(second.alias), savepoint:
        handle = add.run_later(1)
    assert (queued(), second.waiting()) == ([], 1)

    assert relay.sweep() == 1

    assert (queued(), second.waiting()) == ([handle.id], 0)


def test_the_commit_around_the_relay_relays_at_once(
    engine: Engine, second: Application, queue_beside: str
) -> None:
    with transaction.atomic(queue_beside):
        with transaction.atomic(second.alias):
            first, other = add.run_later(1), add.run_later(2)
        assert (queued(), second.waiting()) == ([], 2)
    assert (queued(), second.waiting()) == ([first.id, other.id], 0)


def test_a_savepoint_around_the_relay_that_is_rolled_back_loses_no_committed_job(
    engine: Engine, second: Application, queue_beside: str
) -> None:
    with transaction.atomic(queue_beside), undone(queue_beside), transaction.atomic(second.alias):
        handle = add.run_later(1)
    assert (queued(), second.waiting()) == ([], 1)
    relay.sweep()
    assert queued() == [handle.id]


@contextmanager
def by_hand(alias: str, end: str) -> Iterator[None]:
    connection = connections[alias]
    connection.set_autocommit(False)
    try:
        yield
        getattr(connection, end)()
    finally:
        connection.set_autocommit(True)


def committed_by_hand(alias: str) -> AbstractContextManager[None]:
    return by_hand(alias, "commit")


def undone_by_hand(alias: str) -> AbstractContextManager[None]:
    return by_hand(alias, "rollback")


ENDS: list[Callable[[str], AbstractContextManager[None]]] = [
    transaction.atomic,
    undone,
    committed_by_hand,
    undone_by_hand,
]


@pytest.mark.one_database
@pytest.mark.parametrize(("queue", "outer", "inner"), [*itertools.product(ENDS, repeat=3)])
def test_a_job_follows_the_transaction_that_took_it_whatever_becomes_of_the_others(
    engine: Engine,
    second: Application,
    queue: Callable[[str], AbstractContextManager[None]],
    outer: Callable[[str], AbstractContextManager[None]],
    inner: Callable[[str], AbstractContextManager[None]],
) -> None:
    committed = {transaction.atomic, committed_by_hand}
    for first in (True, False):
        with ExitStack() as stack:
            if first:
                stack.enter_context(queue(engine.db.alias))
            stack.enter_context(outer("default"))
            if not first:
                stack.enter_context(queue(engine.db.alias))
            stack.enter_context(inner(second.alias))
            of_outer = add.using(database="default").run_later(1)
            of_inner = add.using(database=second.alias).run_later(2)
        relay.sweep()
        relay.sweep()
        expected = [of_outer.id] * (outer in committed) + [of_inner.id] * (inner in committed)
        assert queued() == expected
        assert waiting() == []
        assert second.waiting() == 0
        Job.objects.all().delete()


@pytest.mark.parametrize("end", [transaction.atomic, committed_by_hand])
def test_a_sweep_inside_of_a_transaction_of_the_queue_is_refused(
    engine: Engine, end: Callable[[str], AbstractContextManager[None]]
) -> None:
    with end(engine.db.alias):
        with transaction.atomic():
            handle = add.run_later(1)
        with pytest.raises(TransactionManagementError, match="may never be committed"):
            relay.sweep()
    relay.sweep()
    assert queued() == [handle.id]


def test_a_cancel_inside_of_a_transaction_of_the_queue_takes_no_row_out_of_the_outbox(
    engine: Engine, second: Application
) -> None:
    with undone(engine.db.alias):
        with transaction.atomic():
            handle = add.run_later(1)
        handle.cancel()
        assert handle.state == "cancelled"
    assert waiting() == [handle.id]
    relay.sweep()
    assert [(row.pk, row.state) for row in Job.objects.all()] == [(handle.id, "cancelled")]


@pytest.mark.parametrize("end", ["kill()", "outer.__exit__(None, None, None); kill()"])
def test_a_process_that_is_killed_around_the_commit_of_the_queue_leaves_one_job(
    engine: Engine, on_sqlite: Application, processes: Processes, end: str
) -> None:
    child = processes.python(
        f"{CHILD.format(patch=OUTER)}\n{end}",
        OUTBOX=json.dumps([on_sqlite.alias, on_sqlite.entry]),
    )
    _, err = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, err
    assert (len(queued()), on_sqlite.waiting()) == ((0, 1) if end == "kill()" else (1, 0))

    relay.sweep()
    assert len(run_and_prune(engine)) == 1
    relay.sweep()
    assert queued() == []


# Autocommit off


def test_a_transaction_by_hand_takes_the_job(engine: Engine, second: Application) -> None:
    with undone_by_hand("default"):
        add.run_later(1)
        assert queued() == []
    with committed_by_hand("default"):
        handle = add.run_later(2)
        with transaction.atomic():
            other = add.run_later(3)
        assert connections["default"].run_on_commit == []  # Django would keep them for ever
    assert queued() == []
    relay.sweep()
    assert queued() == [handle.id, other.id]


class InTestCase(TestCase):
    """A TestCase, whose transaction around each test counts as none."""

    __test__ = False
    databases = {"default", "sqlite"}

    def test_it(self) -> None:
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            handle = add.run_later(1)
        assert queued() == [handle.id]
        with transaction.atomic("sqlite"):
            with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
                other = add.run_later(2)
            assert queued() == [handle.id]
        assert waiting() == [other.id]
        relay.sweep()
        assert queued() == [handle.id, other.id]


@pytest.mark.sqlite_only
def test_in_a_testcase(engine: Engine) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([InTestCase("test_it")]).run(result)
    assert result.testsRun == 1
    assert "".join(text for _, text in (*result.failures, *result.errors)) == ""
    assert queued() == waiting() == []
