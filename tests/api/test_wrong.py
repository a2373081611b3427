"""Wrong requests, over all operations: each kind has its problem, and hidden things do not exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from djjp import pipelines, tokens
from djjp.api import urls  # noqa: F401  (it defines the endpoints)
from djjp.api.frame import ENDPOINTS, Endpoint
from djjp.ids import new_id
from djjp.models import Job, Token
from tests.api import jobs
from tests.api.conftest import API

UNKNOWN = "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722"
#: The slug of what does not exist, by the beginning of the path that names it.
MISSING = {
    "/v1/jobs/{id}": "job-not-found",
    "/v1/operations/{id}": "operation-not-found",
    "/v1/pipelines/{id}": "pipeline-not-found",
    "/v1/schedules/{path:name}": "schedule-not-found",
}
#: A body that each endpoint takes, or would take if what it names existed.
BODIES: dict[str, Any] = {
    "enqueue": {"name": "api.add", "args": [1]},
    "enqueue_batch": {"jobs": [{"name": "api.add", "args": [1]}]},
    "start_operation": {"verb": "retry", "filter": {}},
    "pause": {"seconds": 60},
}
DEEP = b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"


class Wrong(NamedTuple):
    """A request, and the status and slug of its problem."""

    status: int
    slug: str
    headers: dict[str, str] = {}
    body: Any = None
    query: str = ""
    id: str = UNKNOWN
    method: str = ""


def wrong_requests(each: Endpoint) -> Iterator[tuple[str, Wrong]]:
    """Return what is wrong with requests of an endpoint, by its kind."""
    body = BODIES.get(each.handler.__name__)
    yield "accept", Wrong(406, "not-acceptable", {"Accept": "image/png"}, body)
    yield "parameter", Wrong(400, "usage", {}, body, "?colour=red")
    yield "method", Wrong(405, "method-not-allowed", {}, body, method="PATCH")
    yield "trace", Wrong(405, "method-not-allowed", {}, None, method="TRACE")
    if each.scope is not None:
        for kind, text in {
            "no token": "",
            "other kind of token": "Basic eDp5",
            "token without text": "Bearer",
            "malformed token": "Bearer djjp_x",
            "unknown token": f"Bearer djjp_{'a' * 43}",
            "two tokens": f"Bearer djjp_{'a' * 43} djjp_{'a' * 43}",
        }.items():
            yield kind, Wrong(401, "unauthorized", {"Authorization": text}, body)
    for path, slug in MISSING.items():
        if each.path.startswith(path):
            for id in (UNKNOWN, "nonsense", "%00", "x" * 300, "%2e%2e", UNKNOWN.upper()):
                yield f"id {id[:10]}", Wrong(404, slug, {}, body, id=id)
    yield from _of_query(each)
    if each.body is not None:
        yield from _of_body(each, body)


def _of_query(each: Endpoint) -> Iterator[tuple[str, Wrong]]:
    values = {
        "limit": ("usage", ["0", "-1", "201", "x", "", "1.5", "9" * 30]),
        "before": ("usage", ["", "x", "1"]),
        "open": ("usage", ["", "1", "yes"]),
        "by": ("usage", ["", "colour"]),
        "cursor": ("invalid-filter", ["", "nonsense", UNKNOWN, "%00"]),
        "state": ("invalid-filter", ["", "green"]),
        "since": ("invalid-filter", ["", "soon", "2026-13-01", "%00"]),
        "until": ("invalid-filter", ["", "soon"]),
        "queue": ("invalid-filter", ["", "%00", "q" * 101]),
        "name": ("invalid-filter", ["", "%00", "a*b*c*d*e*f*"]),
        "exception": ("invalid-filter", ["", "%00"]),
        "tag": ("invalid-filter", ["", "%00", "t" * 101]),
        "pipeline": ("invalid-filter", ["", "x"]),
        "consumer": ("invalid-filter", ["", "%00"]),
        "unique_key": ("invalid-filter", ["", "%00"]),
        "attempts": ("invalid-filter", ["", "x", "-1", "=3"]),
    }
    assert set(each.query) <= set(values)
    for key in each.query:
        slug, texts = values[key]
        for text in texts:
            yield f"{key} {text[:10]}", Wrong(400, slug, query=f"?{key}={text}")
        if key != "state":
            yield f"{key} twice", Wrong(400, "usage", query=f"?{key}=1&{key}=1")


def _of_body(each: Endpoint, body: Any) -> Iterator[tuple[str, Wrong]]:
    def of(status: int, slug: str, data: Any, **headers: str) -> Wrong:
        return Wrong(status, slug, {k.replace("_", "-"): v for k, v in headers.items()}, data)

    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml", "x"):
        yield (
            f"media type {kind}",
            of(415, "unsupported-media-type", json.dumps(body), Content_Type=kind),
        )
    yield (
        "charset",
        of(
            *(415, "unsupported-media-type", json.dumps(body)),
            Content_Type="application/json; charset=utf-16",
        ),
    )
    for encoding in ("gzip", "br", "gzip, identity"):
        yield (
            f"encoding {encoding}",
            of(415, "unsupported-media-type", json.dumps(body), Content_Encoding=encoding),
        )
    yield "size", of(413, "body-too-large", b" " * 1_000_001)
    for kind, data in {
        "depth": DEEP,
        "half": b"{",
        "no utf-8": b'{"x": "\xff"}',
        "bom": b"\xef\xbb\xbf{}",
        "nan": b'{"x": NaN}',
        "infinity": b'{"x": -Infinity}',
        "member twice": b'{"x": 1, "x": 1}',
        "digits": b'{"x": ' + b"1" * 5000 + b"}",
        "two documents": b"{} {}",
    }.items():
        yield kind, of(400, "usage", data)
    odd_bodies: dict[str, Any] = {
        "null": None,
        "list": [],
        "number": 1,
        "text": "x",
        "other member": {**body, "colour": 1},
    }
    for kind, value in odd_bodies.items():
        yield kind, of(422, "invalid-body", json.dumps(value).encode())
    for name, value in body.items():
        odd = {"x": 1} if not isinstance(value, dict) else "x"
        yield f"member {name}", of(422, "invalid-body", {**body, name: odd})
    if "Idempotency-Key" in each.headers:
        for key in ("", "k" * 256, "k\xe9"):
            yield f"key {key[:5]}", of(400, "usage", body, Idempotency_Key=key)


def address(each: Endpoint, id: str = UNKNOWN) -> str:
    return each.path.replace("{id}", id).replace("{path:name}", id)


@pytest.mark.one_database
@pytest.mark.parametrize("place", range(len(ENDPOINTS)))
def test_each_wrong_request_of_each_operation_has_its_problem(api: API, place: int) -> None:
    each = ENDPOINTS[place]
    kinds = dict(wrong_requests(each))
    assert len(kinds) >= (4 if each.scope is None else 10)
    for kind, wrong in kinds.items():
        method = wrong.method or each.method
        path = address(each, wrong.id) + wrong.query
        status, document, response = api(method, path, wrong.body, **wrong.headers)
        assert (status, document["slug"]) == (wrong.status, wrong.slug), (
            kind,
            method,
            path,
            document,
        )
        if status == 401:
            assert response["WWW-Authenticate"].startswith("Bearer")
        if status == 405:
            assert each.method in response["Allow"].split(", ")
        if status == 422:
            assert all(error["pointer"].startswith("#") for error in document["errors"])
    assert not Job.objects.exists()


def test_the_table_has_a_body_for_each_operation_that_takes_one() -> None:
    assert {each.handler.__name__ for each in ENDPOINTS if each.body} == set(BODIES)


@pytest.mark.one_database
def test_each_operation_needs_its_scope_and_a_token_that_has_not_ended(api: API) -> None:
    order = ["read", "enqueue", "operate"]
    clients = {scope: API(scope) for scope in order}
    ended = API("operate")
    Token.objects.filter(pk=ended.made.pk).update(expires_at="2001-01-01T00:00:00Z")
    revoked = API("operate")
    assert tokens.revoke(revoked.made.name)
    for each in ENDPOINTS:
        if each.scope is None:
            continue
        body = BODIES.get(each.handler.__name__)
        for scope, client in clients.items():
            if order.index(scope) < order.index(str(each.scope)):
                found = client(each.method, address(each), body)[1]
                assert found["slug"] == "forbidden", each.path
        for client in (ended, revoked):
            assert client(each.method, address(each), body)[1]["slug"] == "unauthorized"
    assert not Job.objects.exists()


# Alike


def seen(client: API, each: Endpoint, id: str, body: Any = None) -> tuple[int, bytes, Any]:
    """Return an answer without the id that it was asked for."""
    status, _, response = client(each.method, address(each, id), body)
    return status, response.content.replace(id.encode(), b"ID"), sorted(response.headers.items())


@pytest.mark.parametrize("globs", [{"jobs": "api.a*"}, {"queues": "def*"}], ids=["jobs", "queues"])
def test_what_a_token_is_not_for_is_answered_as_what_does_not_exist(
    api: API, globs: dict[str, str]
) -> None:
    client = API("operate", arguments=True, **globs)
    other = jobs.fail.using(queue="mail").run_later("x")
    steps = pipelines.group(jobs.fail.using(queue="mail").bind("x")).run_later()
    operation = api("POST", "/v1/operations", {"verb": "run", "filter": {}})[1]["id"]
    hidden = {"jobs": str(other.id), "pipelines": str(steps.id), "operations": operation}
    hidden |= {"queues": "mail", "schedules": "api.hourly"}
    spelled: list[Callable[[str], str]] = [
        str,
        str.upper,
        lambda id: id.replace("-", ""),
        lambda id: f"{{{id}}}",
    ]
    compared = 0
    for each in ENDPOINTS:
        if "{" not in each.path:
            continue
        kind = each.path.split("/")[2]
        body: Any = {} if each.handler.__name__ == "pause" else None
        for spell in spelled if kind in {"jobs", "pipelines", "operations"} else [str]:
            answers = {
                str(seen(client, each, spell(id), body)) for id in (hidden[kind], str(new_id()))
            }
            assert len(answers) == 1, (each.path, answers)
            assert seen(client, each, hidden[kind], body)[0] in {403, 404}
            compared += 1
    assert compared > 30
    states = set(Job.objects.values_list("state", flat=True))
    assert states == {"ready"}, "nothing was done"


@pytest.mark.one_database
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/batch"])
def test_names_that_cannot_be_enqueued_are_answered_alike(api: API, path: str) -> None:
    """Unknown, not registered here, without api=True, or not for the token; with right and wrong arguments."""
    narrow = API("enqueue", jobs="api.pay")
    answers = set()
    for client, name in (
        (api, "api.unknown"),
        (api, "x" * 5_000),
        (api, "api.private"),
        (api, "\0"),
        (narrow, "api.add"),
        (narrow, "api.private"),
        (narrow, "api.unknown"),
    ):
        for rest in ({}, {"args": [1]}, {"args": ["x", 2, 3]}, {"queue": "other"}):
            call = {"name": name, **rest}
            status, _, response = client(
                "POST", path, {"jobs": [call]} if "batch" in path else call
            )
            answers.add((status, response.content, str(sorted(response.headers.items()))))
    assert len(answers) == 1
    assert answers.pop()[0] == 404
