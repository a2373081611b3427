"""Promises of each page of the admin: no secret, no markup that a strict policy refuses, no link off its site."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from types import ModuleType

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone

import djjp.admin
from djjp.admin import snapshot
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Attempt, Job, Schedule, State
from djjp.outbox import table
from djjp.outbox.models import OutboxJob
from tests.admin.test_permissions import PAGES, Page, address
from tests.project.shop.jobs import echo
from tests.support.admin import Response, make_attempt, make_job
from tests.support.factories import consumer_row, new_job

pytestmark = pytest.mark.one_database

#: Values that nobody may see without a permission, and nobody at all.
PRIVATE, SECRET = "privatefact", "hunter2secret"
CALL = json.dumps({"args": [PRIVATE], "kwargs": {"note": PRIVATE, "password": SECRET}})
VALUE = json.dumps([PRIVATE, {"a": [{"token": SECRET}]}])

ops = admin.AdminSite(name="ops")
djjp.admin.register(ops)
both = ModuleType("tests.admin.both_sites")
both.urlpatterns = [path("admin/", admin.site.urls), path("ops/", ops.urls)]  # type: ignore[attr-defined]  # a module's


@pytest.fixture
def everything(engine: Engine) -> Iterator[Client]:
    """Yield a client of a superuser."""
    table.write("default", [new_job(name=echo.name, arguments=CALL)])
    now = timezone.now()
    times = {"created_at": now, "started_at": now, "finished_at": now}
    make_attempt(make_job(State.FAILED, name=echo.name, **times))
    yield logged_in(User.objects.create_superuser("superuser"))
    OutboxJob.objects.all().delete()
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    Session.objects.all().delete()


@pytest.fixture
def without_arguments(everything: Client) -> Client:
    """Return a client of a user with all permissions except `view_arguments`."""
    user = User.objects.create(username="operator", is_staff=True)
    ours = Permission.objects.filter(content_type__app_label="djjp")
    user.user_permissions.set(ours.exclude(codename="view_arguments"))
    return logged_in(user)


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def mark() -> None:
    """Write values into each text that users may not see."""
    Job.objects.update(arguments=CALL, result=VALUE, input=VALUE)
    Attempt.objects.update(
        finished_at=timezone.now(),
        message=f"{PRIVATE}\nmore of {PRIVATE}",
        traceback=f'Traceback:\n  File "shop/jobs.py", line 3, in work\nValueError: {PRIVATE}\n',
    )
    Schedule.objects.update(arguments=CALL)
    snapshot.clear()


def pages(client: Client) -> Iterator[tuple[str, Response]]:
    """Yield the key and the answer of each page that a GET shows, with marked rows."""
    for key, page in PAGES.items():
        if is_shown(page):
            url = address(key)
            mark()
            yield key, client.get(url, page.data)


def is_shown(page: Page) -> bool:
    return page.get[1] == 200 and page.get[0] != "never"


def test_no_page_shows_arguments_results_and_errors_without_the_permission(
    without_arguments: Client,
) -> None:
    for key, response in pages(without_arguments):
        needs_it = "view_arguments" in PAGES[key].get[0]
        assert response.status_code == (403 if needs_it else 200), key
        assert PRIVATE not in response.content.decode(), key


def test_a_page_shows_them_with_the_permission(everything: Client) -> None:
    """Without this the test above could pass for any reason."""
    shown = {key for key, response in pages(everything) if PRIVATE in response.content.decode()}
    assert shown >= {
        "app_list",
        "djjp_job_change",
        "djjp_job_changelist",
        "djjp_job_failures",
        "djjp_job_outbox",
        "djjp_schedule_change",
    }


def test_no_page_shows_a_secret_to_anybody(everything: Client) -> None:
    for key, response in pages(everything):
        assert SECRET not in response.content.decode(), key


# The policy


class Markup(HTMLParser):
    """Collects what the policy of the admin's pages refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        inline_script = (
            tag == "script" and "src" not in found and "json" not in found.get("type", "")
        )
        if tag in ("style", "iframe", "object", "embed", "base") or inline_script:
            self.refused.append(self.get_starttag_text() or tag)
        for name, value in found.items():
            is_address = name in ("href", "src", "action", "formaction", "srcset", "data", "poster")
            if (
                name == "style"
                or name.startswith("on")
                or (
                    is_address
                    and re.match(
                        r"\s*(javascript|data|vbscript|https?):|\s*//", value, re.IGNORECASE
                    )
                )
            ):
                self.refused.append(f"{tag} {name}={value}")


