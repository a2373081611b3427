"""Times as the verbs and the ORM see them, in whatever time zone the project is."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils import timezone

from djjp.bounds import to_time
from djjp.engine import Engine, Failure, NewJob, Outcome
from djjp.ids import new_id
from djjp.models import Attempt, Job, State

WHOLE = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC
_choose = random.Random(5)
TIMES = [
    *(WHOLE, WHOLE + 0.000001, WHOLE + 0.5, WHOLE + 86_399.999999),
    *(_choose.uniform(1.7e9, 1.9e9) for _ in range(30)),
    # The hour that comes twice, in Berlin and in New York in 2026, and its half hour in Lord Howe.
    *(1_792_888_200.5, 1_792_891_800.5, 1_793_511_000.25, 1_793_514_600.25),
    *(1_775_313_000.75, 1_775_314_800.75),
    # Both ends of time.
    *(0.0, 253_370_764_799.0),
]


def check_times(engine: Engine) -> None:
    """Assert that all times mean the same to the verbs and to the ORM, for a user in another time zone."""
    with timezone.override(ZoneInfo("Pacific/Kiritimati")):
        _check_due_times(engine)
        _check_times_of_the_verbs(engine)
        _check_times_of_the_orm(engine)


def _expected(seconds: float) -> datetime:
    """Return what the ORM must read, computed without djjp."""
    aware = datetime.fromtimestamp(seconds, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware, ZoneInfo(settings.TIME_ZONE))


def _seconds_of(value: datetime | None) -> float:
    """Return the seconds since the epoch of what the ORM has read, computed without djjp."""
    assert value is not None
    zone = value.tzinfo or ZoneInfo(settings.TIME_ZONE)
    return value.replace(tzinfo=zone).timestamp()


def _new(state: State, seconds: float) -> NewJob:
    return NewJob(new_id(), "j", "q", 0, state, seconds, seconds, "[]")


def _check_due_times(engine: Engine) -> None:
    """Jobs are due when it is said, by an aware time and by a naive one in the project's zone."""
    for seconds in TIMES[4:]:
        given = [datetime.fromtimestamp(seconds, UTC)]
        if not settings.USE_TZ:
            given.append(_expected(seconds))
        due = [to_time("run_after", value, 0.0) for value in given]
        assert all(abs(time - seconds) < 0.00001 for time in due), (due, seconds)
        for time in due:
            engine.jobs.enqueue(_new(State.SCHEDULED, time))
        for row in Job.objects.all():
            assert abs(_seconds_of(row.run_after) - seconds) < 0.00001, (row.run_after, seconds)
            Job.objects.filter(id=row.id).update(run_after=row.run_after)
        _assert_due(engine, seconds, 0.001)
        assert engine.jobs.promote(max(seconds - 0.001, 0)) == (0 if seconds else len(due))
        assert engine.jobs.promote(seconds) == (len(due) if seconds else 0)
        Job.objects.all().delete()


def _check_times_of_the_verbs(engine: Engine) -> None:
    """The verbs write times, and the ORM reads them."""
    for seconds in TIMES:
        engine.jobs.enqueue(_new(State.READY, seconds))
    with engine.db.transaction():
        for seconds in TIMES:
            [job] = engine.jobs.claim("c", 1, seconds)
            row = Job.objects.get(id=job.id)
            assert row.started_at == row.created_at == row.run_after == _expected(seconds), row
            assert abs(_seconds_of(row.started_at) - seconds) < 0.00001, (row.started_at, seconds)
            failed = Outcome(job, State.FAILED, seconds, seconds, failure=Failure("E", "", ""))
            assert not engine.jobs.finish("c", [failed])
            row = Job.objects.get(id=job.id)
            assert row.finished_at == row.started_at == _expected(seconds), row
            attempt = Attempt.objects.get(job_id=job.id)
            assert attempt.started_at == attempt.finished_at == _expected(seconds), attempt
    Job.objects.all().delete()


def _check_times_of_the_orm(engine: Engine) -> None:
    """The ORM compares and writes times, and the verbs read them."""
    job = _new(State.SCHEDULED, WHOLE)
    engine.jobs.enqueue(job)
    assert Job.objects.filter(run_after=_expected(WHOLE)).exists()
    assert Job.objects.filter(run_after__lt=_expected(WHOLE + 0.000001)).exists()
    assert not Job.objects.filter(run_after__lt=_expected(WHOLE)).exists()
    _assert_due(engine, WHOLE, 0.001)
    assert engine.jobs.promote(WHOLE - 0.000001) == 0
    assert engine.jobs.promote(WHOLE) == 1

    Job.objects.filter(id=job.id).update(state="scheduled", run_after=_expected(WHOLE + 0.25))
    _assert_due(engine, WHOLE + 0.25, 0.001)
    assert engine.jobs.promote(WHOLE + 0.249999) == 0
    assert engine.jobs.promote(WHOLE + 0.25) == 1
    Job.objects.all().delete()


def _assert_due(engine: Engine, seconds: float, precision: float) -> None:
    due = engine.jobs.next_due()
    assert due is not None
    assert abs(due - seconds) <= precision, f"due {due - seconds} s late"
