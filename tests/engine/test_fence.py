"""The fence, on both databases: which reports of a consumer are written, by finish and by release."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.test.utils import CaptureQueriesContext

from djjp.engine import Claimed, Engine
from djjp.ids import new_id
from djjp.models import Attempt, Flag, Job
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

# Finish


def test_an_outcome_is_written_for_the_consumer_that_runs_the_job(engine: Engine) -> None:
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


def test_a_failed_attempt_is_kept_with_its_error(engine: Engine) -> None:
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
    """Release the job, and claim it by another consumer."""
    release(engine, "one", job)
    claim(engine, "two")


def _to_itself_again(engine: Engine, job: Claimed) -> None:
    """Rescue the job as that of a dead consumer, and claim it by the same consumer again."""
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
    "it was released": lambda engine, job: release(engine, "one", job),
    "it was rescued and is ready": _rescued,
    "its row is gone": _deleted,
    "it has already finished": _finished,
    "it has finished and was retried": _retried,
    "it was cancelled": lambda engine, job: Job.objects.filter(id=job.id).update(state="cancelled"),
    "it was throttled": lambda engine, job: Job.objects.filter(id=job.id).update(state="scheduled"),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("report", [done, failed, "release"], ids=["success", "failure", "release"])
def test_a_late_report_changes_nothing_and_is_refused(
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
def test_a_report_on_the_job_of_another_consumer_is_refused(engine: Engine, report: Any) -> None:
    job = one(engine, "one")
    before = everything()
    if report == "release":
        assert release(engine, "two", job) == set()
    else:
        assert finish(engine, "two", report(job)) == set()
    assert everything() == before
    assert finish(engine, "one", done(job)) == {job.id}


def test_the_later_consumer_finishes_before_and_after_a_late_report(
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


@pytest.mark.parametrize("lost", [0, 50, 99], ids=["first", "middle", "last"])
def test_a_large_batch_is_written_but_for_the_job_of_another_consumer(
    engine: Engine, lost: int
) -> None:
    ids = enqueue(engine, 100)
    jobs = claim(engine, limit=100)
    Job.objects.filter(id=jobs[lost].id).update(consumer="two")
    assert finish(engine, "one", *(done(job) for job in jobs)) == set(ids) - {jobs[lost].id}
    running = Job.objects.filter(state="running").values_list("id", "consumer")
    assert list(running) == [(jobs[lost].id, "two")]
    assert Job.objects.filter(state="succeeded").count() == 99


@pytest.mark.sqlite_only
def test_the_largest_result_of_a_batch_is_sent_once(engine: Engine) -> None:
    enqueue(engine, 65)
    jobs = claim(engine, limit=65)
    large = f'"{"x" * 1_000_000}"'
    outcomes = [*(done(job) for job in jobs[:-1]), done(jobs[-1], large)]
    with CaptureQueriesContext(engine.db.connection) as sent:
        finish(engine, "one", *outcomes)
    assert sum(query["sql"].count("x" * 1_000_000) for query in sent) == 1
    assert row(jobs[-1].id)["result"] == large


@pytest.mark.sqlite_only
def test_large_batches_fit_into_a_library_that_takes_few_parameters(engine: Engine) -> None:
    engine.db.connection.ensure_connection()
    engine.db.connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    tagged = new_job(flags=Flag.OPTIONS | Flag.TAGGED, options='{"tags": ["x"]}')
    engine.jobs.enqueue_many([new_job() for _ in range(300)])
    engine.jobs.enqueue_many([tagged._replace(id=new_id()) for _ in range(100)])
    jobs = claim(engine, limit=400)
    assert len(finish(engine, "one", *(done(job) for job in jobs))) == 400


#: Results that have signs of an array, of JSON, of a format, or of SQL.
RESULTS = [
    *(
        '"',
        "\\",
        '\\"',
        "{}",
        "{,}",
        '{"a":"b\\\\c"}',
        "NULL",
        "null",
        "",
        " ",
        "a,b",
        "%s",
        "'",
        "\n\t",
        "é\U0001f600",
    ),
    None,
]


@pytest.mark.parametrize("times", [1, 5], ids=["few", "many"])
def test_each_result_of_a_batch_is_written_as_it_is(engine: Engine, times: int) -> None:
    results = RESULTS * times
    ids = enqueue(engine, len(results))
    jobs = claim(engine, limit=len(results))
    outcomes = [done(job, result) for job, result in zip(jobs, results, strict=True)]
    assert finish(engine, "one", *outcomes) == set(ids)
    written = dict(Job.objects.values_list("id", "result"))
    assert [written[job.id] for job in jobs] == results


def test_an_empty_batch_is_accepted(engine: Engine) -> None:
    assert finish(engine, "one") == set()
    assert release(engine, "one") == set()
    assert engine.control.retry([]) == 0


def finish_and_release_at_once(job: Claimed) -> list[set[UUID]]:
    return at_once(
        lambda engine: finish(engine, "one", failed(job)),
        lambda engine: release(engine, "one", job),
    )


def test_of_a_concurrent_finish_and_release_exactly_one_is_accepted(engine: Engine) -> None:
    """One thread finishes the job, another releases it: either can win, never both."""
    for _ in range(15):
        job = one(engine)
        finished, released = finish_and_release_at_once(job)
        assert len(finished) + len(released) == 1
        assert row(job.id)["state"] == ("failed" if finished else "ready")
        assert Attempt.objects.filter(job_id=job.id).count() == len(finished)
        Job.objects.filter(id=job.id).delete()


def test_of_one_outcome_reported_twice_concurrently_one_is_accepted(engine: Engine) -> None:
    for _ in range(10):
        job = one(engine)
        first, second = at_once(*[lambda own, job=job: finish(own, "one", failed(job))] * 2)
        assert sorted([len(first), len(second)]) == [0, 1]
        assert Attempt.objects.filter(job_id=job.id).count() == 1


# Release


def test_a_released_job_is_as_if_it_had_never_been_claimed(engine: Engine) -> None:
    [id] = enqueue(engine, queue="mail", priority=4)
    before = row(id)
    [job] = claim(engine)
    assert release(engine, "one", job) == {id}
    assert row(id) == before | {"claim": 1}  # by which a late outcome is recognized
    [again] = claim(engine, "two")
    assert (again.attempt, again.claim) == (1, 2)


def test_a_release_keeps_the_earlier_attempts(engine: Engine) -> None:
    [id] = enqueue(engine)
    Job.objects.filter(id=id).update(attempts=3, rescues=1)
    [job] = claim(engine)
    assert job.attempt == 4
    release(engine, "one", job)
    assert (row(id)["attempts"], row(id)["rescues"]) == (3, 1)


def test_a_consumer_releases_only_its_own_jobs(engine: Engine) -> None:
    enqueue(engine, 4)
    ours, theirs = claim(engine, "one", 2), claim(engine, "two", 2)
    assert release(engine, "one", *ours, *theirs) == {job.id for job in ours}
    assert Job.objects.filter(consumer="two", state="running").count() == 2
