"""Each kind of incident comes with its command, and with links and buttons that the user may use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from djjp import models
from djjp.admin.remedies import address, offer
from djjp.admin.rights import Rights
from djjp.engine import Engine
from djjp.monitoring.incidents import KINDS, of_row
from tests.support.admin import LogIn

#: Of each kind a subject, and facts of which its sentence is made.
INCIDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no_consumer": ("mail", {"jobs": 2, "wait": 9, "quiet": "web-2:7:a"}),
    "consumer_lost": ("web-2", {"consumers": 1, "jobs": 3, "failed": 0, "name": "web-2:7:a"}),
    "failing": ("shop.mail", {"failed": 9, "ended": 10}),
    "wait": ("mail", {"wait": 700, "limit": 300}),
    "backlog": ("mail", {"before": 1, "ready": 900, "seconds": 1200}),
    "outbox_behind": ("default", {"wait": 40, "consumers": True}),
    "schedule_broken": ("nightly", {"schedule": 7, "problem": "no job named 'x'"}),
    "late_results": ("shop.mail", {"late": 2}),
    "loop_blocked": ("shop.mail", {"times": 2, "longest": 3.0, "at": "jobs.py:3"}),
    "clock_skew": (
        "web-2",
        {"seconds": 5.0, "other": "the queue's database", "consumer": "web-2:7:a"},
    ),
    "unheard": ("web-2", {"problem": "NOTIFY does not arrive"}),
}
ALL = Rights(*[True] * len(Rights._fields))
NONE = Rights(*[False] * len(Rights._fields))


def incident(kind: str) -> Any:
    subject, facts = INCIDENTS[kind]
    at = timezone.now()
    return of_row(
        models.Incident(
            kind=kind, subject=subject, opened_at=at, seen_at=at, facts=json.dumps(facts)
        )
    )


def test_every_kind_is_tried() -> None:
    assert {*INCIDENTS} == {*KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_and_the_command_are_the_sentence(kind: str) -> None:
    found = incident(kind)
    offered = offer(found, ALL, "admin")
    assert f"{offered.text}: {offered.command}" == found.sentence
    assert offered.command.startswith("python manage.py ")


@pytest.mark.parametrize("kind", KINDS)
def test_each_link_leads_to_a_page_and_each_button_to_a_url_that_posts(
    kind: str, engine: Engine, log_in: LogIn
) -> None:
    client = log_in(
        *("view", "view_arguments", "operate", "delete", "pause_queue"),
        *("view_schedule", "change_schedule"),
    )
    acts = offer(incident(kind), ALL, "admin").acts
    assert acts
    for act in acts:
        if act.is_post:
            assert client.get(act.url).status_code == 405
        else:  # a subject that is gone is a page too
            assert client.get(act.url).status_code in (200, 302, 404), act.url


@pytest.mark.parametrize("kind", KINDS)
def test_without_rights_only_the_command_is_left(kind: str) -> None:
    assert offer(incident(kind), NONE, "admin").acts == []


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_right_to_change_something_nothing_is_posted(kind: str) -> None:
    rights = ALL._replace(operate=False, change_schedule=False)
    acts = offer(incident(kind), rights, "admin").acts
    assert not any(act.is_post for act in acts)


def test_an_incident_that_was_not_seen_for_a_while_keeps_its_command(engine: Engine) -> None:
    row = models.Incident(
        kind="x", subject="y", opened_at=timezone.now(), seen_at=timezone.now(), facts="{"
    )
    offered = offer(of_row(row), ALL, "admin")
    assert offered.command == "python manage.py djjp status"
    assert offered.acts == []


def test_an_address_that_the_site_does_not_have_is_none() -> None:
    assert address("admin", "djjp_job_changelist") == "/admin/djjp/job/"
    assert address("admin", "djjp_nothing") is None
