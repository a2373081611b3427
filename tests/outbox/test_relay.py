"""Exactly one job for each committed enqueue, whatever dies when and whoever relays beside."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

import djjp.engine
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Job, Relayed
from djjp.outbox import receipts, relay, serialization, table
from djjp.outbox.receipts import ReceiptPruner
from tests.outbox.conftest import Application, executions, queued, run_and_prune, waiting
from tests.project.shop.jobs import add
from tests.support.factories import new_job
from tests.support.processes import Processes

#: The moments of a relay, in order: where the process is killed, as code that runs in it, and how many
#: jobs come of it.
MOMENTS = {
    "before the commit": ("inside = kill", 0),
    "after the commit": ("relay.relay = kill", 1),
    "before the rows are read": ("table.read = kill", 1),
    "after the rows are read": ("table.read = then_kill(table.read)", 1),
    "after the jobs are noted as relayed": ("Jobs.enqueue_late = kill", 1),
    "before the queue commits": ("Jobs.enqueue_late = then_kill(Jobs.enqueue_late)", 1),
    "after the queue has committed": ("Jobs.relay = then_kill(Jobs.relay)", 1),
    "before the rows are deleted": ("table.delete = kill", 1),
    "after the rows are deleted": ("table.delete = then_kill(table.delete)", 1),
}

CHILD = """
import json, os, signal
import django
django.setup()
from django.db import connections, transaction
from django.conf import settings
alias, entry = json.loads(os.environ["OUTBOX"])
known = {{"default": settings.DATABASES["default"], alias: entry}}
connections.settings[alias] = connections.configure_settings(known)[alias]
settings.DJJP["outbox"] = [alias]
from djjp.engine import current
from djjp.engine.jobs import Jobs
from djjp.outbox import relay, table
from tests.outbox.conftest import execute
from tests.project.shop.jobs import add
current().db.connection.ensure_connection()

def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def then_kill(step):
    def stepped(*args, **kwargs):
        step(*args, **kwargs)
        kill()
    return stepped

def inside(): pass

{patch}
with transaction.atomic(alias):
    execute(alias)
    add.run_later(1)
    inside()
"""


def die(processes: Processes, application: Application, moment: str) -> int:
    """Enqueue in a process that is killed at a moment; returns how many jobs are to come of it."""
    patch, jobs = MOMENTS[moment]
    entry = {
        k: v if isinstance(v, (str, int, bool, dict, type(None))) else str(v)
        for k, v in application.entry.items()
    }
    child = processes.python(
        CHILD.format(patch=patch), OUTBOX=json.dumps([application.alias, entry])
    )
    _, err = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, err
    return jobs


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_is_killed_leaves_one_job_though_it_was_run_and_pruned_meanwhile(
    engine: Engine, on_sqlite: Application, processes: Processes, moment: str
) -> None:
    jobs = die(processes, on_sqlite, moment)
    assert executions(on_sqlite.alias) == jobs

    ran = run_and_prune(engine)
    relay.sweep()
    ran += run_and_prune(engine)
    relay.sweep()
    ran += run_and_prune(engine)

    assert len(ran) == len(set(ran)) == jobs
    assert on_sqlite.waiting() == 0


@pytest.mark.parametrize("moment", ["after the rows are read", "after the queue has committed"])
def test_a_process_that_is_killed_leaves_one_job_that_others_relay_at_once(
    engine: Engine, application: Application, processes: Processes, moment: str
) -> None:
    die(processes, application, moment)

    at_once(4, relay.sweep)

    assert len(queued()) == len(run_and_prune(engine)) == 1
    assert application.waiting() == 0


def at_once(count: int, work: Callable[[], object]) -> None:
    """Do something in several threads at the same time."""
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait(30)
            work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(run) for _ in range(count)]:
            done.result(60)


def leave(count: int = 1, alias: str = "default") -> list[UUID]:
    """Jobs as a process leaves them in an outbox that dies after its commit."""
    jobs = [new_job(name=add.name, arguments=add.bind(i).arguments) for i in range(count)]
    table.write(alias, jobs)
    return [job.id for job in jobs]


class Held(Exception):
    """A relay is stopped here."""


def test_two_relays_that_have_read_the_same_rows_give_one_job_each(engine: Engine) -> None:
    """Both read before either writes."""
    ids = leave(5)
    barrier = threading.Barrier(2)

    def call(verb: Callable[[Engine], Any]) -> Any:
        barrier.wait(30)
        return djjp.engine.run(verb)

    at_once(2, lambda: relay.relay("default", ids, call))

    assert queued() == ids
    assert waiting() == []


def test_a_relay_that_comes_late_meets_what_another_one_did_and_the_job_pruned(
    engine: Engine,
) -> None:
    """It had read the row before the other relay, and writes after the job has come and gone."""
    (id,) = leave()

    def call(verb: Callable[[Engine], Any]) -> Any:
        relay.sweep()
        assert run_and_prune(engine) == [id]
        return djjp.engine.run(verb)

    relay.relay("default", [id], call)

    assert queued() == waiting() == []
    assert Relayed.objects.count() == 1


def test_a_relay_that_was_held_up_for_too_long_writes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So long that even its note in the queue is gone again."""
    monkeypatch.setattr(relay, "MAX_READ_AGE", 0.2)
    (id,) = leave()

    def call(verb: Callable[[Engine], Any]) -> Any:
        relay.sweep()
        run_and_prune(engine)
        Relayed.objects.all().delete()
        time.sleep(0.25)
        return djjp.engine.run(verb)

    with pytest.raises(relay.Stale):
        relay.relay("default", [id], call)

    assert queued() == []
    assert not Relayed.objects.exists()


