"""The list of jobs: any filter, page by page, each job with its arguments, its error and what it waits for."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from djjp import queues
from djjp.admin import jobs as module
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Flag, Job, State
from djjp.monitoring import Count, search
from tests.project.shop.jobs import add
from tests.support.admin import (
    JOBS,
    SCRIPT,
    LogIn,
    Response,
    captured_statements,
    change_url,
    make_attempt,
    make_job,
    text,
)

#: The header of a request for what changes on the page only.
FRAGMENT: Any = {"X-Djjp-Fragment": "1"}


def ids(response: Response) -> list[UUID]:
    return [UUID(row["id"]) for row in response.context["jobs"]]


def row_of(response: Response, job: Job) -> str:
    """Return the text of the row of a job, without tags."""
    found = re.search(rf'<tr id="job-{job.pk}">(.*?)</tr>', text(response), re.DOTALL)
    assert found, "the job is not on the page"
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 2 jobs."""
    monkeypatch.setattr(module, "PAGE", 2)


def test_the_list_shows_each_job_newest_first_with_a_link_to_its_page(
    engine: Engine, admin: Client
) -> None:
    jobs = [make_job(state, queue="mail") for state in State]
    response = admin.get(JOBS)
    assert ids(response) == [job.pk for job in reversed(jobs)]
    shown = text(response)
    for job in jobs:
        assert f'href="{change_url(job)}"' in shown
        assert str(State(job.state).label) in row_of(response, job)
    assert "7 jobs" in shown
    assert "4.0 s" in row_of(response, jobs[4])


def test_the_trail_names_the_list_apart_from_the_pages_of_the_queue(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.SUCCEEDED)
    for address in (JOBS, change_url(job)):
        trail = re.search(
            r'<div class="breadcrumbs">(.*?)</div>', text(admin.get(address)), re.DOTALL
        )
        assert trail is not None
        steps = " ".join(re.sub(r"<[^>]+>", "", trail[1]).split())
        assert steps.startswith("Home &rsaquo; Jobs &rsaquo; Job list"), steps


def test_an_empty_list_shows_that_it_is_empty(engine: Engine, admin: Client) -> None:
    assert "There are no jobs." in text(admin.get(JOBS))
    assert "No job matches." in text(admin.get(JOBS, {"queue": "mail"}))


def test_times_are_relative_with_the_exact_time_as_tooltip_and_for_screen_readers(
    engine: Engine, admin: Client
) -> None:
    job = make_job(created_at=timezone.now() - timedelta(minutes=3))
    shown = text(admin.get(JOBS))
    exact = f"{timezone.localtime(job.created_at):%Y-%m-%d %H:%M:%S}"
    assert f'title="{exact}"><span aria-hidden="true">3 min ago</span>' in shown
    assert f'<span class="visually-hidden">{exact}</span>' in shown


# What a row shows


def test_arguments_are_on_one_line_without_secrets(engine: Engine, admin: Client) -> None:
    job = make_job(name=add.name, arguments='{"args":[1,"a\\nb"],"kwargs":{"password":"hunter2"}}')
    shown = row_of(admin.get(JOBS), job)
    assert "1, &quot;a\\nb&quot;, password=***" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", '{"args":1}', '{"args":{},"kwargs":[]}', "x" * 20_000, "\x1b[31m"]
)
def test_damaged_and_long_arguments_break_no_row(
    engine: Engine, admin: Client, damaged: str
) -> None:
    job = make_job(name=add.name, arguments=damaged)
    shown = row_of(admin.get(JOBS), job)
    assert job.name in shown
    assert "\x1b" not in shown
    assert len(shown) < 1000


def test_a_failed_job_shows_its_last_error_on_one_line(engine: Engine, admin: Client) -> None:
    job = make_job(State.FAILED)
    make_attempt(job, message="an earlier one")
    make_attempt(job, 2, message="no address\nsecond line")
    other = make_job(State.SCHEDULED, attempts=1, run_after=timezone.now() + timedelta(minutes=5))
    make_attempt(other, message="again")
    response = admin.get(JOBS)
    shown = row_of(response, job)
    assert "ValueError: no address" in shown
    assert "second line" not in shown
    assert "an earlier one" not in shown
    assert "attempt 2 is due in 5 min" in row_of(response, other)
    assert "ValueError: again" in row_of(response, other)


