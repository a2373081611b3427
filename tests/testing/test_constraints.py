"""Limits, rates, unique keys and expiry: the handles of enqueues, and tests that run jobs in place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from djjp import Limit, Rate, arun_many, job, run_many
from djjp.engine import Engine
from djjp.exceptions import JobCancelled
from djjp.jobs import RegisteredJob, registry
from djjp.models import Job, RateStart
from djjp.testing import captured_jobs, drain, inline
from tests.project.shop.jobs import add, greet, import_from

Declare = Callable[..., RegisteredJob[..., Any]]


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Declare a job, registered until the end of the test."""
    names: list[str] = []

    def declare(function: Any, **options: Any) -> RegisteredJob[..., Any]:
        declared = job(name=f"terms.{len(names)}", **options)(function)
        names.append(declared.name)
        return declared

    yield declare
    for name in names:
        del registry._jobs[name]


# Handles


def test_a_second_enqueue_returns_the_handle_of_the_first(engine: Engine) -> None:
    first = import_from.run_later("a")
    assert import_from.run_later("a") == first
    assert asyncio.run(import_from.arun_later("a")) == first
    assert import_from.using(unique_key="import-a", queue="other").run_later("b") == first
    assert import_from.run_later("b") != first
    assert Job.objects.count() == 2
    assert drain() == 2
    assert import_from.run_later("a") != first


def test_many_return_a_handle_for_each_call_in_order(engine: Engine) -> None:
    first = import_from.run_later("a")
    calls = [import_from.bind(key) for key in ("b", "a", "c", "b")]
    handles = run_many([*calls, add.bind(1)])
    assert handles[1] == first
    assert handles[3] == handles[0]
    assert len({handle.id for handle in handles}) == 4
    assert asyncio.run(arun_many(calls)) == handles[:4]
    assert Job.objects.count() == 4


def test_a_job_gets_the_handle_of_the_first_as_well(engine: Engine, declare: Declare) -> None:
    first = import_from.run_later("a")

    def enqueue() -> list[str]:
        return [str(import_from.run_later(key).id) for key in ("a", "b", "b")]

    async def aenqueue() -> list[str]:
        return [str((await import_from.arun_later(key)).id) for key in ("a", "b", "b")]

    for function in (enqueue, aenqueue):
        inside = declare(function, queue="inside").run_later()
        drain(["inside"])
        ids = inside.join(0)
        assert ids[0] == str(first.id)
        assert ids[1] == ids[2]
    assert Job.objects.filter(queue="imports").count() == 2


def test_a_job_that_was_not_enqueued_is_not_listed(engine: Engine) -> None:
    with captured_jobs() as jobs:
        import_from.run_later("a")
        import_from.run_later("a")
    assert len(jobs) == 1


# Drain


def test_a_drain_runs_jobs_under_a_limit_one_after_the_other(
    engine: Engine, declare: Declare
) -> None:
    ran: list[int] = []

    def note(number: int) -> None:
        ran.append(number)

    job = declare(note, limit=Limit("k"))
    run_many(job.bind(number) for number in range(4))
    assert drain() == 4
    assert ran == [0, 1, 2, 3]


def test_a_job_enqueued_inside_another_of_its_key_runs_after_it(
    engine: Engine, declare: Declare
) -> None:
    ran: list[str] = []

    def note(text: str, more: bool = False) -> None:
        if more:
            noted.run_later("inner")
        ran.append(text)

    noted = declare(note, limit=Limit("k"))
    with inline():
        noted.run_later("outer", more=True)
    assert ran == ["outer", "inner"]


def test_a_drain_leaves_throttled_jobs_scheduled(engine: Engine, declare: Declare) -> None:
    job = declare(lambda number: None, limit=Rate("k", 2, per=3600))
    run_many(job.bind(number) for number in range(5))
    assert drain() == 2
    assert Job.objects.filter(state="scheduled").count() == 3
    RateStart.objects.all().delete()
    assert drain() == 0


def test_a_drain_that_skips_delays_keeps_to_no_rate(engine: Engine, declare: Declare) -> None:
    job = declare(lambda number: None, limit=Rate("k", 2, per=3600))
    run_many(job.bind(number) for number in range(5))
    assert drain(skip_delays=True) == 5
    run_many(job.bind(number) for number in range(3))
    assert drain() <= 2
    assert drain(skip_delays=True) >= 1
    assert not Job.objects.exclude(state="succeeded").exists()


def test_a_drain_that_skips_delays_leaves_paused_queues_and_unknown_jobs(engine: Engine) -> None:
    for name in ("paused", "open"):
        greet.using(queue=name, run_after=timedelta(hours=1)).run_later(name)
    greet.using(queue="open", run_after=timedelta(hours=1)).run_later("renamed")
    Job.objects.filter(pk=Job.objects.latest("pk").pk).update(name="no.such.job")
    engine.queues.pause("paused", time.time(), None)
    assert drain(skip_delays=True) == 1
    assert Job.objects.filter(state="scheduled").count() == 2


def test_a_drain_does_not_run_expired_jobs(engine: Engine) -> None:
    handle = greet.run_later("a")
    Job.objects.update(expires_at="2026-01-01T00:00Z")
    assert drain() == 0
    with pytest.raises(JobCancelled, match="did not start in time"):
        handle.join(0)
    handle.retry()
    assert drain() == 1
