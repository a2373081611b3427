"""The pruner deletes finished jobs after their retention time, also while the queue is busy."""

from __future__ import annotations

import math
import threading
import time
from datetime import timedelta

import pytest
from django.db import connections
from django.test import override_settings

from djjp import run_many
from djjp.consumer import pruner
from djjp.consumer.pruner import Pruner, SteadyClock
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.ids import first_id
from djjp.models import Job, State
from tests.project.shop.jobs import add, nap
from tests.support.factories import new_job
from tests.support.processes import Processes, eventually

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


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "PRUNE_ROWS", 4)


@pytest.mark.usefixtures("small_steps")
def test_each_state_has_its_own_retention_time_however_many_steps_a_walk_takes(
    engine: Engine,
) -> None:
    for ago in (40 * DAY, 20 * DAY, 2 * DAY):
        for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
            ended(engine, state, ago, 3)

    assert walk_to_the_end(engine) > 4

    assert left() == {"cancelled": 6, "failed": 6, "succeeded": 3}, "after 30, 30 and 7 days"


def test_jobs_that_are_kept_for_ever_or_for_ages_are_not_pruned(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, 400 * DAY)
    ended(engine, State.FAILED, 400 * DAY)
    for keep in (None, timedelta.max, math.inf, 500 * DAY):
        settings = {"db_name": engine.db.alias, "keep_succeeded": keep, "keep_failed": keep}
        with override_settings(DJJP=settings):
            walk_to_the_end(engine)
        assert left() == {"failed": 1, "succeeded": 1}, keep


def test_one_state_can_be_kept_for_ever_and_the_other_not(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, DAY)
    ended(engine, State.FAILED, DAY)
    settings = {"db_name": engine.db.alias, "keep_succeeded": None, "keep_failed": 60}
    with override_settings(DJJP=settings):
        walk_to_the_end(engine)
    assert left() == {"succeeded": 1}


def test_unfinished_jobs_are_never_pruned(engine: Engine) -> None:
    for state in (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING):
        ended(engine, state, 400 * DAY)
    Job.objects.update(finished_at=None)
    walk_to_the_end(engine)
    assert Job.objects.count() == 4


@pytest.mark.usefixtures("small_steps")
def test_a_step_deletes_no_more_rows_than_it_reads(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, 400 * DAY, 10)
    walk = Pruner()
    assert [walk.step(engine) for _ in range(2)] == [True, True]
    assert left() == {"succeeded": 2}


@pytest.mark.end_to_end
def test_finished_jobs_are_pruned_while_the_queue_is_busy(
    engine: Engine, processes: Processes
) -> None:
    """Each job enqueues the next: a consumer that prunes when it is idle never would."""
    old = run_many(add.bind(i) for i in range(3))
    busy = processes.start(
        "start_consumer",
        "--concurrency-limit",
        "2",
        DJJP_TEST_SETTINGS='{"keep_succeeded": 0.2}',
    )
    eventually(lambda: not Job.objects.filter(state__in=["ready", "running"]).exists())
    over = threading.Event()

    def feed() -> None:
        while not over.is_set():
            run_many(nap.bind(0.01) for _ in range(40))
            eventually(lambda: Job.objects.filter(state="ready").count() < 20)
        connections.close_all()

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        eventually(lambda: not Job.objects.filter(pk__in=[h.id for h in old]).exists(), within=150)
        eventually(lambda: Job.objects.filter(state="running").exists())
    finally:
        over.set()
        feeder.join()
    assert processes.end(busy)[0] == 0


# Clocks that are ahead


def steady() -> Pruner:
    """Return the pruner of a consumer."""
    return Pruner(clock=SteadyClock())


def test_a_consumer_that_starts_under_a_clock_ahead_deletes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(engine, State.SUCCEEDED, DAY)
    ended(engine, State.FAILED, DAY)
    clock, ahead = time.time, [366 * DAY]
    monkeypatch.setattr(time, "time", lambda: clock() + ahead[0])
    walk = steady()
    engine.jobs.enqueue(new_job())  # as a schedule's, of that time

    walk.step(engine)
    ahead[0] = 0.0
    for _ in range(2):
        walk.step(engine)

    assert left() == {"failed": 1, "ready": 1, "succeeded": 1}


@pytest.mark.parametrize("passed", [0.0, 600.0])
def test_a_leap_of_the_clock_counts_from_the_second_walk_on(
    engine: Engine, passed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(engine, State.SUCCEEDED, DAY)
    clock, ahead = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: clock() + ahead)
    monkeypatch.setattr(engine.db, "clock", lambda: clock() + ahead)
    walk = steady()
    walk.step(engine)

    ahead = 30 * DAY
    walk.step(engine)
    assert left() == {"succeeded": 1}

    ahead += passed
    walk.step(engine)
    assert left() == {}


@pytest.mark.usefixtures("small_steps")
def test_all_steps_of_a_walk_have_one_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(engine, State.SUCCEEDED, DAY, 10)
    Job.objects.update(created_at=to_datetime(time.time() - 40 * DAY))
    walk = steady()
    assert walk.step(engine)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 30 * DAY)
    while walk.step(engine):
        pass
    assert left() == {"succeeded": 10}


def test_a_queue_that_was_not_used_for_long_is_pruned_by_the_second_walk(engine: Engine) -> None:
    ended(engine, State.SUCCEEDED, 30 * DAY)
    jobs = Job.objects.values_list("pk", flat=True)
    Job.objects.filter(pk__in=list(jobs)).update(id=first_id(time.time() - 30 * DAY))
    walk = steady()
    walk.step(engine)
    walk.step(engine)
    assert left() == {}


def test_the_earlier_of_two_clocks_counts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(engine, State.SUCCEEDED, DAY)
    now, clock = engine.db.clock(), time.time
    for here, there in ((30 * DAY, 0.0), (0.0, 30 * DAY)):
        monkeypatch.setattr(time, "time", lambda: clock() + here)  # noqa: B023  (called in the loop)
        monkeypatch.setattr(engine.db, "clock", lambda: now + there)  # noqa: B023  (called in the loop)
        Pruner().step(engine)
        assert left() == {"succeeded": 1}
