"""What each verb of the queue promises, stated once. The fixture `queue` enrols each database."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction
from django.test.utils import CaptureQueriesContext, override_settings

from djjp import codec
from djjp.engine import Claimed, Engine, Failure, Outcome
from djjp.engine.sqlite.database import SQLiteDatabase
from djjp.ids import new_id
from djjp.models import FINISHED, Attempt, Job, OnCrash, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    everything,
    failed,
    finish,
    one,
    release,
    row,
)
from tests.support.factories import new_job
from tests.support.projects import alias_for

# Enqueue


# What stands for something else in the text that COPY reads.
ODD_TEXTS = [
    "\\N",
    "\\.",
    "\\",
    "a\tb",
    "a\nb\r\n",
    "\\t\\\\n",
    "é\u2028\x85\x1f😀",
    "'\";--%s",
    " ",
]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_any_text_comes_into_its_row_alone_and_in_a_chunk(engine: Engine, text: str) -> None:
    given = {"name": text, "queue": text, "arguments": text, "created_at": NOW}
    jobs = [new_job(**given, priority=n, run_after=NOW + n if n else None) for n in range(4)]
    engine.jobs.enqueue(jobs[0])
    engine.jobs.enqueue_many(jobs[1:])

    for job in jobs:
        found = row(job.id)
        assert {key: found[key] for key in ("name", "queue", "arguments")} == dict.fromkeys(
            ("name", "queue", "arguments"), text
        )
        assert found["priority"] == job.priority
        assert found["created_at"] == datetime.fromtimestamp(NOW, UTC)
        due = None if job.run_after is None else datetime.fromtimestamp(job.run_after, UTC)
        assert found["run_after"] == due


def test_an_enqueued_job_is_a_row_with_all_that_was_given(engine: Engine) -> None:
    job = new_job(
        name="shop.mail",
        queue="mail",
        priority=-7,
        state=State.SCHEDULED,
        run_after=NOW + 60,
        created_at=NOW,
        arguments='{"args":[1],"kwargs":{"copy_to":"a@b.c"}}',
        on_crash=OnCrash.FAIL,
    )
    engine.jobs.enqueue(job)
    assert row(job.id) == {
        "id": job.id,
        "name": "shop.mail",
        "queue": "mail",
        "priority": -7,
        "state": "scheduled",
        "attempts": 0,
        "rescues": 0,
        "run_after": datetime.fromtimestamp(NOW + 60, UTC),
        "created_at": datetime.fromtimestamp(NOW, UTC),
        "started_at": None,
        "finished_at": None,
        "consumer": None,
        "arguments": '{"args":[1],"kwargs":{"copy_to":"a@b.c"}}',
        "result": None,
        "on_crash": "fail",
        "unique_key": None,
        "limit_key": None,
        "limit_max": None,
        "limit_per": None,
        "expires_at": None,
        "cancel_requested": False,
        "reason": None,
        "progress_done": None,
        "progress_total": None,
        "flags": 0,
        "pipeline": None,
        "waits_for": 0,
        "input": None,
    }


def test_many_at_once_are_written_like_each_alone(engine: Engine) -> None:
    given = {"queue": "mail", "priority": 3, "created_at": NOW, "run_after": NOW, "arguments": "[]"}
    alone, together = new_job(**given), new_job(**given)
    engine.jobs.enqueue(alone)
    engine.jobs.enqueue_many([together])
    assert row(together.id) | {"id": None} == row(alone.id) | {"id": None}


def test_an_enqueue_is_one_statement(engine: Engine) -> None:
    engine.jobs.enqueue(new_job())
    for state in (State.READY, State.SCHEDULED):
        job = new_job(state=state, run_after=NOW)
        with CaptureQueriesContext(engine.db.connection) as captured:
            engine.jobs.enqueue(job)
        assert len(captured) == 1, captured.captured_queries


def test_an_enqueue_is_seen_by_others_at_once(engine: Engine) -> None:
    job = new_job()
    engine.jobs.enqueue(job)
    [seen] = at_once(lambda _: Job.objects.filter(id=job.id).exists())
    assert seen


def test_an_enqueue_inside_a_transaction_ends_with_it(engine: Engine) -> None:
    kept, lost = new_job(), new_job()
    with transaction.atomic(using=engine.db.alias):
        engine.jobs.enqueue(kept)

    def roll_back() -> None:
        with transaction.atomic(using=engine.db.alias):
            engine.jobs.enqueue(lost)
            engine.jobs.enqueue_many([new_job(), new_job()])
            raise KeyError

    with pytest.raises(KeyError):
        roll_back()
    assert [job.id for job in Job.objects.all()] == [kept.id]


def test_many_are_written_all_or_not_at_all(engine: Engine) -> None:
    with pytest.raises(IntegrityError):
        engine.jobs.enqueue_many([new_job(), new_job(), new_job(name=None), new_job()])
    assert not Job.objects.exists()


def test_what_is_enqueued_again_with_the_same_id_is_there_once(engine: Engine) -> None:
    """As when a call is repeated because nobody knows whether its commit took place."""
    job, other = new_job(), new_job()
    engine.jobs.enqueue(job)
    engine.jobs.enqueue(job)
    engine.jobs.enqueue_many([job, other])
    assert {row.id for row in Job.objects.all()} == {job.id, other.id}


def test_a_refused_chunk_leaves_the_transaction_around_it_usable(engine: Engine) -> None:
    before, after = new_job(), new_job()
    with transaction.atomic(using=engine.db.alias):
        engine.jobs.enqueue(before)
        with pytest.raises(IntegrityError):
            engine.jobs.enqueue_many([new_job(), new_job(name=None)])
        engine.jobs.enqueue(after)
    assert {job.id for job in Job.objects.all()} == {before.id, after.id}


def test_no_jobs_at_all_may_be_enqueued(engine: Engine) -> None:
    engine.jobs.enqueue_many([])
    assert not Job.objects.exists()


HARD_TEXTS = {
    "NUL": codec.encode_value("a\0b\0", "x"),
    "beyond U+FFFF": codec.encode_value("a𝄞b\U0010ffff", "x"),
    "lone surrogate": codec.encode_value("a\ud800b", "x"),
    "raw non-ASCII": '"grüße 𝄞 \u2028 \x7f"',
    "control characters": codec.encode_value("".join(map(chr, range(32))), "x"),
    "quotes and backslashes": codec.encode_value("\\\"'%s%%$1?:x\\N\t", "x"),
    "empty": "",
    "looks like JSON null": "null",
    "5 MB": codec.encode_value("0123456789abcdé" * 350_000, "x"),
}


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_arguments_and_results_come_back_letter_by_letter(engine: Engine, text: str) -> None:
    alone, together = new_job(arguments=text), new_job(arguments=text)
    engine.jobs.enqueue(alone)
    engine.jobs.enqueue_many([together])
    jobs = claim(engine)
    assert [job.arguments == text for job in jobs] == [True, True]
    assert finish(engine, "one", *(done(job, text) for job in jobs)) == {alone.id, together.id}
    for id in (alone.id, together.id):
        assert row(id)["arguments"] == text
        assert row(id)["result"] == text


# Claim


def test_a_claimed_job_is_running_and_says_who_runs_it_since_when(engine: Engine) -> None:
    job = new_job(name="shop.mail", arguments='{"args":[7],"kwargs":{}}')
    engine.jobs.enqueue(job)
    before = row(job.id)
    [claimed] = claim(engine, "me")
    assert claimed == Claimed(job.id, "shop.mail", '{"args":[7],"kwargs":{}}', 1, 0)
    assert row(job.id) == before | {
        "state": "running",
        "consumer": "me",
        "started_at": datetime.fromtimestamp(NOW, UTC),
        "attempts": 1,
    }


def test_an_empty_queue_gives_nothing(engine: Engine) -> None:
    assert claim(engine) == []
    assert claim(engine, queues=["a"]) == []
    assert claim(engine, queues=["a", "b"]) == []


@pytest.mark.parametrize("queues", [None, ["default"], ["default", "other"]], ids=str)
def test_higher_priority_goes_first_and_within_it_the_elder(
    engine: Engine, queues: list[str] | None
) -> None:
    jobs = [new_job(priority=random.choice([-32768, -1, 0, 1, 32767])) for _ in range(60)]
    engine.jobs.enqueue_many(random.sample(jobs, len(jobs)))
    expected = [job.id for job in sorted(jobs, key=lambda job: (-job.priority, job.id))]
    claimed: list[UUID] = []
    while batch := claim(engine, limit=7, queues=queues):
        claimed += [job.id for job in batch]
    assert claimed == expected


def test_a_claim_takes_no_more_than_it_was_told(engine: Engine) -> None:
    enqueue(engine, 5)
    for limit, taken in [(0, 0), (1, 1), (3, 3), (10, 1)]:
        assert len(claim(engine, limit=limit)) == taken
    assert Job.objects.filter(state="running").count() == 5


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_only_a_ready_job_is_claimed(engine: Engine, state: State) -> None:
    [id] = enqueue(engine)
    Job.objects.filter(id=id).update(state=state)
    before = row(id)
    for queues in (None, ["default"], ["default", "other"]):
        assert claim(engine, queues=queues) == []
        assert not engine.jobs.has_ready(queues, [])
    assert row(id) == before


@pytest.mark.parametrize("queues", [None, ["a"], ["a", "b", "c"]], ids=["all", "one", "several"])
def test_claims_made_at_once_share_no_job_and_leave_none(
    engine: Engine, queues: list[str] | None
) -> None:
    ids = enqueue(engine, 300, queue="a")

    def take(consumer: str, own: Engine) -> list[Claimed]:
        mine: list[Claimed] = []
        while own.jobs.has_ready(queues, []):
            mine += claim(own, consumer, 7, queues=queues)
        return mine

    taken = at_once(*(partial(take, name) for name in ("one", "two", "three")))
    everything = [job.id for mine in taken for job in mine]
    assert sorted(everything) == ids
    assert {job.attempt for mine in taken for job in mine} == {1}
    for consumer, mine in zip(("one", "two", "three"), taken, strict=True):
        assert Job.objects.filter(consumer=consumer).count() == len(mine)


def test_a_claim_does_not_take_what_another_has_claimed_but_not_committed(engine: Engine) -> None:
    """Two turns that overlap: where the database lets them, the second passes over the first's rows."""
    ids = enqueue(engine, 4)
    claimed, go = threading.Event(), threading.Event()

    def first(own: Engine) -> list[Claimed]:
        try:
            with own.db.transaction():
                mine = own.jobs.claim("one", 2, NOW)
                claimed.set()
                go.wait()
            return mine
        finally:
            claimed.set()

    def second(own: Engine) -> list[Claimed]:
        claimed.wait()
        # On SQLite this waits for the write lock, which the first gives away in the meantime.
        threading.Timer(0.05, go.set).start()
        return claim(own, "two", 2)

    mine, theirs = at_once(first, second)
    assert [job.id for job in mine] == ids[:2]
    assert [job.id for job in theirs] == ids[2:]


