"""Expiry in the queue's rows: a job that has not started in time is cancelled in every waiting state."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.test.utils import CaptureQueriesContext

from djjp.engine import Claimed, Edge, Engine, NewPipeline, Outcome, Peer
from djjp.ids import new_id
from djjp.models import Flag, Job, State
from tests.support.engine_calls import NOW, at_once, done, end, enqueue, row, take
from tests.support.factories import new_job

REASON = "it did not start in time: its expires_after has passed"


def expiring(engine: Engine, within: float = -1, /, count: int = 1, **given: Any) -> list[UUID]:
    """Enqueue jobs that expire in this number of seconds."""
    flags = Flag.EXPIRES | given.pop("flags", 0)
    return enqueue(engine, count, flags=flags, expires_at=time.time() + within, **given)


def expire(engine: Engine, limit: int = 100) -> int:
    return engine.expiry.expire(time.time(), limit)


def states(*ids: UUID) -> list[str]:
    return [row(id)["state"] for id in ids]


@pytest.mark.parametrize(
    "given",
    [
        {"state": State.READY},
        {"state": State.READY, "queue": "unserved"},
        {"state": State.SCHEDULED, "run_after": time.time() + 9},
        {"state": State.BLOCKED, "flags": Flag.LIMITED, "limit_key": "k", "limit_max": 1},
        {"state": State.BLOCKED, "waits_for": 1},
    ],
    ids=["ready", "unserved", "scheduled", "over a limit", "waiting for another"],
)
def test_a_job_that_waits_for_too_long_is_cancelled_with_that_reason(
    engine: Engine, given: dict[str, Any]
) -> None:
    [late], [not_yet], [plain] = (
        expiring(engine, **given),
        expiring(engine, 60, **given),
        enqueue(engine),
    )
    assert expire(engine) == 1
    ended = row(late)
    assert (ended["state"], ended["reason"], ended["attempts"]) == ("cancelled", REASON, 0)
    assert ended["finished_at"] is not None
    assert states(not_yet, plain) == [given["state"], "ready"]
    assert expire(engine) == 0


def test_a_job_that_is_claimed_too_late_does_not_run(engine: Engine) -> None:
    [late], [in_time] = expiring(engine), expiring(engine, 60)
    assert [job.id for job in take(engine)] == [in_time]
    ended = row(late)
    assert [ended[f] for f in ("state", "reason", "attempts", "consumer", "started_at")] == [
        *("cancelled", REASON, 0, None, None)
    ]


@pytest.mark.parametrize("how", ["running", "tried again", "tried again later", "rescued"])
def test_a_job_that_has_started_once_does_not_expire(engine: Engine, how: str) -> None:
    [id] = expiring(engine, 60)
    [job] = take(engine)
    if how == "rescued":
        engine.rescue.rescue_jobs(Peer("one", None, True), NOW, max_rescues=3, started=None)
    elif how != "running":
        state = State.READY if how == "tried again" else State.SCHEDULED
        later = Outcome(job, state, NOW, NOW, run_after=time.time())
        end(engine, "one", later)
    Job.objects.filter(pk=id).update(expires_at="2026-01-01T00:00Z")
    assert expire(engine) == 0
    engine.jobs.promote(time.time() + 1)
    if how != "running":
        assert [job.id for job in take(engine, "two")] == [id]


def test_a_job_that_was_released_unstarted_expires(engine: Engine) -> None:
    [id] = expiring(engine, 60)
    jobs = take(engine)
    with engine.db.transaction():
        engine.jobs.release("one", jobs)
    Job.objects.filter(pk=id).update(expires_at="2026-01-01T00:00Z")
    assert expire(engine) == 1


def test_an_expired_job_can_be_retried_and_then_does_not_expire(engine: Engine) -> None:
    [id] = expiring(engine)
    expire(engine)
    assert engine.control.retry([id]) == 1
    assert expire(engine) == 0
    assert [job.id for job in take(engine)] == [id]
    assert row(id)["reason"] is None


def test_the_unique_key_of_an_expired_job_is_free(engine: Engine) -> None:
    expiring(engine, unique_key="k", flags=Flag.UNIQUE)
    expire(engine)
    assert engine.jobs.enqueue(new_job(unique_key="k", flags=Flag.UNIQUE)) == {}


@pytest.mark.parametrize("when", ["while it waits", "when it is claimed"])
def test_the_other_members_of_a_group_run_when_one_expires(engine: Engine, when: str) -> None:
    """Its last job is cancelled, and its `on_failure` job runs, with the reason."""
    one, two, end, failure = (new_id() for _ in range(4))
    terms = {"flags": Flag.HAS_DEPENDENTS | Flag.EXPIRES, "expires_at": time.time() - 1}
    last = {"state": State.BLOCKED, "pipeline": end}
    jobs = [
        new_job(id=one, pipeline=end, flags=Flag.HAS_DEPENDENTS),
        new_job(id=two, pipeline=end, **terms),
        new_job(id=end, waits_for=2, **last),
        new_job(id=failure, waits_for=2, flags=Flag.ON_FAILURE | Flag.TAKES_INPUT, **last),
    ]
    edges = [(one, end, "0"), (two, end, "1"), (one, failure, "!"), (two, failure, "!")]
    engine.pipelines.enqueue(NewPipeline(end, jobs, [Edge(*edge) for edge in edges]))
    if when == "while it waits":
        assert expire(engine) == 1
        assert len(take(engine)) == 2
    else:
        assert [job.id for job in take(engine)] == [one]
        assert [job.id for job in take(engine)] == [failure]
    assert states(one, two, end, failure) == ["running", "cancelled", "cancelled", "running"]
    assert REASON in row(end)["reason"]
    assert REASON in row(failure)["input"]


def test_a_blocked_step_expires_with_its_dependents(engine: Engine) -> None:
    first, second, third = (new_id() for _ in range(3))
    waiting = {"state": State.BLOCKED, "waits_for": 1, "pipeline": third}
    terms = {"flags": Flag.HAS_DEPENDENTS | Flag.EXPIRES, "expires_at": time.time() - 1}
    jobs = [
        new_job(id=first, pipeline=third, flags=Flag.HAS_DEPENDENTS),
        new_job(id=second, **waiting, **terms),
        new_job(id=third, **waiting),
    ]
    engine.pipelines.enqueue(
        NewPipeline(third, jobs, [Edge(first, second, ""), Edge(second, third, "")])
    )
    [job] = take(engine)
    assert expire(engine) == 1
    end(engine, "one", done(job))
    assert states(first, second, third) == ["succeeded", "cancelled", "cancelled"]


def test_jobs_expire_in_batches_the_longest_overdue_first(engine: Engine) -> None:
    late, later = expiring(engine, -60, 3), expiring(engine, -120, 2)
    assert [expire(engine, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert set(states(*late, *later)) == {"cancelled"}


def test_started_jobs_do_not_delay_the_expiry_of_others(engine: Engine) -> None:
    started = expiring(engine, 60, 3)
    jobs = take(engine)
    again = [Outcome(job, State.READY, NOW, NOW) for job in jobs]
    end(engine, "one", *again)
    Job.objects.filter(pk__in=started).update(expires_at="2026-01-01T00:00Z")
    expiring(engine, -1)
    assert expire(engine, 1) == 1


def test_a_job_that_starts_while_the_query_runs_does_not_expire(engine: Engine) -> None:
    [id] = expiring(engine, 60)
    claimed = threading.Event()

    def start(engine: Engine) -> None:
        with engine.db.transaction():
            [job] = engine.jobs.claim("one", 1, NOW)
            claimed.set()
            time.sleep(
                0.3
            )  # meanwhile the other thread finds it waiting, and then waits for its lock
            engine.jobs.finish("one", [Outcome(job, State.READY, NOW, NOW)])

    def look(engine: Engine) -> int:
        claimed.wait()
        return engine.expiry.expire(time.time() + 120, 1)

    assert at_once(start, look) == [None, 0]
    assert [row(id)[field] for field in ("state", "attempts")] == ["ready", 1]


def test_without_expired_jobs_nothing_is_written_or_locked(engine: Engine) -> None:
    expiring(engine, 60)
    with CaptureQueriesContext(engine.db.connection) as captured:
        expire(engine)
        engine.limits.unblock_stranded("")
        engine.rates.prune(10)
    for query in captured.captured_queries:
        assert query["sql"].lstrip().startswith(("SELECT", "WITH RECURSIVE")), query


def test_a_job_that_is_claimed_at_its_expiry_either_runs_or_expires(engine: Engine) -> None:
    count = 200
    started: list[Claimed] = []
    left = threading.Event()

    def consume(engine: Engine, name: str) -> None:
        while jobs := take(engine, name, limit=5):
            started.extend(jobs)
        left.set()

    def tidy(engine: Engine) -> int:
        total = 0
        while not left.is_set():
            total += engine.expiry.expire(deadline, 7)
        return total + engine.expiry.expire(deadline, count)

    deadline = time.time() + 60
    enqueue(engine, count, flags=Flag.EXPIRES, expires_at=deadline)
    *_, expired = at_once(*(partial(consume, name=name) for name in ("one", "two")), tidy)
    assert len(started) + expired == count
    running = set(Job.objects.filter(state="running", attempts=1).values_list("id", flat=True))
    assert running == {job.id for job in started}


def test_no_job_expires_by_one_clock_that_is_ahead(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [id] = enqueue(engine, flags=Flag.EXPIRES, expires_at=NOW + 60)
    monkeypatch.setattr(engine.db, "clock", lambda: NOW)
    assert engine.expiry.expire(NOW + 86_400, 10) == 0
    monkeypatch.setattr(time, "time", lambda: NOW + 86_400)
    assert [job.id for job in take(engine)] == [id]