def refused(html: str) -> list[str]:
    parser = Markup()
    parser.feed(html)
    return parser.refused


def test_no_page_has_markup_that_the_policy_refuses(everything: Client) -> None:
    found = {key: refused(response.content.decode()) for key, response in pages(everything)}
    assert {key: each for key, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "html",
    [
        '<p style="color: red">',
        "<style>p {}</style>",
        "<script>alert(1)</script>",
        '<button onclick="go()">',
        '<a href="JavaScript:go()">',
        '<a href=" javascript:go()">',
        '<img src="data:image/png;base64,">',
        '<script src="https://cdn.example.com/x.js"></script>',
        '<link href="//cdn.example.com/x.css">',
        "<iframe>",
    ],
)
def test_the_check_of_markup_finds_what_is_wrong(html: str) -> None:
    assert len(refused(html)) == 1


def test_the_check_of_markup_accepts_what_is_right() -> None:
    assert refused('<script src="/static/a.js" defer></script><a href="/x">x</a>') == []
    assert refused('<script type="application/json">{}</script>') == []


# Other sites


def test_each_page_is_on_another_site_too_and_links_to_that_site_only(everything: Client) -> None:
    with override_settings(ROOT_URLCONF=both):
        for key, page in PAGES.items():
            if not is_shown(page):
                continue
            response = everything.get(address(key).replace("/admin/", "/ops/", 1), PAGES[key].data)
            assert response.status_code == 200, key
            assert (
                re.findall(
                    r'(?:href|action|data-[\w-]+)="(/admin/[^"]*)"', response.content.decode()
                )
                == []
            ), key


# Languages

#: A number with a separator of thousands, or a decimal comma, in an attribute that must have a plain one.
_BROKEN = re.compile(
    r' (?:value|max|min|x|y|width|height|viewBox|id|data-[\w-]+|href)="[^"]*[0-9][.,][0-9]{3}\b[^"]*"'
)


def test_no_attribute_has_a_number_with_separators(everything: Client) -> None:
    """A browser reads no progress of 12.345 from the value 12.345, and finds no anchor that the address lacks."""
    progress = {"priority": 12_345, "progress_done": 12_345, "progress_total": 67_890}
    consumer_row(concurrency_limit=12_345)
    running = make_job(
        State.RUNNING, name=echo.name, pipeline=new_id(), consumer="elsewhere:1:a", **progress
    )
    ready = make_job(State.READY, name=echo.name, **progress)
    make_attempt(ready, id=3_703_732)
    urls = [
        *(f"/admin/djjp/job/{job.pk}/change/" for job in (running, ready)),
        f"/admin/djjp/job/pipelines/{running.pipeline}/",
        "/admin/djjp/consumer/elsewhere_3A1_3Aa/change/",
    ]
    with override_settings(LANGUAGE_CODE="de", USE_THOUSAND_SEPARATOR=True):
        shown = [(url, everything.get(url).content.decode()) for url in urls]
        shown += [(key, response.content.decode()) for key, response in pages(everything)]
        fragment = everything.get(urls[0], headers={"X-Djjp-Fragment": "1"}).content.decode()
    assert {key: found for key, html in shown if (found := _BROKEN.findall(html))} == {}
    assert 'value="12345" max="67890"' in fragment
    assert 'id="attempt-3703732"' in shown[1][1]
    assert 'value="12345" max="67890"' in shown[3][1]
