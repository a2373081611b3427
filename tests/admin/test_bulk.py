"""An action on many jobs is previewed and confirmed, reaches exactly the chosen ones, and reports all others."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.http import HttpRequest
from django.test import Client

from djjp import chain
from djjp.admin.job import JobAdmin
from djjp.engine import Engine
from djjp.models import FINISHED, Attempt, Job, Operation, State
from djjp.monitoring import operation_steps
from djjp.monitoring.operations import operations
from tests.project.shop.jobs import echo, fail
from tests.support.admin import (
    JOBS,
    SCRIPT,
    LogIn,
    Response,
    captured_statements,
    change_url,
    logged,
    make_attempt,
    make_job,
    messages,
    run_action,
    states,
    text,
)
from tests.support.consumers import drain
from tests.support.factories import consumer_row

OPEN = [state for state in State if state not in FINISHED]


def bulk(verb: str, query: str = "") -> str:
    return f"{JOBS}bulk/{verb}/{query}"


def preview_of(response: Response) -> str:
    """Return the sentence of the preview on a confirmation page."""
    found = re.search(r'data-djjp="preview"><strong>(.*?)</strong>', text(response))
    assert found, "the page shows no preview"
    return found[1]


def confirm(client: Client, verb: str, query: str, **data: str) -> Response:
    """Confirm a verb for all jobs of a filter."""
    return client.post(bulk(verb, query), {"post": "yes"} | data, follow=True)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 jobs, and operations on more than 20 jobs are worked off step by step."""
    for name in ("FIRST_STEP", "SHORTEST_STEP", "STEP"):
        monkeypatch.setattr(operation_steps, name, 10)
    monkeypatch.setattr("djjp.monitoring.operations.STEP", 20)


# Ticked jobs


def test_an_action_shows_what_it_would_do_and_changes_nothing_before_it_is_confirmed(
    engine: Engine, admin: Client
) -> None:
    jobs = [make_job(state) for state in State]
    response = run_action(admin, "retry_selected", *jobs)
    assert preview_of(response) == ("7 match; 4 cannot, because 3 have not ended, 1 running.")
    assert "Retry: 3 jobs" in text(response)
    assert states(*jobs) == [*State]
    assert not Operation.objects.exists()


def test_a_confirmed_action_reaches_the_ticked_jobs_and_counts_the_others(
    engine: Engine, admin: Client
) -> None:
    jobs = {state: make_job(state) for state in State}
    untouched = make_job(State.FAILED)
    response = run_action(admin, "retry_selected", *jobs.values(), post="yes")
    (said,) = messages(response)
    assert said.startswith("Retried 3 jobs. Left alone: 3 have not ended, 1 running.")
    assert states(*(jobs[state] for state in FINISHED)) == ["ready"] * 3
    assert states(*(jobs[state] for state in OPEN), untouched) == [*OPEN, "failed"]


def test_ticked_ids_survive_the_confirmation_page(engine: Engine, admin: Client) -> None:
    job, other = make_job(State.READY), make_job(State.READY)
    shown = text(run_action(admin, "cancel_selected", job))
    (ticked,) = re.findall(r'name="_selected_action" value="([^"]+)"', shown)
    assert UUID(ticked) == job.pk
    admin.post(bulk("cancel"), {"_selected_action": ticked, "post": "yes"})
    assert states(job, other) == ["cancelled", "ready"]


