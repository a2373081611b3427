"""Promises of each page: no text of a row by hand acts on it, and no exception shows what a reader may not see."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils import timezone

from djjp import Limit
from djjp.admin import snapshot
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Incident, Job, Operation, Queue, Release, Schedule, State
from djjp.monitoring.filters import KEYS
from djjp.monitoring.operations import start
from tests.admin.test_every_page import is_shown
from tests.admin.test_permissions import PAGES, address
from tests.support.admin import (
    LogIn,
    Response,
    make_attempt,
    make_job,
    messages,
    run_action,
    text,
)
from tests.support.factories import consumer_row
from tests.support.jobs import registered
from tests.support.schedules import by_hand

pytestmark = pytest.mark.one_database

#: Characters that delete, colour, reverse and end what stands on a line.
ACTING = "x\x7f\x1b[31m\u202ey\x85z\u2066"
_ACTS = re.compile(
    "[^\n]{0,60}[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069].{0,30}"
)
# What nobody sees, and what is edited.
_HIDDEN = re.compile(r' (?:data-[\w-]+|value)="[^"]*"')


def acting(response: Response) -> list[str]:
    return _ACTS.findall(_HIDDEN.sub("", response.content.decode()))


def rows() -> dict[str, str]:
    """Have rows with these characters in each text; return the addresses of their pages."""
    now, odd = timezone.now(), dict.fromkeys(("name", "queue", "consumer"), ACTING)
    limited = {"limit_key": ACTING, "limit_max": 1}
    failed = make_job(State.FAILED, **odd, **limited, reason=ACTING, unique_key=ACTING)
    texts: Any = dict.fromkeys(("exception_class", "message", "traceback", "consumer"), ACTING)
    make_attempt(failed, **texts)
    running, ready = make_job(State.RUNNING, **odd), make_job(State.READY, pipeline=new_id(), **odd)
    times: Any = {"name": ACTING, "cron": "0 9 * * *", "tz": "UTC"}
    schedules = [by_hand(ACTING, 0, **times), by_hand("shop.echo", 0, **times, source="code")]
    consumer_row(ACTING, host=ACTING, names='["shop.echo"]', release=ACTING)
    seen = {"opened_at": now, "seen_at": now}
    Incident.objects.create(kind="wait", subject=ACTING, **seen)
    incident = Incident.objects.create(kind=ACTING[:10], subject=ACTING, **seen)
    Release.objects.create(name=ACTING, appeared_at=now)
    Queue.objects.create(name=ACTING, paused_at=now)
    operation = start("retry", ids=[failed.pk], requested_by=ACTING).id
    Operation.objects.filter(pk=operation).update(error=ACTING, worker=ACTING)
    named = {
        "djjp_job": (failed.pk, "change history delete copy stack confirm_cancel"),
        "djjp_queue": (quote(ACTING), "change history"),
        "djjp_consumer": (quote(ACTING), "change history stop"),
        "djjp_incident": (incident.pk, "change history"),
        "djjp_operation": (operation, "change history"),
        "djjp_job_name": (quote(ACTING), ""),
        "djjp_job_pipeline": (ready.pipeline, " cancel retry"),
        "djjp_schedule": (schedules[0].pk, "change history delete"),
    }
    found = {
        (name := f"{start}_{page}".rstrip("_")): reverse(f"admin:{name}", args=[pk])
        for start, (pk, pages) in named.items()
        for page in pages.split(" ")
    }
    found["declared"] = reverse("admin:djjp_schedule_change", args=[schedules[1].pk])
    found["running"] = reverse("admin:djjp_job_change", args=[running.pk])
    found["bulk"] = reverse("admin:djjp_job_bulk", args=["cancel"])
    return found


@pytest.mark.parametrize("page", ["djjp_job_changelist", "djjp_job_failures"])
@pytest.mark.parametrize("key", [*KEYS, "q", "nonsense"])
def test_no_text_of_an_address_acts_on_a_page(
    engine: Engine, log_in: LogIn, page: str, key: str
) -> None:
    client = log_in("view", "view_arguments", "operate")
    for given in (ACTING, f"tag:{ACTING}"):
        shown = client.get(reverse(f"admin:{page}"), {key: given})
        assert shown.status_code == (400 if key == "nonsense" else 200)
        assert acting(shown) == []


def test_no_text_of_a_row_acts_on_a_page(engine: Engine, log_in: LogIn) -> None:
    client = log_in(
        *("view", "view_arguments", "operate", "delete", "pause_queue", "view_schedule"),
        *("add_schedule", "change_schedule", "delete_schedule"),
    )
    found = {}
    for key, url in {**{k: address(k) for k, p in PAGES.items() if is_shown(p)}, **rows()}.items():
        snapshot.clear()
        response = client.get(url, PAGES[key].data if key in PAGES else {})
        assert response.status_code == 200, key
        found[key] = acting(response)
    row = Schedule.objects.filter(source="admin", name=ACTING).get()
    for act in ("run", "disable", "enable"):
        found[act] = acting(client.post(f"/admin/djjp/schedule/{row.pk}/{act}/", follow=True))
    found["ticked"] = acting(run_action(client, "delete_selected", row))
    url = f"/admin/djjp/schedule/{row.pk}/delete/"
    found["deleted"] = acting(client.post(url, {"post": "yes"}, follow=True))
    found["recent"] = acting(client.get("/admin/"))
    assert {key: each for key, each in found.items() if each} == {}


def work(password: str) -> None:
    """Do nothing."""


def key_of(password: str) -> str:
    raise ValueError(f"no key for {password}\x7f")


@pytest.mark.parametrize("way", ["run", "run_selected"])
def test_the_text_of_an_exception_is_shown_only_to_who_may_see_arguments(
    engine: Engine, log_in_for: Any, way: str
) -> None:
    with registered("test.keyed", work, limit=Limit(key_of, 1)):
        arguments = '{"args":["hunter2"],"kwargs":{}}'
        row = by_hand("test.keyed", 0, cron="0 9 * * *", tz="UTC", arguments=arguments)
        for rights, expected in (((), "ValueError"), (("view_arguments",), "no key for hunter2")):
            client = log_in_for("schedule")("view", "change", *rights)
            if way == "run":
                response = client.post(f"/admin/djjp/schedule/{row.pk}/run/", follow=True)
            else:
                response = run_action(client, way, row)
            [message] = messages(response)
            assert expected in message
            assert ("hunter2" in text(response)) is bool(rights)
            assert acting(response) == []
    assert not Job.objects.exists()


def test_the_problem_of_damaged_arguments_has_nothing_of_them(
    engine: Engine, log_in_for: Any
) -> None:
    client = log_in_for("schedule")("view", "change")
    for arguments in (
        "hunter2",
        '{"args":["hunter2"]}',
        '{"args":[{"$djjp":"hunter2","value":1}]}',
    ):
        row = by_hand(
            "shop.echo", 0, name=str(new_id()), cron="0 9 * * *", tz="UTC", arguments=arguments
        )
        pages = ["/admin/djjp/schedule/", f"/admin/djjp/schedule/{row.pk}/change/"]
        shown = [text(client.get(page)) for page in pages]
        shown.append(text(client.post(f"/admin/djjp/schedule/{row.pk}/run/", follow=True)))
        assert ["hunter2" in each for each in shown] == [False] * 3, arguments
