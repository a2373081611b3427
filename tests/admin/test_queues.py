"""The pages of queues: all that are known, one in large, and who may pause it."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.test import Client, override_settings
from django.utils import timezone

from djjp import queues
from djjp.engine import Engine
from djjp.models import Depth, Incident, State, TotalEntry
from tests.admin.test_outage import away
from tests.support.admin import (
    SCRIPT,
    LogIn,
    captured_statements,
    logged,
    make_job,
    messages,
    text,
)
from tests.support.factories import consumer_row

LIST = "/admin/djjp/queue/"
UNIT = 1 << 20
#: Names that a URL, a page or a terminal could take for something else.
ODD = [
    "a/b",
    "100%",
    SCRIPT,
    "a?b&c=d#e",
    "ä ö",
    "x_2Fy",
    "x/pause",
    "\u202eevil",
    "q" * 100,
    '"quoted"',
]


def page_of(name: str) -> str:
    return f"{LIST}{quote(name)}/change/"


def ready(queue: str, count: int = 1, **given: Any) -> None:
    for _ in range(count):
        created = timezone.now() - timedelta(minutes=10)
        make_job(State.READY, **{"queue": queue, "created_at": created, **given})


def row_of(page: str, queue: str) -> str:
    """Return the text of the row of a queue, with single spaces."""
    found = re.search(rf'<tr data-queue="{re.escape(queue)}".*?</tr>', page, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"<[^>]*>", " ", found[0]).split())


def test_the_list_has_every_known_queue_with_its_jobs(engine: Engine, admin: Client) -> None:
    ready("mail", 3)
    make_job(State.SCHEDULED, queue="mail", run_after=timezone.now() + timedelta(hours=1))
    make_job(State.RUNNING, queue="bulk")
    consumer_row(queues=json.dumps(["mail", "idle:2"]))
    queues.pause("stopped")

    page = text(admin.get(LIST))

    assert row_of(page, "mail").startswith("mail 3 1 10 min")
    assert "elsewhere:1:a" in row_of(page, "mail")
    assert "nobody" in row_of(page, "bulk")
    assert row_of(page, "idle").startswith("idle elsewhere:1:a")
    assert row_of(page, "stopped").startswith("stopped paused")
    assert "default" in page  # of a registered function


def test_a_queue_shows_when_it_is_about_empty(engine: Engine, admin: Client) -> None:
    ready("mail", 10)
    minute = int(time.time()) // 60 * 60
    for ago, number in ((0, 10), (240, 18)):
        Depth.objects.create(queue="mail", minute=minute - ago, ready=number)
    figures = {"succeeded": {"mail": {"send": 40}}}
    TotalEntry.objects.create(minute=minute, figures=json.dumps(figures))

    page = text(admin.get(LIST))

    assert "6.0 / 8.0 in 5 min" in row_of(page, "mail")
    queues.pause("mail")
    assert "in 5 min" not in row_of(text(admin.get(LIST)), "mail")


def test_more_jobs_than_are_counted_have_a_plus(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.overview.MOST", 3)
    ready("mail", 5)
    assert row_of(text(admin.get(LIST)), "mail").startswith("mail 3+")
    assert "3+" in text(admin.get(page_of("mail")))


def test_of_very_many_queues_the_list_has_pages(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.admin.queues.QUEUES_SHOWN", 2)
    for name in ("box-1", "box-2", "box-3", "box<&", "other"):
        ready(name)
    found, query = [], "?q=box"
    while query:
        page = admin.get(LIST + query)
        found.append([each.name for each in page.context["queues"]])
        assert "2 of 4 queues" in text(page)
        assert ("The first" in text(page)) == (len(found) > 1)
        query = page.context["following"]
    assert found == [["box-1", "box-2"], ["box-3", "box<&"]]


def test_of_very_many_queues_fewer_jobs_of_each_are_counted(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.overview.MOST_READY", 6)
    for name in ("bulk", "mail"):
        ready(name, 5)
    assert row_of(text(admin.get(LIST)), "mail").startswith("mail 3+")
    Depth.objects.create(queue="mail", minute=int(time.time()) // 60 * 60, ready=5)
    assert row_of(text(admin.get(LIST)), "mail").startswith("mail 5+")


def test_a_search_finds_queues_by_a_part_of_their_name(engine: Engine, admin: Client) -> None:
    ready("mail")
    ready("Email-slow")
    ready("bulk")
    page = text(admin.get(LIST, {"q": "MAIL"}))
    assert 'data-queue="mail"' in page
    assert 'data-queue="Email-slow"' in page
    assert 'data-queue="bulk"' not in page
    assert "No queue has “&lt;b&gt;” in its name" in text(admin.get(LIST, {"q": "<b>"}))


@pytest.mark.parametrize("name", ODD)
def test_a_queue_of_any_name_has_its_page(engine: Engine, admin: Client, name: str) -> None:
    ready(name)
    listed = text(admin.get(LIST))
    links = re.findall(r'href="(/admin/djjp/queue/[^"]*/change/)"', listed)
    assert len(links) == len(set(links))
    pages = [admin.get(link) for link in links]
    [page] = [each for each in pages if each.context["queue"].name == name]
    assert SCRIPT not in text(page)
    assert "\u202e" not in text(page)

    action = re.search(r'action="(/admin/djjp/queue/[^"]*/pause/)"', text(page))
    assert action is not None
    assert admin.post(action[1], {"duration": "1h"}, follow=True).status_code == 200
    assert list(queues.paused()) == [name]
    assert SCRIPT not in text(admin.get(LIST))


def test_the_page_of_a_queue_has_its_figures_names_incidents_and_servers(
    engine: Engine, admin: Client
) -> None:
    ready("mail", 2)
    minute = int(time.time()) // 60 * 60
    figures = {
        "succeeded": {"mail": {"send": [UNIT, UNIT] * 3}, "other": {"resize": 9}},
        "failed": {"mail": {"send": [UNIT, UNIT]}},
    }
    TotalEntry.objects.create(minute=minute, figures=json.dumps(figures))
    consumer_row("here:1:a", queues=json.dumps(["mail"]))
    consumer_row("quiet:1:a", quiet=True)
    consumer_row("other:1:a", queues=json.dumps(["other"]))
    now = timezone.now()
    for subject in ("mail", "other"):
        Incident.objects.create(
            kind="wait",
            subject=subject,
            opened_at=now,
            seen_at=now,
            facts=json.dumps({"wait": 600, "limit": 300}),
        )

    page = text(admin.get(page_of("mail")))

    assert "A job in the queue &#x27;mail&#x27; has waited for 10 min" in page
    assert "&#x27;other&#x27;" not in page
    assert "here:1:a" in page
    assert "quiet:1:a" in page
    assert "other:1:a" not in page
    assert '<tr data-name="send"' in page
    assert "resize" not in page
    assert "25 %" in page
    assert 'href="/admin/djjp/job/?queue=mail&amp;state=ready">2</a>' in page
    assert 'href="/admin/djjp/job/names/send/"' in page


def test_a_queue_that_nobody_serves_has_the_command_that_puts_it_right(
    engine: Engine, admin: Client
) -> None:
    ready("mail")
    assert "python manage.py start_consumer" in text(admin.get(page_of("mail")))
    consumer_row()
    assert "python manage.py start_consumer" not in text(admin.get(page_of("mail")))


def test_an_incident_about_a_queue_has_its_command_and_is_reported_once(
    engine: Engine, admin: Client
) -> None:
    ready("mail")
    now = timezone.now()
    Incident.objects.create(
        kind="no_consumer",
        subject="mail",
        opened_at=now,
        seen_at=now,
        facts=json.dumps({"jobs": 1, "wait": 60, "quiet": None}),
    )
    page = text(admin.get(page_of("mail")))
    assert "No consumer that claims jobs serves this queue" not in page
    assert "python manage.py start_consumer --queues mail</code>" in page


@pytest.mark.parametrize("name", ["none", "no*ne", "n" * 200])
def test_an_unknown_queue_has_a_page_that_explains_it(
    engine: Engine, admin: Client, name: str
) -> None:
    page = admin.get(page_of(name))
    assert page.status_code == 404
    assert "No job, consumer, pause or registered function names a queue like this." in (
        page.content.decode()
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"duration": "15m"}, "Paused until 2"),
        ({"duration": ""}, "Paused until it is resumed."),
        ({"duration": "15m", "own": "2h"}, "Paused until 2"),
    ],
)
def test_a_pause_is_logged_and_reported(
    engine: Engine, admin: Client, given: dict[str, str], message: str
) -> None:
    ready("mail")
    page = admin.post(f"{LIST}mail/pause/", given, follow=True)
    assert page.redirect_chain == [(page_of("mail"), 302)]
    [shown] = messages(page)
    assert shown.startswith(f"mail: {message}")
    [(_, queue, change)] = logged()
    assert queue == "mail"
    assert change.startswith(message)
    assert "mail" in queues.paused()
    assert "This queue is paused" in text(page)


def test_a_resume_is_logged_and_reported(engine: Engine, admin: Client) -> None:
    ready("mail")
    queues.pause("mail")
    assert messages(admin.post(f"{LIST}mail/resume/", follow=True)) == ["mail: Resumed."]
    assert logged() == [(2, "mail", "Resumed.")]
    assert queues.paused() == {}
    page = admin.post(f"{LIST}mail/resume/", follow=True)
    assert messages(page) == ["mail: It was not paused."]
    assert len(logged()) == 1


def test_an_invalid_time_is_refused_at_its_field(engine: Engine, admin: Client) -> None:
    ready("mail")
    page = admin.post(f"{LIST}mail/pause/", {"duration": "1h", "own": "<soon>"})
    assert page.status_code == 422
    shown = page.content.decode()
    assert "“&lt;soon&gt;” is no time" in shown
    assert 'value="&lt;soon&gt;"' in shown
    assert 'aria-invalid="true"' in shown
    assert '<option value="1h" selected>' in shown
    assert (queues.paused(), logged()) == ({}, [])


def test_a_form_returns_to_the_page_that_it_is_on_and_to_no_other_site(
    engine: Engine, admin: Client
) -> None:
    ready("mail")
    for given, target in (
        ("/admin/djjp/", "/admin/djjp/"),
        ("https://evil.example/", page_of("mail")),
        ("//evil.example/", page_of("mail")),
        ("javascript:alert(1)", page_of("mail")),
        ("", page_of("mail")),
    ):
        response = admin.post(f"{LIST}mail/pause/", {"duration": "1h", "next": given})
        assert response.headers["Location"] == target


def test_only_who_may_pause_sees_the_form_and_pauses(engine: Engine, log_in: LogIn) -> None:
    ready("mail")
    viewer = log_in("view", "operate", "view_arguments")
    for page in (LIST, page_of("mail")):
        assert "/pause/" not in text(viewer.get(page))
    assert viewer.post(f"{LIST}mail/pause/").status_code == 403
    assert viewer.post(f"{LIST}mail/resume/").status_code == 403
    assert log_in("pause_queue").post(f"{LIST}mail/pause/").status_code == 403
    assert queues.paused() == {}
    assert logged() == []


def test_a_page_needs_the_right_to_see_the_queue(engine: Engine, log_in: LogIn) -> None:
    ready("mail")
    nobody = log_in("pause_queue")
    assert nobody.get(LIST).status_code == nobody.get(page_of("mail")).status_code == 403
    assert Client().get(LIST).status_code == 302


def test_changes_need_a_post_with_a_token(engine: Engine, log_in: LogIn, admin: Client) -> None:
    ready("mail")
    assert admin.get(f"{LIST}mail/pause/").status_code == 405
    assert admin.get(f"{LIST}mail/resume/").status_code == 405
    strict = log_in("view", "pause_queue", strict=True)
    assert strict.post(f"{LIST}mail/pause/", {"duration": "1h"}).status_code == 403
    assert queues.paused() == {}


def test_the_number_of_statements_does_not_depend_on_the_rows(
    engine: Engine, admin: Client
) -> None:
    def statements(address: str) -> int:
        with captured_statements(engine) as sent:
            text(admin.get(address))
        return len(sent.queue) + len(sent.application)

    ready("mail", 2)
    consumer_row("one:1:a")
    few = [statements(address) for address in (LIST, page_of("mail"))]
    for number in range(10):
        ready(f"queue-{number}", 2)
        ready("mail", 2, priority=number)
        consumer_row(f"more:{number}:a")
        figures = {"succeeded": {"mail": {f"name-{number}": 3}}}
        TotalEntry.objects.create(minute=int(time.time()) // 60 * 60, figures=json.dumps(figures))
    assert [statements(address) for address in (LIST, page_of("mail"))] == few


def test_what_changes_is_refreshed_and_the_form_is_not(engine: Engine, admin: Client) -> None:
    ready("mail")
    fragment = text(admin.get(page_of("mail"), headers={"X-Djjp-Fragment": "1"}))
    assert "<html" not in fragment
    assert 'data-djjp="queue"' in fragment
    assert 'id="djjp-own"' not in fragment


def test_the_pages_answer_with_503_while_the_database_is_away(
    engine: Engine, admin: Client
) -> None:
    ready("mail")
    with away(engine):
        assert admin.get(LIST).status_code == 503
        assert admin.get(page_of("mail")).status_code == 503
        assert admin.post(f"{LIST}mail/pause/", {"duration": "1h"}).status_code == 503
    assert logged() == []


def test_times_are_shown_without_time_zones_too(engine: Engine, admin: Client) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        ready("mail", created_at=timezone.now())
        page = admin.post(f"{LIST}mail/pause/", {"duration": "1h"}, follow=True)
        assert "It resumes in 60 min" in " ".join(re.sub(r"<[^>]*>", "", text(page)).split())
