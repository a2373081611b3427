"""The buttons of a job's page: by POST, with their rights, written to the log; some after a confirmation."""

from __future__ import annotations

import re
import time
from uuid import UUID

import pytest
from django.contrib.admin.models import CHANGE, DELETION
from django.test import Client

from djjp import chain, get_job, group
from djjp.admin.job_verbs import WORDINGS
from djjp.engine import Engine
from djjp.models import FINISHED, Attempt, Job, Queue, State, Verb
from tests.monitoring.situations import SITUATIONS
from tests.project.shop.jobs import add, echo, fail, hog
from tests.support.admin import (
    JOBS,
    LogIn,
    change_url,
    logged,
    make_attempt,
    make_job,
    messages,
    states,
    text,
)
from tests.support.consumers import drain
from tests.support.processes import Processes, eventually

# The verbs have tests on each database.
pytestmark = pytest.mark.one_database

OPEN = [state for state in State if state not in FINISHED]
FILTERS = "?_changelist_filters=state%3Dfailed"


def press(client: Client, job: Job, verb: str, argument: str = "") -> list[str]:
    """Press a button, and return the messages of the page to which it leads."""
    response = client.post(f"{JOBS}{job.pk}/{verb}/", {"argument": argument}, follow=True)
    assert response.redirect_chain == [(change_url(job), 302)]
    return messages(response)


# Each verb


@pytest.mark.parametrize("state", FINISHED)
def test_a_job_that_has_ended_is_retried(engine: Engine, admin: Client, state: State) -> None:
    job = make_job(state, rescues=2)
    make_attempt(job)
    assert f"/retry/{FILTERS}" in text(admin.get(change_url(job) + FILTERS))
    response = admin.post(f"{JOBS}{job.pk}/retry/{FILTERS}", follow=True)
    assert response.redirect_chain == [(change_url(job) + FILTERS, 302)]
    assert messages(response) == ["Retried."]
    job.refresh_from_db()
    assert (job.state, job.attempts, job.rescues, job.finished_at) == ("ready", 0, 0, None)
    assert Attempt.objects.count() == 1
    assert logged() == [(CHANGE, str(job), "Retried.")]


@pytest.mark.parametrize("state", OPEN)
def test_a_job_that_has_not_ended_is_not_retried(
    engine: Engine, admin: Client, state: State
) -> None:
    job = make_job(state)
    assert "/retry/" not in text(admin.get(change_url(job)))
    reason = "the job is running" if state == State.RUNNING else "the job has not ended"
    assert press(admin, job, "retry") == [f"Nothing was changed: {reason}."]
    assert (states(job), logged()) == ([state], [])


@pytest.mark.parametrize("state", OPEN)
def test_a_job_that_has_not_ended_is_cancelled(engine: Engine, admin: Client, state: State) -> None:
    job = make_job(state)
    said = press(admin, job, "cancel")
    job.refresh_from_db()
    if state == State.RUNNING:  # its consumer must stop it
        assert (job.state, job.cancel_requested) == ("running", True)
        assert said == ["The cancellation was requested: its consumer stops the job soon."]
        assert "/cancel/" not in text(admin.get(change_url(job)))
        assert press(admin, job, "cancel") == [
            "Nothing was changed: the job is being cancelled already."
        ]
    else:
        assert (job.state, job.finished_at is None) == ("cancelled", False)
        assert said == ["Cancelled."]
    assert logged() == [(CHANGE, str(job), "Cancelled.")]


@pytest.mark.parametrize("state", FINISHED)
def test_a_job_that_has_ended_is_not_cancelled(engine: Engine, admin: Client, state: State) -> None:
    job = make_job(state)
    assert "/cancel/" not in text(admin.get(change_url(job)))
    assert press(admin, job, "cancel") == ["Nothing was changed: the job has ended."]
    assert (states(job), logged()) == ([state], [])