@pytest.mark.parametrize(
    ("verb", "argument", "before", "after"),
    [
        ("retry", "", {"state": "failed"}, {"state": "ready"}),
        ("cancel", "", {"state": "ready"}, {"state": "cancelled"}),
        ("cancel", "", {"state": "running"}, {"state": "running", "cancel_requested": True}),
        ("run", "", {"state": "scheduled"}, {"state": "ready"}),
        ("move", "bulk", {"state": "ready"}, {"queue": "bulk"}),
        ("priority", "-7", {"state": "ready"}, {"priority": -7}),
    ],
)
def test_each_verb_changes_its_jobs(
    engine: Engine,
    admin: Client,
    verb: str,
    argument: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    job = make_job(**before)
    run_action(admin, f"{verb}_selected", job, post="yes", argument=argument)
    assert Job.objects.filter(pk=job.pk, **after).exists()
    (info,) = operations()
    assert (info.verb, info.done, info.argument) == (verb, 1, argument)


def test_deleted_jobs_are_gone_with_their_attempts_and_running_ones_are_left(
    engine: Engine, admin: Client
) -> None:
    jobs = [make_job(state) for state in State]
    for job in jobs:
        make_attempt(job)
    shown = text(run_action(admin, "delete_selected", *jobs))
    assert "Running jobs are left alone; cancel them first" in shown
    assert "1 running" in shown
    (said,) = messages(run_action(admin, "delete_selected", *jobs, post="yes"))
    assert said.startswith("Deleted 6 jobs. Left alone: 1 running.")
    assert [job.state for job in Job.objects.all()] == ["running"]
    assert Attempt.objects.count() == 1


def test_a_cancellation_names_the_running_jobs_that_it_stops(engine: Engine, admin: Client) -> None:
    jobs = [make_job(State.RUNNING, name=f"shop.job{at}", consumer=SCRIPT) for at in range(7)]
    for shown in (
        text(run_action(admin, "cancel_selected", *jobs)),
        text(admin.get(bulk("cancel", "?state=running"))),
        text(admin.get(bulk("cancel"))),
    ):
        assert "These run now, and are stopped" in shown
        assert shown.count('/change/">shop.job') == 5
        assert "and more" in shown
        assert SCRIPT not in shown
    assert "These run now" not in text(admin.get(bulk("cancel", "?state=ready")))


def test_an_action_without_a_ticked_job_or_without_a_choice_changes_nothing(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)
    response = admin.post(JOBS, {"action": "retry_selected", "post": "yes"}, follow=True)
    assert "Tick the jobs first" in messages(response)[0]
    response = run_action(admin, "", job, post="yes")
    assert messages(response) == ["No action selected."]
    response = run_action(admin, "explode_selected", job, post="yes")
    assert messages(response) == ["No action selected."]
    assert states(job) == ["failed"]


def test_a_job_that_is_gone_is_counted_as_not_found(engine: Engine, admin: Client) -> None:
    job = make_job(State.FAILED)
    job_id = job.pk
    Job.objects.all().delete()
    response = admin.post(
        bulk("retry"), {"_selected_action": str(job_id), "post": "yes"}, follow=True
    )
    assert messages(response)[0].startswith("Retried 0 jobs. Left alone: 1 not found.")


@pytest.mark.one_database
@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
@pytest.mark.parametrize("forged", ["", "1", "x" * 36, "\0", "' OR 1=1 --"], ids=ascii)
def test_a_forged_id_is_refused_and_changes_nothing(
    engine: Engine, admin: Client, verb: str, forged: str
) -> None:
    job = make_job(State.FAILED)
    for data in ({}, {"post": "yes"}):
        ticked = {"_selected_action": [str(job.pk), forged], **data}
        assert admin.post(bulk(verb), ticked).status_code == 400
        action = {"action": f"{verb}_selected", "select_across": "0"} | ticked
        assert admin.post(JOBS, action).status_code == 400
    assert states(job) == ["failed"]


# All that match


def test_an_action_on_all_that_match_reaches_them_and_no_others(
    engine: Engine, admin: Client
) -> None:
    jobs = [make_job(State.FAILED, queue="mail") for _ in range(3)]
    other = make_job(State.FAILED, queue="bulk")
    ticked = {"_selected_action": str(other.pk)}
    data = {"action": "retry_selected", "select_across": "1"} | ticked
    response = admin.post(f"{JOBS}?queue=mail&state=failed", data, follow=True)
    assert response.redirect_chain == [(bulk("retry", "?queue=mail&state=failed"), 302)]
    assert preview_of(response) == "3 match."
    assert "state:failed queue:mail" in text(response)
    response = confirm(admin, "retry", "?queue=mail&state=failed")
    assert messages(response)[0].startswith("Retried 3 jobs.")
    assert response.redirect_chain == [(f"{JOBS}?state=failed&queue=mail", 302)]
    assert states(*jobs, other) == ["ready"] * 3 + ["failed"]


def test_the_text_of_the_search_box_is_a_filter_of_an_action_too(
    engine: Engine, admin: Client
) -> None:
    job, other = make_job(State.FAILED, name="shop.mail"), make_job(State.FAILED)
    confirm(admin, "retry", "?q=state%3Afailed+mail")
    assert states(job, other) == ["ready", "failed"]


def test_without_a_filter_a_warning_says_that_these_are_all_jobs(
    engine: Engine, admin: Client
) -> None:
    make_job()
    assert "these are all jobs of the queue" in text(admin.get(bulk("delete")))
    assert "these are all jobs" not in text(admin.get(bulk("delete", "?state=failed")))


@pytest.mark.parametrize("query", ["?state=faild", "?statee=failed", "?q=stat%3Afailed"])
def test_a_wrong_filter_is_never_taken_for_all_jobs(
    engine: Engine, admin: Client, query: str
) -> None:
    job = make_job(State.FAILED)
    for verb in ("retry", "delete"):
        for response in (
            admin.get(bulk(verb, query)),
            admin.post(bulk(verb, query), {"post": "y"}),
        ):
            assert response.headers["Location"] == f"{JOBS}{query}"
    assert states(job) == ["failed"]


def test_a_large_operation_begins_at_once_and_leads_to_its_page(
    engine: Engine, admin: Client, steps: None
) -> None:
    for _ in range(25):
        make_job(State.FAILED)
    response = confirm(admin, "retry", "?state=failed")
    (info,) = operations()
    assert response.redirect_chain == [(f"/admin/djjp/operation/{info.id}/change/", 302)]
    assert logged()[-1][2] == "Begun."


def test_more_than_are_counted_are_shown_as_more(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.operations.MOST_COUNTED", 4)
    monkeypatch.setattr("djjp.monitoring.operations.SAMPLE", 2)
    for at in range(6):
        make_job(State.FAILED if at % 2 else State.READY)
    shown = admin.get(bulk("retry"))
    assert preview_of(shown).startswith("4+ match; of 2 of them")
    assert 'name="post"' in text(shown), "those that were not examined can be possible"


def test_where_nothing_can_be_done_there_is_no_button(engine: Engine, admin: Client) -> None:
    make_job(State.READY)
    shown = text(admin.get(bulk("retry", "?state=ready")))
    assert "1 match; 1 cannot, because 1 has not ended." in shown
    assert 'name="post"' not in shown


# Arguments


@pytest.mark.parametrize(
    ("verb", "wrong", "message"),
    [
        ("move", "x" * 101, "the queue"),
        ("move", "a\0b", "the queue"),
        ("priority", "high", "the priority is"),
        ("priority", "99999", "the priority is"),
    ],
)
def test_a_verb_asks_for_its_argument_and_shows_a_wrong_one_at_its_field(
    engine: Engine, admin: Client, verb: str, wrong: str, message: str
) -> None:
    job = make_job(State.READY)
    asked = text(admin.get(bulk(verb, "?state=ready")))
    assert 'id="djjp-argument"' in asked
    assert 'name="post"' not in asked
    for data in ({"argument": wrong}, {"argument": wrong, "post": "yes"}):
        shown = text(admin.post(bulk(verb, "?state=ready"), data))
        assert message in shown
        assert 'aria-describedby="djjp-argument-error"' in shown
    job.refresh_from_db()
    assert (job.queue, job.priority) == ("default", 0)


def test_a_move_to_a_queue_that_nobody_serves_is_warned_of(engine: Engine, admin: Client) -> None:
    consumer_row("here", queues='["mail"]')
    make_job(State.READY)
    lost = text(admin.post(bulk("move", "?state=ready"), {"argument": "lost"}))
    assert "No consumer serves queue lost now" in lost
    served = text(admin.post(bulk("move", "?state=ready"), {"argument": "mail"}))
    assert "No consumer serves" not in served
    assert "To queue: <strong>mail</strong>" in served


# Rights, the log, the engine


def test_a_verb_needs_its_right_and_a_project_can_forbid_single_deletions(
    engine: Engine, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, kept = make_job(State.FAILED), make_job(queue="audit")
    operator, deleter = log_in("view", "operate"), log_in("view", "delete")
    for client, verbs in ((operator, ["delete"]), (deleter, ["retry", "cancel", "run", "move"])):
        for verb in verbs:
            assert client.get(bulk(verb)).status_code == 403
            assert client.post(bulk(verb), {"post": "yes", "argument": "x"}).status_code == 403
            assert run_action(client, f"{verb}_selected", job, post="yes").status_code == 403
    assert operator.get(bulk("explode")).status_code == 404

    def may(self: JobAdmin, request: HttpRequest, obj: Job | None = None) -> bool:
        return obj != kept

    monkeypatch.setattr(JobAdmin, "has_delete_permission", may)
    assert run_action(deleter, "delete_selected", kept, job, post="yes").status_code == 403
    assert states(job, kept) == ["failed", "succeeded"]
    run_action(deleter, "delete_selected", job, post="yes")
    assert [each.pk for each in Job.objects.all()] == [kept.pk]


def test_an_action_needs_a_post_with_its_csrf_token(engine: Engine, log_in: LogIn) -> None:
    job = make_job(State.FAILED)
    strict = log_in("view", "operate", strict=True)
    assert strict.post(bulk("retry"), {"post": "yes"}).status_code == 403
    assert strict.post(JOBS, {"action": "retry_selected"}).status_code == 403
    strict.get(bulk("retry", "?post=yes"))
    assert states(job) == ["failed"]


def test_an_operation_is_one_entry_in_the_log_and_names_who_asked_for_it(
    engine: Engine, admin: Client
) -> None:
    jobs = [make_job(State.FAILED) for _ in range(2)]
    run_action(admin, "retry_selected", *jobs, post="yes")
    confirm(admin, "cancel", "?state=ready")
    assert [entry[1:] for entry in logged()] == [
        ("Retry: 2 ticked jobs", "Retried 2 jobs."),
        ("Cancel: all jobs that match state:ready", "Cancelled 2 jobs."),
    ]
    second, first = operations()
    assert {info.requested_by for info in (first, second)} == {"admin:user-0"}
    entries = LogEntry.objects.order_by("pk")
    assert [entry.object_id for entry in entries] == [str(first.id), str(second.id)]
    url = entries[0].get_admin_url()
    assert url is not None
    assert admin.get(url).status_code == 200


def test_a_retry_takes_the_dependents_along_and_a_deletion_cancels_them(
    engine: Engine, admin: Client
) -> None:
    handle = chain(fail.bind("no"), echo.bind()).run_later()
    drain()
    run_action(admin, "retry_selected", Job(pk=handle.steps[0].id), post="yes")
    assert sorted(Job.objects.values_list("state", flat=True)) == ["blocked", "ready"]
    run_action(admin, "delete_selected", Job(pk=handle.steps[0].id), post="yes")
    assert [job.state for job in Job.objects.all()] == ["cancelled"]


def test_a_preview_reads_neither_tracebacks_nor_payloads(engine: Engine, admin: Client) -> None:
    jobs = [make_job(State.RUNNING) for _ in range(3)]
    for job in jobs:
        make_attempt(job)
    with captured_statements(engine) as sent:
        run_action(admin, "cancel_selected", *jobs)
        admin.get(bulk("cancel", "?state=running"))
    for word in ("traceback", "arguments", "result"):
        assert not [sql for sql in sent.queue if f'"{word}"' in sql]


def test_an_action_inside_a_transaction_of_the_application_is_carried_out(
    engine: Engine, admin: Client
) -> None:
    """As with ATOMIC_REQUESTS."""
    job = make_job(State.FAILED)
    with transaction.atomic("default"):
        run_action(admin, "retry_selected", job, post="yes")
    assert states(job) == ["ready"]
    assert admin.get(change_url(job)).status_code == 200
