"""Schedules, declared in the code and as rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import override_settings

from djjp import codec, schedules
from djjp.engine import Engine
from djjp.exceptions import EncodeError, JobNotRegistered
from djjp.jobs import registry
from djjp.models import Job, Schedule, Source
from tests.project.shop.jobs import mail
from tests.support.engine_calls import NOW
from tests.support.schedules import by_hand, registered


def declared(name: str = "test.scheduled") -> Schedule:
    (row,) = [row for row in schedules.declared() if row.name == name]
    return row


# In the code


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cron": "0 9  * * *", "tz": "Europe/Berlin"}, ("0 9 * * *", "Europe/Berlin", None)),
        ({"cron": "0 9 * * *"}, ("0 9 * * *", "America/Lima", None)),
        ({"every": timedelta(minutes=5)}, ("", "", timedelta(minutes=5))),
        ({"every": 90}, ("", "", timedelta(seconds=90))),
        ({"every": 0.25}, ("", "", timedelta(seconds=0.25))),
    ],
)
def test_a_schedule_of_a_job_becomes_a_row(options: dict[str, Any], expected: Any) -> None:
    with override_settings(TIME_ZONE="America/Lima"), registered(**options):
        row = declared()
    assert (row.cron, row.tz, row.every) == expected
    assert (row.job, row.source, row.catch_up) == ("test.scheduled", Source.CODE, "once")


def test_its_arguments_are_those_of_the_schedule() -> None:
    given: dict[str, Any] = {
        "every": 60,
        "schedule_args": [Decimal("9.90")],
        "schedule_kwargs": {"when": (1, 2)},
    }
    with registered(catch_up="all", **given):
        row = declared()
    assert codec.decode_arguments(row.arguments) == ([Decimal("9.90")], {"when": (1, 2)})
    assert row.catch_up == "all"


def test_a_job_without_a_schedule_is_no_row() -> None:
    with registered():
        assert schedules.declared() == []


def two(a: int, b: int = 0) -> None:
    """A job with parameters."""


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"cron": "61 * * * *"}, ValueError, "cron is '61 * * * *', with '61' for the minute"),
        ({"cron": "0 9 * * *", "every": 5}, ValueError, "a schedule has one of them"),
        ({"every": 5, "tz": "UTC"}, ValueError, "only a cron expression has a time zone"),
        (
            {"tz": "UTC"},
            ValueError,
            "tz is 'UTC', but the job has no schedule; give it cron or every",
        ),
        ({"catch_up": "all"}, ValueError, "catch_up is 'all', but the job has no schedule"),
        ({"schedule_args": (1,)}, ValueError, "schedule_args is (1,), but the job has no schedule"),
        ({"schedule_kwargs": {"a": 1}}, ValueError, "schedule_kwargs is {'a': 1}, but the job"),
        ({"every": 0, "schedule_args": [1]}, ValueError, "every is 0; it must be from 0.1 seconds"),
        (
            {"every": 5, "catch_up": "twice", "schedule_args": [1]},
            ValueError,
            "catch_up is 'twice'; it must be 'none', 'once' or 'all'",
        ),
        (
            {"every": 5},
            TypeError,
            "(two (job 'test.refused'): missing a required argument: 'a'); schedule_args",
        ),
        ({"every": 5, "schedule_args": [1, 2, 3]}, TypeError, "too many positional arguments"),
        ({"every": 5, "schedule_args": [1], "schedule_kwargs": {"c": 1}}, TypeError, "'c'"),
        (
            {"every": 5, "schedule_args": "ab"},
            TypeError,
            "schedule_args is 'ab'; it must be a list",
        ),
        ({"every": 5, "schedule_kwargs": [1]}, TypeError, "schedule_kwargs is [1]; it must be"),
        ({"every": 5, "schedule_args": [object()]}, EncodeError, "cannot encode a, which"),
    ],
)
def test_an_invalid_schedule_is_refused_in_the_code(
    options: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error) as caught, registered("test.refused", two, **options):
        pass  # never reached
    assert complaint in str(caught.value)
    assert registry.find("test.refused") is None


# Rows


def test_a_row_is_called_with_its_arguments_and_the_options_of_its_job(engine: Engine) -> None:
    row = by_hand(
        mail.name, NOW, every=timedelta(minutes=1), arguments='{"args":["x"],"kwargs":{}}'
    )
    handle = schedules.run_now(row)
    made = Job.objects.get()
    assert (made.pk, made.queue, made.priority) == (handle.id, "mail", 5)
    assert codec.decode_arguments(made.arguments) == (["x"], {})
    row.refresh_from_db()
    assert (row.fired_until, row.last_occurrence) == (NOW, None), "it was beside the occurrences"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"job": "long.gone"}, "no job named 'long.gone' is registered here"),
        ({"source": Source.CODE}, f"the job {mail.name!r} has no schedule in the code any more"),
        ({"arguments": '{"args":[],"kwargs":{}}'}, "missing a required argument: 'address'"),
        ({"arguments": "damaged"}, "cannot decode the arguments of the job"),
        ({"every": None}, "a schedule needs a cron expression or an interval"),
        ({"tz": "Mars/X"}, "tz is 'Mars/X'"),
    ],
)
def test_a_row_that_cannot_be_fired_here_reports_why(fields: dict[str, Any], reason: str) -> None:
    good = {
        "job": mail.name,
        "every": timedelta(minutes=1),
        "arguments": '{"args":["x"],"kwargs":{}}',
    }
    assert schedules.problem(Schedule(**good)) is None
    assert reason in str(schedules.problem(Schedule(**{**good, **fields})))


def test_running_an_unregistered_job_now_is_an_error(engine: Engine) -> None:
    with pytest.raises(JobNotRegistered):
        schedules.run_now(Schedule(job="long.gone", arguments="{}"))
    assert not Job.objects.exists()


def test_the_next_occurrence_follows_the_last_that_is_fired() -> None:
    at = datetime.fromisoformat("2026-05-04T12:00:00+02:00").timestamp()
    row = Schedule(cron="0 9 * * *", tz="Europe/Berlin", fired_until=at)
    assert schedules.when(row) == "0 9 * * * Europe/Berlin"
    assert schedules.next_occurrence(row) == at + 21 * 3600
    assert schedules.next_occurrence(row, at + 21 * 3600) == at + 45 * 3600
    assert schedules.when(Schedule(every=timedelta(minutes=5))) == "every 0:05:00"
