"""The frame: each request is answered with JSON, each error is a problem, no right is given by accident."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
from django.test import Client, override_settings

from djjp.api import resources
from djjp.api.frame import ENDPOINTS
from djjp.models import Token
from tests.api.conftest import API

ADD = {"name": "api.add", "args": [1]}
UNKNOWN = "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722"
DEEP = b'{"name": "api.any", "args": [' + b"[" * 20_000 + b"]" * 20_000 + b"]}"
#: A request, and the status and the slug of its problem.
WRONG: dict[str, tuple[Any, ...]] = {
    "no token": (401, "unauthorized", "GET", "/v1/jobs", None, {"Authorization": ""}),
    "other kind": (401, "unauthorized", "GET", "/v1/jobs", None, {"Authorization": "Basic eDp5"}),
    "unknown token": (
        *(401, "unauthorized", "GET", "/v1/jobs", None),
        {"Authorization": f"Bearer djjp_{'a' * 43}"},
    ),
    "odd token": (401, "unauthorized", "GET", "/v1/jobs", None, {"Authorization": "Bearer \xe9"}),
    "no such path": (404, "not-found", "GET", "/v1/nothing", None, {}),
    "no such path, by POST": (404, "not-found", "POST", "/v1/nothing/at/all", b"x", {}),
    "the root": (404, "not-found", "GET", "/", None, {}),
    "trailing slash": (404, "not-found", "GET", "/v1/jobs/", None, {}),
    "method": (405, "method-not-allowed", "DELETE", "/v1/jobs", None, {}),
    "method of verb": (405, "method-not-allowed", "GET", f"/v1/jobs/{UNKNOWN}/cancel", None, {}),
    "accept": (406, "not-acceptable", "GET", "/v1/jobs", None, {"Accept": "text/html"}),
    "cursor": (400, "invalid-filter", "GET", "/v1/jobs?cursor=nonsense", None, {}),
    "limit": (400, "usage", "GET", "/v1/jobs?limit=201", None, {}),
    "limit 0": (400, "usage", "GET", "/v1/jobs?limit=0", None, {}),
    "limit twice": (400, "usage", "GET", "/v1/jobs?limit=1&limit=2", None, {}),
    "parameter": (400, "usage", "GET", "/v1/jobs?colour=red", None, {}),
    "state": (400, "invalid-filter", "GET", "/v1/jobs?state=green", None, {}),
    "since": (400, "invalid-filter", "GET", "/v1/jobs?since=soon", None, {}),
    "nul": (400, "invalid-filter", "GET", "/v1/jobs?queue=%00", None, {}),
    "by": (400, "usage", "GET", "/v1/stats?by=colour", None, {}),
    "open": (400, "usage", "GET", "/v1/incidents?open=1", None, {}),
    "before": (400, "usage", "GET", "/v1/operations?before=1", None, {}),
    "id": (404, "job-not-found", "GET", "/v1/jobs/nonsense", None, {}),
    "unknown id": (404, "job-not-found", "GET", f"/v1/jobs/{UNKNOWN}", None, {}),
    "explain": (404, "job-not-found", "GET", f"/v1/jobs/{UNKNOWN}/explain", None, {}),
    "cancel": (404, "job-not-found", "POST", f"/v1/jobs/{UNKNOWN}/cancel", None, {}),
    "pipeline": (404, "pipeline-not-found", "GET", f"/v1/pipelines/{UNKNOWN}", None, {}),
    "pipeline id": (404, "pipeline-not-found", "POST", "/v1/pipelines/x/retry", None, {}),
    "operation": (404, "operation-not-found", "GET", "/v1/operations/x", None, {}),
    "stop": (404, "operation-not-found", "POST", f"/v1/operations/{UNKNOWN}/stop", None, {}),
    "schedule": (404, "schedule-not-found", "POST", "/v1/schedules/x/run", None, {}),
    "resume": (404, "queue-not-found", "DELETE", "/v1/queues/x/pause", None, {}),
    "pattern": (400, "usage", "PUT", "/v1/queues/m*/pause", None, {}),
    "media type": (
        *(415, "unsupported-media-type", "POST", "/v1/jobs", b"name=x"),
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    "charset": (
        *(415, "unsupported-media-type", "POST", "/v1/jobs", b"{}"),
        {"Content-Type": "application/json; charset=latin-1"},
    ),
    "encoding": (
        *(415, "unsupported-media-type", "POST", "/v1/jobs", b"{}"),
        {"Content-Encoding": "gzip"},
    ),
    "size": (413, "body-too-large", "POST", "/v1/jobs", b" " * 1_000_001, {}),
    "no body": (415, "unsupported-media-type", "POST", "/v1/jobs", b"", {}),
    "no json": (400, "usage", "POST", "/v1/jobs", b"{", {}),
    "no utf-8": (400, "usage", "POST", "/v1/jobs", b'{"name": "\xff"}', {}),
    "nan": (400, "usage", "POST", "/v1/jobs", b'{"name": "api.any", "args": [NaN]}', {}),
    "member twice": (400, "usage", "POST", "/v1/jobs", b'{"name": "a", "name": "b"}', {}),
    "depth": (400, "usage", "POST", "/v1/jobs", DEEP, {}),
    "digits": (400, "usage", "POST", "/v1/jobs", b'{"args": [' + b"1" * 5000 + b"]}", {}),
    "no object": (422, "invalid-body", "POST", "/v1/jobs", b"[]", {}),
    "no name": (422, "invalid-body", "POST", "/v1/jobs", b"{}", {}),
    "member": (422, "invalid-body", "POST", "/v1/jobs", {**ADD, "colour": 1}, {}),
    "empty batch": (422, "invalid-body", "POST", "/v1/jobs/batch", {"jobs": []}, {}),
    "large batch": (422, "invalid-body", "POST", "/v1/jobs/batch", {"jobs": [ADD] * 1001}, {}),
    "verb": (422, "invalid-body", "POST", "/v1/operations", {"verb": "x", "filter": {}}, {}),
    "no filter": (422, "invalid-body", "POST", "/v1/operations", {"verb": "retry"}, {}),
    "filter": (
        *(422, "invalid-body", "POST", "/v1/operations"),
        *({"verb": "retry", "filter": {"state": "x"}}, {}),
    ),
    "argument": (422, "invalid-body", "POST", "/v1/operations", {"verb": "move", "filter": {}}, {}),
    "seconds": (422, "invalid-body", "PUT", "/v1/queues/mail/pause", {"seconds": -1}, {}),
    "key": (400, "usage", "POST", "/v1/jobs", ADD, {"Idempotency-Key": "k" * 256}),
    "empty key": (400, "usage", "POST", "/v1/jobs", ADD, {"Idempotency-Key": ""}),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_each_wrong_request_has_its_problem(api: API, name: str, debug: bool) -> None:
    status, slug, method, path, body, headers = WRONG[name]
    with override_settings(DEBUG=debug):
        found, document, response = api(method, path, body, **headers)
    assert (found, document["slug"]) == (status, slug)
    assert b"Traceback" not in response.content
    if status == 401:
        assert response["WWW-Authenticate"].startswith("Bearer")
    if status == 405:
        assert set(response["Allow"].split(", ")) <= {"GET", "HEAD", "POST", "PUT", "DELETE"}
    if status == 422:
        assert all(each["pointer"].startswith("#") for each in document["errors"])
    assert api("GET", "/v1/jobs")[1]["jobs"] == []


def test_an_unexpected_error_is_a_problem_without_its_text_and_is_logged(
    api: API, caplog: pytest.LogCaptureFixture
) -> None:
    error = RuntimeError("secret")
    for debug in (False, True):
        with (
            mock.patch.object(resources, "queue_infos", side_effect=error),
            override_settings(DEBUG=debug),
        ):
            status, document, response = api("GET", "/v1/queues")
        assert (status, document["slug"]) == (500, "failed")
        assert b"secret" not in response.content
    assert "secret" in caplog.text


def test_a_queue_that_does_not_answer_is_503_and_the_process_is_live(
    api: API,
) -> None:
    from djjp.exceptions import QueueUnavailable

    with mock.patch("djjp.engine.run", side_effect=QueueUnavailable("host 10.0.0.1")):
        for path in ("/v1/jobs", "/v1/health/ready"):
            status, document, response = api("GET", path)
            assert (status, document["slug"]) == (503, "unavailable")
            assert int(response["Retry-After"]) > 0
            assert "10.0.0.1" not in document["detail"]
        assert api("GET", "/v1/health/live")[0] == 200


def test_health_needs_no_token_and_no_session(api: API) -> None:
    client = Client()
    for path in ("live", "ready"):
        response = client.get(f"/djjp/v1/health/{path}")
        assert response.status_code == 200
        assert response.json() == {"status": path}
        assert client.head(f"/djjp/v1/health/{path}").status_code == 200
    assert client.cookies == {}


@pytest.mark.one_database
@pytest.mark.parametrize("scope", ["read", "enqueue", "operate"])
def test_an_endpoint_takes_the_tokens_of_its_scope_only(api: API, scope: str) -> None:
    client = API(scope)
    order = ["read", "enqueue", "operate"]
    for each in ENDPOINTS:
        path = each.path.replace("{id}", UNKNOWN).replace("{path:name}", "x")
        status, document, _ = client(each.method, path, b"")
        allowed = each.scope is None or order.index(scope) >= order.index(str(each.scope))
        assert (status == 403) is not allowed, (each.path, document)


@pytest.mark.one_database
def test_a_token_for_some_jobs_gets_nothing_about_the_whole_queue(api: API) -> None:
    client = API(jobs="shop.*")
    for each in ENDPOINTS:
        if each.concerns_all:
            path = each.path.replace("{id}", UNKNOWN)
            assert client(each.method, path, b"")[1]["slug"] == "forbidden"


@pytest.mark.one_database
def test_an_expired_token_is_refused(api: API) -> None:
    Token.objects.update(expires_at="2001-01-01T00:00:00Z")
    assert api("GET", "/v1/jobs")[0] == 401


@pytest.mark.one_database
def test_nothing_but_the_interface_imports_its_extra(api: API) -> None:
    code = """
import sys
for name in ("ninja", "pydantic"):
    sys.modules[name] = None
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.project.settings"
django.setup()
import djjp.admin, djjp.tokens, djjp.testing, djjp.consumer.consumer
import djjp.management.commands.djjp
try:
    import djjp.api.urls
except ImportError as error:
    print(error.name, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    name, _, message = ran.stdout.strip().partition(" ")
    assert name in {"pydantic", "ninja"}
    assert f"needs {name}; install its extra: pip install 'djjp[api]'" in message


@pytest.mark.one_database
def test_a_slash_is_not_appended_and_no_cookie_is_set(api: API) -> None:
    with override_settings(APPEND_SLASH=True):
        for path in ("/v1/jobs", "/v1/nothing"):
            response = api("GET", path)[2]
            assert response.status_code in {200, 404}
            assert not response.cookies
    assert json.loads(Client().post("/djjp/v1/jobs").content)["status"] == 401
