"""The permissions that each URL under `/admin/djjp/` needs, by GET and by POST, tried with each kind of user.

The URLs come from the URLconf. A new one fails `test_each_url_is_in_the_table` until `PAGES` lists it with the
permissions that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from djjp import queues
from djjp.admin.rights import PERMISSIONS
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Incident, Operation, State
from djjp.monitoring.operations import start
from djjp.outbox.models import OutboxJob
from tests.project.shop.jobs import echo
from tests.support.admin import make_attempt, make_job
from tests.support.factories import consumer_row
from tests.support.schedules import by_hand

pytestmark = pytest.mark.one_database

SET_ASIDE = new_id()
#: Statuses of a page that is there, and of an act that leads to another page.
SHOWN, DONE = 200, 302


class Page(NamedTuple):
    """The needs and the answers of a URL.

    Attributes:
        get, post: the permissions that the method needs, each without `djjp.`, with a "|" between alternatives;
            and the status of its answer with them. Without them the status is 403, or `lacking`.
        args: returns the values of the URL; each call can make new rows.
        data: what is posted.
        lacking: the status without a permission.
    """

    get: tuple[str, int]
    post: tuple[str, int]
    args: Callable[[], list[Any]] = list
    data: dict[str, Any] = {}
    lacking: int = 403


def ended_job() -> list[Any]:
    job = make_job(State.FAILED, name=echo.name)
    make_attempt(job)
    return [job.pk]


def waiting_job() -> list[Any]:
    return [make_job(State.READY, name=echo.name).pk]


def scheduled_job() -> list[Any]:
    later = timezone.now() + timedelta(hours=1)
    return [make_job(State.SCHEDULED, name=echo.name, run_after=later).pk]


def paused_job() -> list[Any]:
    queues.pause("slow")
    return [make_job(State.READY, name=echo.name, queue="slow").pk]


def a_pipeline() -> list[Any]:
    return [make_job(State.READY, name=echo.name, pipeline=new_id()).pipeline]


def a_step() -> list[Any]:
    return [id := new_id(), make_job(State.FAILED, name=echo.name, pipeline=id).pk]


def an_operation() -> list[Any]:
    """Have an operation that a consumer is to work on."""
    id = start("retry", ids=[new_id()]).id
    Operation.objects.filter(pk=id).update(state="waiting", finished_at=None)
    return [id]


def a_schedule() -> list[Any]:
    return [by_hand(echo.name, 0, name=str(new_id()), cron="0 9 * * *", tz="UTC").pk]


def a_disabled_schedule() -> list[Any]:
    made = by_hand(echo.name, 0, name=str(new_id()), cron="0 9 * * *", tz="UTC", enabled=False)
    return [made.pk]


def a_paused_queue() -> list[Any]:
    queues.pause("stopped")
    return ["stopped"]


def a_consumer() -> list[Any]:
    consumer_row()
    return [quote("elsewhere:1:a")]


def an_incident() -> list[Any]:
    at = timezone.now()
    return [Incident.objects.create(kind="wait", subject=str(at), opened_at=at, seen_at=at).pk]


def a_name() -> list[Any]:
    return [echo.name]


def an_outbox() -> list[Any]:
    return ["default"]


def a_row_set_aside() -> list[Any]:
    """Have one row that the queue refuses, with the key that is posted."""
    OutboxJob.objects.update_or_create(
        id=SET_ASIDE, defaults={"job": "x", "created_at": timezone.now(), "problem": "no job"}
    )
    return ["default"]


#: Of each name of a URL, or of its route where it has no name, what it needs. `never`: nobody has that permission.
PAGES: dict[str, Page] = {
    "app_list": Page(
        ("view_job|view_schedule", SHOWN),
        ("view_job|view_schedule", SHOWN),
        lambda: ["djjp"],
        lacking=404,
    ),
    # Jobs
    "djjp_job_dashboard": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_job_changelist": Page(("view_job", SHOWN), ("view_job", DONE)),
    "djjp_job_bulk": Page(
        ("view_job operate_job", SHOWN),
        ("view_job operate_job", DONE),
        lambda: ["retry"],
        {"post": "yes"},
    ),
    "djjp_job_failures": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_job_change": Page(("view_job", SHOWN), ("never", SHOWN), ended_job),
    "djjp_job_history": Page(("view_job", SHOWN), ("view_job", SHOWN), ended_job),
    "djjp_job_add": Page(("never", SHOWN), ("never", SHOWN)),
    "djjp_job_delete": Page(
        ("delete_job view_job", SHOWN), ("delete_job view_job", DONE), ended_job, {"post": "yes"}
    ),
    "djjp_job_retry": Page(("", 405), ("view_job operate_job", DONE), ended_job),
    "djjp_job_cancel": Page(("", 405), ("view_job operate_job", DONE), waiting_job),
    "djjp_job_run": Page(("", 405), ("view_job operate_job", DONE), scheduled_job),
    "djjp_job_move": Page(
        ("", 405), ("view_job operate_job", DONE), waiting_job, {"argument": "bulk"}
    ),
    "djjp_job_priority": Page(
        ("", 405), ("view_job operate_job", DONE), waiting_job, {"argument": "7"}
    ),
    "djjp_job_resume": Page(("", 405), ("view_job pause_queue", DONE), paused_job),
    "djjp_job_confirm_cancel": Page(
        ("view_job operate_job", SHOWN), ("view_job operate_job", 405), waiting_job
    ),
    "djjp_job_copy": Page(
        ("view_job operate_job view_arguments", SHOWN),
        ("view_job operate_job view_arguments", SHOWN),
        ended_job,
    ),
    "djjp_job_stack": Page(
        ("view_job view_arguments", SHOWN), ("view_job view_arguments", 405), ended_job
    ),
    "job/<path:object_id>/": Page(("", DONE), ("", DONE), ended_job),
    # Pipelines
    "djjp_job_pipeline": Page(("view_job", SHOWN), ("view_job", 405), a_pipeline),
    "djjp_job_pipeline_retry": Page(
        ("view_job operate_job", SHOWN), ("view_job operate_job", SHOWN), a_pipeline
    ),
    "djjp_job_pipeline_retry_step": Page(
        ("view_job operate_job", SHOWN), ("view_job operate_job", SHOWN), a_step
    ),
    "djjp_job_pipeline_cancel": Page(
        ("view_job operate_job", SHOWN), ("view_job operate_job", DONE), a_pipeline
    ),
    # Operations
    "djjp_operation_changelist": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_operation_change": Page(("view_job", SHOWN), ("view_job", SHOWN), an_operation),
    "djjp_operation_history": Page(("view_job", SHOWN), ("view_job", SHOWN), an_operation),
    "djjp_operation_stop": Page(("", 405), ("view_job operate_job", DONE), an_operation),
    "djjp_operation_go_on": Page(("", 405), ("view_job operate_job", DONE), an_operation),
    "djjp_operation_add": Page(("never", SHOWN), ("never", SHOWN)),
    "djjp_operation_delete": Page(("never", SHOWN), ("never", SHOWN), an_operation),
    "operation/<path:object_id>/": Page(("", DONE), ("", DONE), an_operation),
    # Names and outboxes
    "djjp_job_names": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_job_name": Page(("view_job", SHOWN), ("view_job", SHOWN), a_name),
    "djjp_job_outboxes": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_job_outbox": Page(("view_job", SHOWN), ("view_job", SHOWN), an_outbox),
    "djjp_job_outbox_relay": Page(
        ("", 405), ("view_job operate_job", DONE), a_row_set_aside, {"key": str(SET_ASIDE)}
    ),
    "djjp_job_outbox_delete": Page(
        ("view_job delete_job", SHOWN),
        ("view_job delete_job", DONE),
        a_row_set_aside,
        {"key": str(SET_ASIDE)},
    ),
    # Queues
    "djjp_queue_changelist": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_queue_change": Page(("view_job", SHOWN), ("view_job", SHOWN), a_paused_queue),
    "djjp_queue_history": Page(("view_job", SHOWN), ("view_job", SHOWN), a_paused_queue),
    "djjp_queue_pause": Page(("", 405), ("view_job pause_queue", DONE), a_paused_queue),
    "djjp_queue_resume": Page(("", 405), ("view_job pause_queue", DONE), a_paused_queue),
    "djjp_queue_add": Page(("never", SHOWN), ("never", SHOWN)),
    "djjp_queue_delete": Page(("never", SHOWN), ("never", SHOWN), a_paused_queue),
    "queue/<path:object_id>/": Page(("", DONE), ("", DONE), a_paused_queue),
    # Consumers; those of the table do not answer, which a message reports
    "djjp_consumer_changelist": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_consumer_change": Page(("view_job", SHOWN), ("view_job", SHOWN), a_consumer),
    "djjp_consumer_history": Page(("view_job", SHOWN), ("view_job", SHOWN), a_consumer),
    "djjp_consumer_quiet": Page(("", 405), ("view_job operate_job", DONE), a_consumer),
    "djjp_consumer_unquiet": Page(("", 405), ("view_job operate_job", DONE), a_consumer),
    "djjp_consumer_stop": Page(
        ("view_job operate_job", SHOWN), ("view_job operate_job", DONE), a_consumer
    ),
    "djjp_consumer_stack": Page(("", 405), ("view_job view_arguments", SHOWN), a_consumer),
    "djjp_consumer_add": Page(("never", SHOWN), ("never", SHOWN)),
    "djjp_consumer_delete": Page(("never", SHOWN), ("never", SHOWN), a_consumer),
    "consumer/<path:object_id>/": Page(("", DONE), ("", DONE), a_consumer),
    # Incidents
    "djjp_incident_changelist": Page(("view_job", SHOWN), ("view_job", SHOWN)),
    "djjp_incident_change": Page(("view_job", SHOWN), ("view_job", SHOWN), an_incident),
    "djjp_incident_history": Page(("view_job", SHOWN), ("view_job", SHOWN), an_incident),
    "djjp_incident_add": Page(("never", SHOWN), ("never", SHOWN)),
    "djjp_incident_delete": Page(("never", SHOWN), ("never", SHOWN), an_incident),
    "incident/<path:object_id>/": Page(("", DONE), ("", DONE), an_incident),
    # Schedules
    "djjp_schedule_changelist": Page(("view_schedule", SHOWN), ("view_schedule", SHOWN)),
    "djjp_schedule_add": Page(("add_schedule", SHOWN), ("add_schedule", SHOWN)),
    "djjp_schedule_change": Page(("view_schedule", SHOWN), ("change_schedule", SHOWN), a_schedule),
    "djjp_schedule_history": Page(("view_schedule", SHOWN), ("view_schedule", SHOWN), a_schedule),
    "djjp_schedule_delete": Page(
        ("delete_schedule", SHOWN), ("delete_schedule", DONE), a_schedule, {"post": "yes"}
    ),
    "djjp_schedule_run": Page(("", 405), ("change_schedule", DONE), a_schedule),
    "djjp_schedule_enable": Page(("", 405), ("change_schedule", DONE), a_disabled_schedule),
    "djjp_schedule_disable": Page(("", 405), ("change_schedule", DONE), a_schedule),
    "schedule/<path:object_id>/": Page(("", DONE), ("", DONE), a_schedule),
}

#: Of each kind of staff the permissions.
#: The parts in which the table is tried, so that no test takes a minute on a busy machine.
PARTS = 4

STAFF: dict[str, set[str]] = {
    "without rights": set(),
    "view": {"view_job"},
    "view and arguments": {"view_job", "view_arguments"},
    "view and operate": {"view_job", "operate_job"},
    "view and pause": {"view_job", "pause_queue"},
    "view and delete": {"view_job", "delete_job"},
    "operate without view": {"operate_job", "delete_job", "pause_queue", "view_arguments"},
    "view schedules": {"view_schedule"},
    "all of schedules": {f"{verb}_schedule" for verb in ("view", "add", "change", "delete")},
}


class Url(NamedTuple):
    """A URL of djjp in the admin: its key in `PAGES`, and how it is built."""

    key: str
    route: str
    name: str | None


def urls() -> Iterator[Url]:
    """Yield the URLs under `/admin/djjp/` of the URLconf."""
    yield Url("app_list", "", "app_list")
    for route, name in _walk(get_resolver(), ""):
        if route.startswith("admin/djjp/"):
            below = route.removeprefix("admin/djjp/")
            yield Url(name or below, below, name)


def _walk(resolver: URLResolver, before: str) -> Iterator[tuple[str, str | None]]:
    for each in resolver.url_patterns:
        route = f"{before}{each.pattern}"
        if isinstance(each, URLPattern):
            yield route, each.name
        else:
            yield from _walk(each, route)


@cache
def _by_key() -> dict[str, Url]:
    return {each.key: each for each in urls()}


def address(key: str) -> str:
    """Return the address of a page, with new rows."""
    page, url = PAGES[key], _by_key()[key]
    args = page.args()
    if url.name is not None:
        return reverse(f"admin:{url.name}", args=args)
    return f"/admin/djjp/{url.route.replace('<path:object_id>', str(args[0]))}"


@pytest.fixture
def clients(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Client]]:
    """Yield a client of each kind of user, by its name."""
    caplog.set_level(
        "CRITICAL", "django.request"
    )  # a warning for each refusal hides the failure of a test
    made = {"nobody": Client(), "superuser": Client()}
    made["superuser"].force_login(User.objects.create_superuser("superuser"))
    for kind, codenames in STAFF.items():
        user = User.objects.create(username=kind, is_staff=True)
        granted = Permission.objects.filter(content_type__app_label="djjp", codename__in=codenames)
        assert len(granted) == len(codenames)
        user.user_permissions.set(granted)
        made[kind] = Client()
        made[kind].force_login(user)
    monkeypatch.setattr("djjp.admin.consumers.ANSWER_WITHIN", 0.0)
    yield made
    OutboxJob.objects.all().delete()
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    Session.objects.all().delete()


def test_each_url_is_in_the_table() -> None:
    """Enter a new URL in `PAGES`, with the permissions that it needs."""
    assert sorted(each.key for each in urls()) == sorted(PAGES)


def test_each_permission_is_tried_alone() -> None:
    tried = {codename for codenames in STAFF.values() for codename in codenames}
    assert tried >= {each.removeprefix("djjp.") for each in PERMISSIONS.values()}


@pytest.mark.parametrize("part", range(PARTS))
def test_each_url_answers_the_users_with_its_permissions_and_nobody_else(
    clients: dict[str, Client], part: int
) -> None:
    """Many URLs in one test: the users and their sessions take longer than their requests."""
    wrong = []
    for key, page in islice(PAGES.items(), part, None, PARTS):
        for kind, client in clients.items():
            for method, need in (("get", page.get), ("post", page.post)):
                response = getattr(client, method)(address(key), page.data)
                if kind == "nobody":
                    assert response.status_code == 302, (key, method)
                    assert response["Location"].startswith(reverse("admin:login")), (key, method)
                    continue
                allowed = kind == "superuser" or _fits(need[0], STAFF[kind])
                expected = need[1] if allowed and need[0] != "never" else page.lacking
                if response.status_code != expected:
                    wrong.append((key, method, kind, response.status_code, f"not {expected}"))
    assert not wrong, "\n".join(map(str, wrong))


def _fits(needed: str, held: set[str]) -> bool:
    return any({*each.split()} <= held for each in needed.split("|"))


def test_a_post_without_the_token_of_the_form_is_refused_by_each_url(
    clients: dict[str, Client],
) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = clients["superuser"].cookies
    for key, page in PAGES.items():
        assert strict.post(address(key), page.data).status_code == 403, key
