"""Large arguments and results: a consumer holds and writes a bounded number of bytes at a time."""

from __future__ import annotations

import subprocess

import pytest

from djjp import run_many
from djjp.consumer.batch import BATCH_SIZE, bounded
from djjp.consumer.consumer import Consumer
from djjp.engine import Claimed, Engine, Failure, Outcome
from djjp.ids import new_id
from djjp.models import Job, State
from tests.project.shop.jobs import add
from tests.support.jobs import registered
from tests.support.processes import Processes


def outcome(size: int, failure: Failure | None = None) -> Outcome:
    job = Claimed(new_id(), "test.job", "{}", 1, 0, claim=1)
    return Outcome(job, State.SUCCEEDED, 0.0, 1.0, result="x" * size, failure=failure)


def test_a_turn_writes_outcomes_up_to_a_size() -> None:
    small = [outcome(10) for _ in range(1000)]
    assert bounded(small) is small
    large = [outcome(BATCH_SIZE // 3) for _ in range(10)]
    assert bounded(large) == large[:3]
    assert bounded([outcome(2 * BATCH_SIZE), *small])[1:] == []
    failures = [outcome(0, Failure("E", "", "x" * (BATCH_SIZE // 2))) for _ in range(5)]
    assert len(bounded(failures)) == 2


def test_results_larger_than_one_turn_are_all_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.consumer.batch.BATCH_SIZE", 50_000)
    with registered("test.large", lambda: "x" * 40_000) as function:
        handles = run_many(function.bind() for _ in range(12))
        assert Consumer(12, drain=True).run()
    assert {len(handle.join(0)) for handle in handles} == {40_000}


def test_after_a_claim_of_large_jobs_none_is_claimed_ahead(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.engine.payloads.CLAIM_BYTES", 200_000)
    monkeypatch.setattr("djjp.consumer.claiming.AHEAD_SIZE", 100_000)
    held: list[int] = []
    with registered("test.sized", lambda text: text[:1]) as function:
        run_many(add.using(priority=9).bind(1) for _ in range(300))
        run_many(function.bind("x" * 50_000) for _ in range(40))
        consumer = Consumer(2, drain=True)
        hold = consumer._ledger.hold

        def spy(jobs: list[Claimed]) -> None:
            hold(jobs)
            held.append(sum(len(job.arguments) for job in consumer._ledger.held()))

        consumer._ledger.hold = spy  # type: ignore[assignment, method-assign]
        assert consumer.run()
    assert set(Job.objects.values_list("state", flat=True)) == {"succeeded"}
    assert max(held) <= 350_000


@pytest.mark.long
def test_a_crowd_of_large_jobs_behind_quick_ones_fits_into_little_memory(
    engine: Engine, processes: Processes
) -> None:
    text = "x" * 2_000_000
    run_many(add.using(priority=9).bind(1) for _ in range(2000))
    for _ in range(15):
        run_many(add.bind(text) for _ in range(10))  # type: ignore[call-overload]  # it fails: large
    consumer = processes.start("start_consumer", "--drain", DJJP_TEST_LOG="CRITICAL")
    peak = 0
    while consumer.poll() is None:
        try:
            with open(f"/proc/{consumer.pid}/status") as status:  # noqa: PTH123  (it may be gone)
                lines = [line.split() for line in status if line.startswith("VmHWM")]
        except FileNotFoundError:
            break
        peak = max([peak, *(int(line[1]) for line in lines)])
        try:
            consumer.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    assert consumer.wait() == 0
    assert Job.objects.filter(finished_at__isnull=False).count() == 2150
    assert peak < 300_000, f"{peak} kB"
