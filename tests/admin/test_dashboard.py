"""The dashboard says what is wrong, why, and offers the button; it costs the queue one read a second."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.template.loader import render_to_string
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djjp import queues
from djjp.admin import panel_rows, snapshot, trend_charts
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Depth, Incident, Operation, Release, Schedule, State, Total
from tests.admin.test_outage import away
from tests.project.shop.jobs import add
from tests.support.admin import (
    SCRIPT,
    LogIn,
    captured_statements,
    make_attempt,
    make_job,
    text,
)
from tests.support.consumers import drain
from tests.support.factories import consumer_row

BOARD = "/admin/djjp/"
FRAGMENT = "/admin/djjp/job/dashboard/"
PANELS = [
    "summary",
    "charts",
    "queues",
    "failures",
    "consumers",
    "schedules",
    "operations",
    "outbox",
]


def panel(page: str, name: str) -> str:
    """Return the HTML of a panel."""
    found = re.search(rf'<section[^>]* data-djjp="{name}".*?</section>', page, re.DOTALL)
    assert found is not None, f"there is no panel {name}"
    return found[0]


def words(html: str) -> str:
    """Return the text of HTML as a reader sees it."""
    return " ".join(re.sub(r"<[^>]+>", "", html).split()).replace("&#x27;", "'")


def open_incident(kind: str, subject: str, facts: str) -> Incident:
    at = timezone.now()
    return Incident.objects.create(
        kind=kind, subject=subject, opened_at=at, seen_at=at, facts=facts
    )


def make_schedule(**fields: Any) -> Schedule:
    defaults = {
        "name": "nightly",
        "job": "shop.echo",
        "cron": "0 2 * * *",
        "tz": "UTC",
        "arguments": '{"args":[],"kwargs":{}}',
        "fired_until": time.time(),
    }
    return Schedule.objects.create(**defaults | fields)


@pytest.fixture
def everything(engine: Engine, log_in_for: Any) -> Client:
    """Return a client of a superuser."""
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    return client


# The page


@pytest.mark.parametrize("url", [BOARD, FRAGMENT, f"{BOARD}?span=24h", f"{FRAGMENT}?span=7d"])
def test_all_panels_are_there(everything: Client, url: str) -> None:
    page = text(everything.get(url))
    assert re.findall(r'<section[^>]* data-djjp="(\w+)"', page) == PANELS


def test_the_fragment_is_no_whole_page(everything: Client) -> None:
    assert "<html" not in text(everything.get(FRAGMENT))
    assert f'data-djjp-live="{FRAGMENT}?span=7d"' in text(everything.get(f"{BOARD}?span=7d"))


def test_an_unknown_span_is_an_hour(everything: Client) -> None:
    page = text(everything.get(f"{BOARD}?span=<script>"))
    assert '<a href="?span=1h" aria-current="true">' in page
    assert "<script>&" not in page
    assert '<script>"' not in page


def test_without_javascript_the_page_is_loaded_again(everything: Client) -> None:
    assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in text(
        everything.get(BOARD)
    )


def test_nothing_on_the_page_needs_an_inline_style_or_script(everything: Client) -> None:
    make_job(State.FAILED)
    page = text(everything.get(BOARD))
    ours = page[page.index('id="content-main"') :]
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|<script(?![^>]* src=)", ours)


def test_names_from_rows_are_escaped(everything: Client) -> None:
    now = timezone.now()
    failed = make_job(State.FAILED, name=SCRIPT, queue=SCRIPT)
    attempt = make_attempt(failed, exception_class=SCRIPT, message=SCRIPT, traceback=SCRIPT)
    type(attempt).objects.update(finished_at=now)
    make_job(State.READY, name=SCRIPT, queue=SCRIPT)
    make_job(State.RUNNING, name=SCRIPT, consumer=SCRIPT)
    consumer_row(SCRIPT, release=SCRIPT)
    make_schedule(name=SCRIPT, job=SCRIPT)
    open_incident("failing", SCRIPT, '{"failed": 9, "ended": 10}')
    Operation.objects.create(
        verb="move", argument=SCRIPT, filter=SCRIPT, until=uuid4(), error=SCRIPT, created_at=now
    )
    queues.pause(SCRIPT)

    page = text(everything.get(BOARD))

    assert SCRIPT not in page
    assert page.count("&lt;script&gt;") > 10


# The summary


def test_a_new_queue_explains_the_next_steps(everything: Client) -> None:
    summary = words(panel(text(everything.get(BOARD)), "summary"))
    assert summary.startswith("All is well")
    assert "python manage.py start_consumer" in summary
    assert "python manage.py djjp enqueue" in summary


def test_a_queue_that_works_is_well_and_has_no_next_steps(everything: Client) -> None:
    add.run_later(1)
    drain()
    consumer_row()

    summary = words(panel(text(everything.get(BOARD)), "summary"))

    assert summary == "All is well: 1 consumer, 0 jobs running."


def test_the_worst_incident_comes_first_with_its_remedy_and_the_others_beneath(
    everything: Client,
) -> None:
    consumer_row()
    open_incident("schedule_broken", "nightly", '{"problem": "no such job"}')
    open_incident("failing", "shop.mail", '{"failed": 9, "ended": 10}')

    page = panel(text(everything.get(BOARD)), "summary")

    assert words(page).startswith(
        "9 of the 10 jobs 'shop.mail' that ended in 5 min have failed; see why: "
        "python manage.py djjp failures --name shop.mail"
    )
    assert "One more incident is open" in words(page)
    assert words(page).index("shop.mail") < words(page).index("nightly")
    assert 'href="/admin/djjp/job/?state=failed&amp;name=shop.mail"' in page


def test_a_paused_queue_with_jobs_is_named_with_the_button_that_resumes_it(
    everything: Client,
) -> None:
    consumer_row()
    make_job(State.READY, queue="bulk")
    queues.pause("bulk", 7200)

    page = panel(text(everything.get(BOARD)), "summary")

    assert "The queue bulk is paused; it resumes in 2 h" in words(page)
    assert "1 job waits" in words(page)


def test_of_very_many_incidents_the_worst_ones_are_shown_with_the_way_to_the_rest(
    everything: Client,
) -> None:
    for number in range(14):
        open_incident("failing", f"n{number}", '{"failed": 9, "ended": 10}')
    page = panel(text(everything.get(BOARD)), "summary")
    assert "13 more incidents are open" in words(page)
    assert page.count('data-key="incident-') == 9
    assert '<a href="/admin/djjp/incident/">4 more</a>' in page


def test_an_incident_of_a_kind_that_is_not_known_here_is_shown(everything: Client) -> None:
    consumer_row()
    open_incident("from the future", "x", "{}")
    assert "something is wrong with 'x'" in words(panel(text(everything.get(BOARD)), "summary"))


def test_a_release_that_appeared_just_before_an_incident_is_named(everything: Client) -> None:
    consumer_row()
    now = timezone.now()
    Release.objects.create(name="2.4.1", appeared_at=now - timedelta(minutes=45))
    Release.objects.create(name="2.4.2", appeared_at=now - timedelta(minutes=4))
    Release.objects.create(name="2.4.3", appeared_at=now + timedelta(minutes=4))
    open_incident("failing", "shop.mail", '{"failed": 9, "ended": 10}')
    open_incident(
        "outbox_behind", "default", '{"wait": 40, "consumers": true}'
    )  # no release's fault

    summary = words(panel(text(everything.get(BOARD)), "summary"))

    assert summary.count("The release 2.4.2 had appeared 4 min before.") == 1
    assert "2.4.1" not in summary


# Panels


def test_charts_have_the_same_numbers_as_their_table(everything: Client) -> None:
    minute = int(time.time()) // 60 * 60
    Total.objects.create(
        span="minute",
        starts_at=minute - 120,
        queue="q",
        name="n",
        succeeded=37,
        failed=5,
        waits='{"1": 42}',
    )
    Depth.objects.create(minute=minute - 120, queue="q", ready=3, scheduled=4, blocked=5, running=6)
    Release.objects.create(name="2.4<2", appeared_at=to_datetime(minute - 90.0))

    charts = panel(text(everything.get(BOARD)), "charts")

    assert charts.count('<svg class="djjp-chart" role="img"') == 3
    assert "<details" in charts
    head = re.findall('<th scope="col">(.*?)</th>', charts)
    (row,) = re.findall(rf'<tr data-key="{minute - 120}">(.*?)</tr>', charts)
    cells = re.findall("<t[hd].*?>(.*?)</t[hd]>", row)
    at = timezone.localtime(to_datetime(minute - 120.0))
    expected = {
        "From": f"{at:%Y-%m-%d %H:%M}",
        "Ended/min": "42",
        "Wait p50": "1.5 s",
        "Wait p95": "1.9 s",
        "Failed/min": "5",
        "Ready": "3",
        "Running": "6",
        "Scheduled": "4",
        "Blocked": "5",
        "Release": "2.4&lt;2",
    }
    assert dict(zip(head, cells, strict=True)) == expected


def test_without_any_number_the_charts_say_so(everything: Client) -> None:
    charts = panel(text(everything.get(BOARD)), "charts")
    assert "Nothing has ended in this time" in charts
    assert "<svg" not in charts
    assert 'href="?span=24h"' in charts


def test_a_queue_has_its_depth_its_wait_and_a_button_that_pauses_or_resumes_it(
    everything: Client,
) -> None:
    consumer_row("web-2:7:a")
    now = timezone.now()
    for state in (State.READY, State.READY, State.SCHEDULED, State.BLOCKED):
        make_job(state, queue="mail", created_at=now - timedelta(minutes=3))
    make_job(State.READY, queue="bulk")
    queues.pause("bulk", 7200)

    page = panel(text(everything.get(f"{BOARD}?span=24h")), "queues")

    bulk, mail = re.findall(r'<tr data-queue="(?:bulk|mail)".*?</tr>', page, re.DOTALL)
    assert words(mail).startswith("mail 2 1 1 3 min")
    assert "web-2:7:a" in mail
    assert '<select name="duration">' in mail
    assert 'action="/admin/djjp/queue/mail/pause/"' in mail
    assert 'action="/admin/djjp/queue/bulk/resume/"' in bulk
    assert "resumes" in words(bulk)
    assert 'name="next" value="/admin/djjp/?span=24h"' in bulk


def test_of_very_many_queues_those_are_shown_that_wait_for_longest(
    everything: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_rows, "MOST_QUEUES", 2)
    for name, minutes in (("a", 1), ("b", 9), ("c", 5)):
        make_job(State.READY, queue=name, created_at=timezone.now() - timedelta(minutes=minutes))

    page = panel(text(everything.get(BOARD)), "queues")

    assert re.findall('data-queue="(.)"', page) == ["b", "c"]
    assert "1 more" in words(page)


def test_resume_on_the_dashboard_is_done_and_shown_at_once(everything: Client) -> None:
    make_job(State.READY, queue="bulk")
    queues.pause("bulk")
    assert "Resume bulk" in words(text(everything.get(BOARD)))

    response = everything.post("/admin/djjp/queue/bulk/resume/", {"next": f"{BOARD}?span=7d"})

    assert response.headers["Location"] == f"{BOARD}?span=7d"
    assert "Resume bulk" not in words(text(everything.get(BOARD)))


def test_the_remedy_is_a_button_where_the_admin_can_do_it(everything: Client) -> None:
    consumer_row("web-2:7:a", quiet=True)
    open_incident("no_consumer", "mail", '{"jobs": 1, "wait": 9, "quiet": "web-2:7:a"}')
    open_incident("failing", "shop.mail", '{"failed": 9, "ended": 10}')

    page = panel(text(everything.get(BOARD)), "summary")

    assert re.search(
        r'<form method="post" action="/admin/djjp/consumer/web-2[^"]*/unquiet/">', page
    )
    assert 'href="/admin/djjp/job/bulk/retry/?state=failed&amp;name=shop.mail"' in page
    assert 'href="/admin/djjp/job/failures/?name=shop.mail"' in page


def test_a_schedule_that_cannot_be_fired_is_disabled_by_a_button_of_the_dashboard(
    everything: Client,
) -> None:
    consumer_row()
    row = make_schedule()
    open_incident(
        "schedule_broken", row.name, f'{{"schedule": {row.pk}, "problem": "no such job"}}'
    )
    url = f"/admin/djjp/schedule/{row.pk}/disable/"
    assert f'action="{url}"' in panel(text(everything.get(BOARD)), "summary")

    response = everything.post(url, {"next": BOARD})

    assert response.headers["Location"] == BOARD
    row.refresh_from_db()
    assert not row.enabled
    assert "schedule" in words(text(everything.get(BOARD)))


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example/", "https://evil.example/", "javascript:alert(1)"]
)
def test_a_button_leads_to_no_other_site(everything: Client, elsewhere: str) -> None:
    row = make_schedule()
    response = everything.post(f"/admin/djjp/schedule/{row.pk}/disable/", {"next": elsewhere})
    assert response.headers["Location"] == f"/admin/djjp/schedule/{row.pk}/change/"


def test_a_consumer_has_its_load_what_it_runs_and_its_release(everything: Client) -> None:
    consumer_row("web-2:7:a", concurrency_limit=10, release="2.4.1")
    consumer_row("web-3:7:a", quiet=True)
    consumer_row("web-4:7:a", ago=86_400)
    make_job(State.RUNNING, name="shop.mail", consumer="web-2:7:a", started_at=timezone.now())

    consumers = panel(text(everything.get(BOARD)), "consumers")

    rows = re.findall(r'<tr data-consumer="(.*?)".*?</tr>', consumers, re.DOTALL)
    assert rows == ["web-4:7:a", "web-2:7:a", "web-3:7:a"]
    assert "1/10" in consumers
    assert "shop.mail" in consumers
    assert "2.4.1" in consumers
    assert "dead" in words(consumers)
    assert "quiet" in words(consumers)


def test_failures_are_grouped_with_their_place_and_lead_to_their_jobs(everything: Client) -> None:
    now = timezone.now()
    for number in range(3):
        attempt = make_attempt(
            make_job(State.FAILED, name="shop.mail"),
            traceback='Traceback:\n  File "/srv/shop/jobs.py", line 12, in mail\nValueError: x\n',
        )
        type(attempt).objects.filter(pk=attempt.pk).update(
            finished_at=now - timedelta(minutes=number)
        )

    failures = panel(text(everything.get(BOARD)), "failures")

    assert failures.count("<tr data-key=") == 1
    assert "/srv/shop/jobs.py:12 in mail" in failures
    assert "builtins.ValueError: no address" in words(failures)
    assert 'href="/admin/djjp/job/?name=shop.mail&amp;exception=builtins.ValueError"' in failures
    assert "/admin/djjp/job/bulk/retry/?state=failed&amp;name=shop.mail&amp;exception=" in failures
    assert '<svg class="djjp-sparkline"' in failures


def test_a_search_for_failures_that_has_ended_early_does_not_claim_that_there_are_none() -> None:
    board = {"groups": [], "looked_back_to": timezone.now(), "span": "1h"}
    shown = words(render_to_string("admin/djjp/panel_failures.html", {"board": board}))
    assert "No attempt has failed" not in shown
    assert "there can be older failures" in shown


def test_a_schedule_has_its_next_and_its_last_occurrence_and_how_that_ended(
    everything: Client,
) -> None:
    last = make_job(State.FAILED)
    make_schedule(last_occurrence=time.time() - 60, last_job=last.pk)
    make_schedule(name="gone", job="shop.gone")
    make_schedule(
        name="late", cron="", tz="", every=timedelta(minutes=1), fired_until=time.time() - 600
    )
    make_schedule(name="off", enabled=False)

    schedules = panel(text(everything.get(BOARD)), "schedules")

    assert re.findall(r'<th scope="row".*?>(\w+)</a>', schedules) == ["gone", "late", "nightly"]
    assert "no job named 'shop.gone'" in words(schedules)
    assert "overdue" in words(schedules)
    assert f'href="/admin/djjp/job/{last.pk}/change/"' in schedules
    assert "djjp-state-failed" in schedules
    assert schedules.count("Run now") == 2
    assert "1 schedule is disabled." in words(schedules)


def test_operations_that_go_on_are_shown_and_old_ones_are_not(everything: Client) -> None:
    now = timezone.now()
    fields: dict[str, Any] = {"verb": "retry", "filter": "state:failed", "until": uuid4()}
    Operation.objects.create(
        **fields, state="running", done=12_000, created_at=now - timedelta(days=3)
    )
    Operation.objects.create(
        **fields,
        state="done",
        created_at=now - timedelta(days=3),
        finished_at=now - timedelta(days=2),
    )

    operations = panel(text(everything.get(BOARD)), "operations")

    assert operations.count("<tr data-key=") == 1
    assert "12,000" in operations
    assert "<progress" in operations


def test_each_outbox_has_what_waits(everything: Client) -> None:
    outbox = panel(text(everything.get(BOARD)), "outbox")
    assert 'data-outbox="default"' in outbox or "No database has an outbox" in outbox


# Rights


def test_messages_of_errors_need_the_right_to_see_arguments(log_in: LogIn) -> None:
    attempt = make_attempt(make_job(State.FAILED), message="card 4711")
    type(attempt).objects.update(finished_at=timezone.now())

    assert "card 4711" not in text(log_in("view").get(BOARD))
    assert "card 4711" in text(log_in("view", "view_arguments").get(BOARD))


def test_a_user_who_may_only_look_gets_no_button(log_in: LogIn) -> None:
    consumer_row("web-2:7:a", quiet=True)
    make_job(State.READY, queue="bulk")
    queues.pause("bulk")
    make_schedule()
    open_incident("no_consumer", "mail", '{"jobs": 1, "wait": 9, "quiet": "web-2:7:a"}')

    page = text(log_in("view").get(FRAGMENT))

    assert 'data-djjp="schedules"' not in page
    assert "<form" not in page


def test_a_user_with_rights_on_schedules_only_gets_djangos_list(log_in_for: Any) -> None:
    client = log_in_for("schedule")("view")
    page = text(client.get(BOARD))
    assert 'data-djjp="summary"' not in page
    assert "data-djjp-live" not in page
    assert 'href="/admin/djjp/schedule/"' in page
    assert client.get(FRAGMENT).status_code == 403


def test_a_user_without_rights_and_a_stranger_see_nothing(log_in: LogIn) -> None:
    assert log_in().get(BOARD).status_code == 404
    assert log_in().get(FRAGMENT).status_code == 403
    assert Client().get(BOARD).status_code == 302
    assert Client().get(FRAGMENT).status_code == 302


# Trouble


def test_a_database_that_is_away_is_named_and_the_page_recovers(
    engine: Engine, everything: Client
) -> None:
    with away(engine):
        for url in (BOARD, FRAGMENT):
            summary = words(panel(text(everything.get(url)), "summary"))
            assert f"the queue's database '{engine.db.alias}' did not take the call" in summary
            assert "python manage.py djjp check" in summary
    assert "All is well" in text(everything.get(BOARD))


@contextmanager
def not_migrated(engine: Engine, folder: Path) -> Iterator[None]:
    """Have the queue's alias lead to a database without tables."""
    settings: dict[str, Any] = connections.settings[engine.db.alias]
    before = dict(settings)
    engine.db.connection.close()
    is_file = engine.db.connection.vendor == "sqlite"
    settings.update(NAME=folder / "empty.sqlite3" if is_file else "postgres")
    try:
        yield
    finally:
        engine.db.connection.close()
        settings.update(before)


