"""An enqueue over HTTP is in nobody's transaction: what the project does around it undoes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path

from djjp.api import enqueue
from djjp.engine import Engine
from djjp.jobs.enqueue import enqueue_apart
from djjp.models import Job
from djjp.outbox.models import OutboxJob
from tests.api import jobs
from tests.api.conftest import API
from tests.support.consumers import drain

ADD = json.dumps({"name": "api.add", "args": [1]})
View = Callable[[HttpRequest], HttpResponse]


def failing(view: View) -> View:
    """Run requests in a transaction of the application, and fail once they are answered."""

    def fail(request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            view(request)
            raise RuntimeError("the middleware failed")

    return fail


def enqueue_and_fail(request: HttpRequest) -> HttpResponse:
    """Enqueue as the code of a project does, in the transaction of the request."""
    jobs.add.run_later(1)
    raise RuntimeError("the view failed")


urlpatterns = [path("djjp/", include("djjp.api.urls")), path("own", enqueue_and_fail)]


@pytest.fixture
def client(api: API, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    api.client = Client(raise_request_exception=False)
    return api.client


def post(client: Client, token: str, **headers: str) -> Any:
    given = {"Authorization": f"Bearer {token}", **headers}
    return client.post("/djjp/v1/jobs", ADD, content_type="application/json", headers=given)


def rows() -> tuple[int, int]:
    """Return the number of jobs in the queue, and in the outbox."""
    return Job.objects.count(), OutboxJob.objects.count()


@override_settings(MIDDLEWARE=[f"{__name__}.failing"])
def test_an_error_after_the_enqueue_undoes_nothing_and_no_outbox_has_a_row(
    api: API, client: Client
) -> None:
    with override_settings(ROOT_URLCONF=__name__):
        assert client.post("/own").status_code == 500
        assert rows() == (0, 0)  # the transactions are there, and roll back what is in them
        assert post(client, api.token).status_code == 500
        assert rows() == (1, 0)
        assert post(client, api.token, **{"Idempotency-Key": "one"}).status_code == 500
        assert post(client, api.token, **{"Idempotency-Key": "one"}).status_code == 500
        assert rows() == (2, 0)
    drain()
    assert {job.state for job in Job.objects.all()} == {"succeeded"}


def test_a_request_has_no_transaction_of_the_queue_either(
    api: API, client: Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the queue is in the database of the application.
    monkeypatch.setitem(connections.settings[engine.db.alias], "ATOMIC_REQUESTS", True)
    found: list[tuple[bool, ...]] = []

    def observed(*arguments: Any) -> Any:
        open_ones = (connections[alias].in_atomic_block for alias in ("default", engine.db.alias))
        found.append(tuple(open_ones))
        return enqueue_apart(*arguments)

    with mock.patch.object(enqueue, "enqueue_apart", observed):
        assert post(client, api.token).status_code == 201
    assert found == [(False, False)]
    with override_settings(ROOT_URLCONF=__name__):
        assert client.post("/own").status_code == 500
    assert rows() == (1, 0)  # the other enqueue was rolled back


@pytest.mark.one_database
def test_a_coroutine_answers_where_requests_have_transactions(api: API, client: Client) -> None:
    # Django refuses coroutines as views in a transaction.
    path = f"/djjp/v1/jobs/{jobs.add.run_later(1).id}"
    headers = {"Authorization": f"Bearer {api.token}"}
    assert client.get(path, headers=headers).status_code == 200

    async def get() -> int:
        return int((await AsyncClient().get(path, headers=headers)).status_code)

    assert asyncio.run(get()) == 200
