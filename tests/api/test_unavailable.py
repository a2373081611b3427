"""The queue's database is really away: each operation answers 503, and works again afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from djjp import tokens
from djjp.api.frame import ENDPOINTS, Endpoint
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.models import Token
from tests.api.conftest import API
from tests.support.postgres import Server
from tests.support.projects import alias_for

ADD = {"name": "api.add", "args": [1]}
UNKNOWN = "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722"
BODIES = {
    "/v1/jobs": ADD,
    "/v1/jobs/batch": {"jobs": [ADD, ADD]},
    "/v1/operations": {"verb": "retry", "filter": {"state": "failed"}},
    "/v1/queues/{path:name}/pause": {"seconds": None},
}
#: What answers without the database: the process is live; the document is made from the code.
NEEDS_NONE = {"/v1/health/live", "/v1/openapi.json"}


@contextmanager
def away(engine: Engine, path: Path) -> Iterator[None]:
    """Lose the connection to the queue, and have nothing at the address of its database."""
    connection = connections[engine.db.alias]
    wrong: dict[str, Any] = {"NAME": path / "gone" / "queue.sqlite3"}
    if connection.vendor == "postgresql":
        wrong = {"HOST": str(path)}
    connection.close()
    with mock.patch.dict(connection.settings_dict, wrong):
        yield
        connection.close()


def answers(api: API) -> dict[str, tuple[int, str]]:
    """Return the status and the slug with which each operation answers."""
    found = {}
    for each in ENDPOINTS:
        status, document, response = _send(api, each)
        slug = document["slug"] if status >= 400 else ""
        found[f"{each.method} {each.path}"] = status, slug
        if status == 503:
            assert int(response["Retry-After"]) > 0
    return found


def _send(api: API, each: Endpoint) -> tuple[int, Any, Any]:
    path = each.path.replace("{id}", UNKNOWN).replace("{path:name}", "x")
    headers = {"Idempotency-Key": "one"} if path == "/v1/jobs" else {}
    return api(
        each.method, path, BODIES.get(each.path) if each.method != "GET" else None, **headers
    )


def require_unavailable(found: dict[str, tuple[int, str]], needs_none: set[str]) -> None:
    others = {
        operation: answer for operation, answer in found.items() if answer != (503, "unavailable")
    }
    assert {operation.split()[1] for operation in others} == needs_none
    assert {status for status, _ in others.values()} <= {200}


def require_works(api: API) -> None:
    found = answers(api)
    assert {status for status, _ in found.values()} <= {200, 201, 202, 404}
    # The enqueue of the same key whose answer was 503 has written nothing.
    assert found["POST /v1/jobs"] == (201, "")
    assert found["GET /v1/health/ready"] == (200, "")


def require_503_from_all(api: API, lost: Any) -> None:
    """Have the database away for requests as a whole, and from the moment at which the token was read."""
    token = Token.objects.get()
    with lost():
        require_unavailable(answers(api), {"/v1/health/live"})
    with lost(), mock.patch.object(tokens, "authenticate", return_value=token):
        require_unavailable(answers(api), NEEDS_NONE)
    require_works(api)


def test_without_its_database_each_operation_is_503_and_works_again_afterwards(
    api: API, engine: Engine, tmp_path: Path
) -> None:
    require_503_from_all(api, lambda: away(engine, tmp_path))


@pytest.mark.one_database
def test_an_outbox_that_is_away_is_not_taken_for_the_queue(
    api: API, engine: Engine, tmp_path: Path
) -> None:
    config = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "no" / "stock")}
    with alias_for(config) as alias:
        djjp = {"db_name": engine.db.alias, "outbox": [alias]}
        with override_settings(DJJP=djjp):
            status, document, _ = api("GET", f"/v1/jobs/{UNKNOWN}")
    assert (status, document["slug"]) == (500, "failed")


@pytest.mark.end_to_end
def test_behind_a_server_that_stops_each_operation_is_503_and_works_again_afterwards() -> None:
    server = Server()
    connection = connections["postgresql"]
    before = dict(connection.settings_dict)
    connection.close()

    @contextmanager
    def stopped() -> Iterator[None]:
        require_connection()
        server.stop()
        yield
        server.start()

    def require_connection() -> None:
        assert api("GET", "/v1/health/ready")[0] == 200

    try:
        connections.settings["postgresql"].update(queue_database(server.url))
        with override_settings(DJJP={"db_name": "postgresql"}, ROOT_URLCONF="tests.api.urls"):
            call_command("migrate", database="postgresql", verbosity=0)
            api = API()
            require_503_from_all(api, stopped)
    finally:
        connection.close()
        connections.settings["postgresql"].update(before)
        server.close()


@pytest.mark.sqlite_only
@pytest.mark.parametrize("lost", ["folder", "file"])
def test_with_its_file_away_each_operation_is_503_and_works_again_afterwards(
    engine: Engine, tmp_path: Path, lost: str
) -> None:
    connection = connections[engine.db.alias]
    folder = tmp_path / "queue"
    folder.mkdir()
    file = folder / "queue.sqlite3"
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # other threads can have the file open
    connection.close()
    shutil.copyfile(connection.settings_dict["NAME"], file)

    @contextmanager
    def moved() -> Iterator[None]:
        assert api("GET", "/v1/health/ready")[0] == 200  # with a connection, which stays open
        aside = tmp_path / "aside"
        if lost == "folder":
            folder.rename(aside)
            yield
        else:
            aside.mkdir()
            for each in list(folder.iterdir()):
                each.rename(aside / each.name)
            yield
            shutil.rmtree(folder)
        aside.rename(folder)

    with (
        mock.patch.dict(connection.settings_dict, {"NAME": file}),
        override_settings(ROOT_URLCONF="tests.api.urls"),
    ):
        api = API()
        try:
            require_503_from_all(api, moved)
        finally:
            connection.close()
