"""A pipeline's jobs in the admin: their neighbours, the way to all of them, and what a deletion means."""

from __future__ import annotations

import re

from django.test import Client

from djjp import chain, expand, group
from djjp.engine import Engine
from djjp.models import Dependency, Job
from djjp.testing import drain
from tests.project.shop.jobs import add, echo, fail, mail, repeat
from tests.support.admin import JOBS, change_url, messages, text


def test_a_jobs_page_shows_its_parents_and_its_dependents(engine: Engine, admin: Client) -> None:
    handle = chain(
        mail.bind("a"), group(add.bind_alone(1), add.bind_alone(2)), echo.bind()
    ).run_later()
    first, middle, _, last = (Job.objects.get(pk=step.id) for step in handle.steps)
    shown = text(admin.get(change_url(middle)))
    assert f'href="{JOBS}pipelines/{handle.id}/"' in shown
    above, below = shown.partition("Runs after")[2].split("Runs before")
    assert change_url(first) in above
    assert re.search(r"shop\.mail</a> <span [^>]*>Ready<", above)
    assert change_url(last) in below
    assert "It waits for 1 of its parents" in shown
    assert "Before these it receives the results of its parents." not in shown
    assert "Runs after" not in text(admin.get(change_url(first)))
    shown = text(admin.get(change_url(last)))
    assert "Runs before" not in shown
    assert "Before these it receives the results of its parents." in shown


def test_the_number_of_shown_neighbours_is_bounded(engine: Engine, admin: Client) -> None:
    handle = chain(group(*[add.bind(1)] * 30), echo.bind()).run_later()
    shown = text(admin.get(change_url(Job.objects.get(pk=handle.id))))
    assert shown.count(f"{add.name}</a> <span") == 20
    assert "More are not shown." in shown


def test_a_page_of_a_job_outside_pipelines_mentions_none(engine: Engine, admin: Client) -> None:
    handle = add.run_later(1)
    assert "djjp-family" not in text(admin.get(change_url(Job.objects.get(pk=handle.id))))


def test_a_pipelines_id_finds_all_its_jobs(engine: Engine, admin: Client) -> None:
    handle = group(add.bind(1), add.bind(2)).run_later()
    other = add.run_later(3)
    shown = text(admin.get(JOBS, {"q": str(handle.id)}, follow=True))
    assert [change_url(Job(pk=step.id)) in shown for step in (*handle.steps, other)] == [
        True,
        True,
        False,
    ]


def test_the_deletion_of_a_job_cancels_its_dependents(engine: Engine, admin: Client) -> None:
    handle = chain(add.bind(1), add.bind(2), on_failure=echo.bind()).run_later()
    first = handle.steps[0]
    admin.post(f"{JOBS}{first.id}/delete/", {"post": "yes"})
    handle.refresh()
    assert handle.state == "running", "its on_failure job has not ended"
    assert Dependency.objects.count() == 1
    assert drain() == 1
    handle.refresh()
    assert (handle.state, handle.reason) == ("cancelled", f"{add.name} {first.id} was deleted")
    pair = group(chain(add.bind(1), add.bind(2)), add.bind(3)).run_later()
    admin.post(f"{JOBS}{pair.steps[0].id}/delete/", {"post": "yes"})
    drain()
    pair.refresh()
    assert (pair.state, pair.progress) == ("cancelled", (2, 2))


def test_the_list_has_neither_unneeded_on_failure_jobs_nor_the_rows_of_an_expansion(
    engine: Engine, admin: Client
) -> None:
    handle = chain(echo.bind(), expand(repeat), on_failure=mail.bind()).run_later()
    unused = Job.objects.get(name=mail.name)
    assert change_url(unused) in text(admin.get(JOBS)), "it may be needed yet"
    drain()
    shown = text(admin.get(JOBS))
    assert [change_url(Job(pk=step.id)) in shown for step in handle.steps] == [True] * 3
    assert shown.count("djjp-state-succeeded") == 3
    assert (change_url(unused) in shown, "djjp-state-cancelled" in shown) == (False, False)
    assert "Not needed" in text(admin.get(change_url(unused)))


def test_a_retry_counts_the_dependents_that_it_includes_and_none_as_unchanged(
    engine: Engine, admin: Client
) -> None:
    handle = chain(fail.bind("no"), echo.bind()).run_later()
    drain()
    response = admin.post(f"{JOBS}{handle.id}/retry/", follow=True)
    assert messages(response) == ["Retried."]
    assert {*Job.objects.values_list("state", flat=True)} == {"ready", "blocked"}


def test_an_on_failure_job_without_a_failure_cannot_be_retried(
    engine: Engine, admin: Client
) -> None:
    chain(add.bind(1), on_failure=echo.bind()).run_later()
    job = Job.objects.get(name=echo.name)
    shown = text(admin.get(change_url(job)))
    assert "It runs only if one of its parents fails" in shown
    assert "Before these it receives why it runs." in shown
    assert "on failure only" in shown
    drain()
    assert "/retry/" not in text(admin.get(change_url(job)))
    response = admin.post(f"{JOBS}{job.pk}/retry/", follow=True)
    said = "Nothing was changed: there is no such job in the queue."
    assert messages(response) == [said]


def test_an_on_failure_job_shows_the_failure_that_it_received(
    engine: Engine, admin: Client
) -> None:
    chain(fail.bind("<script>alert(1)</script>"), on_failure=echo.bind()).run_later()
    drain()
    shown = text(admin.get(change_url(Job.objects.get(name=echo.name))))
    row = re.search(r"<dt>Received first</dt><dd>(.*?)</dd>", shown, re.DOTALL)
    assert row is not None
    assert "builtins.ValueError: &lt;script&gt;" in row[1]