# Queues and names


def _spread(engine: Engine, names: Sequence[str], each: int) -> list[UUID]:
    """Ready jobs in turn over the queues, with priorities in between; returns the global order."""
    jobs = [new_job(queue=name, priority=i % 3) for i in range(each) for name in names]
    engine.jobs.enqueue_many(jobs)
    return [job.id for job in sorted(jobs, key=lambda job: (-job.priority, job.id))]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_served_queues_are_claimed_in_the_global_order_and_others_never(
    engine: Engine, count: int
) -> None:
    served = [f"served-{number}" for number in range(count)]
    expected = _spread(engine, served, each=max(3, 60 // count))
    others = _spread(engine, ["other", "", "served", "SERVED-0", "served-0 "], each=6)
    claimed: list[UUID] = []
    while batch := claim(engine, limit=25, queues=served):
        claimed += [job.id for job in batch]
    assert claimed == expected
    assert not engine.jobs.has_ready(served, [])
    assert set(Job.objects.filter(state="ready").values_list("id", flat=True)) == set(others)


def test_a_thousand_queues_are_served_in_the_order_of_their_jobs(engine: Engine) -> None:
    served = [f"q{number}" for number in range(1000)]
    jobs = [new_job(queue=name, priority=number % 7) for number, name in enumerate(served)]
    engine.jobs.enqueue_many(jobs)
    assert engine.jobs.has_ready(served, ["unknown"])
    first = sorted(jobs, key=lambda job: (-job.priority, job.id))
    for start in (0, 300):
        claimed = claim(engine, limit=300, queues=served, exclude_names=["unknown"])
        assert [job.id for job in claimed] == [job.id for job in first[start : start + 300]]


def test_a_queue_that_is_named_twice_is_served_once(engine: Engine) -> None:
    ids = enqueue(engine, 3)
    assert [job.id for job in claim(engine, limit=2, queues=["default", "default"])] == ids[:2]


def test_a_consumer_of_no_queue_gets_nothing(engine: Engine) -> None:
    enqueue(engine)
    assert claim(engine, queues=[]) == []
    assert not engine.jobs.has_ready([], [])


@pytest.mark.parametrize("queues", [None, ["a"], ["a", "b"]], ids=["all", "one", "several"])
def test_jobs_of_names_that_are_unknown_here_are_passed_over(
    engine: Engine, queues: list[str] | None
) -> None:
    strangers = enqueue(engine, 5, queue="a", name="theirs", priority=9)
    enqueue(engine, 1, queue="a", name="theirs too", priority=9)
    ours = enqueue(engine, 2, queue="a", name="ours")
    without = ["theirs", "theirs too"]
    assert engine.jobs.has_ready(queues, without)
    assert [job.id for job in claim(engine, queues=queues, exclude_names=without)] == ours
    assert not engine.jobs.has_ready(queues, without)
    assert claim(engine, queues=queues, exclude_names=without) == []
    assert engine.jobs.has_ready(queues, ["theirs too"])
    assert [
        job.id for job in claim(engine, queues=queues, exclude_names=["theirs too"])
    ] == strangers


def test_looking_for_ready_jobs_agrees_with_claiming_them(engine: Engine) -> None:
    """Whatever is asked for, `has_ready` says what `claim` then does."""
    choose = random.Random(7)
    queues = ["a", "b", "c"]
    for _ in range(40):
        enqueue(engine, choose.randrange(2), queue=choose.choice(queues), name=choose.choice("xyz"))
        served = choose.choice([None, ["a"], ["b", "c"], ["c", "nothing"]])
        without = choose.choice([[], ["x"], ["x", "y"]])
        promised = engine.jobs.has_ready(served, without)
        assert promised == bool(claim(engine, limit=1, queues=served, exclude_names=without))


def test_looking_takes_no_lock_and_changes_nothing(engine: Engine) -> None:
    [id] = enqueue(engine)
    before = row(id)
    with engine.db.transaction():
        engine.jobs.claim("one", 1, NOW)
        # Another connection looks while this one holds the row.
        [seen] = at_once(lambda own: own.jobs.has_ready(None, []))
        assert seen
        transaction.set_rollback(True, using=engine.db.alias)
    assert row(id) == before


# Time


def test_a_scheduled_job_waits_until_it_is_promoted(engine: Engine) -> None:
    [id] = enqueue(engine, state=State.SCHEDULED, run_after=NOW)
    assert not engine.jobs.has_ready(None, [])
    assert claim(engine) == []
    assert engine.jobs.promote(NOW) == 1
    assert engine.jobs.has_ready(None, [])
    assert [job.id for job in claim(engine)] == [id]


def test_only_what_is_due_is_promoted(engine: Engine) -> None:
    due = [
        enqueue(engine, state=State.SCHEDULED, run_after=NOW + wait)[0]
        for wait in (-86_400, -1e-6, 0)
    ]
    later = [
        enqueue(engine, state=State.SCHEDULED, run_after=NOW + wait)[0] for wait in (1e-6, 0.5, 1e9)
    ]
    blocked = enqueue(engine, state=State.BLOCKED, run_after=NOW - 1)
    running = enqueue(engine, state=State.RUNNING, run_after=NOW - 1)
    assert engine.jobs.promote(NOW) == 3
    assert engine.jobs.promote(NOW) == 0
    states = dict(Job.objects.values_list("id", "state"))
    assert {states[id] for id in due} == {"ready"}
    assert {states[id] for id in later} == {"scheduled"}
    assert [states[id] for id in blocked + running] == ["blocked", "running"]


def test_a_promoted_job_keeps_its_place_by_priority_and_age(engine: Engine) -> None:
    elder, younger = new_job(state=State.SCHEDULED, run_after=NOW), new_job()
    engine.jobs.enqueue_many([younger, elder])
    engine.jobs.promote(NOW)
    assert [job.id for job in claim(engine)] == [elder.id, younger.id]


def test_a_time_without_a_fraction_is_neither_early_nor_late(engine: Engine) -> None:
    """A whole second is shorter as text than the moments after it, and must sort before them."""
    whole = 1_767_225_600
    at = {
        wait: enqueue(engine, state=State.SCHEDULED, run_after=whole + wait)[0]
        for wait in (-0.000001, 0, 0.000001, 0.1, 0.5, 1)
    }
    ready: set[UUID] = set()
    for now, wait in [
        (-0.000001, -0.000001),
        (0, 0),
        (0.000001, 0.000001),
        (0.1, 0.1),
        (0.9, 0.5),
        (1, 1),
    ]:
        assert engine.jobs.promote(whole + now) == 1
        ready.add(at[wait])
        assert set(Job.objects.filter(state="ready").values_list("id", flat=True)) == ready


def test_the_next_due_time_is_that_of_the_first_scheduled_job(engine: Engine) -> None:
    assert engine.jobs.next_due() is None
    enqueue(engine, run_after=NOW - 5)
    enqueue(engine, state=State.BLOCKED, run_after=NOW - 5)
    assert engine.jobs.next_due() is None
    for wait in (3600, 1, 2):
        enqueue(engine, state=State.SCHEDULED, run_after=NOW + wait)
    due = engine.jobs.next_due()
    assert due is not None
    assert abs(due - (NOW + 1)) <= 0.001
    assert engine.jobs.promote(NOW + 1) == 1
    due = engine.jobs.next_due()
    assert due is not None
    assert abs(due - (NOW + 2)) <= 0.001


def test_every_time_comes_back_to_the_microsecond(engine: Engine) -> None:
    choose = random.Random(11)
    times = [choose.uniform(0, 3e9) for _ in range(150)]
    times += [float(choose.randrange(3_000_000_000)) for _ in range(20)]
    times += [1_767_225_600.999999, 1_767_225_600.9999996, 1_767_225_600.0000004, 0.0, time.time()]
    for seconds in times:
        enqueue(engine, created_at=seconds, run_after=seconds)
    with engine.db.transaction():
        jobs = engine.jobs.claim("one", len(times), times[0])
        accepted = engine.jobs.finish(
            "one",
            [
                Outcome(job, State.FAILED, seconds, seconds, failure=Failure("E", "", ""))
                for job, seconds in zip(jobs, times, strict=True)
            ],
        )
    assert len(accepted) == len(times)
    for job, seconds in zip(jobs, times, strict=True):
        written = datetime.fromtimestamp(seconds, UTC)
        found = row(job.id)
        for field in ("created_at", "run_after", "started_at", "finished_at"):
            assert found[field] == written, (field, seconds)
        attempt = Attempt.objects.get(job_id=job.id)
        assert (attempt.started_at, attempt.finished_at) == (written, written)


# Finish: the fence


def test_an_outcome_is_written_for_the_one_who_runs_the_job(engine: Engine) -> None:
    job = one(engine)
    before = row(job.id)
    assert finish(engine, "one", done(job, '"42"')) == {job.id}
    assert row(job.id) == before | {
        "state": "succeeded",
        "result": '"42"',
        "started_at": datetime.fromtimestamp(NOW, UTC),
        "finished_at": datetime.fromtimestamp(NOW + 1, UTC),
    }
    assert not Attempt.objects.exists()


def test_a_failed_attempt_is_kept_with_its_reason(engine: Engine) -> None:
    job = one(engine)
    assert finish(engine, "one", failed(job, "no such order")) == {job.id}
    assert row(job.id)["state"] == "failed"
    assert row(job.id)["result"] is None
    attempt = Attempt.objects.get()
    assert (attempt.job_id, attempt.number, attempt.consumer) == (job.id, 1, "one")
    assert (attempt.exception_class, attempt.message, attempt.traceback) == (
        "E",
        "no such order",
        "where",
    )


def _to_another(engine: Engine, job: Claimed) -> None:
    """Given back, and claimed by another consumer."""
    release(engine, "one", job)
    claim(engine, "two")


def _to_itself_again(engine: Engine, job: Claimed) -> None:
    """Taken for dead and rescued, and then claimed by the same consumer again."""
    Job.objects.filter(id=job.id).update(state="ready", consumer=None, rescues=1)
    [again] = claim(engine, "one")
    assert again.attempt == job.attempt + 1


def _rescued(engine: Engine, job: Claimed) -> None:
    Job.objects.filter(id=job.id).update(state="ready", rescues=1)


def _deleted(engine: Engine, job: Claimed) -> None:
    Job.objects.filter(id=job.id).delete()


def _finished(engine: Engine, job: Claimed) -> None:
    finish(engine, "one", failed(job))


def _retried(engine: Engine, job: Claimed) -> None:
    finish(engine, "one", failed(job))
    assert engine.control.retry([job.id]) == 1


LOSSES: dict[str, Callable[[Engine, Claimed], object]] = {
    "another consumer runs it": _to_another,
    "the same consumer runs a later attempt of it": _to_itself_again,
    "it was given back": lambda engine, job: release(engine, "one", job),
    "it was rescued and waits": _rescued,
    "its row is gone": _deleted,
    "it has already finished": _finished,
    "it has finished and was retried": _retried,
    "it was cancelled": lambda queue, job: Job.objects.filter(id=job.id).update(state="cancelled"),
    "it was put off": lambda queue, job: Job.objects.filter(id=job.id).update(state="scheduled"),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("report", [done, failed, "release"], ids=["success", "failure", "release"])
def test_who_comes_late_changes_nothing_and_is_told_so(
    engine: Engine, loss: Callable[[Engine, Claimed], object], report: Any
) -> None:
    job = one(engine)
    loss(engine, job)
    before = everything()
    if report == "release":
        assert release(engine, "one", job) == set()
    else:
        assert finish(engine, "one", report(job)) == set()
    assert everything() == before


@pytest.mark.parametrize("report", [done, failed, "release"], ids=["success", "failure", "release"])
def test_nobody_reports_of_a_job_that_another_runs(engine: Engine, report: Any) -> None:
    job = one(engine, "one")
    before = everything()
    if report == "release":
        assert release(engine, "two", job) == set()
    else:
        assert finish(engine, "two", report(job)) == set()
    assert everything() == before
    assert finish(engine, "one", done(job)) == {job.id}


def test_the_one_who_took_over_finishes_whether_the_late_one_came_before_or_after(
    engine: Engine,
) -> None:
    for late_first in (True, False):
        job = one(engine, "one")
        release(engine, "one", job)
        [taken] = claim(engine, "two")
        late, right = failed(job), done(taken, '"right"')
        if late_first:
            assert finish(engine, "one", late) == set()
        assert finish(engine, "two", right) == {job.id}
        if not late_first:
            assert finish(engine, "one", late) == set()
        assert row(job.id)["result"] == '"right"'
        assert row(job.id)["consumer"] == "two"
    assert not Attempt.objects.exists()


def test_a_batch_is_accepted_in_part(engine: Engine) -> None:
    enqueue(engine, 6)
    jobs = claim(engine)
    Job.objects.filter(id__in=[job.id for job in jobs[:2]]).update(consumer="two")
    release(engine, "one", jobs[2])
    stranger = Claimed(new_id(), "test.job", "{}", 1, 0)
    outcomes = [failed(jobs[0]), done(jobs[1]), failed(jobs[2]), done(stranger)]
    outcomes += [failed(jobs[3]), done(jobs[4]), failed(jobs[5])]
    assert finish(engine, "one", *outcomes) == {jobs[3].id, jobs[4].id, jobs[5].id}
    assert set(Attempt.objects.values_list("job_id", flat=True)) == {jobs[3].id, jobs[5].id}
    assert [row(job.id)["state"] for job in jobs] == [
        "running", "running", "ready", "failed", "succeeded", "failed",
    ]  # fmt: skip


def test_a_large_batch_is_written_whole(engine: Engine) -> None:
    ids = enqueue(engine, 1500)
    jobs = claim(engine, limit=1500)
    assert finish(engine, "one", *(done(job, f'"{job.id}"') for job in jobs)) == set(ids)
    for id, result in Job.objects.values_list("id", "result"):
        assert result == f'"{id}"'


def test_an_empty_batch_is_no_trouble(engine: Engine) -> None:
    assert finish(engine, "one") == set()
    assert release(engine, "one") == set()
    assert engine.control.retry([]) == 0


def test_of_two_reports_at_once_exactly_one_is_accepted(engine: Engine) -> None:
    """The consumer that finishes against the one that gives back: either may win, never both."""
    for _ in range(15):
        job = one(engine)
        finished, released = at_once(
            lambda own, job=job: finish(own, "one", failed(job)),
            lambda own, job=job: release(own, "one", job),
        )
        assert len(finished) + len(released) == 1
        assert row(job.id)["state"] == ("failed" if finished else "ready")
        assert Attempt.objects.filter(job_id=job.id).count() == len(finished)
        Job.objects.filter(id=job.id).delete()


def test_of_one_outcome_reported_twice_at_once_one_is_accepted(engine: Engine) -> None:
    for _ in range(10):
        job = one(engine)
        first, second = at_once(*[lambda own, job=job: finish(own, "one", failed(job))] * 2)
        assert sorted([len(first), len(second)]) == [0, 1]
        assert Attempt.objects.filter(job_id=job.id).count() == 1


# Release


def test_a_job_that_is_given_back_is_as_if_it_had_never_been_claimed(engine: Engine) -> None:
    [id] = enqueue(engine, queue="mail", priority=4)
    before = row(id)
    [job] = claim(engine)
    assert release(engine, "one", job) == {id}
    assert row(id) == before
    [again] = claim(engine, "two")
    assert again.attempt == 1


def test_giving_back_keeps_the_attempts_of_before(engine: Engine) -> None:
    [id] = enqueue(engine)
    Job.objects.filter(id=id).update(attempts=3, rescues=1)
    [job] = claim(engine)
    assert job.attempt == 4
    release(engine, "one", job)
    assert (row(id)["attempts"], row(id)["rescues"]) == (3, 1)


def test_only_what_is_ours_is_given_back(engine: Engine) -> None:
    enqueue(engine, 4)
    ours, theirs = claim(engine, "one", 2), claim(engine, "two", 2)
    assert release(engine, "one", *ours, *theirs) == {job.id for job in ours}
    assert Job.objects.filter(consumer="two", state="running").count() == 2


# Retry


@pytest.mark.parametrize("state", State)
def test_only_a_finished_job_is_retried(engine: Engine, state: State) -> None:
    job = one(engine)
    finish(engine, "one", failed(job, "first time"))
    Job.objects.filter(id=job.id).update(
        state=state, rescues=2, result='"x"', run_after=datetime.now(UTC)
    )
    before = row(job.id)
    retried = engine.control.retry([job.id])
    assert retried == (state in FINISHED)
    if not retried:
        assert row(job.id) == before
        return
    cleared = dict.fromkeys(("run_after", "started_at", "finished_at", "consumer", "result"))
    assert row(job.id) == before | cleared | {"state": "ready", "attempts": 0, "rescues": 0}
    assert [attempt.message for attempt in Attempt.objects.all()] == ["first time"]
    assert [again.attempt for again in claim(engine)] == [1]


def test_many_are_retried_and_the_number_is_told(engine: Engine) -> None:
    enqueue(engine, 30)
    jobs = claim(engine)
    finish(engine, "one", *(done(job) for job in jobs[:20]))
    assert engine.control.retry([job.id for job in jobs] + [new_id()]) == 20
    assert Job.objects.filter(state="ready").count() == 20


# The turn


def test_a_turn_that_raises_leaves_everything_as_it_was(engine: Engine) -> None:
    job = one(engine)
    enqueue(engine, 3)
    enqueue(engine, state=State.SCHEDULED, run_after=NOW)
    before = everything()

    def break_off() -> None:
        with engine.db.transaction():
            assert engine.jobs.finish("one", [failed(job)]) == {job.id}
            engine.jobs.enqueue(new_job())
            engine.jobs.promote(NOW)
            assert len(engine.jobs.claim("one", 100, NOW)) == 5
            assert engine.control.retry([job.id]) == 1
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert everything() == before


def test_a_turn_is_one_transaction_that_others_see_whole(engine: Engine) -> None:
    job = one(engine)
    enqueue(engine)
    with engine.db.transaction():
        engine.jobs.finish("one", [done(job)])
        engine.jobs.claim("one", 1, NOW)
        [seen] = at_once(lambda _: sorted(Job.objects.values_list("state", flat=True)))
    assert seen == ["ready", "running"]
    assert sorted(Job.objects.values_list("state", flat=True)) == ["running", "succeeded"]


def test_a_turn_may_be_the_first_thing_that_a_thread_does(engine: Engine) -> None:
    """Nothing of the verbs needs a connection that is open already."""
    job = new_job()
    at_once(lambda own: own.jobs.enqueue_many([job]))
    [taken] = at_once(claim)
    assert [claimed.id for claimed in taken] == [job.id]


def test_an_sqlite_turn_takes_the_write_lock_first_whatever_the_alias_settings(
    tmp_path: Path,
) -> None:
    """Else what it read might have changed when it writes. Seen from a bare connection."""
    path = tmp_path / "queue.sqlite3"
    with alias_for({"ENGINE": "django.db.backends.sqlite3", "NAME": path}) as alias:
        locked = pytest.raises(sqlite3.OperationalError, match="locked")
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with SQLiteDatabase(alias).transaction(), locked:
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_stamp_follows_the_settings_within_the_second(engine: Engine) -> None:
    [first] = enqueue(engine, run_after=NOW, state=State.SCHEDULED)
    with override_settings(USE_TZ=False, TIME_ZONE="America/Chicago"):
        [second] = enqueue(engine, run_after=NOW, state=State.SCHEDULED)
        naive = Job.objects.get(id=second).run_after
        assert naive == datetime(2025, 12, 31, 18, 0, 0, 250_000)
    assert Job.objects.get(id=first).run_after == datetime.fromtimestamp(NOW, UTC)
    [third] = enqueue(engine, run_after=NOW, state=State.SCHEDULED)
    assert Job.objects.get(id=third).run_after == datetime.fromtimestamp(NOW, UTC)


def test_some_who_promote_the_same_jobs_at_once_do_no_harm(engine: Engine) -> None:
    for _ in range(5):
        jobs = [
            new_job(state=State.SCHEDULED, run_after=NOW - number % 50) for number in range(500)
        ]
        random.Random(7).shuffle(jobs)
        engine.jobs.enqueue_many(jobs)
        assert sum(at_once(*[lambda q: q.jobs.promote(NOW)] * 4)) == 500
        assert engine.jobs.next_due() is None