def test_without_the_right_to_arguments_neither_these_nor_messages_are_shown(
    engine: Engine, log_in: LogIn
) -> None:
    job = make_job(State.FAILED, name=add.name, arguments='{"args":["of nobody else"],"kwargs":{}}')
    make_attempt(job, message="of nobody else too")
    viewer = log_in("view")
    with captured_statements(engine) as sent:
        shown = text(viewer.get(JOBS))
    assert "of nobody else" not in shown
    assert "ValueError" in shown
    assert not [sql for sql in sent.queue if '"arguments"' in sql]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "blocked", "waits_for": 2}, "2 other jobs of its pipeline"),
        ({"state": "blocked", "waits_for": 1}, "1 other job of its pipeline"),
        (
            {"state": "blocked", "waits_for": 1, "flags": Flag.ON_FAILURE},
            "a failure in its pipeline",
        ),
        ({"state": "blocked", "limit_key": "k", "limit_max": 1}, "a permit of its limit k"),
        ({"state": "scheduled"}, "due in 10 min"),
        (
            {"state": "scheduled", "flags": Flag.THROTTLED, "limit_key": "k"},
            "its rate k lets it start in 10 min",
        ),
        ({"state": "ready", "queue": "bulk"}, "queue bulk is paused until somebody resumes it"),
        ({"state": "ready", "queue": "slow"}, "queue slow is paused and resumes in 2 h"),
        ({"state": "ready"}, "no consumer serves queue default"),
    ],
    ids=str,
)
def test_a_job_that_has_not_started_shows_what_it_waits_for(
    engine: Engine, admin: Client, fields: dict[str, Any], expected: str
) -> None:
    queues.pause("bulk")
    queues.pause("slow", 7200)
    later = timezone.now() + timedelta(minutes=10)
    job = make_job(**{"run_after": later if fields["state"] == "scheduled" else None} | fields)
    assert expected in row_of(admin.get(JOBS), job)


def test_a_job_that_expires_shows_when(engine: Engine, admin: Client) -> None:
    job = make_job(
        State.READY, flags=Flag.EXPIRES, expires_at=timezone.now() + timedelta(minutes=4)
    )
    assert "expires in 4 min" in row_of(admin.get(JOBS), job)


def test_names_tags_and_queues_are_text_whatever_they_are(engine: Engine, admin: Client) -> None:
    job = make_job(name=SCRIPT, queue=SCRIPT, options=json.dumps({"tags": [SCRIPT, "a&b c"]}))
    other = make_job(name="\u202eevil")
    response = admin.get(JOBS)
    assert SCRIPT not in text(response)
    assert "&lt;script&gt;" in row_of(response, job)
    assert "?tag=a%26b+c" in text(response)
    assert "\u202e" not in row_of(response, other)


def test_the_number_of_statements_does_not_depend_on_the_number_of_jobs(
    engine: Engine, admin: Client
) -> None:
    def create(number: int) -> None:
        for at in range(number):
            job = make_job([*State][at % 7], queue=f"queue{at}", options='{"tags":["a"]}')
            make_attempt(job)

    create(7)
    with captured_statements(engine) as few:
        assert len(ids(admin.get(JOBS))) == 7
    create(35)
    with captured_statements(engine) as many:
        assert len(ids(admin.get(JOBS))) == 42
    assert shapes(many.queue) == shapes(few.queue)
    assert len(many.application) == len(few.application)


def shapes(statements: list[str]) -> list[str]:
    """Return the beginning of each statement, which its values are not in."""
    return [sql[:40] for sql in statements]


def test_the_list_reads_neither_results_nor_tracebacks_and_skips_no_rows_by_number(
    engine: Engine, admin: Client
) -> None:
    make_attempt(make_job(State.FAILED))
    with captured_statements(engine) as sent:
        assert ids(admin.get(JOBS))
        assert ids(admin.get(JOBS + "?state=failed&queue=default&q=ech"))
    for word in ('"result"', '"traceback"', "OFFSET"):
        assert not [sql for sql in sent.queue if word in sql], word


# Pages


