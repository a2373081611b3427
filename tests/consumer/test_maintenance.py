"""The chores of a consumer: each has its time, and none of them is a job."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.test import override_settings

from djjp.consumer import pruner
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.maintenance import Maintenance
from djjp.consumer.pruner import Pruner
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Consumer, Job, State
from tests.support.factories import new_job
from tests.support.processes import eventually

DAY = 86_400.0


def ended(engine: Engine, state: State, ago: float, count: int = 1) -> None:
    jobs = [new_job(created_at=time.time() - ago) for _ in range(count)]
    engine.jobs.enqueue_many(jobs)
    Job.objects.filter(pk__in=[job.id for job in jobs]).update(
        state=state, finished_at=to_datetime(time.time() - ago)
    )


def left() -> dict[str, int]:
    states = list(Job.objects.values_list("state", flat=True))
    return {state: states.count(state) for state in sorted(set(states))}


def walk_to_the_end(engine: Engine) -> int:
    walk, steps = Pruner(), 1
    while walk.step(engine):
        steps += 1
    return steps


# Pruning


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "PRUNE_ROWS", 4)


@pytest.mark.usefixtures("small_steps")
def test_each_state_is_kept_for_its_own_time_however_many_steps_a_walk_takes(
    engine: Engine,
) -> None:
    for ago in (40 * DAY, 20 * DAY, 2 * DAY):
        for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
            ended(engine, state, ago, 3)

    assert walk_to_the_end(engine) > 4

    assert left() == {"cancelled": 6, "failed": 6, "succeeded": 3}, "after 30, 30 and 7 days"


def test_what_is_kept_for_ever_or_for_ages_is_not_pruned(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, 400 * DAY)
    ended(engine, State.FAILED, 400 * DAY)
    for keep in (None, timedelta.max, math.inf, 500 * DAY):
        settings = {"db_name": engine.db.alias, "keep_succeeded": keep, "keep_failed": keep}
        with override_settings(DJJP=settings):
            walk_to_the_end(engine)
        assert left() == {"failed": 1, "succeeded": 1}, keep


def test_one_state_may_be_kept_for_ever_and_the_other_not(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, DAY)
    ended(engine, State.FAILED, DAY)
    settings = {"db_name": engine.db.alias, "keep_succeeded": None, "keep_failed": 60}
    with override_settings(DJJP=settings):
        walk_to_the_end(engine)
    assert left() == {"succeeded": 1}


def test_what_is_not_finished_is_never_pruned(engine: Engine) -> None:
    for state in (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING):
        ended(engine, state, 400 * DAY)
    Job.objects.update(finished_at=None)
    walk_to_the_end(engine)
    assert Job.objects.count() == 4


@pytest.mark.usefixtures("small_steps")
def test_a_step_deletes_no_more_than_it_may_look_at(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, 400 * DAY, 10)
    walk = Pruner()
    assert [walk.step(engine) for _ in range(2)] == [True, True]
    assert left() == {"succeeded": 2}


# Their times


@pytest.fixture
def limits() -> dict[str, float]:
    return {"heartbeat_limit": 0.5}


@pytest.fixture
def chores(engine: Engine, limits: dict[str, float]) -> Iterator[Maintenance]:
    with override_settings(DJJP={"db_name": engine.db.alias, **limits}):
        presence = Heartbeat(engine, ConsumerName.new().text, queues=None, limit=1)
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
    assert heartbeat() == first
    chores.work(ending=True)
    assert chores.due() <= 0.1
    eventually(lambda: heartbeat() != first)
    assert LOST == []


def test_one_whose_row_has_gone_is_told_so(chores: Maintenance) -> None:
    chores.beat()
    Consumer.objects.all().delete()
    eventually(lambda: chores.beat() or LOST)


def test_after_an_outage_the_heartbeat_comes_first_and_judgement_later(chores: Maintenance) -> None:
    chores.beat()
    before = Consumer.objects.get().heartbeat_at
    chores.after_outage()
    assert chores.due() < 0
    assert chores._detector._not_before > chores._detector._now
    chores.beat()
    assert Consumer.objects.get().heartbeat_at > before


def test_pruning_comes_again_and_again_while_there_is_something_to_prune(
    engine: Engine, chores: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "PRUNE_ROWS", 4)
    ended(engine, State.SUCCEEDED, 400 * DAY, 20)
    chores._prune_at = time.monotonic()
    chores.work(ending=True)
    assert left() == {"succeeded": 20}, "a consumer that is about to end begins nothing"

    chores._prune_at = time.monotonic()
    eventually(lambda: chores.work(ending=False) or not left())
