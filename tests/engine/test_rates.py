"""Rates in the queue's rows: jobs over their rate are throttled, and start in their order."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db.models import F
from django.utils import timezone

from djjp.engine import START_MARGIN, Claimed, Engine, Outcome
from djjp.engine.limits import BLOCK_BATCH
from djjp.engine.rates import MAX_DELAY, _next_permits
from djjp.engine.starts import SLICES
from djjp.models import FINISHED, Flag, Job, RateStart, State
from tests.support.engine_calls import NOW, at_once, done, enqueue, row, take

MINUTE = 60.0


def rated(
    engine: Engine, count: int = 1, most: int = 2, per: float = MINUTE, /, **given: Any
) -> list[UUID]:
    """Enqueue jobs under a rate."""
    flags = Flag.RATE_LIMITED | given.pop("flags", 0)
    terms = {"limit_key": given.pop("key", "k"), "limit_max": most, "limit_per": per}
    return enqueue(engine, count, flags=flags, **terms, **given)


def ids(jobs: Iterable[Claimed]) -> list[UUID]:
    return [job.id for job in jobs]


def due(jobs: Iterable[UUID]) -> list[float]:
    """Return the number of seconds until each of these scheduled jobs is due."""
    scheduled = Job.objects.filter(state="scheduled").values_list("id", "run_after")
    found = {id: at for id, at in scheduled if at is not None}
    now = timezone.now()
    return [(found[id] - now).total_seconds() for id in jobs]


def is_due_after_a_minute(seconds: float, began: float) -> bool:
    """Return whether a job is due a minute after a start that was counted since `began`."""
    passed = time.monotonic() - began
    return -passed - 0.1 <= seconds - (MINUTE + START_MARGIN) <= 0.1


def pass_by(engine: Engine, seconds: float) -> None:
    """Let time pass, for throttled jobs and for counted starts."""
    RateStart.objects.update(until=F("until") - seconds)
    for job in Job.objects.filter(state="scheduled"):
        job.run_after = (job.run_after or timezone.now()) - timedelta(seconds=seconds)
        job.save(using=engine.db.alias, update_fields=["run_after"])
    engine.jobs.promote(time.time())


def test_no_more_jobs_start_than_the_rate_and_the_rest_are_throttled_as_if_never_claimed(
    engine: Engine,
) -> None:
    one, two, three, four, five = rated(engine, 5)
    began = time.monotonic()
    assert ids(take(engine)) == [one, two]
    waiting = row(three)
    assert [waiting[f] for f in ("state", "attempts", "consumer", "started_at")] == [
        *("scheduled", 0, None, None)
    ]
    step = (MINUTE + START_MARGIN) / 2
    first, second, third = due([three, four, five])
    assert is_due_after_a_minute(first, began)
    assert (second - first, third - second) == pytest.approx((step, step), abs=0.01)


def test_throttled_jobs_start_in_their_order(engine: Engine) -> None:
    mine = rated(engine, 6)
    started = ids(take(engine))
    for _ in range(4):
        pass_by(engine, (MINUTE + 2 * START_MARGIN) / 2)
        started += ids(take(engine))
    assert started[:4] == mine[:4]
    assert len(started) <= 6


def test_a_new_job_is_throttled_behind_the_others_even_with_free_permits(engine: Engine) -> None:
    *_, third = rated(engine, 3)
    take(engine)
    RateStart.objects.all().delete()
    [new] = rated(engine)
    assert take(engine) == []
    assert due([third])[0] < due([new])[0]
    engine.control.cancel([third, new], NOW)
    [newer] = rated(engine)
    assert ids(take(engine)) == [newer], "nobody is in line any more"


@pytest.mark.parametrize("what", ["enqueued for later", "tried again later", "a limit's"])
def test_a_job_scheduled_for_its_own_time_does_not_count_as_throttled(
    engine: Engine, what: str
) -> None:
    later = time.time() + 86_400
    if what == "enqueued for later":
        rated(engine, state=State.SCHEDULED, run_after=later)
    elif what == "tried again later":
        rated(engine)
        [job] = take(engine)
        take(engine, "one", Outcome(job, State.SCHEDULED, NOW, NOW, run_after=later))
    else:
        terms = {"flags": Flag.LIMITED, "limit_key": "k", "limit_max": 1}
        enqueue(engine, state=State.SCHEDULED, run_after=later, **terms)
    [new] = rated(engine)
    assert ids(take(engine)) == [new]


def test_a_throttled_job_that_is_retried_later_does_not_count_as_throttled(engine: Engine) -> None:
    mine = rated(engine, 3)
    take(engine)
    pass_by(engine, 2 * MINUTE)
    [job] = take(engine)
    assert job.id == mine[2]
    later = time.time() + 86_400
    take(engine, "one", Outcome(job, State.SCHEDULED, NOW, NOW, run_after=later))
    [new] = rated(engine)
    assert ids(take(engine)) == [new]


def test_a_throttled_job_that_has_ended_is_throttled_anew(engine: Engine) -> None:
    *_, last = rated(engine, 3)
    take(engine)
    engine.control.cancel([last], NOW)
    engine.control.retry([last])
    assert (row(last)["flags"], row(last)["run_after"]) == (Flag.RATE_LIMITED, None)


def test_a_throttled_job_that_is_claimed_too_early_keeps_its_position(engine: Engine) -> None:
    """As by another clock: it is not moved behind the other throttled jobs."""
    mine = rated(engine, 30)
    began = time.monotonic()
    take(engine)
    Job.objects.filter(pk=mine[2]).update(run_after=timezone.now())
    engine.jobs.promote(time.time())
    assert take(engine) == []
    early, *others = due(mine[2:])
    assert is_due_after_a_minute(early, began)
    assert early <= min(others)


def test_overdue_throttled_jobs_are_scheduled_anew(engine: Engine) -> None:
    """All are due at once, and many small claims take them; yet each permit is given once."""
    rated(engine, 200)
    take(engine)
    pass_by(engine, 100_000)
    claims = 0
    while engine.jobs.has_ready(None, []):
        take(engine, limit=1)
        claims += 1
    assert claims == 3, "two have started, and with the third all were put off"
    times = sorted(due(Job.objects.filter(state="scheduled").values_list("pk", flat=True)))
    assert len(times) == 196
    assert all(later - early > MINUTE - 1 for early, later in zip(times, times[2:], strict=False))


def test_ready_jobs_over_the_rate_are_throttled_together(engine: Engine) -> None:
    rated(engine, BLOCK_BATCH + 10)
    [plain] = enqueue(engine)
    assert len(take(engine, limit=3)) == 2
    assert Job.objects.filter(state="scheduled").count() == BLOCK_BATCH + 1
    assert ids(take(engine, limit=8)) == [plain]


def test_no_job_is_throttled_beyond_the_end_of_time(engine: Engine) -> None:
    mine = rated(engine, 500, 1, 366 * 86_400)
    take(engine)
    assert due(mine[-1:]) == [pytest.approx(MAX_DELAY, abs=60)]


def test_each_key_has_its_own_rate(engine: Engine) -> None:
    mine = rated(engine, 1, 1)
    other = enqueue(engine, flags=Flag.RATE_LIMITED, limit_key="l", limit_max=1, limit_per=MINUTE)
    assert ids(take(engine)) == [*mine, *other]


# Which starts count


def test_a_start_counts_from_the_latest_time_at_which_it_can_happen(engine: Engine) -> None:
    rated(engine)
    before = time.time()
    with engine.db.transaction():
        screened = engine.admission.admit(engine.jobs.claim("one", 1, NOW), start_margin=3.0)
    [until] = screened.start_deadlines.values()
    assert before - 0.1 <= until - (3 + MINUTE) <= time.time() + 0.1
    assert until == RateStart.objects.get().until


def test_a_job_released_before_its_start_does_not_count(engine: Engine) -> None:
    rated(engine, 2, 2)
    with engine.db.transaction():
        screened = engine.admission.admit(engine.jobs.claim("one", 2, NOW))
    with engine.db.transaction():
        engine.jobs.release("one", screened.jobs[:1])
        engine.rates.forget_starts(
            [(screened.jobs[0].id, screened.start_deadlines[screened.jobs[0].id])]
        )
    assert RateStart.objects.count() == 1
    assert ids(take(engine)) == ids(screened.jobs[:1])
    with (
        engine.db.transaction()
    ):  # a start that was deleted is not deleted again in place of another
        engine.rates.forget_starts([(screened.jobs[0].id, 1.5)])
    assert RateStart.objects.count() == 2


def test_a_job_released_before_its_start_is_behind_no_other(engine: Engine) -> None:
    first, second, *_ = rated(engine, 9)
    with engine.db.transaction():
        screened = engine.admission.admit(engine.jobs.claim("one", 9, NOW))
    with engine.db.transaction():
        engine.jobs.release("one", screened.jobs)
        engine.rates.forget_starts([*screened.start_deadlines.items()])
    assert ids(take(engine)) == [first, second]


def test_starts_that_no_longer_count_are_deleted(engine: Engine) -> None:
    rated(engine, 2)
    take(engine)
    assert engine.rates.prune(10) == 0
    RateStart.objects.create(key="old", until=time.time() - 1)
    RateStart.objects.create(key="older", until=time.time() - 9)
    assert [engine.rates.prune(1) for _ in range(3)] == [1, 1, 0]
    assert RateStart.objects.count() == 2


# Concurrency


def most_in_any(window: float, times: Sequence[float]) -> int:
    """Return the largest number of these times within any span of that length."""
    times = sorted(times)
    return max(sum(start <= at < start + window for at in times) for start in times)


def test_several_consumers_together_keep_a_rate_and_nearly_reach_it(engine: Engine) -> None:
    most, per, slack, count = 10, 0.3, 0.3, 40
    rated(engine, count, most, per)
    times: list[tuple[UUID, float]] = []
    stalls: list[float] = []  # the rounds of a machine that is busy with others

    def consume(engine: Engine, name: str) -> None:
        taken: list[Claimed] = []
        while Job.objects.exclude(state__in=FINISHED).exists():
            began = time.monotonic()
            with engine.db.transaction():
                engine.jobs.finish(name, [done(job) for job in taken])
                engine.jobs.promote(time.time())
                screened = engine.admission.admit(
                    engine.jobs.claim(name, 4, NOW), start_margin=slack
                )
            taken, now = screened.jobs, time.time()
            if time.monotonic() - began > slack:
                with engine.db.transaction():
                    engine.jobs.release(name, taken)
                    engine.rates.forget_starts([*screened.start_deadlines.items()])
                taken = []
            times.extend((job.id, now) for job in taken)
            time.sleep(0.01)
            if (passed := time.monotonic() - began) > 0.1:
                stalls.append(passed)

    began = time.monotonic()
    at_once(*(partial(consume, name=name) for name in ("one", "two", "three")))
    took = time.monotonic() - began
    assert len({id for id, _ in times}) == len(times) == count
    assert most_in_any(per, [at for _, at in times]) <= most
    assert took < 2 * count / most * (per + slack) + sum(stalls), (took, stalls)


# Many starts


def test_the_rows_of_a_rate_do_not_grow_with_its_starts(engine: Engine) -> None:
    """Neither those that are kept nor those that a turn reads."""
    for _ in range(20):
        rated(engine, 100, 100_000)
        assert len(take(engine, limit=100)) == 100
        pass_by(engine, 0.001)

    counts = RateStart.objects.values_list("count", flat=True)
    assert sum(counts) == 2000
    assert len(counts) <= 20 + 1


def test_starts_that_were_counted_one_by_one_are_merged(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(type(engine.db), "clock", lambda db: now)
    later = now + MINUTE
    RateStart.objects.bulk_create(
        RateStart(key="k", until=later - MINUTE * number / 5000) for number in range(4900)
    )
    rated(engine, 200, 5000)

    assert len(take(engine, limit=200)) == 100

    assert sum(RateStart.objects.values_list("count", flat=True)) == 5000
    assert RateStart.objects.count() <= SLICES + 2


def test_no_span_has_more_starts_than_a_rate_of_many_allows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, per, now = 1000, 10.0, time.time()
    monkeypatch.setattr(type(engine.db), "clock", lambda db: now)
    chance = random.Random(4)
    starts: list[float] = []
    for _ in range(60):
        wanted = chance.randrange(150)
        rated(engine, wanted, most, per)
        starts += [now] * len(take(engine, limit=wanted))
        Job.objects.all().delete()  # the throttled ones, so that each round is decided by the starts alone
        now += chance.random()

    first = 0
    for last, at in enumerate(starts):
        while starts[first] <= at - per:
            first += 1
        assert last - first < most
    # And the rate is used: a slice of the span at most is lost.
    assert len(starts) > 0.9 * most * (now - starts[0]) / per


def test_a_job_of_a_rate_of_many_that_is_released_before_its_start_does_not_count(
    engine: Engine,
) -> None:
    rated(engine, 10, 1000)
    jobs = engine.jobs.claim("c", 10, NOW)
    admitted = engine.admission.admit(jobs)
    released = jobs[:4]
    engine.jobs.release("c", released)
    engine.rates.forget_starts([(job.id, admitted.start_deadlines[job.id]) for job in released])

    assert sum(RateStart.objects.values_list("count", flat=True)) == 6


def test_the_next_permits_are_those_of_the_starts_that_stop_counting_first() -> None:
    counted = {30.0: 5, 10.0: 3, 20.0: 2}

    assert _next_permits(counted, 10, 4) == [10, 10, 10, 20]
    assert _next_permits(counted, 8, 4) == [10, 20, 20, 30]  # two of them are over the rate
    assert _next_permits(counted, 2, 4) == [30, 30]


def test_a_clock_that_was_ahead_does_not_shut_a_rate(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    *_, late = rated(engine, 3)
    take(engine)
    pass_by(engine, -366 * 86_400.0)

    assert engine.rates.put_right("") == (["k"], None)
    assert engine.rates.put_right("") == ([], None)

    assert due([late])[0] <= 0
    engine.jobs.promote(time.time())
    assert late in ids(take(engine))
    assert not RateStart.objects.filter(until__gt=time.time() + 2 * MINUTE).exists()
    [logged] = [record.getMessage() for record in caplog.records]
    assert "by a clock that was ahead; they are forgotten" in logged


def test_throttled_jobs_of_each_rate_are_put_right_a_batch_at_a_time_and_in_order(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.engine.rates.RIGHTED", 2)
    keys = {}
    for key in ("a", "b", "c"):
        keys[key] = rated(engine, 5, key=key)
        take(engine)
    pass_by(engine, -7_200.0)
    engine.control.cancel(keys["b"][2:], time.time())

    assert engine.rates.put_right("a") == (["c"], None)
    assert engine.rates.put_right("") == (["a"], None)

    assert [seconds <= 0 for seconds in due(keys["a"][2:])] == [True, True, False]


def test_jobs_that_wait_for_long_in_good_order_are_left_alone(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    mine = rated(engine, 300)
    take(engine, limit=300)
    pass_by(engine, MINUTE + 1)
    before = due(mine[4:])

    assert engine.rates.put_right("") == ([], None)
    rated(engine)
    take(engine)

    assert due(mine[4:]) == pytest.approx(before, abs=5)
    assert caplog.records == []
