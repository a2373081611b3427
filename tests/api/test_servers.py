"""The HTTP interface behind real servers, WSGI's and ASGI's, over sockets; and workers that are killed."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from djjp.engine import Engine
from djjp.models import Job
from tests.api import jobs
from tests.api.servers import WebServer
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually

ADD: dict[str, Any] = {"name": "api.add", "args": [1], "kwargs": {"b": 2}}
KINDS = ["gunicorn", "uvicorn"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_enqueues_waits_and_cancels_over_a_socket(
    engine: Engine, processes: Processes, kind: str
) -> None:
    server = WebServer(processes, kind)
    status, document, headers = server("POST", "/v1/jobs", ADD)
    assert status == 201
    assert headers["Location"] == f"/djjp/v1/jobs/{document['id']}"
    with consuming():
        status, document, headers = server("GET", f"/v1/jobs/{document['id']}", Prefer="wait=300")
    assert (status, document["state"], document["result"]) == (200, "succeeded", 3)
    assert headers["Preference-Applied"] == "wait=300"

    status, document, _ = server("POST", "/v1/jobs", {**ADD, "run_after": 3600})
    with closing(server.send("GET", f"/v1/jobs/{document['id']}", Prefer="wait=300")) as waiting:
        assert server("POST", f"/v1/jobs/{document['id']}/cancel")[0] == 200
        assert json.loads(waiting.getresponse().read())["state"] == "cancelled"


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_in_chunks_is_read_up_to_the_limit(
    engine: Engine, processes: Processes, kind: str
) -> None:
    server = WebServer(processes, kind, DJJP_TEST_SETTINGS='{"api_max_body": 50000}')
    text = json.dumps(ADD).encode()
    status, document, _ = server("POST", "/v1/jobs", iter([text[:9], text[9:]]))
    assert (status, document["args"]) == (201, [1])
    padded = {**ADD, "tags": [" " * 50_000]}
    spaces = [b" " * 5_000] * 10
    for body in (padded, iter([*spaces, text])):
        status, document, _ = server("POST", "/v1/jobs", body)
        assert (status, document["slug"]) == (413, "body-too-large")
    assert server("POST", "/v1/jobs", iter([b"{"]))[0] == 400
    assert Job.objects.count() == 1


# The servers take the sync middleware of a project too, which puts a thread before the coroutine.
@pytest.mark.parametrize("middleware", ["", "sync"])
def test_a_client_that_disconnects_while_it_waits_frees_its_place(
    engine: Engine, processes: Processes, middleware: str
) -> None:
    settings = '{"api_waits": 1}'
    server = WebServer(
        processes, "uvicorn", DJJP_TEST_SETTINGS=settings, DJJP_TEST_MIDDLEWARE=middleware
    )
    handle = jobs.add.using(run_after=3600).run_later(1)
    path = f"/v1/jobs/{handle.id}"
    waiting: list[HTTPConnection] = []

    def wait() -> tuple[int, str, str | None]:
        status, document, headers = server("GET", path, Prefer="wait=1")
        return status, document.get("slug", ""), headers["Retry-After"]

    def is_taken() -> bool:
        """Wait for long in the place, unless the last request that was to wait for long has it."""
        if wait() == (503, "too-many-waits", "1"):
            return True
        waiting.append(server.send("GET", path, Prefer="wait=3000"))
        return False

    eventually(is_taken)
    assert server("GET", path)[0] == 200  # a request that does not wait has its answer
    for connection in waiting:
        connection.close()
    eventually(lambda: wait()[0] == 200)


# Repeats


@pytest.mark.both_databases
def test_a_hundred_repeats_enqueue_one_job_though_a_worker_is_killed_after_its_commit(
    engine: Engine, processes: Processes, tmp_path: Path
) -> None:
    killer = tmp_path / "kill"
    killer.touch()
    server = WebServer(processes, "gunicorn", "--workers=2", DJJP_TEST_KILL=str(killer))
    answers: list[tuple[int, str, str | None]] = []
    dropped: list[Exception] = []
    barrier = threading.Barrier(20)

    def repeat() -> None:
        barrier.wait(30)
        for _ in range(5):
            try:
                status, document, headers = server("POST", "/v1/jobs", ADD, Idempotency_Key="one")
                answers.append((status, document["id"], headers["Idempotent-Replayed"]))
            except (ConnectionError, http.client.HTTPException) as error:
                dropped.append(error)

    threads = [threading.Thread(target=repeat) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not killer.exists()
    assert dropped
    assert len(answers) + len(dropped) == 100
    status, document, _ = server("POST", "/v1/jobs", ADD, Idempotency_Key="one")
    # The worker that has enqueued the job was killed before its answer, so that all others are repeats.
    assert {*answers, (status, document["id"], "true")} == {(200, document["id"], "true")}
    assert Job.objects.count() == 1
