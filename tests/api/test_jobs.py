"""Jobs over HTTP: lists, one, waiting for its end, its verbs, and what a token may see."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from django.test import AsyncClient, override_settings

from djjp import conf, pipelines
from djjp.api import openapi
from djjp.api.frame import ENDPOINTS
from djjp.ids import new_id
from tests.api import jobs
from tests.api.conftest import API
from tests.support.consumers import consuming, drain
from tests.support.json_schema import problems

SECRET = "4711-secret"


def fits(document: Any, name: str) -> bool:
    text = json.dumps(openapi.made("/djjp", openapi.enqueueable())["components"]["schemas"])
    schemas = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
    return problems(document, schemas[name], {"$defs": schemas}) == []


def test_a_list_has_pages_by_cursor_and_no_payloads(api: API) -> None:
    ids = [str(jobs.add.run_later(number).id) for number in range(5)]
    _, first, _ = api("GET", "/v1/jobs?limit=3&name=api.*&state=ready&state=failed")
    assert fits(first, "Jobs")
    assert [each["id"] for each in first["jobs"]] == ids[:1:-1]
    _, second, _ = api("GET", f"/v1/jobs?limit=3&name=api.*&cursor={first['next']}")
    assert [each["id"] for each in second["jobs"]] == ids[1::-1]
    assert second["next"] is None
    assert "args" not in first["jobs"][0]


def test_a_job_has_its_arguments_result_and_errors_only_with_the_right(api: API) -> None:
    add, fail = jobs.add.run_later(47, b=11), jobs.fail.run_later(SECRET)
    drain()
    _, document, _ = api("GET", f"/v1/jobs/{add.id}")
    assert fits(document, "WholeJob")
    assert (document["args"], document["kwargs"], document["result"]) == ([47], {"b": 11}, 58)
    _, document, _ = api("GET", f"/v1/jobs/{fail.id}")
    assert document["errors"][0]["message"] == SECRET
    viewer = API("operate")
    paths = [
        *(f"/v1/jobs/{id}{rest}" for id in (add.id, fail.id) for rest in ("", "/explain")),
        *("/v1/failures", "/v1/jobs", "/v1/incidents", "/v1/consumers", "/v1/stats?by=name"),
    ]
    for path in paths:
        status, document, response = viewer("GET", path)
        assert status == 200
        assert SECRET.encode() not in response.content
        assert "args" not in document
        assert "result" not in document
    assert SECRET.encode() in api("GET", f"/v1/jobs/{fail.id}/explain")[2].content
    status, document, response = viewer("POST", f"/v1/jobs/{fail.id}/retry")
    assert status == 200
    assert SECRET.encode() not in response.content


def test_a_reason_that_djjp_has_written_is_shown_to_everybody(api: API) -> None:
    handle = jobs.add.run_later(1)
    handle.cancel()
    viewer = API("read")
    assert viewer("GET", f"/v1/jobs/{handle.id}")[1]["reason"] == "cancelled on request"
    assert viewer("GET", "/v1/jobs")[1]["jobs"][0]["reason"] == "cancelled on request"
    causes = viewer("GET", f"/v1/jobs/{handle.id}/explain")[1]["causes"]
    assert "cancelled on request" in causes[0]["sentence"]


def test_secrets_are_hidden_from_everybody(api: API) -> None:
    handle = jobs.pay.run_later(Decimal(1), password=SECRET)
    assert SECRET.encode() not in api("GET", f"/v1/jobs/{handle.id}")[2].content


def test_a_token_for_some_jobs_sees_and_changes_no_others(api: API) -> None:
    own, other = jobs.add.run_later(1), jobs.fail.using(queue="mail").run_later("x")
    for client in (API(jobs="api.a*"), API(queues="default")):
        found = client("GET", "/v1/jobs")[1]["jobs"]
        assert [each["id"] for each in found] == [str(own.id)]
        unknown = str(new_id())
        texts = {
            client("GET", f"/v1/jobs/{id}")[2].content.replace(id.encode(), b"")
            for id in (str(other.id), unknown)
        }
        assert len(texts) == 1
        assert b"job-not-found" in texts.pop()
        for verb in ("cancel", "retry", "run"):
            assert client("POST", f"/v1/jobs/{other.id}/{verb}")[0] == 404
        assert client("GET", f"/v1/jobs/{other.id}/explain")[0] == 404
        assert client("GET", f"/v1/jobs/{own.id}")[0] == 200


def test_a_verb_answers_with_the_job_or_with_a_conflict(api: API) -> None:
    handle = jobs.add.using(run_after=3600).run_later(1)

    def post(verb: str) -> tuple[int, str]:
        status, document, _ = api("POST", f"/v1/jobs/{handle.id}/{verb}")
        assert status == 200 or document["slug"] == "conflict"
        return status, document.get("state", "")

    assert post("retry") == (409, "")
    assert post("run") == (200, "ready")
    assert post("run") == (409, "")
    assert post("cancel") == (200, "cancelled")
    assert post("cancel") == (409, "")
    assert post("retry") == (200, "ready")


def test_prefer_wait_answers_when_the_job_has_ended(api: API) -> None:
    handle = jobs.add.run_later(1, 2)
    with consuming():
        status, document, response = api("GET", f"/v1/jobs/{handle.id}", Prefer="wait=30")
    assert (status, document["state"], document["result"]) == (200, "succeeded", 3)
    assert response["Preference-Applied"] == "wait=30"


@pytest.mark.one_database
def test_a_wait_ends_after_its_time_with_the_job_as_it_is(api: API) -> None:
    handle = jobs.add.run_later(1)
    status, document, response = api("GET", f"/v1/jobs/{handle.id}", Prefer="wait=1")
    assert (status, document["state"]) == (200, "ready")
    _, _, response = api("GET", f"/v1/jobs/{handle.id}", Prefer="respond-async, wait=nonsense")
    assert "Preference-Applied" not in response


@pytest.mark.one_database
def test_more_requests_than_allowed_do_not_wait(api: API) -> None:
    handle = jobs.add.run_later(1)
    with override_settings(DJJP={"db_name": conf.db_name(), "api_waits": 0}):
        status, document, response = api("GET", f"/v1/jobs/{handle.id}", Prefer="wait=9")
        assert (status, document["slug"]) == (503, "too-many-waits")
        assert response["Retry-After"] == "1"
        assert api("GET", f"/v1/jobs/{handle.id}")[0] == 200


@pytest.mark.one_database
def test_requests_that_wait_on_an_async_server_do_not_block_it(api: API) -> None:
    handle = jobs.add.run_later(1)
    headers = {"Authorization": f"Bearer {api.token}"}

    async def use() -> list[Any]:
        client = AsyncClient()
        url = f"/djjp/v1/jobs/{handle.id}"
        waiting = [
            asyncio.create_task(client.get(url, headers={**headers, "Prefer": "wait=20"}))
            for _ in range(5)
        ]
        await asyncio.sleep(0)
        other = await client.get("/djjp/v1/queues", headers=headers)
        assert other.status_code == 200
        assert not any(each.done() for each in waiting)
        cancel = await client.post(f"{url}/cancel", headers=headers)
        assert cancel.status_code == 200
        return [await each for each in waiting]

    found = asyncio.run(use())
    assert [each.json()["state"] for each in found] == ["cancelled"] * 5


def test_queues_are_paused_and_resumed(api: API) -> None:
    jobs.add.using(queue="a/b").run_later(1)
    status, document, _ = api("PUT", "/v1/queues/a%2Fb/pause", {"seconds": 60})
    assert status == 200
    assert fits(document, "Pause")
    assert document["paused_until"] is not None
    assert api("PUT", "/v1/queues/mail/pause", {"seconds": None})[1]["paused_until"] is None
    assert api("PUT", "/v1/queues/other/pause")[1]["paused"] is True
    _, document, _ = api("GET", "/v1/queues")
    assert fits(document, "Queues")
    assert {each["name"] for each in document["queues"] if each["paused"]} >= {"a/b", "mail"}
    assert api("DELETE", "/v1/queues/a%2Fb/pause")[1]["paused"] is False
    assert API("operate", queues="b*")("PUT", "/v1/queues/mail/pause")[0] == 403
    assert API("operate", jobs="b*")("DELETE", "/v1/queues/mail/pause")[0] == 403


def test_an_operation_is_previewed_started_and_read(api: API) -> None:
    for number in range(3):
        jobs.add.run_later(number)
    wish = {"verb": "cancel", "filter": {"name": "api.*", "state": ["ready"]}}
    status, document, _ = api("POST", "/v1/operations", {**wish, "dry_run": True})
    assert (status, document["matched"]) == (200, 3)
    assert fits(document, "Preview")
    status, document, response = api("POST", "/v1/operations", wish)
    assert (status, document["done"]) == (202, 3)
    assert fits(document, "Operation")
    assert document["requested_by"] == f"api:{api.made.name}"
    assert response["Location"] == f"/djjp/v1/operations/{document['id']}"
    assert api("GET", f"/v1/operations/{document['id']}")[1] == document
    assert api("GET", "/v1/operations?limit=1")[1]["operations"] == [document]
    assert api("GET", f"/v1/operations?before={document['id']}")[1]["operations"] == []
    assert api("POST", f"/v1/operations/{document['id']}/stop")[1]["state"] == "done"


def test_a_pipeline_is_read_cancelled_and_retried(api: API) -> None:
    handle = pipelines.chain(jobs.add.bind(1), jobs.add.bind()).run_later()
    path = f"/v1/pipelines/{handle.id}"
    status, document, _ = api("GET", path)
    assert status == 200
    assert fits(document, "Pipeline")
    assert document["progress"] == {"done": 0, "total": 2}
    assert API("read", jobs="api.b*")("GET", path)[0] == 404
    assert API("read", jobs="api.*")("GET", path)[0] == 200
    assert api("POST", f"{path}/cancel")[1]["state"] == "cancelled"
    assert api("POST", f"{path}/cancel")[0] == 409
    assert api("POST", f"{path}/retry")[1]["state"] == "running"


def test_each_list_has_its_shape(api: API) -> None:
    jobs.add.run_later(1)
    jobs.fail.run_later("x")
    drain()
    names = {
        "/v1/queues": "Queues",
        "/v1/schedules": "Schedules",
        "/v1/consumers": "Consumers",
        "/v1/stats": "Stats",
        "/v1/stats?by=name&since=2h&queue=default&name=api.add": "Stats",
        "/v1/failures?since=1h": "Failures",
        "/v1/incidents?open=true": "Incidents",
        "/v1/operations": "Operations",
    }
    for path, name in names.items():
        status, document, _ = api("GET", path)
        assert status == 200
        assert fits(document, name), path
    assert {each.path for each in ENDPOINTS if each.method == "GET"} >= {
        path.partition("?")[0] for path in names
    }
