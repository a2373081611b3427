"""The chores of a consumer: each has its time, and none of them is a job."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.test import override_settings

from djjp.consumer import pruner
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.maintenance import Maintenance
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Consumer, Job, Operation, State
from djjp.monitoring import operations
from djjp.monitoring.filters import Filter
from tests.support.factories import new_job
from tests.support.processes import eventually


@pytest.fixture
def limits() -> dict[str, float]:
    return {"heartbeat_limit": 0.5}


@pytest.fixture
def chores(engine: Engine, limits: dict[str, float]) -> Iterator[Maintenance]:
    with override_settings(DJJP={"db_name": engine.db.alias, **limits}):
        presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
        presence.register()
        yield Maintenance(engine, presence, on_declared_dead=lambda: LOST.append(1))
        presence.deregister()
    LOST.clear()


LOST: list[int] = []


@pytest.mark.parametrize("limits", [{"heartbeat_limit": 0.5}, {"frozen_limit": 0.5}], ids=str)
def test_heartbeats_come_five_times_in_a_limit_and_not_with_every_turn(
    chores: Maintenance,
) -> None:
    def heartbeat() -> object:
        chores.beat()
        return Consumer.objects.get().heartbeat_at

    first = heartbeat()
    assert chores._beat_every == pytest.approx(0.1)
    chores._beat_at += 60  # a busy machine can stand still for longer than a beat
    assert heartbeat() == first
    chores.work(ending=True)
    chores._beat_at -= 60
    assert chores.due() <= 0.1
    eventually(lambda: heartbeat() != first)
    assert LOST == []


def test_a_consumer_whose_row_is_gone_is_notified(chores: Maintenance) -> None:
    chores.beat()
    Consumer.objects.all().delete()

    def is_reported() -> bool:
        chores.beat()
        return bool(LOST)

    eventually(is_reported)


def test_after_an_outage_a_heartbeat_is_sent_and_nobody_is_declared_dead_yet(
    chores: Maintenance,
) -> None:
    chores.beat()
    before = Consumer.objects.get().heartbeat_at
    chores.after_outage()
    assert chores.due() < 0
    assert chores._detector._not_before > chores._detector._now
    chores.beat()
    assert Consumer.objects.get().heartbeat_at > before


def test_pruning_is_repeated_while_there_is_something_to_prune(
    engine: Engine, chores: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "PRUNE_ROWS", 4)
    old = time.time() - 400 * 86_400
    engine.jobs.enqueue_many([new_job(created_at=old) for _ in range(20)])
    Job.objects.update(state=State.SUCCEEDED, finished_at=to_datetime(old))
    chores._prune_at = time.monotonic()
    chores.work(ending=True)
    assert Job.objects.count() == 20, "a consumer that is about to end starts no chore"

    chores._prune_at = time.monotonic()
    eventually(lambda: chores.work(ending=False) or not Job.objects.exists())


def test_a_consumer_that_is_about_to_end_does_no_step_of_an_operation_and_is_not_woken_for_it(
    engine: Engine, chores: Maintenance
) -> None:
    engine.jobs.enqueue_many([new_job()])
    id = operations.start("cancel", filter=Filter.parse("state:ready")).id
    Operation.objects.update(state="waiting", worker="", at=None)
    chores.work(ending=True)
    assert Operation.objects.get(pk=id).state == "waiting"
    assert chores._operations.due_at > time.monotonic() + 3600

    chores._operations.due_at = 0.0
    chores.work(ending=False)
    assert Operation.objects.get(pk=id).state == "done"


def test_old_operations_are_pruned(chores: Maintenance) -> None:
    operations.start("cancel", ids=[])
    Operation.objects.update(finished_at=to_datetime(time.time() - 31 * 86_400))
    chores._prune_at = 0.0
    chores.work(ending=False)
    assert not Operation.objects.exists()
