"""Jobs under a rate start in time or not at all: a late job is counted anew, and only once."""

from __future__ import annotations

import time

import pytest

from djjp import run_many
from djjp.consumer import maintenance
from djjp.consumer.consumer import Consumer
from djjp.consumer.rate_starts import LONGEST_MARGIN, StartDeadlines
from djjp.engine import START_MARGIN, Claimed, Engine
from djjp.ids import new_id
from djjp.models import Flag, Job, RateStart
from tests.project.shop.jobs import SPANS, acall_api, acall_blocking_api, add, anap, call_api, nap
from tests.support.processes import Processes, eventually

JOB = Claimed(new_id(), "test.job", "[]", 1, 0, Flag.RATE_LIMITED)
OTHER = Claimed(new_id(), "test.job", "[]", 1, 0, Flag.RATE_LIMITED)


def test_a_job_can_start_within_half_of_the_margin() -> None:
    starts = StartDeadlines()
    now = time.monotonic()
    starts.add(now + 60, [JOB], {JOB.id: 1.5})
    assert not starts.missed(JOB)
    starts.add(now - START_MARGIN / 2, [JOB], {JOB.id: 1.5})
    assert starts.missed(JOB)
    assert not starts.missed(OTHER)
    starts.forget([JOB])
    assert not starts.missed(JOB)


def test_the_margin_grows_when_deadlines_are_missed_and_shrinks_again() -> None:
    starts = StartDeadlines()
    for _ in range(20):
        starts.add(time.monotonic() - 60, [JOB], {JOB.id: 1.5})
        assert starts.unused([JOB, OTHER]) == [(JOB.id, 1.5)]
    assert START_MARGIN < starts.margin <= LONGEST_MARGIN
    for _ in range(100):
        starts.add(time.monotonic() + 60, [JOB], {JOB.id: 1.5})
        starts.unused([JOB])
    assert starts.margin == START_MARGIN


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_job_that_missed_its_start_deadline_is_released_and_counts_once(
    engine: Engine, concurrency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        maintenance, "TIDY_EVERY", 3600.0
    )  # which deletes starts that no longer count
    SPANS.unlink(missing_ok=True)
    quick, slow, job = (add, nap, call_api) if concurrency == "threads" else (add, anap, acall_api)
    # Many instant jobs, so that the consumer claims ahead; then a job for which the others wait.
    run_many(quick.using(priority=1).bind(1) for _ in range(100))
    slow.run_later(0.3)
    handle = job.run_later(7)
    Consumer(1, drain=True, concurrency=concurrency).run()
    handle.join(0)
    assert handle.attempts == 1
    assert len(SPANS.read_text().splitlines()) == 1
    # Counted from its first claim, it would count for too short a time. Its start is noted before its deadline is
    # looked at: the time of its first line can be later, by what a busy machine takes in between.
    started = Job.objects.get(pk=handle.id).started_at
    assert started is not None
    assert RateStart.objects.get().until >= started.timestamp() + 0.5


def test_a_job_that_waited_for_the_event_loop_is_counted_anew(
    engine: Engine, processes: Processes
) -> None:
    """The first job blocks the loop for longer than the margin while two more are dispatched to it."""
    handles = run_many(acall_blocking_api.bind(0.45 * (number == 0)) for number in range(3))
    processes.consumer("--concurrency", "asyncio")
    eventually(lambda: Job.objects.filter(state="succeeded").count() == 3)
    blocking, *others = (Job.objects.get(pk=handle.id) for handle in handles)
    assert blocking.finished_at is not None
    for job in others:
        assert job.started_at is not None
        assert job.started_at >= blocking.finished_at
