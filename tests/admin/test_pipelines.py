"""A pipeline's jobs in the admin: their neighbours, the way to all of them, and what a deletion means."""

from __future__ import annotations

from djjp import chain, group
from djjp.claims import Claims
from djjp.models import Dependency, Job
from djjp.testing import drain
from tests.admin.conftest import LIST, page, text
from tests.project.shop.jobs import add, echo, mail


def test_a_jobs_page_shows_what_it_waits_for_and_what_waits_for_it(queue: Claims, admin) -> None:
    handle = chain(
        mail.bind("a"), group(add.bind_alone(1), add.bind_alone(2)), echo.bind()
    ).run_later()
    first, middle, _, last = (Job.objects.get(pk=step.id) for step in handle.steps)
    shown = text(admin.get(page(middle)))
    assert f"?q={handle.id}" in shown
    above, below = shown.partition("Waits for")[2].split("Is awaited by")
    assert page(first) in above
    assert "shop.mail</a> ready" in above
    assert page(last) in below
    assert "Waits for" not in text(admin.get(page(first)))
    assert "Is awaited by" not in text(admin.get(page(last)))


def test_of_many_neighbours_the_first_are_shown(queue: Claims, admin) -> None:
    handle = chain(group(*[add.bind(1)] * 30), echo.bind()).run_later()
    shown = text(admin.get(page(Job.objects.get(pk=handle.id))))
    assert shown.count(f"{add.name}</a> ready") == 20
    assert "More are not shown." in shown


def test_a_plain_jobs_page_speaks_of_no_pipeline(queue: Claims, admin) -> None:
    handle = add.run_later(1)
    assert "djjp-family" not in text(admin.get(page(Job.objects.get(pk=handle.id))))


def test_a_pipelines_id_finds_all_its_jobs(queue: Claims, admin) -> None:
    handle = group(add.bind(1), add.bind(2)).run_later()
    other = add.run_later(3)
    shown = text(admin.get(LIST, {"q": str(handle.id)}))
    assert [page(Job(pk=step.id)) in shown for step in (*handle.steps, other)] == [
        True,
        True,
        False,
    ]


def test_what_waits_for_a_job_that_is_deleted_is_cancelled(queue: Claims, admin) -> None:
    handle = chain(add.bind(1), add.bind(2), on_failure=echo.bind()).run_later()
    first = handle.steps[0]
    admin.post(f"{LIST}{first.id}/delete/", {"post": "yes"})
    handle.refresh()
    assert (handle.state, handle.reason) == ("cancelled", f"{add.name} {first.id} was deleted")
    assert Dependency.objects.count() == 1
    assert drain() == 1
