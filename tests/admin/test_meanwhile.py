"""Promise of each act: what has changed since its page was opened is left alone, and not in the admin's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from djjp import queues
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job, Operation, Schedule, State
from djjp.monitoring.operations import start
from tests.admin.test_odd_rows import client
from tests.project.shop.jobs import echo
from tests.support.admin import make_job, messages, text
from tests.support.schedules import by_hand

__all__ = ["client"]
JOB, SCHEDULE = "/admin/djjp/job/", "/admin/djjp/schedule/"


class Act(NamedTuple):
    """An act whose page was opened.

    Attributes:
        pages: the pages that lead to it.
        url, data: the request.
        others: changes what it is about meanwhile.
    """

    pages: list[str]
    url: str
    data: dict[str, Any]
    others: Callable[[], object]


def the_job(state: State) -> tuple[Any, Any]:
    job = make_job(state, name=echo.name)
    return job, Job.objects.filter(pk=job.pk)


def a_retry_of_a_deleted_job() -> Act:
    job, rows = the_job(State.FAILED)
    return Act([f"{JOB}{job.pk}/change/"], f"{JOB}{job.pk}/retry/", {}, rows.delete)


def a_cancellation_of_a_job_that_has_ended() -> Act:
    job, rows = the_job(State.RUNNING)
    page, end = f"{JOB}{job.pk}/confirm/cancel/", {"state": "succeeded"}
    times = {"finished_at": timezone.now()}
    return Act([page], f"{JOB}{job.pk}/cancel/", {}, lambda: rows.update(**end, **times))


def a_retry_of_a_job_that_was_retried() -> Act:
    job, rows = the_job(State.FAILED)
    return Act([], f"{JOB}{job.pk}/retry/", {}, lambda: rows.update(state="ready"))


def a_run_of_a_job_that_is_due() -> Act:
    job, rows = the_job(State.READY)
    rows.update(state="scheduled", run_after=timezone.now())
    return Act([], f"{JOB}{job.pk}/run/", {}, lambda: rows.update(state="ready"))


def a_deletion_of_a_deleted_job() -> Act:
    job, rows = the_job(State.FAILED)
    return Act([url := f"{JOB}{job.pk}/delete/"], url, {"post": "yes"}, rows.delete)


def a_copy_of_a_deleted_job() -> Act:
    job, rows = the_job(State.FAILED)
    data = {"args": "[]", "kwargs": "{}", "queue": "default", "priority": "0"}
    return Act([url := f"{JOB}{job.pk}/copy/"], url, data, rows.delete)


def an_action_on_a_deleted_job() -> Act:
    job, rows = the_job(State.FAILED)
    data = {"post": "yes", "_selected_action": [str(job.pk)]}
    return Act([], f"{JOB}bulk/retry/", data, rows.delete)


def an_action_on_all_of_a_filter_that_matches_nothing_any_more() -> Act:
    _, rows = the_job(State.FAILED)
    url = f"{JOB}bulk/delete/?state=failed"
    return Act([url], url, {"post": "yes"}, lambda: rows.update(state="ready"))


def a_retry_of_a_pipeline_that_was_retried() -> Act:
    _, rows = the_job(State.FAILED)
    rows.update(pipeline=(id := new_id()))
    url = f"{JOB}pipelines/{id}/retry/"
    return Act([url], url, {"seen": "0" * 32}, lambda: rows.update(state="ready"))


def a_cancellation_of_a_pipeline_that_has_ended() -> Act:
    _, rows = the_job(State.READY)
    rows.update(pipeline=(id := new_id()))
    url = f"{JOB}pipelines/{id}/cancel/"
    return Act([url], url, {}, lambda: rows.update(state="succeeded", finished_at=timezone.now()))


def a_resume_of_a_resumed_queue() -> Act:
    queues.pause("mail")
    page = "/admin/djjp/queue/mail/"
    return Act([f"{page}change/"], f"{page}resume/", {}, lambda: queues.resume("mail"))


def a_stop_of_an_operation_that_has_ended() -> Act:
    url = f"/admin/djjp/operation/{start('retry', ids=[new_id()]).id}/"
    return Act([f"{url}change/"], f"{url}stop/", {}, lambda: None)


def a_run_of_a_deleted_schedule() -> Act:
    return _of_schedule("run", Schedule.objects.all().delete)


def a_switch_of_a_deleted_schedule() -> Act:
    return _of_schedule("disable", Schedule.objects.all().delete)


def a_switch_of_a_disabled_schedule() -> Act:
    return _of_schedule("disable", lambda: Schedule.objects.update(enabled=False))


def _of_schedule(verb: str, others: Callable[[], object]) -> Act:
    row = by_hand(echo.name, 0, name="nightly", cron="0 9 * * *", tz="UTC")
    return Act([f"{SCHEDULE}{row.pk}/change/"], f"{SCHEDULE}{row.pk}/{verb}/", {}, others)


ACTS = [
    a_retry_of_a_deleted_job,
    a_cancellation_of_a_job_that_has_ended,
    a_retry_of_a_job_that_was_retried,
    a_run_of_a_job_that_is_due,
    a_deletion_of_a_deleted_job,
    a_copy_of_a_deleted_job,
    an_action_on_a_deleted_job,
    an_action_on_all_of_a_filter_that_matches_nothing_any_more,
    a_retry_of_a_pipeline_that_was_retried,
    a_cancellation_of_a_pipeline_that_has_ended,
    a_resume_of_a_resumed_queue,
    a_stop_of_an_operation_that_has_ended,
    a_run_of_a_deleted_schedule,
    a_switch_of_a_deleted_schedule,
    a_switch_of_a_disabled_schedule,
]


@pytest.mark.parametrize("made", ACTS, ids=lambda made: made.__name__)
def test_an_act_on_what_has_changed_meanwhile_does_and_logs_nothing(
    engine: Engine, client: Client, made: Callable[[], Act]
) -> None:
    act = made()
    for page in act.pages:
        assert client.get(page).status_code == 200
    act.others()
    before = [list(model.objects.values()) for model in (Job, Schedule)]
    response = client.post(act.url, act.data, follow=True)
    shown = text(response)
    reasons = ("has ended", "No step would run again")
    assert messages(response) or any(each in shown for each in reasons), "no page names the reason"
    assert all(each.level_tag != "success" for each in response.context["messages"])
    assert [list(model.objects.values()) for model in (Job, Schedule)] == before
    # An operation is an entry of its own, with the jobs that it has left alone.
    entries = [each.get_change_message() for each in LogEntry.objects.all()]
    assert all(each.split(".")[0].endswith(" 0 jobs") for each in entries), entries
    assert len(entries) == Operation.objects.filter(requested_by__startswith="admin:").count()
    assert all(each.done == 0 for each in Operation.objects.all())
