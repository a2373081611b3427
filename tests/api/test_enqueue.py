"""Enqueue over HTTP: what can be enqueued, what is wrong with a call, and requests that are repeated."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from djjp.engine import Engine
from djjp.engine.idempotency import KEPT
from djjp.models import IdempotencyKey, Job
from djjp.signals import job_enqueued
from tests.api import jobs
from tests.api.conftest import API
from tests.support.consumers import drain

ADD: dict[str, Any] = {"name": "api.add", "args": [1], "kwargs": {"b": 2}}


def test_a_job_is_enqueued_and_runs(api: API) -> None:
    status, document, response = api(
        *("POST", "/v1/jobs"),
        {**ADD, "queue": "mail", "priority": 3, "tags": ["t"], "unique_key": "k"},
    )
    assert status == 201
    assert response["Location"] == f"/djjp/v1/jobs/{document['id']}"
    assert (document["queue"], document["priority"], document["tags"]) == ("mail", 3, ["t"])
    assert (document["args"], document["kwargs"]) == ([1], {"b": 2})
    drain()
    assert api("GET", response["Location"].removeprefix("/djjp"))[1]["result"] == 3


def test_values_that_json_lacks_go_in_and_out_as_the_codec_writes_them(api: API) -> None:
    amount = {"$djjp": "decimal", "value": "9.90"}
    status, document, _ = api("POST", "/v1/jobs", {"name": "api.pay", "args": [amount]})
    assert status == 201
    drain()
    found = api("GET", f"/v1/jobs/{document['id']}")[1]
    assert (found["args"], found["result"]) == ([amount], amount)


def test_unknown_and_not_allowed_names_are_answered_byte_for_byte_alike(api: API) -> None:
    narrow = API(jobs="api.pay")
    answers = {
        client("POST", "/v1/jobs", {"name": name, "args": args})[2].content
        for client, name, args in (
            (api, "api.unknown", []),
            (api, "api.private", [1]),
            (api, "api.private", ["wrong", "arguments"]),
            (narrow, "api.add", [1]),
            (narrow, "api.add", ["wrong"]),
        )
    }
    assert len(answers) == 1
    assert b"not-registered" in answers.pop()
    assert Job.objects.count() == 0


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"args": []}, ["#/kwargs"]),
        ({"args": [1, 2, 3], "kwargs": {}}, ["#/args/2"]),
        ({"args": [1], "kwargs": {"c": 1}}, ["#/kwargs/c"]),
        ({"args": [1, 2]}, ["#/kwargs/b"]),
        ({"args": ["1"]}, ["#/args/0"]),
        ({"args": ["1"], "kwargs": {"b": None}}, ["#/args/0", "#/kwargs/b"]),
        ({"args": [{"$djjp": "nonsense", "value": 1}]}, ["#/args"]),
        ({"args": 5}, ["#/args"]),
        ({"kwargs": []}, ["#/kwargs"]),
        ({"name": 5}, ["#/name"]),
        ({"queue": "q" * 101}, ["#/queue"]),
        ({"queue": "", "priority": 40_000}, ["#/queue", "#/priority"]),
        ({"priority": "1"}, ["#/priority"]),
        ({"run_after": "soon"}, ["#/run_after"]),
        ({"run_after": "2026-01-31T12:00:00"}, ["#/run_after"]),
        ({"unique_key": ""}, ["#/unique_key"]),
        ({"tags": ["t" * 101]}, ["#/tags"]),
        ({"tags": "t"}, ["#/tags"]),
    ],
)
def test_what_is_wrong_with_a_call_has_its_pointer(
    api: API, changes: dict[str, Any], pointers: list[str]
) -> None:
    status, document, _ = api("POST", "/v1/jobs", {**ADD, **changes})
    assert (status, document["slug"]) == (422, "invalid-body")
    found = [each["pointer"] for each in document["errors"]]
    assert [any(p == f or f.startswith(f"{p}/") for f in found) for p in pointers] == [True] * len(
        pointers
    )
    status, document, _ = api("POST", "/v1/jobs/batch", {"jobs": [ADD, {**ADD, **changes}]})
    assert status == 422
    assert all(each["pointer"].startswith("#/jobs/1") for each in document["errors"])
    assert Job.objects.count() == 0


def test_a_time_is_iso_8601_or_seconds(api: API) -> None:
    for value in (60, 1.5, "2999-01-31T12:00:00Z", "2999-01-31T12:00:00+02:00"):
        status, document, _ = api("POST", "/v1/jobs", {**ADD, "run_after": value})
        assert (status, document["state"]) == (201, "scheduled")


def test_a_token_enqueues_into_its_queues_only(api: API) -> None:
    client = API("enqueue", queues="mail*")
    assert client("POST", "/v1/jobs", ADD)[0] == 403
    status, document, _ = client("POST", "/v1/jobs", {**ADD, "queue": "mail-2"})
    assert status == 201
    assert "args" not in document


def test_a_held_unique_key_gives_the_job_that_has_it(api: API) -> None:
    call = {"name": "api.unique", "args": ["k"]}
    first, second = api("POST", "/v1/jobs", call), api("POST", "/v1/jobs", call)
    assert (first[0], second[0]) == (201, 200)
    assert first[1]["id"] == second[1]["id"]
    narrow = API("enqueue", jobs="api.add")
    assert narrow("POST", "/v1/jobs", {**ADD, "unique_key": "u-k"})[1]["slug"] == "conflict"


def test_a_batch_is_enqueued_whole_or_not_at_all(api: API) -> None:
    calls = [{**ADD, "args": [number]} for number in range(1000)]
    status, document, _ = api("POST", "/v1/jobs/batch", {"jobs": calls})
    assert status == 201
    ids = [each["id"] for each in document["jobs"]]
    assert len(set(ids)) == 1000
    assert api("GET", f"/v1/jobs/{ids[7]}")[1]["args"] == [7]
    wrong = [*calls[:5], {"name": "api.private"}]
    status, document, _ = api("POST", "/v1/jobs/batch", {"jobs": wrong})
    assert (status, document["slug"]) == (404, "not-registered")
    assert document["errors"][0]["pointer"] == "#/jobs/5/name"
    assert Job.objects.count() == 1000


# Repeats


def test_a_repeat_gives_the_same_job_and_enqueues_nothing(api: API) -> None:
    first = api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
    second = api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
    assert (first[0], second[0]) == (201, 200)
    assert second[1] == first[1]
    assert second[2]["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first[2]
    assert second[2]["Location"] == first[2]["Location"]
    assert api("POST", "/v1/jobs", ADD, Idempotency_Key="two")[0] == 201
    assert API()("POST", "/v1/jobs", ADD, Idempotency_Key="one")[0] == 201
    assert Job.objects.count() == 3


def test_the_key_of_another_body_is_refused(api: API) -> None:
    api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
    for path, body in (
        ("/v1/jobs", {**ADD, "args": [2]}),
        ("/v1/jobs", {**ADD, "queue": "mail"}),
        ("/v1/jobs/batch", {"jobs": [ADD]}),
    ):
        status, document, _ = api("POST", path, body, Idempotency_Key="one")
        assert (status, document["slug"]) == (422, "idempotency-mismatch")
    assert Job.objects.count() == 1


def test_a_batch_is_repeated_with_the_same_ids(api: API) -> None:
    body = {"jobs": [ADD, ADD, {"name": "api.unique", "args": ["k"]}]}
    api("POST", "/v1/jobs", body["jobs"][2])
    first = api("POST", "/v1/jobs/batch", body, Idempotency_Key="one")
    second = api("POST", "/v1/jobs/batch", body, Idempotency_Key="one")
    assert (first[0], second[0]) == (201, 200)
    assert first[1] == second[1]
    assert Job.objects.count() == 3


def test_a_failed_request_leaves_its_key_free(api: API) -> None:
    assert api("POST", "/v1/jobs", {**ADD, "args": []}, Idempotency_Key="one")[0] == 422
    assert api("POST", "/v1/jobs", ADD, Idempotency_Key="one")[0] == 201


def test_a_job_that_was_deleted_since_is_not_enqueued_again(api: API) -> None:
    api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
    Job.objects.all().delete()
    assert api("POST", "/v1/jobs", ADD, Idempotency_Key="one")[1]["slug"] == "conflict"
    assert Job.objects.count() == 0


def test_a_key_is_kept_for_a_day_and_pruned(api: API, engine: Engine) -> None:
    api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
    now = timezone.now()
    IdempotencyKey.objects.update(created_at=now - timedelta(seconds=KEPT - 60))
    assert api("POST", "/v1/jobs", ADD, Idempotency_Key="one")[0] == 200
    assert not engine.idempotency.prune(now.timestamp(), 10)
    assert IdempotencyKey.objects.count() == 1
    IdempotencyKey.objects.update(created_at=now - timedelta(seconds=KEPT + 60))
    assert api("POST", "/v1/jobs", ADD, Idempotency_Key="one")[0] == 201
    IdempotencyKey.objects.update(created_at=now - timedelta(seconds=KEPT + 60))
    assert not engine.idempotency.prune(now.timestamp(), 10)
    assert str(IdempotencyKey(key="one")) == "one"
    assert IdempotencyKey.objects.count() == 0


def test_a_hundred_parallel_repeats_enqueue_one_job(api: API) -> None:
    answers: list[tuple[int, str]] = []
    barrier = threading.Barrier(20)

    def repeat() -> None:
        try:
            barrier.wait(30)
            for _ in range(5):
                status, document, _ = api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
                answers.append((status, document["id"]))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=repeat) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 100
    assert len(set(answers)) == 2
    assert [status for status, _ in answers].count(201) == 1
    assert Job.objects.count() == 1


def test_jobs_can_be_enqueued_over_http_only_where_the_code_says_so() -> None:
    assert jobs.add.options.api
    assert not jobs.private.options.api
    with pytest.raises(TypeError, match="api is 1"):
        jobs.add.options.replaced(api=1)


@pytest.mark.one_database
def test_the_signal_of_an_enqueue_is_sent_once_for_each_new_job(api: API) -> None:
    received: list[str] = []

    def receive(job: Any, **kwargs: Any) -> None:
        received.append(str(job.id))

    job_enqueued.connect(receive)
    try:
        first = api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
        api("POST", "/v1/jobs", ADD, Idempotency_Key="one")
        second = api("POST", "/v1/jobs", ADD)
    finally:
        job_enqueued.disconnect(receive)
    assert received == [first[1]["id"], second[1]["id"]]
