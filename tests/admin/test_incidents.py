"""The pages of incidents: what is wrong now with what can be done, what was, and one of them."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from djjp.admin.advice import ADVICE
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Consumer, Incident, State
from djjp.monitoring.incidents import KINDS
from tests.admin.test_outage import away
from tests.support.admin import SCRIPT, LogIn, captured_statements, make_job, text
from tests.support.factories import consumer_row

LIST = "/admin/djjp/incident/"
FACTS: dict[str, dict[str, Any]] = {
    "no_consumer": {"jobs": 12, "wait": 180.0, "quiet": ""},
    "consumer_lost": {"consumers": 1, "jobs": 2, "failed": 0, "name": "web:1:a"},
    "failing": {"failed": 12, "ended": 20},
    "wait": {"wait": 600.0, "limit": 300.0},
    "backlog": {"before": 10, "ready": 5_000, "seconds": 4_000.0},
    "outbox_behind": {"wait": 60.0, "consumers": True},
    "schedule_broken": {"problem": "its job is gone"},
    "late_results": {"late": 3},
    "loop_blocked": {"times": 2, "longest": 3.0, "at": "jobs.py:3"},
    "clock_skew": {"seconds": 9.0, "other": "the database"},
    "unheard": {"problem": "NOTIFY does not arrive"},
}


@pytest.fixture(autouse=True)
def alive(engine: Engine) -> None:
    """Have a consumer alive, so that the pages detect nothing themselves."""
    consumer_row("well:1:a", locked=False)


def make(
    kind: str = "wait", subject: str = "mail", closed: float | None = None, **facts: Any
) -> Incident:
    """Write an incident that was opened an hour ago; `closed` is the number of seconds since its end."""
    now = timezone.now()
    return Incident.objects.create(
        id=new_id(),
        kind=kind,
        subject=subject,
        opened_at=now - timedelta(hours=1),
        seen_at=now,
        closed_at=None if closed is None else now - timedelta(seconds=closed),
        facts=json.dumps(FACTS.get(kind, {}) | facts),
    )


def page_of(incident: Incident) -> str:
    return f"{LIST}{incident.pk}/change/"


def shown(page: str) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_open_ones_come_first_the_worst_before_the_others(
    engine: Engine, admin: Client
) -> None:
    make("wait", closed=60)
    make("unheard")
    make("no_consumer")
    page = text(admin.get(LIST))
    assert re.findall(r'data-incident="(\w+)"', page) == ["no_consumer", "unheard"]
    first, history = page.split('data-djjp="history"')
    assert "no consumer serves the queue &#x27;mail&#x27;, where 12 jobs wait" in shown(first)
    assert "Opened 60 min ago" in shown(first)
    assert re.search(r"wait mail .* 59 min", shown(history))


def test_without_an_open_one_the_page_says_that_nothing_is_wrong(
    engine: Engine, admin: Client
) -> None:
    assert "Nothing is wrong." in text(admin.get(LIST))
    make("wait")
    page = text(admin.get(LIST, {"kind": "failing"}))
    assert "Nothing is wrong." not in page
    assert "No incident of this kind is open." in page


def test_incidents_are_chosen_by_kind(engine: Engine, admin: Client) -> None:
    make("wait", "open-wait")
    make("failing", "open-failing")
    make("wait", "closed-wait", closed=60)
    make("failing", "closed-failing", closed=60)
    page = text(admin.get(LIST, {"kind": "failing"}))
    assert "open-failing" in page
    assert "closed-failing" in page
    assert "open-wait" not in page
    assert "closed-wait" not in page
    assert '<option value="failing" selected>' in page
    assert "open-wait" in text(admin.get(LIST, {"kind": "x"}))


def test_the_history_goes_from_page_to_page(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.admin.incidents.CLOSED_SHOWN", 2)
    for number in range(5):
        make("wait", f"queue-{number}", closed=60)
    seen: list[str] = []
    address = f"{LIST}?kind=wait"
    for _ in range(3):
        page = text(admin.get(address))
        seen += re.findall(r'<td class="djjp-name">(queue-\d)</td>', page)
        older = re.search(r'href="(\?[^"]*before=[^"]*)">Older', page)
        address = LIST + older[1].replace("&amp;", "&") if older else ""
    assert seen == [f"queue-{number}" for number in (4, 3, 2, 1, 0)]
    assert address == ""
    assert admin.get(LIST, {"before": "nonsense"}).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_each_kind_says_what_to_do(engine: Engine, admin: Client, kind: str) -> None:
    subject = f"a/b {SCRIPT}"
    row = make(kind, subject)
    page = text(admin.get(page_of(row)))
    assert SCRIPT not in page
    assert shown(str(ADVICE[kind])).replace("'", "&#x27;") in shown(page)
    assert f'data-djjp-copy="djjp-command-{row.pk}"' in page
    assert "python manage.py" in page
    assert "docs/incidents.md#kinds" in page
    for link in re.findall(r'<a class="djjp-button[^"]*" href="([^"]*)"', page):
        assert admin.get(link.replace("&amp;", "&")).status_code in (200, 403, 404), link


def test_each_kind_has_advice_and_at_least_one_button_or_link(
    engine: Engine, log_in: LogIn
) -> None:
    assert {*ADVICE} == {*KINDS}
    everything = log_in("view", "operate", "view_schedule")
    for kind in KINDS:
        page = text(everything.get(page_of(make(kind))))
        assert 'class="djjp-button' in page.split("data-djjp-copy")[0], kind


def test_a_quiet_consumer_claims_again_by_a_button_that_needs_its_right(
    engine: Engine, log_in: LogIn
) -> None:
    row = make("no_consumer", quiet="web-1:2:b")
    action = "/admin/djjp/consumer/web-1_3A2_3Ab/unquiet/"
    assert f'action="{action}"' in text(log_in("view", "operate").get(page_of(row)))
    assert action not in text(log_in("view").get(page_of(row)))
    assert action in text(log_in("view", "operate").get(LIST))


def test_the_page_has_the_facts_and_the_times(engine: Engine, admin: Client) -> None:
    row = make("backlog", "mail")
    page = shown(text(admin.get(page_of(row))))
    assert "before 10" in page
    assert "ready 5,000" in page
    assert "About mail" in page
    assert "Open for 60 min" in page
    assert "Closed" not in page


def test_a_closed_one_is_over_and_has_no_button(engine: Engine, admin: Client) -> None:
    row = make("wait", closed=1800)
    page = text(admin.get(page_of(row)))
    assert "Nothing: it is over." in page
    assert "If it comes again:" in page
    assert "Open for 30 min" in shown(page)
    assert "data-djjp-copy" not in page


@pytest.mark.parametrize("facts", ["{", "[]", "{}", '{"wait": "x"}', '{"wait": null}'])
def test_a_row_by_hand_has_a_page(engine: Engine, admin: Client, facts: str) -> None:
    row = make("wait")
    Incident.objects.filter(pk=row.pk).update(facts=facts)
    other = make("brand_new", subject=SCRIPT)
    for page in (admin.get(LIST), admin.get(page_of(row)), admin.get(page_of(other))):
        assert SCRIPT not in text(page)
    assert "omething is wrong with" in text(admin.get(page_of(row)))


@pytest.mark.parametrize(
    "id", [str(new_id()), "nonsense", "x" * 500], ids=["unknown", "nonsense", "long"]
)
def test_an_incident_that_is_not_kept_has_a_page_that_explains_it(
    engine: Engine, admin: Client, id: str
) -> None:
    page = admin.get(f"{LIST}{id}/change/")
    assert page.status_code == 404
    assert "Closed incidents are kept for 30 days." in page.content.decode()


def test_where_no_consumer_is_alive_the_page_detects_what_is_wrong(
    engine: Engine, admin: Client
) -> None:
    Consumer.objects.all().delete()
    make_job(State.READY, queue="lonely", created_at=timezone.now() - timedelta(minutes=5))
    assert "no consumer serves the queue &#x27;lonely&#x27;" in text(admin.get(LIST))


def test_the_pages_need_the_right_to_see_the_queue(engine: Engine, log_in: LogIn) -> None:
    row = make()
    nobody = log_in("operate")
    assert nobody.get(LIST).status_code == nobody.get(page_of(row)).status_code == 403


def test_the_number_of_statements_does_not_depend_on_the_rows(
    engine: Engine, admin: Client
) -> None:
    def statements() -> int:
        with captured_statements(engine) as sent:
            text(admin.get(LIST))
        return len(sent.queue) + len(sent.application)

    make("wait")
    make("wait", closed=60)
    few = statements()
    for number in range(20):
        make("wait", f"q{number}")
        make("wait", f"q{number}", closed=60)
    assert statements() == few


def test_the_pages_answer_with_503_while_the_database_is_away(
    engine: Engine, admin: Client
) -> None:
    row = make()
    with away(engine):
        assert admin.get(LIST).status_code == 503
        assert admin.get(page_of(row)).status_code == 503