def test_pages_follow_keys_in_both_directions(
    engine: Engine, admin: Client, short_pages: None
) -> None:
    jobs = [make_job().pk for _ in range(5)][::-1]
    first = admin.get(JOBS)
    assert (ids(first), first.context["previous"]) == (jobs[:2], None)
    second = admin.get(JOBS + first.context["next"])
    third = admin.get(JOBS + second.context["next"])
    assert (ids(second), ids(third), third.context["next"]) == (jobs[2:4], jobs[4:], None)
    back = admin.get(JOBS + third.context["previous"])
    assert ids(back) == jobs[2:4]
    # The page before the first one is the first one, with what was enqueued meanwhile.
    new = make_job().pk
    newest = admin.get(JOBS + back.context["previous"])
    assert ids(newest) in ([jobs[0], jobs[1]], [new, jobs[0]])
    assert ids(admin.get(JOBS)) == [new, jobs[0]]


def test_a_page_keeps_the_filter(engine: Engine, admin: Client, short_pages: None) -> None:
    mail = [make_job(queue="mail").pk for _ in range(3)][::-1]
    make_job()
    first = admin.get(JOBS, {"q": "queue:mail"})
    assert ids(first) == mail[:2]
    assert ids(admin.get(JOBS + first.context["next"])) == mail[2:]


@pytest.mark.parametrize("cursor", ["", "x", "0", "9" + "0" * 32, "\0", "0" + "f" * 32])
def test_a_wrong_cursor_shows_the_newest_jobs(engine: Engine, admin: Client, cursor: str) -> None:
    job = make_job()
    assert ids(admin.get(JOBS, {"cursor": cursor})) == [job.pk]
    assert admin.get(JOBS, {"cursor": cursor, "backwards": "1"}).status_code == 200


def test_more_than_10_000_jobs_are_not_counted(
    engine: Engine, admin: Client, short_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[dict[str, Any]] = []

    def count(wanted: object, **options: Any) -> Any:
        counted.append(options)
        return Count(10_000, is_exact=False)

    monkeypatch.setattr(module, "count", count)
    for _ in range(3):
        make_job()
    assert "10,000+ jobs" in text(admin.get(JOBS))
    assert 0 < counted[0]["time_limit"] <= module.SECONDS


def test_a_search_that_takes_too_long_shows_how_far_it_looked_and_goes_on(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make_job(name="shop.old", id=new_id())
    for _ in range(3):
        make_job()
    monkeypatch.setattr(search, "_FIRST_ROWS", 2)
    monkeypatch.setattr("djjp.monitoring.jobs.SECONDS", -1.0)
    response = admin.get(JOBS, {"name": "shop.old"})
    assert ids(response) == []
    assert "Looked back to" in text(response)
    assert "No job matches" not in text(response)
    assert ids(admin.get(JOBS + response.context["next"])) == [wanted.pk]


# Filters


def test_each_filter_finds_its_jobs_by_its_parameter_and_by_the_text(
    engine: Engine, admin: Client
) -> None:
    pipeline = uuid4()
    job = make_job(
        State.FAILED,
        queue="mail",
        name="shop.mail.send",
        pipeline=pipeline,
        unique_key="order 7",
        attempts=5,
        consumer="web-2",
        options='{"tags":["tenant-42"]}',
        created_at=timezone.now(),
    )
    job.tag_rows.create(tag="tenant-42", job=job)
    make_attempt(job, exception_class="shop.errors.Refused")
    make_job(id=UUID(int=1))
    for key, value in {
        "state": "failed",
        "queue": "mail",
        "name": "shop.mail.*",
        "exception": "Refused",
        "tag": "tenant-42",
        "since": "2h",
        "pipeline": str(pipeline),
        "consumer": "web-2",
        "unique_key": "order 7",
        "attempts": ">3",
    }.items():
        assert ids(admin.get(JOBS, {key: value})) == [job.pk], key
        typed = f'{key}:"{value}"' if " " in value else f"{key}:{value}"
        response = admin.get(JOBS, {"q": typed})
        assert ids(response) == [job.pk], typed
        assert response.context["asked"].query() != "?"
    assert ids(admin.get(JOBS, {"until": "2h"})) == [UUID(int=1)]


def test_filters_combine_and_the_search_box_shows_them_as_text(
    engine: Engine, admin: Client
) -> None:
    wanted = make_job(State.FAILED, queue="mail", name="shop.mail")
    make_job(State.FAILED, queue="bulk", name="shop.mail")
    make_job(State.SUCCEEDED, queue="mail", name="shop.mail")
    response = admin.get(JOBS, {"q": "state:failed", "queue": "mail", "name": ""})
    assert ids(response) == [wanted.pk]
    response = admin.get(JOBS, {"state": "failed", "queue": "mail"})
    assert ids(response) == [wanted.pk]
    assert 'name="q" value="state:failed queue:mail"' in text(response)
    assert '<input type="hidden" name="state" value="failed">' in text(response)
    assert 'name="queue" value="mail"' in text(response)
    # Its link removes a condition.
    assert f'href="{JOBS}?state=failed" aria-label="Remove queue:mail"' in text(response)


def test_several_states_are_one_filter(engine: Engine, admin: Client) -> None:
    jobs = [make_job(State.FAILED).pk, make_job(State.READY).pk]
    make_job()
    assert ids(admin.get(JOBS + "?state=failed&state=ready")) == jobs[::-1]
    assert ids(admin.get(JOBS + "?state=failed,ready")) == jobs[::-1]


def test_known_queues_names_and_exceptions_are_offered(engine: Engine, admin: Client) -> None:
    make_job(State.READY, queue="rare-queue")
    make_attempt(make_job(State.FAILED), exception_class="shop.errors.Refused")
    shown = text(admin.get(JOBS))
    for word in ("rare-queue", add.name, "shop.errors.Refused"):
        assert f'<option value="{word}">' in shown
    for label in ("queue", "name", "tag", "since"):
        assert f'<label for="djjp-filter-{label}">' in shown


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"state": "faild"}, "it must be one of scheduled, blocked"),
        ({"state": "faild"}, "the closest is &#x27;failed&#x27;"),
        ({"since": "yesterday"}, "it must be a time such as 2026-01-31T12:00, or a span back"),
        ({"attempts": "many"}, "it must be a number such as 3"),
        ({"pipeline": "7"}, "it must be the id of a pipeline, a UUID"),
        ({"q": "stat:failed"}, "the closest is &#x27;state&#x27;"),
        ({"q": "state:"}, "state has no value"),
        ({"q": 'name:"a'}, "is not closed"),
        ({"since": "2h", "until": "3h"}, "it must be after since"),
        ({"q": "queue:a", "queue": "b"}, "queue is given 2 times"),
    ],
    ids=str,
)
def test_a_wrong_filter_shows_what_is_allowed_and_no_jobs(
    engine: Engine, admin: Client, given: dict[str, str], message: str
) -> None:
    make_job()
    response = admin.get(JOBS, given)
    assert message in text(response)
    assert ids(response) == []
    assert "djjp-actions" not in text(response), "an action would be for all jobs"
    fields = {"since": 'id="djjp-filter-since-error"', "q": 'id="djjp-q-error"'}
    for key, place in fields.items():
        if given.keys() == {key}:
            assert place in text(response)


