"""Chores: what the database refuses of one chore ends that chore for now, and is logged once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import IntegrityError, InterfaceError, connections

from djjp import run_many
from djjp.consumer import maintenance
from djjp.consumer.chores import Chores
from djjp.consumer.pruner import Pruner
from djjp.consumer.rescue import rescue
from djjp.engine import Engine
from djjp.engine.jobs import PROMOTED_AT_ONCE, Jobs
from djjp.models import Job, State
from tests.consumer.test_pruner import DAY, ended
from tests.consumer.test_splitting import guarded
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.engine_calls import claim, enqueue, register_consumer, row
from tests.support.processes import eventually


def raising(error: Exception) -> Any:
    def work() -> None:
        raise error

    return work


def test_a_refused_chore_is_logged_once_for_each_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    chores = Chores(engine)
    assert chores.do("count", lambda: 7) == 7
    for _ in range(3):
        assert chores.do("prune", raising(IntegrityError("it is referred to"))) is None
        assert chores.do("schedules", raising(ValueError("odd"))) is None
    assert chores.do("prune", raising(IntegrityError("by another"))) is None

    assert [record.getMessage() for record in caplog.records] == [
        "a chore failed, and is tried again later: prune (IntegrityError: it is referred to)",
        "a chore failed, and is tried again later: schedules (ValueError: odd)",
        "a chore failed, and is tried again later: prune (IntegrityError: by another)",
    ]


def test_an_outage_in_a_chore_is_an_outage(engine: Engine) -> None:
    with pytest.raises(InterfaceError):
        Chores(engine).do("prune", raising(InterfaceError("connection already closed")))


def test_refused_chores_pause_no_turn(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(maintenance, "PRUNE_EVERY", 0.05)
    monkeypatch.setattr(Pruner, "step", raising_method(IntegrityError("refused")))
    monkeypatch.setattr(engine.expiry, "expire", raising_method(IntegrityError("refused")))
    monkeypatch.setattr(engine.consumers, "peers", raising_method(ValueError("odd row")))
    monkeypatch.setattr(engine.schedules, "all", raising_method(ValueError("odd row")))
    with consuming(2):
        for _ in range(5):
            for handle in run_many(add.bind(number) for number in range(5)):
                handle.join(30)
            time.sleep(0.2)
        eventually(lambda: "a chore failed" in caplog.text)
    assert "the queue's database refused" not in caplog.text


def raising_method(error: Exception) -> Any:
    def method(*args: object, **options: object) -> None:
        raise error

    return method


@contextmanager
def referring_table(engine: Engine, ids: list[Any]) -> Iterator[None]:
    """A table of an application with a foreign key to jobs, as Django makes it, and rows for these jobs."""
    kind = "uuid" if engine.db.locks_rows else "char(32)"
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            f'CREATE TABLE "test order" (id integer, "job id" {kind} REFERENCES djjp_job (id)'
            " DEFERRABLE INITIALLY DEFERRED)"
        )
        for id in ids:
            value = id if engine.db.locks_rows else id.hex
            cursor.execute('INSERT INTO "test order" VALUES (1, %s)', [value])
    try:
        yield
    finally:
        with connections[engine.db.alias].cursor() as cursor:
            cursor.execute('DROP TABLE "test order"')


def test_finished_jobs_that_a_table_refers_to_are_kept_and_all_others_pruned(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ended(engine, State.SUCCEEDED, 30 * DAY, 40)
    kept = list(Job.objects.order_by("pk").values_list("pk", flat=True)[::5])
    pruner = Pruner()
    with referring_table(engine, kept):
        for _ in range(2):
            while pruner.step(engine):
                pass
        assert set(Job.objects.values_list("pk", flat=True)) == set(kept)
    assert pruner.deleted == 32
    assert caplog.text.count("refers to them") == 1
    assert "test order" in caplog.text
    assert "job id refers to them" in caplog.text

    while pruner.step(engine):
        pass
    assert not Job.objects.exists()


def test_a_refused_row_of_a_dead_consumer_keeps_no_other_job_from_its_rescue(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    peer = register_consumer(engine, "host:7:dead")
    ids = enqueue(engine, 4)
    [odd] = enqueue(engine, name="test.guarded")
    claim(engine, "host:7:dead")
    with guarded(engine, "NEW.state = 'ready'"):
        assert rescue(engine, peer)

    assert {row(id)["state"] for id in ids} == {"ready"}
    assert {row(id)["rescues"] for id in ids} == {1}
    assert row(odd)["state"] == "running"
    assert f"job {odd} of the dead consumer host:7:dead cannot be rescued" in caplog.text
    assert engine.consumers.peers() == []


def test_a_crowd_that_is_due_at_once_becomes_ready_in_parts_and_other_jobs_run_meanwhile(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2 * PROMOTED_AT_ONCE + 1
    enqueue(engine, count, state=State.SCHEDULED, run_after=time.time() - 1, name="test.unknown")
    handle = add.run_later(1)
    promoted: list[int] = []
    promote = Jobs.promote

    def counted(jobs: Jobs, now: float) -> int:
        promoted.append(promote(jobs, now))
        return promoted[-1]

    monkeypatch.setattr(Jobs, "promote", counted)
    with consuming(2) as consumer:
        handle.join(60)
        eventually(lambda: not Job.objects.filter(state="scheduled").exists(), within=60)
    assert consumer.executed == 1
    assert max(promoted) <= PROMOTED_AT_ONCE
    assert sum(promoted) == count