def test_what_was_stale_is_read_again_by_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = leave(2)
    monkeypatch.setattr(relay, "MAX_READ_AGE", -1.0)
    with pytest.raises(relay.Stale):
        relay.sweep()
    assert waiting() == ids
    monkeypatch.undo()
    assert relay.sweep() == 2
    assert queued() == ids


def test_neither_a_sleep_nor_a_clock_set_back_makes_what_was_read_look_fresh() -> None:
    watch = relay.Stopwatch()
    wall, steady = watch._started
    watch._started = (wall + 100, steady - 10)  # the clock was set back
    assert watch.at_most() >= 10
    assert watch.at_least() < 0
    watch._started = (wall - 10, steady)  # asleep, where the steady clock stands still
    assert watch.at_most() >= 10
    assert watch.at_least() < 10


# Many, and bad ones


def test_a_long_outbox_is_swept_in_pages(engine: Engine, application: Application) -> None:
    ids = leave(1203, application.alias)
    assert relay.sweep() == 1203
    assert queued() == ids
    assert application.waiting() == 0


def test_a_row_that_cannot_be_read_holds_up_no_other_and_is_told_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ids = leave(3)
    rows = table._all("default")
    rows.filter(pk=ids[0]).update(job="{}")
    rows.filter(pk=ids[1]).update(job="no JSON")

    assert relay.sweep() == 1
    assert relay.sweep() == 0

    assert queued() == ids[2:]
    assert waiting() == ids[:2]
    assert [str(id) in text for id, text in zip(ids, caplog.messages, strict=False)] == [True, True]
    assert len(caplog.messages) == 2


def test_a_job_that_the_queue_refuses_holds_up_no_other(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ids = leave(3)
    refused = new_job(id=ids[1])._replace(name=None)  # type: ignore[arg-type]  # what no code writes
    table._all("default").filter(pk=ids[1]).update(job=serialization.to_text(refused))

    assert relay.sweep() == 2

    assert queued() == [ids[0], ids[2]]
    assert waiting() == [ids[1]]
    assert not Relayed.objects.filter(pk=ids[1]).exists()
    (said,) = [r.getMessage() for r in caplog.records if r.name == "djjp.outbox"]
    assert "refused by the queue" in said


def test_what_is_young_is_left_to_its_own_process(engine: Engine) -> None:
    ids = leave(2)
    table._all("default").filter(pk=ids[0]).update(created_at=to_datetime(time.time() - 60))
    ahead = leave(1)  # by the clock of another machine
    table._all("default").filter(pk=ahead[0]).update(created_at=to_datetime(time.time() + 600))

    assert relay.sweep(grace=60) == 2

    assert waiting() == ids[1:]


def test_a_sweep_inside_of_a_transaction_is_refused(engine: Engine) -> None:
    with transaction.atomic():
        add.run_later(1)
        with pytest.raises(TransactionManagementError, match="may never be committed"):
            relay.sweep()
    assert len(queued()) == 1


# Receipts


@pytest.fixture
def pruner(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> ReceiptPruner:
    """A pruner that waits for nothing."""
    monkeypatch.setattr(receipts, "KEEP_RECEIPTS", -1.0)
    return ReceiptPruner(djjp.engine.run, ["default"])


def test_what_was_relayed_is_forgotten_a_pass_after_it_was_seen_to_be_gone(
    engine: Engine, pruner: ReceiptPruner
) -> None:
    with transaction.atomic():
        handle = add.run_later(1)
    pruner.prune()
    assert [row.pk for row in Relayed.objects.all()] == [handle.id]
    pruner.prune()
    assert not Relayed.objects.exists()
    assert queued() == [handle.id]


def test_what_is_still_in_an_outbox_is_not_forgotten(
    engine: Engine, pruner: ReceiptPruner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = leave(2)
    with monkeypatch.context() as patched:
        patched.setattr(table, "delete", hold)
        with pytest.raises(Held):
            relay.sweep()
    for _ in range(3):
        pruner.prune()
    assert Relayed.objects.count() == 2

    assert sorted(run_and_prune(engine)) == ids
    relay.sweep()
    assert queued() == waiting() == []
    for _ in range(2):
        pruner.prune()
    assert not Relayed.objects.exists()


def hold(*args: object) -> None:
    raise Held


def test_nothing_is_forgotten_before_its_time(engine: Engine) -> None:
    with transaction.atomic():
        add.run_later(1)
    patient = ReceiptPruner(djjp.engine.run, ["default"])
    patient.prune()
    patient.prune()
    assert Relayed.objects.count() == 1
    assert receipts.KEEP_RECEIPTS > 2 * relay.MAX_READ_AGE


def test_a_job_that_is_relayed_twice_by_the_verb_is_there_once(engine: Engine) -> None:
    """As when the answer to the first call was lost."""
    jobs = [new_job(), new_job()]
    for _ in range(2):
        engine.jobs.relay(jobs, lambda: None)
    assert queued() == [job.id for job in jobs]
    Job.objects.all().delete()
    engine.jobs.relay([*jobs, one := new_job()], lambda: None)
    assert queued() == [one.id]
