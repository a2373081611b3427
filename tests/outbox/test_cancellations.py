"""A cancellation reaches its job wherever the job is at that moment: in an outbox, on its way, or in the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, connections, transaction

import djjp.engine
from djjp import chain
from djjp.durations import to_datetime
from djjp.engine import Engine, row_locks
from djjp.jobs import enqueue
from djjp.jobs.handles import JobHandle
from djjp.models import Job
from djjp.outbox import pending, relay, table
from djjp.outbox.models import OutboxJob
from tests.outbox.conftest import Application, execute, go_away, queued, undone, waiting
from tests.outbox.test_relay import die, leave
from tests.project.shop.jobs import add, echo
from tests.support.processes import Processes, eventually


def states() -> list[str]:
    return list(Job.objects.order_by("pk").values_list("state", flat=True))


#: The moments of a sweep in which a cancellation can come, by the step before or after which it does.
STEPS = ["before the read", "after the read", "after the queue has committed", "after the delete"]


class HeldSweep(threading.Thread):
    """A sweep of an outbox that is held at a step."""

    def __init__(self, step: str, alias: str) -> None:
        super().__init__()
        self.step, self.alias = step, alias
        self.held, self.go_on = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            self.at("before the read")
            self.sweep()
            self.at("after the delete")
        finally:
            connections.close_all()

    def at(self, step: str) -> None:
        if step == self.step and not self.held.is_set():
            self.held.set()
            assert self.go_on.wait(30)

    def sweep(self) -> None:
        for _ in range(20):  # on SQLite the file is locked while the other transaction writes
            try:
                relay.sweep([self.alias], self.call)
            except DatabaseError:
                time.sleep(0.2)
            else:
                return

    def call(self, verb: Callable[[Engine], Any]) -> Any:
        self.at("after the read")
        result = djjp.engine.run(verb)
        self.at("after the queue has committed")
        return result


@contextmanager
def sweep_held_at(step: str, alias: str) -> Iterator[Callable[[], None]]:
    """A sweep on another thread that is held at a step; yields what lets it go on to its end."""
    sweep = HeldSweep(step, alias)
    sweep.start()
    assert sweep.held.wait(30)
    try:
        yield sweep.go_on.set
    finally:
        sweep.go_on.set()
        sweep.join(60)
        assert not sweep.is_alive()


@pytest.mark.parametrize("step", STEPS)
def test_a_cancellation_beside_a_sweep_is_not_lost(
    engine: Engine, application: Application, step: str
) -> None:
    (id,) = leave(1, application.alias)
    with sweep_held_at(step, application.alias) as go_on, transaction.atomic(application.alias):
        execute(application.alias)
        JobHandle(id).cancel()
        go_on()
        time.sleep(0.3)
    relay.sweep()
    assert states() == ["cancelled"]
    assert application.waiting() == 0


@pytest.mark.parametrize("in_subquery", [True, False])
def test_a_sweep_waits_for_no_transaction_that_has_cancelled_a_job(
    engine: Engine,
    on_postgres: Application,
    in_subquery: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the other jobs are relayed, and the transaction meets no deadlock when it cancels one more."""
    monkeypatch.setattr(row_locks, "in_subqueries", lambda alias: in_subquery)
    alias = on_postgres.alias
    first, second, refused, other = leave(4, alias)
    OutboxJob.objects.using(alias).filter(pk=refused).update(job="{}")
    with transaction.atomic(alias):
        JobHandle(second).cancel()
        JobHandle(refused).cancel()
        with sweep_held_at("before the read", alias) as go_on:
            go_on()
        assert Job.objects.get(pk=other).state == "ready"
        JobHandle(first).cancel()
        assert waiting(alias) == [second, refused]
    assert relay.sweep([alias]) == 1
    assert {str(job.pk): job.state for job in Job.objects.all()} == {
        str(first): "cancelled",
        str(second): "cancelled",
        str(other): "ready",
    }
    row = OutboxJob.objects.using(alias).get()
    assert (row.pk, bool(row.problem)) == (refused, True)


@pytest.mark.parametrize("step", STEPS[:3])
def test_a_cancellation_that_is_rolled_back_beside_a_sweep_leaves_the_job(
    engine: Engine, application: Application, step: str
) -> None:
    (id,) = leave(1, application.alias)
    with sweep_held_at(step, application.alias) as go_on, undone(application.alias):
        execute(application.alias)
        pending._mark(application.alias, id)
        go_on()
        time.sleep(0.3)
    relay.sweep()
    assert states() == ["ready"]
    assert application.waiting() == 0