def test_a_queue_without_its_tables_names_the_command_that_makes_them(
    engine: Engine, everything: Client, tmp_path: Path
) -> None:
    with not_migrated(engine, tmp_path):
        summary = words(panel(text(everything.get(BOARD)), "summary"))
    assert f"python manage.py migrate --database={engine.db.alias}" in summary
    assert "lacks migrations of djjp" in summary


# Its cost


def test_fifty_dashboards_cost_one_reader(
    engine: Engine, everything: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_job(State.READY)
    now = [1000.0]
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now[0])
    monkeypatch.setattr(snapshot, "time", clock)
    # An open incident is written again some seconds later, which the pages can take on a busy machine.
    opened = time.time()
    monkeypatch.setattr(engine.db, "clock", lambda: opened)
    everything.get(FRAGMENT)  # opens the connection
    now[0] += 2
    with captured_statements(engine) as first:
        everything.get(FRAGMENT)
    now[0] += 2
    with captured_statements(engine) as fifty:
        for _ in range(50):
            everything.get(FRAGMENT)
    assert len(fifty.queue) == len(first.queue) > 0


def test_the_panels_of_a_moment_are_drawn_once_for_users_with_the_same_rights(
    engine: Engine, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues.pause("bulk")
    make_job(State.READY, queue="bulk")
    drawn: list[object] = []
    rows = panel_rows.queues

    def counted(*given: Any) -> dict[str, Any]:
        drawn.append(given)
        return rows(*given)

    monkeypatch.setattr(panel_rows, "queues", counted)
    clock = SimpleNamespace(time=time.time, monotonic=lambda: 1000.0)
    monkeypatch.setattr(snapshot, "time", clock)
    snapshot.clear()
    first, second, other = (
        log_in("view", "pause_queue"),
        log_in("view", "pause_queue"),
        log_in("view"),
    )

    pages = [panel(text(each.get(FRAGMENT)), "summary") for each in (first, second, first)]
    assert len(drawn) == 1
    tokens = [re.findall(r'name="csrfmiddlewaretoken" value="(\w{64})"', page) for page in pages]
    assert len({token for found in tokens for token in found}) == 3, "each request has its own"
    assert len({re.sub(r'value="\w{64}"', "", page) for page in pages}) == 1

    assert "Resume" not in panel(text(other.get(FRAGMENT)), "summary")
    assert len(drawn) == 2


def test_a_form_in_panels_that_were_drawn_for_another_user_is_accepted(
    engine: Engine, log_in: LogIn
) -> None:
    queues.pause("bulk")
    make_job(State.READY, queue="bulk")
    log_in("view", "pause_queue").get(BOARD)
    client = log_in("view", "pause_queue", strict=True)
    page = text(client.get(BOARD))
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w{64})"', panel(page, "summary"))
    assert token is not None

    answer = client.post(
        "/admin/djjp/queue/bulk/resume/", {"csrfmiddlewaretoken": token[1], "next": BOARD}
    )

    assert answer.status_code == 302
    assert not queues.paused()


