"""The page of failures leads from a group to its cause and to its jobs, and retries these."""

from __future__ import annotations

import pytest
from django.test import Client

from djjp.engine import Engine
from djjp.models import State
from tests.support.admin import (
    JOBS,
    SCRIPT,
    LogIn,
    captured_statements,
    change_url,
    make_attempt,
    make_job,
    messages,
    states,
    text,
)

FAILURES = f"{JOBS}failures/"
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/billing.py", line 12, in charge
    gateway.pay(order)
shop.errors.Refused: card declined
"""


def test_failures_are_grouped_with_their_place_their_number_and_their_times(
    engine: Engine, admin: Client
) -> None:
    for _ in range(3):
        make_attempt(
            make_job(State.FAILED, name="shop.charge"),
            exception_class="shop.errors.Refused",
            message="card declined\nsecond line",
            traceback=TRACEBACK,
        )
    make_attempt(make_job(State.FAILED, name="shop.mail"))
    response = admin.get(FAILURES)
    first, second = response.context["groups"]
    assert (first["name"], first["count"], second["count"]) == ("shop.charge", 3, 1)
    shown = text(response)
    assert "shop.errors.Refused" in shown
    assert "/srv/shop/billing.py:12 in charge" in shown
    assert "card declined" in shown
    assert "second line" not in shown
    assert '<svg class="djjp-sparkline" role="img" aria-label="At most 3 in' in shown


def test_a_group_leads_to_its_cause_by_one_link_and_to_its_jobs_by_another(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED, name="shop.charge")
    make_attempt(job, traceback=TRACEBACK)
    make_attempt(make_job(State.FAILED, name="shop.mail"), exception_class="a.Other")
    (group,) = admin.get(FAILURES, {"name": "shop.charge"}).context["groups"]
    assert group["example"] == change_url(job)
    assert "gateway.pay(order)" in text(admin.get(group["example"]))
    jobs = admin.get(group["jobs"])
    assert [row["id"] for row in jobs.context["jobs"]] == [str(job.pk)]


def test_the_jobs_of_a_group_are_retried_after_a_preview(engine: Engine, admin: Client) -> None:
    jobs = [make_job(State.FAILED, name="shop.charge") for _ in range(2)]
    retried = make_job(State.SUCCEEDED, name="shop.charge")
    other = make_job(State.FAILED, name="shop.mail")
    for job in (*jobs, retried, other):
        make_attempt(job)
    groups = admin.get(FAILURES).context["groups"]
    retry = next(group["retry"] for group in groups if group["name"] == "shop.charge")
    assert "2 match." in text(admin.get(retry))
    response = admin.post(retry, {"post": "yes"}, follow=True)
    assert messages(response)[0].startswith("Retried 2 jobs.")
    assert states(*jobs, retried, other) == ["ready", "ready", "succeeded", "failed"]


def test_the_filter_of_the_page_holds_for_the_jobs_of_its_groups_but_its_times_do_not(
    engine: Engine, admin: Client
) -> None:
    make_attempt(make_job(State.FAILED, queue="mail"))
    make_attempt(make_job(State.FAILED, queue="bulk"))
    (group,) = admin.get(FAILURES, {"q": "queue:mail since:3650d"}).context["groups"]
    assert group["count"] == 1
    assert "queue=mail" in group["jobs"]
    assert "queue=mail" in group["retry"]
    assert "since" not in group["jobs"]


def test_a_wrong_filter_shows_what_is_allowed(engine: Engine, admin: Client) -> None:
    response = admin.get(FAILURES, {"since": "yesterday"})
    assert "a span back such as 90s" in text(response)
    assert admin.get(FAILURES, {"statee": "x"}).status_code == 400


def test_without_failures_the_page_says_so(engine: Engine, admin: Client) -> None:
    assert "No attempt has failed." in text(admin.get(FAILURES))


def test_without_rights_there_are_neither_messages_nor_buttons(
    engine: Engine, log_in: LogIn
) -> None:
    make_attempt(make_job(State.FAILED), message="of nobody else")
    shown = text(log_in("view").get(FAILURES))
    assert "builtins.ValueError" in shown
    assert "of nobody else" not in shown
    assert "Retry these" not in shown
    assert "Retry these" in text(log_in("view", "operate").get(FAILURES))
    assert log_in("operate").get(FAILURES).status_code == 403


def test_names_and_messages_are_text(engine: Engine, admin: Client) -> None:
    make_attempt(
        make_job(State.FAILED, name=SCRIPT),
        message=SCRIPT,
        exception_class=SCRIPT,
        traceback=TRACEBACK.replace("charge", SCRIPT),
    )
    shown = text(admin.get(FAILURES))
    assert SCRIPT not in shown
    assert "&lt;script&gt;" in shown


def test_the_number_of_statements_does_not_depend_on_the_number_of_groups(
    engine: Engine, admin: Client
) -> None:
    make_attempt(make_job(State.FAILED))
    with captured_statements(engine) as few:
        admin.get(FAILURES)
    for at in range(20):
        make_attempt(make_job(State.FAILED, name=f"shop.job{at}"))
    with captured_statements(engine) as many:
        assert len(admin.get(FAILURES).context["groups"]) == 21
    assert len(many.queue) == len(few.queue)


@pytest.mark.parametrize("typed", ["%", "\0", "x" * 60_000, "'; --", "a b c d e f"], ids=ascii)
def test_any_typed_text_returns_a_page(engine: Engine, admin: Client, typed: str) -> None:
    make_attempt(make_job(State.FAILED))
    assert text(admin.get(FAILURES, {"q": typed}))
