"""Promise of each URL of the admin: whatever its query, body or name is, no server error and no text as markup."""

from __future__ import annotations

import random
from collections.abc import Iterator
from urllib.parse import quote as in_url

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import AsyncClient, Client, override_settings
from django.urls import reverse

from djjp import queues
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Dependency, Job, Operation, State
from tests.admin.test_every_page import is_shown
from tests.admin.test_odd_rows import client
from tests.admin.test_permissions import PAGES, address
from tests.support.admin import SCRIPT, make_attempt, make_job
from tests.support.factories import consumer_row

__all__ = ["client"]
pytestmark = pytest.mark.one_database

HOSTILE = [
    *(
        "",
        " ",
        "0",
        "-1",
        "1e999",
        "NaN",
        "9" * 400,
        "99999999999999999999",
        "\x00",
        "a\x00b",
        "\ud800",
        "%",
    ),
    *(
        f"'\"><{SCRIPT}",
        "x" * 5_000,
        "[]",
        "{}",
        "../../etc/passwd",
        "\u202e",
        "😀" * 300,
        "None",
        ":",
        '"',
    ),
    *(
        "\\",
        "(((",
        "*" * 200,
        "[a",
        "2026-13-45",
        "0001-01-01",
        "9999-12-31T23:59:59.999999+14:00",
        "-5m",
    ),
    *(
        f"{'9' * 18}d",
        "infinity",
        str(new_id()),
        "//evil.example",
        "javascript:alert(1)",
        "\r\nSet-Cookie: a=b",
    ),
    *("١٢٣", "²", "1_000", "0x10", "1.5", "a" * 101, "b" * 201, "state:", "failed,x"),
]
PARAMETERS = [
    *(
        "q",
        "cursor",
        "backwards",
        "action",
        "argument",
        "post",
        "p",
        "o",
        "all",
        "e",
        "_changelist_filters",
    ),
    *(
        "_facets",
        "_popup",
        "_to_field",
        "state",
        "queue",
        "name",
        "tag",
        "exception",
        "since",
        "until",
        "attempts",
    ),
    *(
        "consumer",
        "unique_key",
        "pipeline",
        "span",
        "order",
        "after",
        "before",
        "kind",
        "attempt",
        "key",
        "page",
    ),
    *(
        "next",
        "enabled",
        "source",
        "problem",
        "last",
        "_selected_action",
        "select_across",
        "duration",
        "own",
    ),
    *(
        "seen",
        "args",
        "kwargs",
        "priority",
        "run_after",
        "index",
        "name__exact",
        "id__in",
        "pk",
        "x",
    ),
]


def queries(chance: random.Random) -> Iterator[str]:
    """Yield query strings in which each parameter has a hostile value once, and some have two."""
    left = chance.sample(PARAMETERS, len(PARAMETERS))
    while left:
        some, left = left[:6], left[6:]
        pairs = [(each, chance.choice(HOSTILE)) for each in (*some, some[0])]
        yield "&".join(f"{k}={in_url(v.encode('utf-8', 'surrogatepass'))}" for k, v in pairs)