def test_an_unknown_parameter_is_refused_and_those_of_djangos_links_are_not(
    engine: Engine, admin: Client
) -> None:
    make_job()
    for query in ("arguments__contains=secret", "result=1", "failures__message=x", "statee=failed"):
        response = admin.get(f"{JOBS}?{query}")
        assert response.status_code == 400, query
        assert "a filter has no key" in response.text
    for query in ("p=0", "p=x", "all=", "o=99", "e=1", "_changelist_filters=a%3Db"):
        assert len(ids(admin.get(f"{JOBS}?{query}"))) == 1, query


@pytest.mark.parametrize(
    "typed",
    [
        "'; DROP TABLE djjp_job; --",
        "a\0b",
        "\0",
        "%" * 60_000,
        "x" * 60_000,
        "*" * 300,
        "\U0001f600",
        "{}",
        "urn:uuid:",
        "<script>",
        "a b c d e f g",
        '"',
        ":",
    ],
    ids=lambda typed: ascii(typed[:12]),
)
def test_any_typed_text_returns_a_page(engine: Engine, admin: Client, typed: str) -> None:
    make_job()
    for field in ("q", "queue", "name", "state", "tag", "exception", "attempts", "cursor"):
        response = admin.get(JOBS, {field: typed})
        assert ids(response) in ([], [Job.objects.get().pk]), field
        assert "<script>" not in text(response).partition("djjp-q")[2]
    assert Job.objects.count() == 1


# The search box


def test_an_id_in_any_spelling_leads_to_the_page_of_its_job(engine: Engine, admin: Client) -> None:
    job = make_job()
    for term in (str(job.pk), job.pk.hex, str(job.pk).upper(), f"  {job.pk} ", f"{{{job.pk}}}"):
        assert admin.get(JOBS, {"q": term}).headers["Location"] == change_url(job), term


