"""The page of a pipeline: a sentence, a picture of any size, and confirmations that hold what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from unittest.mock import patch
from xml.etree import ElementTree as ET

import pytest
from django.contrib.admin.models import CHANGE
from django.db import connections, transaction
from django.test import Client

from djjp import chain, expand, group, queues
from djjp.admin import pipeline_pages
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.jobs import JobHandle
from djjp.models import Job
from djjp.testing import drain
from tests.project.shop.jobs import add, echo, fail, items, mail, require
from tests.support.admin import (
    JOBS,
    SCRIPT,
    LogIn,
    captured_statements,
    change_url,
    logged,
    messages,
    text,
)

SVG = "{http://www.w3.org/2000/svg}"


def url(handle: JobHandle, page: str = "") -> str:
    return f"{JOBS}pipelines/{handle.id}/{page}"


def svg(shown: str) -> ET.Element:
    """Return the picture of a page, which must be well-formed XML."""
    found = re.search(r"<svg width.*?</svg>", shown, re.DOTALL)
    assert found is not None
    return ET.fromstring(found[0])  # noqa: S314  (the page is our own)


def words(element: ET.Element) -> list[str]:
    return [" ".join("".join(each.itertext()).split()) for each in element.iter(f"{SVG}text")]


def listed(shown: str, kind: str) -> list[str]:
    """Return the ids of the steps that a confirmation lists."""
    found = re.search(rf'data-djjp-steps="{kind}">(.*?)</ul>', shown, re.DOTALL)
    return re.findall(r'data-step="([^"]+)"', found[1]) if found else []


def seen(shown: str) -> str:
    found = re.search(r'name="seen" value="(\w+)"', shown)
    assert found is not None
    return found[1]


@pytest.fixture
def paused() -> Iterator[None]:
    """Pause the queue of `mail`."""
    queues.pause("mail")
    yield
    queues.resume("mail")


# The page


def test_the_page_leads_with_state_progress_and_the_failing_step(
    engine: Engine, admin: Client
) -> None:
    handle = chain(add.bind(1), fail.bind_alone(SCRIPT), echo.bind()).run_later()
    shown = text(admin.get(url(handle)))
    assert "Waits: 0 of 3 steps have ended (0 %), none runs now." in shown
    assert "data-djjp-live" in shown, "it is refreshed"
    drain()
    shown = text(admin.get(url(handle)))
    assert f"Failed: {fail.name} failed; 1 of 3 steps did not run." in shown
    assert change_url(Job(pk=handle.steps[1].id)) in shown
    assert "builtins.ValueError: &lt;script&gt;" in shown
    assert SCRIPT not in shown
    assert "data-djjp-live" not in shown, "nothing changes any more"
    totals = re.findall(r'<li data-state="(\w+)"><a href="([^"]+)">.*?</span> (\d+)</a>', shown)
    path = f"{JOBS}?pipeline={handle.id}&amp;state="
    assert totals == [
        ("failed", f"{path}failed", "1"),
        ("cancelled", f"{path}cancelled", "1"),
        ("succeeded", f"{path}succeeded", "1"),
    ]


def test_what_an_error_says_is_shown_with_the_right_to_see_arguments_only(
    engine: Engine, log_in: LogIn
) -> None:
    handle = chain(fail.bind("number 4711"), echo.bind()).run_later()
    drain()
    shown = text(log_in("view").get(url(handle)))
    assert "builtins.ValueError" in shown
    assert "number 4711" not in shown
    assert "Retry" not in shown
    assert "number 4711" in text(log_in("view", "view_arguments").get(url(handle)))


def test_a_pipeline_that_does_not_go_on_shows_why(
    engine: Engine, admin: Client, paused: None
) -> None:
    handle = chain(mail.bind("x"), echo.bind()).run_later()
    assert "ueue mail is paused" in text(admin.get(url(handle)))


def test_each_step_is_a_node_with_its_name_its_state_and_a_link(
    engine: Engine, admin: Client
) -> None:
    handle = chain(
        mail.bind("a"), group(add.bind_alone(1), echo.bind()), on_failure=fail.bind()
    ).run_later()
    drain()
    picture = svg(text(admin.get(url(handle))))
    links = {each.get("href"): words(each) for each in picture.iter(f"{SVG}a")}
    jobs = {job.name: change_url(job) for job in Job.objects.all()}
    assert links == {
        jobs[mail.name]: ["shop.mail", "● Succeeded"],
        jobs[add.name]: ["…ts.project.shop.jobs.add", "● Succeeded"],
        jobs[echo.name]: ["shop.echo", "● Succeeded"],
        jobs[fail.name]: ["…s.project.shop.jobs.fail", "only on failure", "● Not needed"],
    }
    arrows = [each.get("class", "") for each in picture.iter(f"{SVG}path")]
    assert sum(each == "djjp-arrow" for each in arrows) == 2
    assert sum("on-failure" in each for each in arrows) == 2
    assert picture.find(f"{SVG}title") is not None
    assert picture.find(f"{SVG}desc") is not None
    assert not [each for each in picture.iter() if each.get("style") is not None]


def test_the_steps_are_listed_in_words_beneath_the_picture(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), fail.bind_alone("x"), on_failure=echo.bind()).run_later()
    drain()
    shown = text(admin.get(url(handle)))
    beneath = shown.partition("<details")[2]
    assert re.findall(r'data-step="([^"]+)"', beneath)[0] == str(handle.steps[1].id), "failed first"
    for job in Job.objects.all():
        assert change_url(job) in beneath
    assert "only on failure" in beneath


def test_an_expansion_over_12_is_one_node_with_counts_failed_first(
    engine: Engine, admin: Client
) -> None:
    handle = chain(items.bind(30), expand(require.bind(5)), echo.bind()).run_later()
    drain()
    picture = svg(text(admin.get(url(handle))))
    [folded] = [g for g in picture.iter(f"{SVG}g") if "folded" in g.get("class", "")]
    assert words(folded)[1:] == ["● 5 Failed", "● 25 Succeeded"]
    assert "30 ×" in words(folded)[0]
    path = f"{JOBS}?pipeline={handle.id}&state="
    assert [each.get("href") for each in folded.iter(f"{SVG}a")] == [
        f"{path}{state}&name={require.name}" for state in ("failed", "succeeded")
    ]


def test_10_000_steps_are_drawn_in_the_same_statements_and_few_nodes(
    engine: Engine, admin: Client
) -> None:
    sent, sizes = [], []
    for count in (20, 10_000):
        handle = chain(
            items.bind(1), group(*[add.bind_alone(n) for n in range(count)]), echo.bind()
        ).run_later()
        with captured_statements(engine) as statements:
            shown = text(admin.get(url(handle)))
        sent.append(len(statements.queue))
        sizes.append(len(shown))
        assert len(list(svg(shown).iter(f"{SVG}rect"))) <= 10
    assert sent[0] == sent[1]
    assert sizes[1] < 200_000, "of the steps in words the first 200 are listed"


def test_names_of_any_length_and_content_are_cut_and_escaped(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    Job.objects.filter(pk=handle.id).update(name=f"{SCRIPT}\u202e{'x' * 150}", state="nonsense")
    shown = text(admin.get(url(handle)))
    assert SCRIPT not in shown
    assert "\u202e" not in shown
    drawn = words(svg(shown))
    assert max(map(len, drawn)) <= 40
    assert "● nonsense" in drawn


def test_the_id_of_a_job_leads_to_its_pipeline_and_an_unknown_one_to_a_page_that_says_so(
    engine: Engine, admin: Client
) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    first = handle.steps[0]
    for page in ("", "retry/", "cancel/"):
        response = admin.get(f"{JOBS}pipelines/{first.id}/{page}")
        assert (response.status_code, response.headers["Location"]) == (302, url(handle, page))
        response = admin.get(f"{JOBS}pipelines/{new_id()}/{page}")
        assert response.status_code == 404
        assert b"There is no pipeline" in response.content
    alone = add.run_later(1)
    assert admin.get(f"{JOBS}pipelines/{alone.id}/").status_code == 404
    assert admin.get(f"{JOBS}pipelines/{handle.id}/retry/{alone.id}/").status_code == 404


def test_a_pipeline_in_an_outbox_is_shown_and_can_be_cancelled(
    engine: Engine, admin: Client
) -> None:
    with transaction.atomic(using="default"):
        handle = group(add.bind(1), add.bind(2)).run_later()
        shown = text(admin.get(url(handle)))
        assert "its jobs are in the outbox of default" in shown
        assert "<svg width" not in shown
        assert "they are cancelled when they enter the queue" in text(
            admin.get(url(handle, "cancel/"))
        )
        assert admin.post(url(handle, "cancel/")).status_code == 302
    handle.refresh()
    assert handle.state == "cancelled"


# Retry


def test_a_retry_first_shows_the_steps_that_run_again_and_then_runs_exactly_these(
    engine: Engine, admin: Client
) -> None:
    handle = chain(
        add.bind(1), group(fail.bind_alone("no"), echo.bind()), echo.bind(), on_failure=mail.bind()
    ).run_later()
    drain()
    before = {job.pk: job.state for job in Job.objects.all()}
    shown = text(admin.get(url(handle, "retry/")))
    assert {job.pk: job.state for job in Job.objects.all()} == before, "a look changes nothing"
    failed, last = handle.steps[1].id, handle.id
    assert listed(shown, "again") == [str(failed), str(last)]
    assert listed(shown, "on_failure") == [str(Job.objects.get(name=mail.name).pk)]
    assert "Run 2 steps again" in shown

    response = admin.post(url(handle, "retry/"), {"seen": seen(shown)}, follow=True)
    assert messages(response) == ["Retried 2 jobs."]
    changed = {job.pk for job in Job.objects.exclude(name=mail.name) if job.state != before[job.pk]}
    assert changed == {failed, last}
    assert logged() == [(CHANGE, f"pipeline {handle.id}", "Retried 2 jobs.")]


def test_the_retry_of_one_step_shows_and_runs_what_belongs_to_it(
    engine: Engine, admin: Client
) -> None:
    handle = group(
        chain(fail.bind("a"), echo.bind()), chain(fail.bind("b"), echo.bind())
    ).run_later()
    drain()
    first, behind = handle.steps[0].id, handle.steps[1].id
    page = url(handle, f"retry/{first}/")
    shown = text(admin.get(page))
    assert listed(shown, "again") == [str(first), str(behind)]
    admin.post(page, {"seen": seen(shown)})
    states = [Job.objects.get(pk=step.id).state for step in handle.steps]
    assert states == ["ready", "blocked", "failed", "cancelled"]
    assert logged()[0][1] == f"job {first} of pipeline {handle.id}"


def test_if_the_steps_have_changed_meanwhile_nothing_runs_until_these_are_confirmed(
    engine: Engine, admin: Client
) -> None:
    handle = group(fail.bind("a"), fail.bind("b")).run_later()
    drain()
    shown = text(admin.get(url(handle, "retry/")))
    Job.objects.filter(pk=handle.steps[0].id).update(state="succeeded", result="1")
    again = text(admin.post(url(handle, "retry/"), {"seen": seen(shown)}))
    assert "Nothing was done yet: the steps have changed meanwhile." in again
    assert listed(again, "again") == [str(handle.steps[1].id)]
    assert not Job.objects.filter(state="ready").exists()
    assert text(admin.post(url(handle, "retry/"))), "without what was seen nothing is done either"
    assert not Job.objects.filter(state="ready").exists()
    admin.post(url(handle, "retry/"), {"seen": seen(again)})
    assert Job.objects.filter(state="ready").count() == 1


def test_a_pipeline_of_which_no_step_would_run_again_offers_no_retry(
    engine: Engine, admin: Client
) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    assert "retry/" not in text(admin.get(url(handle)))
    shown = text(admin.get(url(handle, "retry/")))
    assert "No step would run again" in shown
    assert "Run 0" not in shown
    assert text(admin.post(url(handle, "retry/"), {"seen": seen(shown)}))
    assert logged() == []


def test_of_many_steps_the_confirmation_has_a_row_for_each_name_and_state(
    engine: Engine, admin: Client
) -> None:
    handle = chain(group(*[fail.bind(str(n)) for n in range(20)]), echo.bind()).run_later()
    drain()
    with patch.object(pipeline_pages, "LISTED", 10):
        shown = text(admin.get(url(handle, "retry/")))
    assert "21 steps run again:" in shown
    assert re.findall(r"<li>(\d+) ×", shown) == ["20", "1"]


# Cancel


def test_a_cancellation_first_shows_what_it_stops(
    engine: Engine, admin: Client, paused: None
) -> None:
    handle = chain(
        add.bind(1), group(echo.bind(), mail.bind_alone("x")), echo.bind(), on_failure=echo.bind()
    ).run_later()
    drain()
    running = handle.steps[1].id
    Job.objects.filter(pk=running).update(state="running", consumer="x", claim=9)
    page = url(handle, "cancel/")
    shown = text(admin.get(page))
    assert "1 running job is stopped:" in shown
    assert change_url(Job(pk=running)) in shown
    assert "3 jobs that wait are cancelled at once." in shown
    assert "1 step that has ended is left alone." in shown
    assert not Job.objects.filter(state="cancelled").exists()

    response = admin.post(page, follow=True)
    assert "Cancelled 4 jobs." in messages(response)[0]
    assert Job.objects.get(pk=running).cancel_requested
    assert Job.objects.filter(state="cancelled").count() == 3
    assert logged()[0][:2] == (CHANGE, f"pipeline {handle.id}")


def test_a_pipeline_that_has_ended_cannot_be_cancelled(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    drain()
    assert "cancel/" not in text(admin.get(url(handle)))
    for response in (admin.get(url(handle, "cancel/")), admin.post(url(handle, "cancel/"))):
        assert "It has ended: there is nothing to cancel." in text(response)
    assert logged() == []


# Rights


def test_each_page_checks_its_right_and_changes_by_post_with_a_token_only(
    engine: Engine, log_in: LogIn
) -> None:
    handle = chain(fail.bind("a"), echo.bind()).run_later()
    drain()
    nobody, viewer = log_in(), log_in("view")
    operator, strict = log_in("view", "operate"), log_in("view", "operate", strict=True)
    step = f"retry/{handle.steps[0].id}/"
    assert nobody.get(url(handle)).status_code == 403
    assert viewer.get(url(handle)).status_code == 200
    assert viewer.post(url(handle)).status_code == 405
    for page in ("retry/", step, "cancel/"):
        assert nobody.get(url(handle, page)).status_code == 403
        assert viewer.get(url(handle, page)).status_code == 403
        assert viewer.post(url(handle, page)).status_code == 403
        assert log_in("operate").get(url(handle, page)).status_code == 403
        assert Client().get(url(handle, page)).status_code == 302
        shown = text(operator.get(url(handle, page)))
        token = {"seen": seen(shown)} if "seen" in shown else {}
        assert strict.post(url(handle, page), token).status_code == 403
    assert Job.objects.filter(state="failed").count() == 1
    assert logged() == []


def test_while_the_queue_is_away_the_pages_say_so(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), echo.bind()).run_later()
    from djjp.exceptions import QueueUnavailable

    with patch.object(pipeline_pages, "pipeline", side_effect=QueueUnavailable("it is away")):
        assert admin.get(url(handle)).status_code == 503
    connections.close_all()