def test_no_query_and_no_body_makes_a_server_error_or_markup(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.admin.consumers.ANSWER_WITHIN", 0.0)
    monkeypatch.setattr("djjp.admin.job_stack.ANSWER_WITHIN", 0.0)
    chance = random.Random(3)
    found = {}
    for key in PAGES:
        url, [first, second, third] = address(key), chance.sample([*queries(chance)], 3)
        asked = [
            client.get(f"{url}?{first}"),
            client.get(f"{url}?{second}", headers={"X-Djjp-Fragment": "1"}),
            client.generic("POST", url, third, content_type="application/x-www-form-urlencoded"),
        ]
        for query, response in zip((first, second, third), asked, strict=True):
            target = response.get("Location", "")
            is_bad = response.status_code >= 500 or SCRIPT.encode() in response.content
            if is_bad or target.startswith(("//", "http", "javascript")):
                found[key, query[:200]] = response.status_code
    assert found == {}


#: Names that mean something in a URL.
NAMES = [
    *(
        "a/b",
        "/a",
        "a%2Fb",
        "50%",
        "a?b=c#d",
        " a b ",
        "'\"<b>",
        "a/../b",
        "a/change",
        "a_2Fb",
        "ä&+\\,",
    ),
    "😀" * 100,
]


def test_each_name_has_its_pages_and_acts(engine: Engine, client: Client) -> None:
    for name in NAMES:
        make_job(State.READY, name=name, queue=name)
        make_attempt(make_job(State.FAILED, name=name, queue=name))
        consumer_row(name)
        for model in ("queue", "consumer"):
            page = client.get(reverse(f"admin:djjp_{model}_change", args=[quote(name)]))
            assert page.status_code == 200, (model, name)
        for verb, paused in (("pause", True), ("resume", False)):
            url = reverse(f"admin:djjp_queue_{verb}", args=[quote(name)])
            assert client.post(url, follow=True).status_code == 200, (verb, name)
            assert (name in queues.paused()) is paused, (verb, name)


def test_the_pages_of_jobs_whose_neighbours_are_gone_or_in_a_circle_are_shown(
    engine: Engine, client: Client
) -> None:
    pipeline = new_id()
    itself, first, second = (
        make_job(State.BLOCKED, pipeline=pipeline, waits_for=1, consumer="gone:1:a")
        for _ in range(3)
    )
    failed, cancelled = (
        make_job(state, pipeline=pipeline) for state in (State.FAILED, State.CANCELLED)
    )
    alone = make_job(State.RUNNING, pipeline=new_id(), consumer="gone:1:a")
    edges = [
        *((itself, itself), (first, second), (second, first)),
        *((failed, cancelled), (cancelled, failed)),
    ]
    for parent, child in edges:
        Dependency.objects.create(parent=parent.pk, child=child.pk)
    Dependency.objects.create(parent=new_id(), child=first.pk)
    Dependency.objects.create(parent=second.pk, child=new_id())
    jobs = "/admin/djjp/job"
    for job in (itself, first, failed, cancelled, alone):
        for page in ("change", "delete", "stack", "confirm/cancel", "copy"):
            assert client.get(f"{jobs}/{job.pk}/{page}/").status_code == 200, page
    for page in ("", "retry/", "cancel/", f"retry/{failed.pk}/"):
        assert client.get(f"{jobs}/pipelines/{pipeline}/{page}").status_code == 200, page
    for job, verb in ((failed, "retry"), (itself, "cancel"), (first, "cancel")):
        assert client.post(f"{jobs}/{job.pk}/{verb}/", follow=True).status_code == 200
    url = f"{jobs}/pipelines/{pipeline}/cancel/"
    assert client.post(url, follow=True).status_code == 200
    assert not Job.objects.filter(pipeline=pipeline, state__in=["blocked", "ready"]).exists()


def test_more_ticked_jobs_than_django_takes_are_refused_and_others_are_an_operation(
    engine: Engine, client: Client
) -> None:
    ids = [str(new_id()) for _ in range(1_001)]
    data = {"_selected_action": ids, "post": "yes"}
    url = "/admin/djjp/job/bulk/delete/"
    assert client.post(url, data).status_code == 400
    assert not Operation.objects.exists()
    with override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=None):
        response = client.post(url, data)
    operation = Operation.objects.get()
    assert response["Location"] == f"/admin/djjp/operation/{operation.pk}/change/"


def test_an_asgi_server_answers_with_each_page_its_fragment_and_acts(
    engine: Engine, client: Client
) -> None:
    urls = {key: address(key) for key, page in PAGES.items() if is_shown(page)}
    job = make_job(State.FAILED)

    async def statuses() -> dict[str, int]:
        other, found = AsyncClient(), {}
        await other.aforce_login(user)
        for key, url in urls.items():
            for headers in ({}, {"X-Djjp-Fragment": "1"}):
                response = await other.get(url, PAGES[key].data, headers=headers)
                found[f"{key} {headers}"] = response.status_code
        found["act"] = (await other.post(f"/admin/djjp/job/{job.pk}/retry/")).status_code
        return found

    user = User.objects.get()
    found = async_to_sync(statuses)()
    assert found.pop("act") == 302
    assert {key: status for key, status in found.items() if status != 200} == {}
    assert Job.objects.get(pk=job.pk).state == State.READY
