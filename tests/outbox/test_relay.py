"""Exactly one job for each committed enqueue, whichever process dies when and with any concurrent relays."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.db.transaction import TransactionManagementError

import djjp.engine
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Job, Relayed
from djjp.outbox import receipts, relay, serialization, table
from djjp.outbox.receipts import ReceiptPruner
from djjp.outbox.stopwatch import Stopwatch
from tests.outbox.conftest import Application, executions, queued, run_and_prune, waiting
from tests.project.shop.jobs import add
from tests.support.engine_calls import at_once
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
#: The moments between two commits. At the others, the same commits have been made.
MAIN_MOMENTS = {
    "before the commit",
    "after the commit",
    "after the queue has committed",
    "after the rows are deleted",
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
    """Enqueue in a process that is killed at a moment; return the number of jobs that must exist in the end."""
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


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=[] if moment in MAIN_MOMENTS else pytest.mark.end_to_end)
        for moment in MOMENTS
    ],
)
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


@pytest.mark.end_to_end
@pytest.mark.parametrize("moment", ["after the rows are read", "after the queue has committed"])
def test_a_process_that_is_killed_leaves_one_job_that_others_relay_at_once(
    engine: Engine, application: Application, processes: Processes, moment: str
) -> None:
    die(processes, application, moment)

    at_once(*[lambda engine: relay.sweep()] * 4)

    assert len(queued()) == len(run_and_prune(engine)) == 1
    assert application.waiting() == 0


def leave(count: int = 1, alias: str = "default") -> list[UUID]:
    """Leave jobs in an outbox, as a process that dies after its commit does; return their ids."""
    jobs = [new_job(name=add.name, arguments=add.bind(i).arguments) for i in range(count)]
    table.write(alias, jobs)
    return [job.id for job in jobs]


class Held(Exception):
    """Raised to stop a relay."""


def test_two_relays_that_have_read_the_same_rows_give_one_job_each(engine: Engine) -> None:
    """Both read before either writes."""
    ids = leave(5)
    barrier = threading.Barrier(2)

    def call(verb: Callable[[Engine], Any]) -> Any:
        barrier.wait(30)
        return djjp.engine.run(verb)

    at_once(*[lambda engine: relay.relay("default", ids, call)] * 2)

    assert queued() == ids
    assert waiting() == []


def test_a_late_relay_finds_the_receipt_of_a_job_that_another_relayed_and_that_was_pruned(
    engine: Engine,
) -> None:
    """It read the row before the other relay, and writes after the job was run and pruned."""
    (id,) = leave()

    def call(verb: Callable[[Engine], Any]) -> Any:
        relay.sweep()
        assert run_and_prune(engine) == [id]
        return djjp.engine.run(verb)

    relay.relay("default", [id], call)

    assert queued() == waiting() == []
    assert Relayed.objects.count() == 1


def test_a_relay_that_was_delayed_for_too_long_writes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So long that even its receipt was pruned."""
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


def test_stale_rows_are_read_again_by_the_next_relay(
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


def test_neither_a_suspend_nor_a_clock_set_back_makes_stale_rows_fresh() -> None:
    watch = Stopwatch()
    wall, steady = watch._started
    watch._started = (wall + 100, steady - 10)  # the clock was set back
    assert watch.at_most() >= 10
    assert watch.at_least() < 0
    watch._started = (wall - 10, steady)  # suspended: the steady clock stands still
    assert watch.at_most() >= 10
    assert watch.at_least() < 10


# Many rows, and damaged ones


def test_a_long_outbox_is_swept_in_pages(engine: Engine, application: Application) -> None:
    ids = leave(1203, application.alias)
    assert relay.sweep() == 1203
    assert queued() == ids
    assert application.waiting() == 0


def test_a_damaged_row_delays_no_other_and_is_logged_once(
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


def test_a_job_that_the_queue_refuses_delays_no_other(
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


def test_young_rows_are_left_to_their_own_process(engine: Engine) -> None:
    ids = leave(2)
    table._all("default").filter(pk=ids[0]).update(created_at=to_datetime(time.time() - 60))
    ahead = leave(1)  # by the clock of another machine
    table._all("default").filter(pk=ahead[0]).update(created_at=to_datetime(time.time() + 600))

    assert relay.sweep(grace=60) == 2

    assert waiting() == ids[1:]


def test_a_sweep_inside_a_transaction_is_refused(engine: Engine) -> None:
    with transaction.atomic():
        add.run_later(1)
        with pytest.raises(TransactionManagementError, match="may never be committed"):
            relay.sweep()
    assert len(queued()) == 1


# Receipts


@pytest.fixture
def pruner(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> ReceiptPruner:
    """Return a pruner that does not wait."""
    monkeypatch.setattr(receipts, "KEEP_RECEIPTS", -1.0)
    return ReceiptPruner(djjp.engine.run, ["default"])


def test_a_receipt_is_deleted_one_pass_after_its_row_was_gone(
    engine: Engine, pruner: ReceiptPruner
) -> None:
    with transaction.atomic():
        handle = add.run_later(1)
    pruner.prune()
    assert [row.pk for row in Relayed.objects.all()] == [handle.id]
    pruner.prune()
    assert not Relayed.objects.exists()
    assert queued() == [handle.id]


def test_the_receipt_of_a_row_still_in_an_outbox_is_kept(
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


def test_no_receipt_is_deleted_before_its_time(engine: Engine) -> None:
    with transaction.atomic():
        add.run_later(1)
    patient = ReceiptPruner(djjp.engine.run, ["default"])
    patient.prune()
    patient.prune()
    assert Relayed.objects.count() == 1
    assert receipts.KEEP_RECEIPTS > 2 * relay.MAX_READ_AGE


def test_a_job_that_is_relayed_twice_exists_once(engine: Engine) -> None:
    """As when the answer to the first call was lost."""
    jobs = [new_job(), new_job()]
    for _ in range(2):
        engine.jobs.relay(jobs, lambda: None)
    assert queued() == [job.id for job in jobs]
    Job.objects.all().delete()
    engine.jobs.relay([*jobs, one := new_job()], lambda: None)
    assert queued() == [one.id]