def test_a_scheduled_job_runs_now(engine: Engine, admin: Client) -> None:
    job = Job.objects.get(pk=add.using(run_after=3600).run_later(1).id)
    assert press(admin, job, "run") == ["Made ready to run now."]
    assert states(job) == ["ready"]
    assert press(admin, job, "run") == ["Nothing was changed: the job is ready already."]


def test_a_job_that_waits_is_moved_and_gets_another_priority(engine: Engine, admin: Client) -> None:
    job = make_job(State.READY)
    shown = text(admin.get(change_url(job)))
    assert f'action="{JOBS}{job.pk}/move/"' in shown
    assert press(admin, job, "move", " bulk ") == ["Moved to queue bulk."]
    assert press(admin, job, "priority", "-5") == ["Changed the priority to -5."]
    job.refresh_from_db()
    assert (job.queue, job.priority) == ("bulk", -5)
    assert [entry[2] for entry in logged()] == [
        "Changed the priority to -5.",
        "Moved to queue bulk.",
    ][::-1]
    assert "/move/" not in text(admin.get(change_url(make_job(State.RUNNING))))


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        *(("move", each) for each in ("", " ", "q" * 101, "\0")),
        *(("priority", each) for each in ("", "x", "99999", "1.5", "9" * 5_000)),
    ],
)
def test_an_invalid_queue_or_priority_is_refused_with_its_reason(
    engine: Engine, admin: Client, verb: str, argument: str
) -> None:
    job = make_job(State.READY)
    (said,) = press(admin, job, verb, argument)
    assert verb.replace("move", "queue") in said
    job.refresh_from_db()
    assert (job.queue, job.priority, logged()) == ("default", 0, [])


def test_a_retry_whose_unique_key_is_held_reports_it(engine: Engine, admin: Client) -> None:
    job = make_job(State.FAILED, unique_key="k")
    make_job(State.READY, unique_key="k")
    said = press(admin, job, "retry")
    assert said == ["Nothing was changed: its unique key is held by a live job."]


def test_a_queue_is_resumed_from_the_page_of_a_job_that_waits_for_it(
    engine: Engine, admin: Client
) -> None:
    with SITUATIONS["the queue is paused"].begin(engine) as id:
        job = Job.objects.get(pk=id)
        assert press(admin, job, "resume") == ["Queue mail is resumed."]
        assert not Queue.objects.exists()
        assert logged() == [(CHANGE, "mail", "Resumed.")]
        assert press(admin, job, "resume") == ["Queue mail was not paused."]


def test_a_job_in_an_outbox_is_cancelled_there(engine: Engine, admin: Client) -> None:
    with SITUATIONS["it is in an outbox"].begin(engine) as id:
        assert press(admin, Job(pk=id), "cancel") == ["Cancelled."]
        assert get_job(id).state == "cancelled"


def test_a_retried_job_is_claimed_again(engine: Engine, admin: Client) -> None:
    job = make_job(State.FAILED)
    press(admin, job, "retry")
    with engine.db.transaction():
        assert [claimed.id for claimed in engine.jobs.claim("me", 5, time.time())] == [job.pk]


# Rights


@pytest.mark.parametrize("verb", [*WORDINGS, "resume"])
def test_each_button_needs_a_post_and_its_right(
    engine: Engine, admin: Client, log_in: LogIn, verb: str
) -> None:
    job = make_job(State.READY)
    assert admin.get(f"{JOBS}{job.pk}/{verb}/").status_code == 405
    held = ("view", "view_arguments", "delete")
    without = log_in(*held, "operate") if verb == "resume" else log_in(*held, "pause_queue")
    assert without.post(f"{JOBS}{job.pk}/{verb}/").status_code == 403
    # A right to change what one may not see is none.
    blind = log_in("operate", "pause_queue", "delete")
    assert blind.post(f"{JOBS}{job.pk}/{verb}/").status_code == 403
    assert states(job) == ["ready"]


