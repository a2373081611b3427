"""Rates in the queue's rows: what is over its rate gets a place in a line, and the line moves on."""

from __future__ import annotations

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
from djjp.engine.rates import MAX_DELAY
from djjp.models import FINISHED, Flag, Job, RateStart, State
from tests.support.engine_calls import NOW, at_once, done, enqueue, row, take

MINUTE = 60.0


def rated(
    engine: Engine, count: int = 1, most: int = 2, per: float = MINUTE, /, **given: Any
) -> list[UUID]:
    """Enqueue jobs under a rate."""
    flags = Flag.RATE_LIMITED | given.pop("flags", 0)
    terms = {"limit_key": "k", "limit_max": most, "limit_per": per}
    return enqueue(engine, count, flags=flags, **terms, **given)


def ids(jobs: Iterable[Claimed]) -> list[UUID]:
    return [job.id for job in jobs]


def due(jobs: Iterable[UUID]) -> list[float]:
    """In how many seconds each of these scheduled jobs is due."""
    found = dict(Job.objects.filter(state="scheduled").values_list("id", "run_after"))
    now = timezone.now()
    return [(found[id] - now).total_seconds() for id in jobs]


def pass_by(engine: Engine, seconds: float) -> None:
    """Let so much time pass: for the line, and for what has started."""
    RateStart.objects.update(until=F("until") - seconds)
    for job in Job.objects.filter(state="scheduled"):
        job.run_after = (job.run_after or timezone.now()) - timedelta(seconds=seconds)
        job.save(using=engine.db.alias, update_fields=["run_after"])
    engine.jobs.promote(time.time())


def test_so_many_start_and_the_rest_stand_in_line_as_if_never_claimed(engine: Engine) -> None:
    one, two, three, four, five = rated(engine, 5)
    assert ids(take(engine)) == [one, two]
    waiting = row(three)
    assert [waiting[f] for f in ("state", "attempts", "consumer", "started_at")] == [
        *("scheduled", 0, None, None)
    ]
    step = (MINUTE + START_MARGIN) / 2
    first, second, third = due([three, four, five])
    assert first == pytest.approx(MINUTE + START_MARGIN, abs=1)
    assert (second - first, third - second) == pytest.approx((step, step), abs=0.01)


def test_the_line_moves_in_its_order(engine: Engine) -> None:
    mine = rated(engine, 6)
    started = ids(take(engine))
    for _ in range(4):
        pass_by(engine, (MINUTE + 2 * START_MARGIN) / 2)
        started += ids(take(engine))
    assert started[:4] == mine[:4]
    assert len(started) <= 6


def test_one_that_comes_new_stands_behind_the_line_though_there_is_room(engine: Engine) -> None:
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
def test_what_waits_for_a_time_of_its_own_is_no_line(engine: Engine, what: str) -> None:
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


def test_one_that_was_put_off_and_tried_again_later_is_no_line(engine: Engine) -> None:
    mine = rated(engine, 3)
    take(engine)
    pass_by(engine, 2 * MINUTE)
    [job] = take(engine)
    assert job.id == mine[2]
    later = time.time() + 86_400
    take(engine, "one", Outcome(job, State.SCHEDULED, NOW, NOW, run_after=later))
    [new] = rated(engine)
    assert ids(take(engine)) == [new]


def test_one_that_was_put_off_and_has_ended_stands_in_line_anew(engine: Engine) -> None:
    *_, last = rated(engine, 3)
    take(engine)
    engine.control.cancel([last], NOW)
    engine.control.retry([last])
    assert (row(last)["flags"], row(last)["run_after"]) == (Flag.RATE_LIMITED, None)


def test_one_that_comes_a_moment_too_early_keeps_its_place(engine: Engine) -> None:
    """By another clock, say: it does not go to the end of the line."""
    mine = rated(engine, 30)
    take(engine)
    Job.objects.filter(pk=mine[2]).update(run_after=timezone.now())
    engine.jobs.promote(time.time())
    assert take(engine) == []
    early, *others = due(mine[2:])
    assert early == pytest.approx(MINUTE + START_MARGIN, abs=1)
    assert early <= min(others)


