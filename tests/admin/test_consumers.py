"""The pages of consumers: what each runs and lacks, what its state means, and the requests to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.test import Client
from django.utils import timezone

from djjp import job
from djjp.admin import consumers as module
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.models import Consumer, Job, State
from djjp.monitoring.requests import Call, JobStack, Stack
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
from tests.support.consumers import consuming
from tests.support.factories import consumer_row
from tests.support.processes import eventually
from tests.support.recorder import GATE, SEEN, recorder

__all__ = ["recorder"]
LIST = "/admin/djjp/consumer/"


@job(name="consumers.waits")
def waits() -> None:
    SEEN.append("waits")
    GATE.wait(60)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer than it takes for consumers that do not answer."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.1)


def page_of(name: str, below: str = "change") -> str:
    return f"{LIST}{quote(name)}/{below}/"


def running(consumer: str, name: str = "shop.nap", ago: float = 60.0, **given: Any) -> Job:
    started = timezone.now() - timedelta(seconds=ago)
    return make_job(State.RUNNING, name=name, consumer=consumer, started_at=started, **given)


def shown(page: str) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def row_of(page: str, name: str) -> str:
    found = re.search(rf'<tr data-consumer="{re.escape(name)}".*?</tr>', page, re.DOTALL)
    assert found is not None
    return shown(found[0])


def test_the_list_has_those_first_that_need_somebody(engine: Engine, admin: Client) -> None:
    consumer_row("well:1:a", concurrency_limit=2, release="r7", queues=json.dumps(["mail"]))
    consumer_row("quiet:1:a", quiet=True)
    consumer_row("silent:1:a", ago=16)
    consumer_row("dead:1:a", ago=3600)
    running("well:1:a")

    page = text(admin.get(LIST))

    assert re.findall(r'data-consumer="(\w+):', page) == ["dead", "silent", "quiet", "well"]
    assert row_of(page, "dead:1:a").startswith("dead:1:a dead 0/10")
    assert row_of(page, "silent:1:a").startswith("silent:1:a silent")
    assert row_of(page, "quiet:1:a").startswith("quiet:1:a alive quiet")
    assert re.match(
        r"well:1:a alive 1/2 shop.nap \d+ s ago .* mail .* r7", row_of(page, "well:1:a")
    )
    assert "1 of 32 slots busy" in shown(page)


def test_without_a_consumer_the_list_has_the_command_that_starts_one(
    engine: Engine, admin: Client
) -> None:
    assert "python manage.py start_consumer" in text(admin.get(LIST))


def test_a_search_finds_consumers_by_a_part_of_their_name(engine: Engine, admin: Client) -> None:
    consumer_row("web-1:1:a")
    consumer_row("mail-1:1:a")
    page = text(admin.get(LIST, {"q": "WEB"}))
    assert re.findall(r'data-consumer="([\w-]+):', page) == ["web-1"]
    assert "No consumer has “&lt;b&gt;” in its name" in text(admin.get(LIST, {"q": "<b>"}))


def test_the_page_of_a_consumer_has_what_it_runs_and_what_it_has_claimed_ahead(
    engine: Engine, admin: Client
) -> None:
    name = f"{SCRIPT}/1%:1:a"
    consumer_row(name, concurrency_limit=2, concurrency="asyncio", names="[]")
    first = running(name, ago=90, progress_done=4, progress_total=10, attempts=3)
    second = running(name, ago=60, cancel_requested=True, queue="a/b")
    third = running(name, ago=30)

    page = text(admin.get(page_of(name)))

    assert SCRIPT not in page
    before, ahead = page.split('id="djjp-ahead"')
    for row in (first, second):
        assert f"/admin/djjp/job/{row.pk}/change/" in before
    assert f"/admin/djjp/job/{third.pk}/change/" in ahead
    assert f"/admin/djjp/job/{third.pk}/change/" not in before
    assert "2 of 2 slots" in shown(page)
    assert "4 / 10" in shown(page)
    assert "cancelling" in shown(before)
    assert "asyncio" in page
    assert "/admin/djjp/queue/a_2Fb/change/" in page


def test_the_page_names_what_the_consumer_does_not_know(engine: Engine, admin: Client) -> None:
    known = registry.names()
    consumer_row("old:1:a", names=json.dumps(known[1:]))
    consumer_row("all:1:a", names=json.dumps(known))
    consumer_row("odd:1:a", names="{")

    page = text(admin.get(page_of("old:1:a")))

    assert f'href="/admin/djjp/job/names/{quote(known[0])}/"' in page
    assert f'href="/admin/djjp/job/names/{quote(known[1])}/"' not in page
    assert "It knows every job" in text(admin.get(page_of("all:1:a")))
    assert "Its row has no list of names." in text(admin.get(page_of("odd:1:a")))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ago": 3600}, "Dead: its locks are gone, or its heartbeat is 60 min old. Another"),
        ({"ago": 16}, "Silent: its process exists, and has sent no heartbeat for "),
        ({"quiet": True}, "Quiet: it goes on with the jobs that it holds, and claims no others."),
    ],
)
def test_a_state_is_explained_with_what_becomes_of_the_jobs(
    engine: Engine, admin: Client, given: dict[str, Any], sentence: str
) -> None:
    consumer_row("one:1:a", **given)
    running("one:1:a")
    assert sentence in shown(text(admin.get(page_of("one:1:a"))))
    consumer_row("well:1:a")
    page = shown(text(admin.get(page_of("well:1:a"))))
    assert not re.search("Dead:|Silent:|Quiet:", page)


def test_a_consumer_that_is_gone_has_a_page_that_leads_to_its_jobs(
    engine: Engine, admin: Client
) -> None:
    page = admin.get(page_of("gone/1:1:a"))
    assert page.status_code == 404
    assert 'href="/admin/djjp/job/?consumer=gone%2F1%3A1%3Aa"' in page.content.decode()
    assert admin.get(page_of("gone:1:a", "stop")).status_code == 404


@pytest.fixture
def live(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a consumer on a thread, and wait for its answers for as long as a busy machine needs."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", 60.0)
    with consuming():
        eventually(Consumer.objects.exists)
        yield Consumer.objects.get().name


def test_a_consumer_becomes_quiet_and_claims_again(live: str, admin: Client) -> None:
    page = admin.post(page_of(live, "quiet"), follow=True)
    assert page.redirect_chain == [(page_of(live), 302)]
    assert messages(page) == [
        f"{live}: Quiet: it claims no further jobs, and goes on with its own."
    ]
    assert Consumer.objects.get().quiet
    assert "Have it claim jobs again" in text(page)

    assert messages(admin.post(page_of(live, "unquiet"), follow=True)) == [
        f"{live}: It claims jobs again."
    ]
    assert not Consumer.objects.get().quiet
    assert [entry[2] for entry in logged()] == [
        "Quiet: it claims no further jobs, and goes on with its own.",
        "It claims jobs again.",
    ]


def test_a_consumer_is_stopped_once_that_is_confirmed(live: str, admin: Client) -> None:
    page = shown(text(admin.get(page_of(live, "stop"))))
    assert "0 running jobs go on." in page
    assert "shutdown timeout" in page
    assert Consumer.objects.exists()

    stopped = admin.post(page_of(live, "stop"))

    assert stopped.status_code == 302
    eventually(lambda: not Consumer.objects.exists())
    assert logged()[-1][1:] == (live, "Stopped: it ends once its running jobs have ended.")


@pytest.mark.usefixtures("recorder")
def test_the_stacks_of_running_jobs_are_shown(live: str, admin: Client) -> None:
    waits.run_later()
    eventually(lambda: SEEN)
    pages: list[str] = []

    def is_shown() -> bool:
        """Ask again while the job is still on its way from its mark to the gate."""
        pages.append(text(admin.post(page_of(live, "stack"))))
        return "GATE.wait(60)" in pages[-1]

    eventually(is_shown)
    GATE.set()
    page = pages[-1]
    assert waits.name in page
    [project] = re.findall(r'<li class="djjp-project">.*?</li>', page, re.DOTALL)
    assert "GATE.wait(60)" in project
    assert "code of the project" in project


def test_what_a_stack_shows_acts_on_nothing(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(SCRIPT, 1, SCRIPT, f"{SCRIPT}\u202e", is_project=True)
    row = make_job(State.RUNNING)
    stack = JobStack(row.pk, SCRIPT, SCRIPT, timezone.now(), [Stack(SCRIPT, SCRIPT, [call])])
    monkeypatch.setattr("djjp.monitoring.requests.request_stack", lambda name, timeout: [stack])
    page = text(admin.post(page_of("one:1:a", "stack")))
    assert SCRIPT not in page
    assert "\u202e" not in page


@pytest.mark.parametrize("verb", ["quiet", "unquiet", "stop"])
def test_a_consumer_that_does_not_answer_is_reported_and_nothing_is_logged(
    engine: Engine, admin: Client, verb: str
) -> None:
    consumer_row("frozen:1:a")
    page = admin.post(page_of("frozen:1:a", verb), follow=True)
    [message] = messages(page)
    assert message.startswith("consumer frozen:1:a has not answered within 0.1 s: its process is")
    assert Consumer.objects.get().request is None
    assert logged() == []


def test_a_request_to_a_consumer_that_is_gone_or_dead_is_refused(
    engine: Engine, admin: Client
) -> None:
    consumer_row("dead:1:a", ago=3600)
    [message] = messages(admin.post(page_of("dead:1:a", "quiet"), follow=True))
    assert message == "consumer dead:1:a is dead: its jobs are rescued by other consumers"
    page = admin.post(page_of("gone:1:a", "stack"))
    assert "there is no consumer gone:1:a in the queue" in text(page)
    assert logged() == []


def test_the_page_waits_for_an_answer_no_longer_than_1_5_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert module.ANSWER_WITHIN == 1.5


def test_requests_and_stacks_need_their_rights(engine: Engine, log_in: LogIn) -> None:
    consumer_row("one:1:a")
    viewer = log_in("view")
    page = text(viewer.get(page_of("one:1:a")))
    assert not re.search("/(quiet|stop|stack)/", page)
    for verb in ("quiet", "unquiet", "stop", "stack"):
        assert viewer.post(page_of("one:1:a", verb)).status_code == 403
    assert viewer.get(page_of("one:1:a", "stop")).status_code == 403
    operator = log_in("view", "operate")
    page = text(operator.get(page_of("one:1:a")))
    assert "/stop/" in page
    assert "/stack/" not in page
    assert operator.post(page_of("one:1:a", "stack")).status_code == 403
    reader = log_in("view", "view_arguments")
    page = text(reader.get(page_of("one:1:a")))
    assert "/stop/" not in page
    assert "/stack/" in page
    assert log_in("operate").get(LIST).status_code == 403


def test_the_number_of_statements_does_not_depend_on_the_rows(
    engine: Engine, admin: Client
) -> None:
    def statements(address: str) -> int:
        with captured_statements(engine) as sent:
            text(admin.get(address))
        return len(sent.queue) + len(sent.application)

    consumer_row("one:1:a")
    running("one:1:a")
    few = [statements(address) for address in (LIST, page_of("one:1:a"))]
    for number in range(10):
        consumer_row(f"more-{number}:1:a", names=json.dumps([f"name-{number}"]))
        running("one:1:a", f"name-{number}")
    assert [statements(address) for address in (LIST, page_of("one:1:a"))] == few


def test_the_pages_answer_with_503_while_the_database_is_away(
    engine: Engine, admin: Client
) -> None:
    consumer_row("one:1:a")
    with away(engine):
        for address in (LIST, page_of("one:1:a"), page_of("one:1:a", "stop")):
            assert admin.get(address).status_code == 503
        assert admin.post(page_of("one:1:a", "quiet")).status_code == 503
