"""The pages of job names: their figures in any order, and one name in large."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.test import Client
from django.utils import timezone

from djjp import Limit, Rate, job
from djjp.admin.histogram import picture
from djjp.admin.names import options_of
from djjp.engine import Engine
from djjp.models import Incident, Job, Release, State, TotalEntry
from djjp.monitoring.totals import Histogram
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
from tests.support.schedules import by_hand

LIST = "/admin/djjp/job/names/"
UNIT = 1 << 20


def page_of(name: str) -> str:
    return f"{LIST}{quote(name)}/"


def ends(
    name: str, kind: str = "succeeded", count: int = 1, *, ago: float = 0.0, **times: float
) -> None:
    """Write ends of a name, each with its times of wait and run."""
    value = [round(times.get(key, 1.0) * UNIT) for key in ("waited", "ran")] * count
    minute = int(time.time() - ago) // 60 * 60
    TotalEntry.objects.create(minute=minute, figures=json.dumps({kind: {"mail": {name: value}}}))


def ended(name: str, seconds: float, **given: Any) -> Job:
    started = timezone.now() - timedelta(minutes=1)
    times: dict[str, Any] = {
        "started_at": started,
        "finished_at": started + timedelta(seconds=seconds),
    }
    return make_job(name=name, created_at=started, **times, **given)


def shown(page: str) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def panel(page: str, key: str) -> str:
    """Return a panel of a page."""
    found = re.search(
        rf'<section class="djjp-panel" data-djjp="{key}">.*?</section>', page, re.DOTALL
    )
    assert found is not None
    return found[0]


def listed(page: str) -> list[str]:
    return re.findall(r'<tr data-name="([^"]*)"', page)


def test_the_list_has_the_figures_of_each_name(engine: Engine, admin: Client) -> None:
    ends("shop.send", count=3, ran=4.0, waited=0.5)
    ends("shop.send", "failed")
    ends("shop.send", "retried", 2)
    ends("shop.resize", count=9)

    page = text(admin.get(LIST))

    assert listed(page) == ["shop.resize", "shop.send"]
    row = shown(page.split('data-name="shop.send"')[1].split("</tr>")[0])
    assert re.search(r"shop.send 3 1 2 25 % \d", row)
    assert 'href="/admin/djjp/job/names/shop.send/"' in page


def test_the_head_of_each_column_orders_by_it(engine: Engine, admin: Client) -> None:
    ends("bad", "failed", 2)
    ends("slow", count=3, ran=900.0)
    ends("many", count=30)
    page = text(admin.get(LIST, {"span": "1h", "q": "a"}))
    assert len(re.findall(r'<th scope="col"[^>]*><a href="\?span=1h', page)) == 12
    assert "order=failed" in page
    for order, first in (("failed", "bad"), ("run_p99", "slow"), ("name", "bad"), ("x", "many")):
        page = text(admin.get(LIST, {"order": order}))
        assert listed(page)[0] == first
        assert page.count("aria-sort=") == (order != "x" or 0)


def test_a_search_takes_a_part_or_a_pattern_and_the_list_ends(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.admin.names.NAMES_SHOWN", 2)
    for name in ("shop.a", "shop.b", "shop.c", "mail"):
        ends(name)
    page = text(admin.get(LIST, {"q": "shop.*", "order": "name"}))
    assert listed(page) == ["shop.a", "shop.b"]
    assert "The first 2 of 3 names in this order" in shown(page)
    assert 'value="shop.*"' in page
    page = text(admin.get(LIST, {"q": "<b>"}))
    assert "No job whose name matches “&lt;b&gt;” has ended in this time." in page


def test_a_span_is_chosen_by_the_address(engine: Engine, admin: Client) -> None:
    ends("new")
    ends("old", ago=3 * 86_400)
    assert listed(text(admin.get(LIST))) == ["new"]
    assert listed(text(admin.get(LIST, {"span": "7d"}))) == ["new", "old"]
    assert listed(text(admin.get(LIST, {"span": "x"}))) == ["new"]


@pytest.mark.parametrize(
    "name", ["a/b", "100%", SCRIPT, "a?b&c=d#e", "x_2Fy", "\u202eevil", "n" * 200]
)
def test_a_name_of_any_kind_has_its_page(engine: Engine, admin: Client, name: str) -> None:
    ends(name)
    [link] = re.findall(
        r'<th scope="row" class="djjp-name"><a href="([^"]*)"', text(admin.get(LIST))
    )
    response = admin.get(link)
    assert response.context["name"] == name
    assert SCRIPT not in text(response)
    assert "\u202e" not in text(response)


def test_the_page_has_the_figures_and_the_histograms_of_the_span(
    engine: Engine, admin: Client
) -> None:
    ends("send", count=3, ran=3.0, waited=0.3)
    ends("send", "failed", ran=100.0, waited=0.3)
    page = text(admin.get(page_of("send")))
    assert re.search(r"3 1 0 0 25 %", shown(panel(page, "totals")))
    runs = panel(page, "runs")
    assert runs.count("<rect") == 6  # from 2 s to 128 s, with the empty ones between
    assert "2 s – 4 s 3 75 %" in shown(runs)
    assert "64 s – 2 min 1 25 %" in shown(runs)
    assert "p50" in shown(runs)
    assert "250 ms – 500 ms 4 100 %" in shown(panel(page, "waits"))
    assert 'data-chart="ended"' in panel(page, "trend")
    assert 'data-chart="depth"' not in page


def test_the_page_has_the_slowest_jobs_and_over_how_many_they_are(
    engine: Engine, admin: Client
) -> None:
    slow = ended("send", 50.0, queue="mail")
    ended("send", 5.0)
    slower = ended("other", 500.0)
    found = panel(text(admin.get(page_of("send"))), "slowest")
    assert f"/admin/djjp/job/{slow.pk}/change/" in found
    assert re.search(r"50 s .* 5 s ", shown(found))
    assert str(slower.pk) not in found
    assert "2 that have ended were compared" in shown(found)


def test_the_page_has_the_failures_in_groups_and_their_messages_by_right(
    engine: Engine, log_in: LogIn
) -> None:
    failed = make_job(State.FAILED, name="send")
    attempt = make_attempt(failed, exception_class="shop.Refused", message=f"card {SCRIPT}")
    attempt.finished_at = timezone.now()
    attempt.save()
    reader = panel(text(log_in("view", "view_arguments").get(page_of("send"))), "failures")
    viewer = panel(text(log_in("view").get(page_of("send"))), "failures")
    assert SCRIPT not in reader
    assert "card &lt;script&gt;" in reader
    for page in (reader, viewer):
        assert "shop.Refused" in page
        assert f"/admin/djjp/job/{failed.pk}/change/" in page
    assert "card" not in viewer


def test_the_page_compares_the_times_before_and_after_the_last_release(
    engine: Engine, admin: Client
) -> None:
    ends("send")
    page = panel(text(admin.get(page_of("send"))), "release")
    assert "Not known: no consumer has started with a release." in page
    Release.objects.create(name="<r7>", appeared_at=timezone.now() - timedelta(hours=1))
    ends("send", count=4, ago=5400)
    ends("send", "failed", 3, ago=1800)
    page = shown(panel(text(admin.get(page_of("send"))), "release"))
    assert "Release &lt;r7&gt; appeared 60 min ago" in page
    assert re.search(r"before 4 0 0 0 0 % .* after 1 3 0 0 75 %", page)


def test_the_page_has_the_options_and_the_docstring_of_its_function(
    engine: Engine, admin: Client
) -> None:
    page = text(admin.get(page_of(described.name)))
    options = shown(panel(page, "options"))
    assert "Send one mail &lt;at once&gt;." in options
    assert "Queue mail" in options
    assert "Timeout 30 s" in options
    assert "Attempts at most 4" in options
    assert "at most 2 at once with the key smtp" in options
    assert "test_names.py:" in options
    ends("gone")
    page = text(admin.get(page_of("gone")))
    assert "This name is not registered in this process." in page
    assert 'data-djjp="options"' not in page


@job(name="names.described", queue="mail", timeout=30, max_attempts=4, limit=Limit("smtp", 2))
def described() -> None:
    """Send one mail <at once>."""


def test_options_say_what_is_set_and_nothing_else() -> None:
    @job(name="names.bare", limit=Rate(lambda: "x", 5, per=60), unique_key="a", tags=["t"])
    async def bare() -> None:
        pass

    found = dict(options_of(bare))
    assert found["kind"] == "coroutine"
    assert found["limit"].startswith("at most 5 in any 60 s with the key computed by ")
    assert (found["unique key"], found["tags"]) == ("a", "t")
    assert not {"timeout", "priority", "attempts at most"} & {*found}


def test_the_page_has_the_schedules_and_the_incidents_of_the_name(
    engine: Engine, admin: Client, log_in: LogIn
) -> None:
    row = by_hand(add.name, 0, name="nightly", cron="0 9 * * *", tz="UTC")
    by_hand("other", 0, name="else", cron="0 9 * * *", tz="UTC")
    now = timezone.now()
    for subject in (add.name, "other"):
        Incident.objects.create(
            kind="failing",
            subject=subject,
            opened_at=now,
            seen_at=now,
            facts='{"failed": 12, "ended": 20}',
        )
    page = text(log_in("view", "view_schedule").get(page_of(add.name)))
    assert f"/admin/djjp/schedule/{row.pk}/change/" in page
    assert "nightly" in page
    assert "else" not in shown(panel(page, "schedules"))
    assert page.count("12 of the 20 jobs") == 1
    page = text(admin.get(page_of(add.name)))
    assert "nightly" not in page
    assert "1 schedule enqueues it." in page


def test_an_unknown_name_has_a_page_that_explains_it(engine: Engine, admin: Client) -> None:
    page = admin.get(page_of("none"))
    assert page.status_code == 404
    assert "No function is registered under it in this process" in page.content.decode()
    make_job(State.READY, name="none")
    assert admin.get(page_of("none")).status_code == 200


def test_an_old_name_is_known_by_what_has_ever_ended(engine: Engine, admin: Client) -> None:
    ends("old", ago=40 * 86_400)
    assert admin.get(page_of("old")).status_code == 200


def test_the_pages_need_the_right_to_see_the_queue(engine: Engine, log_in: LogIn) -> None:
    nobody = log_in("operate")
    assert nobody.get(LIST).status_code == nobody.get(page_of(add.name)).status_code == 403


def test_the_number_of_statements_does_not_depend_on_the_rows(
    engine: Engine, admin: Client
) -> None:
    def statements(address: str) -> int:
        with captured_statements(engine) as sent:
            text(admin.get(address))
        return len(sent.queue) + len(sent.application)

    def more(number: int) -> None:
        ends("send", count=number + 1)
        ends(f"name-{number}")
        failed = ended("send", 1.0, state=State.FAILED)
        attempt = make_attempt(failed, exception_class=f"Error{number}")
        attempt.finished_at = timezone.now()
        attempt.save()
        by_hand("send", 0, name=f"s{number}", cron="0 9 * * *", tz="UTC")

    more(0)
    few = [statements(address) for address in (LIST, page_of("send"))]
    for number in range(1, 8):
        more(number)
    assert [statements(address) for address in (LIST, page_of("send"))] == few


def test_the_pages_answer_with_503_while_the_database_is_away(
    engine: Engine, admin: Client
) -> None:
    with away(engine):
        assert admin.get(LIST).status_code == 503
        assert admin.get(page_of(add.name)).status_code == 503


# The picture


def test_a_histogram_has_a_bar_for_each_power_of_two_between_its_ends() -> None:
    found = picture(Histogram(10.0, {-10: 1, -8: 1_000, 20: 2}))
    assert [bar.label for bar in found.bars][:3] == ["< 1 ms", "1 ms – 2 ms", "2 ms – 4 ms"]
    assert found.bars[-1].label.startswith("> ")
    assert (len(found.bars), found.total) == (31, 1_003)
    assert found.bars[1].number == 0
    # A single one beside a thousand can be seen, and nothing has no height.
    assert 'height="2"><title>&lt; 1 ms: 1</title>' in found.svg
    assert 'height="0"><title>1 ms – 2 ms: 0</title>' in found.svg
    assert 'y="0" width="18" height="100"><title>2 ms – 4 ms: 1,000</title>' in found.svg


def test_a_histogram_without_durations_has_no_bars() -> None:
    found = picture(Histogram())
    assert (found.bars, found.percentiles, found.total, found.mean) == ([], [], 0, None)
    assert "<rect" not in found.svg