@pytest.mark.parametrize("verb", [*WORDINGS, "resume", "confirm/cancel", "copy", "stack", "delete"])
def test_a_job_that_is_gone_leads_to_the_list_with_a_message(
    engine: Engine, admin: Client, verb: str
) -> None:
    url = f"{JOBS}{UUID(int=0)}/{verb}/"
    is_page = verb in ("confirm/cancel", "copy", "stack", "delete")
    response = (
        admin.get(url, follow=True) if is_page else admin.post(url, {"argument": "1"}, follow=True)
    )
    assert response.redirect_chain[-1][0] == JOBS
    assert any("doesn’t exist" in each for each in messages(response))


# Confirmations


def test_the_cancellation_of_a_running_job_is_confirmed(engine: Engine, admin: Client) -> None:
    job = make_job(State.RUNNING)
    url = f"{JOBS}{job.pk}/confirm/cancel/"
    assert f'href="{url}">Cancel</a>' in text(admin.get(change_url(job)))
    shown = text(admin.get(url))
    assert "raises an exception inside it" in shown
    assert f'href="{change_url(job)}">Back, change nothing' in shown
    assert f'action="{JOBS}{job.pk}/cancel/"' in shown
    assert states(job) == ["running"]
    Job.objects.update(state=State.SUCCEEDED)
    gone = text(admin.get(url))
    assert "its state does not allow it any more" in gone
    assert "<button" not in gone.partition("djjp-confirm")[2]


def test_the_cancellation_of_a_step_names_its_dependents(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    shown = text(admin.get(f"{JOBS}{handle.steps[0].id}/confirm/cancel/"))
    assert "that depend on it are cancelled with it" in shown


def test_the_retry_of_a_step_is_confirmed_and_of_another_job_is_not(
    engine: Engine, admin: Client
) -> None:
    handle = chain(group(fail.bind("no"), add.bind(1)), echo.bind()).run_later()
    drain()
    url = f"{JOBS}pipelines/{handle.id}/retry/{handle.id}/"
    assert f'href="{url}"' in text(admin.get(f"{JOBS}{handle.id}/change/"))
    assert f'href="{JOBS}{handle.id}/change/"' in text(admin.get(url))
    alone = make_job(State.FAILED)
    assert f'action="{JOBS}{alone.pk}/retry/"' in text(admin.get(change_url(alone)))


def test_the_deletion_of_a_running_job_warns_of_what_becomes_of_it(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.RUNNING, consumer="web-2:4711:abcd")
    shown = text(admin.get(f"{JOBS}{job.pk}/delete/"))
    assert "It runs on web-2." in shown
    assert "the fence drops its outcome" in shown
    assert states(job) == ["running"]
    response = admin.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}, follow=True)
    assert "deleted successfully" in messages(response)[0]
    assert [entry[0] for entry in logged()] == [DELETION]
    still = text(admin.get(f"{JOBS}{make_job(State.FAILED).pk}/delete/"))
    assert "the fence" not in still


def test_the_deletion_of_a_step_names_its_dependents(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    shown = text(admin.get(f"{JOBS}{handle.steps[0].id}/delete/"))
    assert "that depend on it are cancelled" in shown


# Real jobs


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_running_job_is_stopped_when_the_admin_cancels_it(
    engine: Engine, admin: Client, processes: Processes
) -> None:
    handle = hog.run_later(600.0)
    processes.consumer()
    eventually(lambda: Job.objects.get().state == "running")
    admin.post(f"{JOBS}{handle.id}/cancel/")
    eventually(lambda: Job.objects.get().state == "cancelled")


def test_the_words_cover_the_verbs_of_one_job() -> None:
    assert {*WORDINGS} == {*Verb} - {Verb.DELETE}
    for wording in WORDINGS.values():
        assert re.fullmatch(r"[A-Z][a-z ]+", str(wording.label))