@pytest.mark.parametrize("step", STEPS)
def test_a_cancellation_outside_of_a_transaction_beside_a_sweep_is_not_lost(
    engine: Engine, application: Application, step: str
) -> None:
    (id,) = leave(1, application.alias)
    with sweep_held_at(step, application.alias) as go_on:
        JobHandle(id).cancel()
        go_on()
    relay.sweep()
    assert states() == ["cancelled"]
    assert application.waiting() == 0


def test_a_job_that_enters_the_queue_between_the_two_looks_is_cancelled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = leave()
    looked: list[str] = []

    def mark(alias: str, id: UUID, mark: Any = table.cancel) -> bool:
        relay.sweep()
        looked.append(alias)
        found: bool = mark(alias, id)
        return found

    monkeypatch.setattr(table, "cancel", mark)
    JobHandle(id).cancel()
    assert looked == ["default"]
    assert states() == ["cancelled"]


@pytest.mark.parametrize("moment", ["after the queue has committed", "after the rows are read"])
def test_a_cancellation_after_a_process_was_killed_in_its_relay_is_not_lost(
    engine: Engine, on_sqlite: Application, processes: Processes, moment: str
) -> None:
    die(processes, on_sqlite, moment)
    (id,) = (row.id for row in table.waiting(on_sqlite.alias, None, 10))
    before = states()
    with transaction.atomic(on_sqlite.alias):
        execute(on_sqlite.alias)
        table.cancel(
            on_sqlite.alias, id
        )  # its handle finds the job in the queue, in one of the two cases
    relay.sweep()
    assert before in (["ready"], [])
    assert states() == ["cancelled"]
    assert on_sqlite.waiting() == 0


def test_a_pipeline_that_is_on_its_way_is_cancelled_whole(
    engine: Engine, application: Application
) -> None:
    enqueue._paused_until = float("inf")
    with transaction.atomic(application.alias):
        handle = chain(add.bind(1), echo.bind()).run_later()
    with sweep_held_at("after the read", application.alias) as go_on:
        handle.cancel()
        go_on()
    relay.sweep()
    assert states() == ["cancelled", "cancelled"]
    assert not Job.objects.filter(finished_at=None).exists()


def test_a_running_job_whose_row_was_cancelled_is_told_to_stop(
    engine: Engine, application: Application
) -> None:
    """The relay that wrote it died before it deleted the row, and the job runs by now."""
    (id,) = leave(1, application.alias)
    (row,) = table.read(application.alias, [id])
    relay._relay_page(application.alias, [id], djjp.engine.run)
    table._all(application.alias).create(pk=id, job=row.text, created_at=to_datetime(time.time()))
    with engine.db.transaction():
        engine.jobs.claim("tester", 1, time.time())
    with transaction.atomic(application.alias):
        table.cancel(application.alias, id)
    relay.sweep()
    job = Job.objects.get()
    assert (job.state, job.cancel_requested) == ("running", True)
    assert application.waiting() == 0


def test_a_cancelled_job_keeps_no_other_from_its_unique_key(engine: Engine) -> None:
    single = add.using(unique_key="k")
    with transaction.atomic():
        first = single.run_later(1)
        first.cancel()
        second = single.run_later(2)
    assert {row.pk: row.state for row in Job.objects.all()} == {
        first.id: "cancelled",
        second.id: "ready",
    }


def test_a_cancellation_while_the_queue_is_away_is_kept(
    engine: Engine, application: Application
) -> None:
    (id,) = leave(1, application.alias)
    come_back = go_away(engine.db.alias)
    try:
        assert pending._mark(application.alias, id)
        handle = JobHandle(id)
        assert (handle.state, handle.reason) == ("cancelled", "cancelled on request")
    finally:
        come_back()
    relay.sweep()
    assert states() == ["cancelled"]


def test_a_cancellation_reaches_a_job_that_a_real_consumer_sweeps(
    engine: Engine, processes: Processes
) -> None:
    ids = leave(30)
    processes.consumer()
    with transaction.atomic():
        for id in ids:
            JobHandle(id).cancel()
    eventually(lambda: len(queued()) == len(ids) and not table.waiting("default", None, 1))
    eventually(lambda: not Job.objects.filter(finished_at=None).exists())
    assert set(states()) <= {"cancelled", "succeeded"}
