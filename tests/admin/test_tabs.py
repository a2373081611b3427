"""The tabs lead to the pages that a user may see, and mark the present one."""

from __future__ import annotations

import re
from typing import Any

from django.test import Client

from djjp.models import State
from tests.support.admin import LogIn, make_job, text


def tabs(client: Client, url: str) -> dict[str, tuple[str, str]]:
    """Return the address and the mark of each tab."""
    page = text(client.get(url))
    nav = re.search(r'<nav class="djjp-tabs".*?</nav>', page, re.DOTALL)
    assert nav is not None
    found = re.findall(r'<a href="(.*?)"(?: aria-current="(.*?)")?>(.*?)</a>', nav[0])
    return {label: (address, current) for address, current, label in found}


def test_each_page_has_its_tab_in_order(log_in: LogIn) -> None:
    client = log_in("view", "view_schedule")
    assert list(tabs(client, "/admin/djjp/")) == [
        *(
            "Dashboard",
            "Jobs",
            "Failures",
            "Queues",
            "Consumers",
            "Names",
            "Schedules",
            "Incidents",
        ),
        *("Operations", "Outbox"),
    ]


def test_every_tab_leads_to_a_page_that_marks_it(log_in: LogIn) -> None:
    client = log_in("view", "view_schedule")
    for label, (url, _) in tabs(client, "/admin/djjp/").items():
        if label == "Schedules":  # Django's own list
            continue
        marked = {each: current for each, (_, current) in tabs(client, url).items() if current}
        assert marked == {label: "page"}


def test_a_page_beneath_a_tab_marks_it(log_in: LogIn) -> None:
    make_job(State.READY, queue="mail")
    found = tabs(log_in("view"), "/admin/djjp/queue/mail/change/")
    assert {label: current for label, (_, current) in found.items() if current} == {
        "Queues": "true"
    }


def test_a_tab_needs_its_right(log_in: LogIn) -> None:
    assert "Schedules" not in tabs(log_in("view"), "/admin/djjp/")


def test_a_user_of_schedules_only_has_no_other_tab(log_in_for: Any) -> None:
    found = tabs(log_in_for("schedule")("view"), "/admin/djjp/")
    assert list(found) == ["Dashboard", "Schedules"]