def test_beside_a_live_consumer_a_dashboard_only_reads(engine: Engine, everything: Client) -> None:
    make_job(State.READY, created_at=timezone.now() - timedelta(hours=1))
    consumer_row(queues='["other"]')
    everything.get(FRAGMENT)  # opens the connection
    snapshot.clear()
    with CaptureQueriesContext(connections[engine.db.alias]) as captured:
        everything.get(FRAGMENT)
    first_words = {each["sql"].split()[0] for each in captured}
    assert "SELECT" in first_words
    assert first_words <= {"SELECT", "WITH", "BEGIN", "SET", "COMMIT"}


def test_charts_are_drawn_once_for_all_dashboards(
    everything: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = trend_charts.draw, []

    def counted(*given: Any) -> trend_charts.Charts:
        drawn.append(given)
        return draw(*given)

    monkeypatch.setattr(trend_charts, "draw", counted)
    clock = SimpleNamespace(time=time.time, monotonic=lambda: 1000.0)
    monkeypatch.setattr(snapshot, "time", clock)
    snapshot.clear()
    pages = [panel(text(everything.get(BOARD)), "charts") for _ in range(3)]
    assert len(drawn) == 1
    assert len({*pages}) == 1


def test_the_number_of_statements_does_not_depend_on_the_number_of_rows(
    engine: Engine, everything: Client
) -> None:
    def statements() -> int:
        snapshot.clear()
        with captured_statements(engine) as captured:
            text(everything.get(BOARD))
        return len(captured.queue)

    def fill(number: int) -> None:
        now = timezone.now()
        make_job(State.READY, queue=f"q{number}")
        job = make_job(
            State.RUNNING, consumer=f"web-{number}:7:a", name=f"n{number}", started_at=now
        )
        consumer_row(f"web-{number}:7:a")
        attempt = make_attempt(make_job(State.FAILED, name=f"f{number}"))
        type(attempt).objects.filter(pk=attempt.pk).update(finished_at=now)
        make_schedule(name=f"s{number}", last_job=job.pk, last_occurrence=time.time())
        open_incident("failing", f"n{number}", '{"failed": 9, "ended": 10}')
        Operation.objects.create(verb="retry", filter="", until=uuid4(), created_at=now)

    fill(0)
    before = statements()
    for number in range(1, 12):
        fill(number)
    assert statements() == before


def test_the_footer_has_the_cost(everything: Client) -> None:
    assert re.search(r"As of [\d:]+; \d+ statements in \d+ ms", text(everything.get(BOARD)))


def test_what_a_user_has_just_done_is_shown_at_once(everything: Client) -> None:
    row = make_schedule()
    text(everything.get(BOARD))
    everything.post(f"/admin/djjp/schedule/{row.pk}/run/", {"next": BOARD})
    assert 'data-queue="default"' in text(everything.get(BOARD))


def test_without_time_zones_the_page_is_the_same(everything: Client, engine: Engine) -> None:
    make_schedule(last_occurrence=time.time() - 60)
    make_job(State.READY)
    consumer_row()
    with override_settings(USE_TZ=False):
        assert 'data-djjp="charts"' in text(everything.get(BOARD))
