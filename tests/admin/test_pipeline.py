"""A pipeline's jobs in the admin: their neighbours, the way to all of them, and what a deletion means."""

from __future__ import annotations

import re

from djjp import chain, group
from djjp.engine import Engine
from djjp.models import Dependency, Job
from djjp.testing import drain
from tests.admin.conftest import LIST, page, text
from tests.project.shop.jobs import add, echo, fail, mail


def test_a_jobs_page_shows_what_it_waits_for_and_what_waits_for_it(engine: Engine, admin) -> None:
    handle = chain(
        mail.bind("a"), group(add.bind_alone(1), add.bind_alone(2)), echo.bind()
    ).run_later()
    first, middle, _, last = (Job.objects.get(pk=step.id) for step in handle.steps)
    shown = text(admin.get(page(middle)))
    assert f"?q={handle.id}" in shown
    above, below = shown.partition("Runs after")[2].split("Runs before")
    assert page(first) in above
    assert re.search(r"shop\.mail</a> <span [^>]*>Ready<", above)
    assert page(last) in below
    assert "waits for 1 job of its pipeline" in shown
    assert "Before these it receives the results of its parents." not in shown
    assert "Runs after" not in text(admin.get(page(first)))
    shown = text(admin.get(page(last)))
    assert "Runs before" not in shown
    assert "Before these it receives the results of its parents." in shown


def test_of_many_neighbours_the_first_are_shown(engine: Engine, admin) -> None:
    handle = chain(group(*[add.bind(1)] * 30), echo.bind()).run_later()
    shown = text(admin.get(page(Job.objects.get(pk=handle.id))))
    assert shown.count(f"{add.name}</a> <span") == 20
    assert "More are not shown." in shown


def test_a_plain_jobs_page_speaks_of_no_pipeline(engine: Engine, admin) -> None:
    handle = add.run_later(1)
    assert "djjp-family" not in text(admin.get(page(Job.objects.get(pk=handle.id))))


def test_a_pipelines_id_finds_all_its_jobs(engine: Engine, admin) -> None:
    handle = group(add.bind(1), add.bind(2)).run_later()
    other = add.run_later(3)
    shown = text(admin.get(LIST, {"q": str(handle.id)}))
    assert [page(Job(pk=step.id)) in shown for step in (*handle.steps, other)] == [
        True,
        True,
        False,
    ]


def test_what_waits_for_a_job_that_is_deleted_is_cancelled(engine: Engine, admin) -> None:
    handle = chain(add.bind(1), add.bind(2), on_failure=echo.bind()).run_later()
    first = handle.steps[0]
    admin.post(f"{LIST}{first.id}/delete/", {"post": "yes"})
    handle.refresh()
    assert (handle.state, handle.reason) == ("cancelled", f"{add.name} {first.id} was deleted")
    assert Dependency.objects.count() == 1
    assert drain() == 1


def test_a_retry_that_takes_others_along_says_so_and_counts_none_as_left_alone(
    engine: Engine, admin
) -> None:
    handle = chain(fail.bind("no"), echo.bind()).run_later()
    drain()
    response = admin.post(f"{LIST}{handle.id}/retry/", follow=True)
    assert [str(message) for message in response.context["messages"]] == ["Retried 2 jobs."]


def test_a_job_for_a_failure_that_did_not_come_cannot_be_retried(engine: Engine, admin) -> None:
    chain(add.bind(1), on_failure=echo.bind()).run_later()
    job = Job.objects.get(name=echo.name)
    shown = text(admin.get(page(job)))
    assert "waits for a failure in its pipeline" in shown
    assert "Before these it receives why it runs." in shown
    assert "on failure only" in shown
    drain()
    assert "/retry/" not in text(admin.get(page(job)))
    response = admin.post(f"{LIST}{job.pk}/retry/", follow=True)
    said = "1 job left unchanged, because no job of its pipeline has failed."
    assert [str(message) for message in response.context["messages"]] == [said]


def test_a_job_that_a_failure_has_called_shows_what_it_was_told(engine: Engine, admin) -> None:
    chain(fail.bind("<script>alert(1)</script>"), on_failure=echo.bind()).run_later()
    drain()
    shown = text(admin.get(page(Job.objects.get(name=echo.name))))
    row = re.search(r'field-received_reason">.*?<pre[^>]*>(.*?)</pre>', shown, re.DOTALL)
    assert row is not None
    assert "builtins.ValueError: &lt;script&gt;" in row[1]