def test_a_line_that_nobody_served_for_a_while_is_drawn_up_anew(engine: Engine) -> None:
    """All of it is due at once, and comes in many small claims; yet each place is given once."""
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


def test_ready_ones_that_would_be_claimed_in_vain_are_put_off_together(engine: Engine) -> None:
    rated(engine, BLOCK_BATCH + 10)
    [plain] = enqueue(engine)
    assert len(take(engine, limit=3)) == 2
    assert Job.objects.filter(state="scheduled").count() == BLOCK_BATCH + 1
    assert ids(take(engine, limit=8)) == [plain]


def test_a_line_is_never_so_long_that_no_calendar_holds_it(engine: Engine) -> None:
    mine = rated(engine, 500, 1, 366 * 86_400)
    take(engine)
    assert due(mine[-1:]) == [pytest.approx(MAX_DELAY, abs=60)]


def test_keys_have_each_their_rate(engine: Engine) -> None:
    mine = rated(engine, 1, 1)
    other = enqueue(engine, flags=Flag.RATE_LIMITED, limit_key="l", limit_max=1, limit_per=MINUTE)
    assert ids(take(engine)) == [*mine, *other]


# What counts


def test_a_start_counts_from_the_last_moment_at_which_it_may_begin(engine: Engine) -> None:
    rated(engine)
    with engine.db.transaction():
        screened = engine.admission.admit(engine.jobs.claim("one", 1, NOW), start_margin=3.0)
    [until] = screened.start_deadlines.values()
    assert until == pytest.approx(time.time() + 3 + MINUTE, abs=1)
    assert until == RateStart.objects.get().until


def test_one_that_is_given_back_before_it_begins_counts_for_nothing(engine: Engine) -> None:
    rated(engine, 2, 2)
    with engine.db.transaction():
        screened = engine.admission.admit(engine.jobs.claim("one", 2, NOW))
    with engine.db.transaction():
        engine.jobs.release("one", screened.jobs[:1])
        engine.rates.forget_starts(
            {screened.jobs[0].id: screened.start_deadlines[screened.jobs[0].id]}
        )
    assert RateStart.objects.count() == 1
    assert ids(take(engine)) == ids(screened.jobs[:1])
    with (
        engine.db.transaction()
    ):  # what was forgotten is not forgotten again in the place of another
        engine.rates.forget_starts({screened.jobs[0].id: 1.5})
    assert RateStart.objects.count() == 2


def test_one_that_is_given_back_before_it_begins_stands_behind_nobody(engine: Engine) -> None:
    first, second, *_ = rated(engine, 9)
    with engine.db.transaction():
        screened = engine.admission.admit(engine.jobs.claim("one", 9, NOW))
    with engine.db.transaction():
        engine.jobs.release("one", screened.jobs)
        engine.rates.forget_starts(screened.start_deadlines)
    assert ids(take(engine)) == [first, second]


def test_starts_that_count_no_more_are_forgotten(engine: Engine) -> None:
    rated(engine, 2)
    take(engine)
    assert engine.rates.prune(10) == 0
    RateStart.objects.create(key="old", until=time.time() - 1)
    RateStart.objects.create(key="older", until=time.time() - 9)
    assert [engine.rates.prune(1) for _ in range(3)] == [1, 1, 0]
    assert RateStart.objects.count() == 2


# Side by side


def most_in_any(window: float, times: Sequence[float]) -> int:
    """The largest number of these times within any span of that length."""
    times = sorted(times)
    return max(sum(start <= at < start + window for at in times) for start in times)


def test_several_consumers_keep_a_rate_together_and_come_close_to_it(engine: Engine) -> None:
    most, per, slack, count = 10, 0.3, 0.3, 40
    rated(engine, count, most, per)
    times: list[tuple[UUID, float]] = []

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
                    engine.rates.forget_starts(screened.start_deadlines)
                taken = []
            times.extend((job.id, now) for job in taken)
            time.sleep(0.01)

    began = time.monotonic()
    at_once(*(partial(consume, name=name) for name in ("one", "two", "three")))
    took = time.monotonic() - began
    assert len({id for id, _ in times}) == len(times) == count
    assert most_in_any(per, [at for _, at in times]) <= most
    assert took < 2 * count / most * (per + slack), took