def test_the_id_of_a_pipeline_leads_to_its_page_and_an_unknown_one_says_so(
    engine: Engine, admin: Client
) -> None:
    job = make_job(pipeline=uuid4())
    make_job()
    response = admin.get(JOBS, {"q": str(job.pipeline)})
    assert response.headers["Location"] == f"{JOBS}pipelines/{job.pipeline}/"
    assert text(admin.get(response.headers["Location"]))
    response = admin.get(JOBS, {"q": str(uuid4())})
    assert "No job and no pipeline has the id" in text(response)


def test_plain_words_are_parts_of_the_name(engine: Engine, admin: Client) -> None:
    mail, other = make_job(name="shop.send_receipt"), make_job(name="shop.add")
    make_job(State.FAILED, name="shop.send_receipts")
    assert ids(admin.get(JOBS, {"q": "send_receipt state:succeeded"})) == [mail.pk]
    assert ids(admin.get(JOBS, {"q": "shop receipt state:succeeded"})) == [mail.pk]
    assert ids(admin.get(JOBS, {"q": "shop.a*"})) == [other.pk]
    assert ids(admin.get(JOBS, {"q": "send%receipt"})) == []
    assert len(ids(admin.get(JOBS, {"q": "  "}))) == 3


def test_a_word_that_is_a_tag_and_no_part_of_a_name_finds_its_jobs(
    engine: Engine, admin: Client
) -> None:
    make_job()
    handle = add.using(tags=["customer-42"]).run_later(1)
    response = admin.get(JOBS, {"q": "customer-42"}, follow=True)
    assert ids(response) == [handle.id]
    assert "customer-42" in row_of(response, Job.objects.get(pk=handle.id))
    assert ids(admin.get(JOBS, {"q": "customer-43"}, follow=True)) == []


def test_an_unknown_queue_has_a_link_to_the_closest_known_one(
    engine: Engine, admin: Client
) -> None:
    make_job(State.READY, queue="reports")
    shown = text(admin.get(JOBS, {"queue": "reprots", "state": "ready"}))
    assert f'<a href="{JOBS}?state=ready&amp;queue=reports">queue:reports</a>' in shown


# The page


def test_a_refresh_returns_the_rows_only_and_reads_nothing_for_the_forms(
    engine: Engine, admin: Client
) -> None:
    job = make_job()
    with captured_statements(engine) as whole:
        admin.get(JOBS)
    with captured_statements(engine) as part:
        response = admin.get(JOBS, headers=FRAGMENT)
    assert str(job.pk) in text(response)
    assert "<form" not in text(response)
    assert "<html" not in text(response)
    assert len(part.queue) < len(whole.queue)


def test_a_viewer_has_rows_without_boxes_and_no_actions(engine: Engine, log_in: LogIn) -> None:
    make_job()
    shown = text(log_in("view").get(JOBS))
    assert "djjp-actions" not in shown
    assert "checkbox" not in shown
    operator, deleter = log_in("view", "operate"), log_in("view", "delete")
    assert 'value="retry_selected"' in text(operator.get(JOBS))
    assert 'value="delete_selected"' not in text(operator.get(JOBS))
    assert 'value="delete_selected"' in text(deleter.get(JOBS))
    assert 'value="retry_selected"' not in text(deleter.get(JOBS))


def test_a_page_reloads_without_javascript_only_where_nothing_can_be_lost(
    engine: Engine, admin: Client
) -> None:
    make_job()
    assert 'http-equiv="refresh"' not in text(admin.get(JOBS))


def test_a_row_by_hand_breaks_no_list(engine: Engine, admin: Client) -> None:
    job = make_job()
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute(
            "UPDATE djjp_job SET state = 'odd', queue = '', options = '{', reason = 'x', flags = 512"
        )
    assert ids(admin.get(JOBS)) == [job.pk]
    assert User.objects.exists()


def test_times_without_time_zones_are_shown_too(engine: Engine, admin: Client) -> None:
    queues.pause("slow", 7200)
    job = make_job(State.FAILED)
    make_attempt(job)
    with override_settings(USE_TZ=False):
        later = datetime.now() + timedelta(minutes=10)
        waiting = make_job(State.SCHEDULED, queue="slow", run_after=later, created_at=later)
        assert "due in 10 min" in row_of(admin.get(JOBS), waiting)
        for url in (f"{JOBS}?since=2h", f"{JOBS}failures/", f"{JOBS}bulk/cancel/?until=2h"):
            assert text(admin.get(url))
