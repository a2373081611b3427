"""The connections of a web process to the queue: few, whatever server runs its requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine, sharing
from djjp.exceptions import QueueUnavailable
from djjp.jobs import get_job
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.engine_calls import at_once
from tests.support.processes import Processes

# A server's part of ASGI: each request is a task, all of them at once. Then uvicorn's, if it is installed.
ASGI = """
import asyncio, os, sys, weakref
import django
django.setup()
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.urls import path
from djjp.models import Job
from tests.project.shop.jobs import add

def sync_view(request):
    handle = add.run_later(1)
    handle.refresh()
    return HttpResponse(str(handle.id))

async def async_view(request):
    handle = await add.arun_later(1)
    await handle.arefresh()
    return HttpResponse(str(handle.id))

def orm_view(request):
    return HttpResponse(str(Job.objects.count()))

urlpatterns = [path("sync", sync_view), path("async", async_view), path("orm", orm_view)]
settings.ROOT_URLCONF = __name__
settings.ALLOWED_HOSTS = ["*"]
settings.MIDDLEWARE = []
queue = settings.DATABASES[settings.DJJP["db_name"]]

known = weakref.WeakSet()

def note(connection, **kwargs):
    if connection.alias == settings.DJJP["db_name"]:
        known.add(connection)

connection_created.connect(note)

def opened():
    if "sqlite3" in queue["ENGINE"]:
        return sum(each.connection is not None for each in list(known))
    import psycopg
    with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as server:
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asgi'"
        return server.execute(count).fetchone()[0]

async def request(app, where):
    sent = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": where,
        "raw_path": where.encode(), "query_string": b"", "headers": [], "scheme": "http",
        "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])
    ended = asyncio.Event()
    async def receive():
        for message in received:
            return message
        await ended.wait()
        return {"type": "http.disconnect"}
    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()
    await app(scope, receive, send)
    return sent[0]["status"]

async def main():
    app = get_asgi_application()
    most = 0
    for where in ["/sync", "/async", "/orm", "/sync", "/async"]:
        tasks = [asyncio.create_task(request(app, where)) for _ in range(60)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.01)
            if where != "/orm":
                most = max(most, opened())
        assert [task.result() for task in tasks] == [200] * 60
    print(most, opened())

asyncio.run(main())
"""


@pytest.mark.end_to_end
def test_under_asgi_all_requests_share_a_few_connections(
    processes: Processes, engine: Engine
) -> None:
    done = processes.python(ASGI, PGAPPNAME="asgi")
    out, err = done.communicate(timeout=120)

    assert done.returncode == 0, err
    most, left = map(int, out.split())
    assert most <= sharing.SHARED + 1  # the loop's own thread
    assert left <= sharing.SHARED + 1
    assert Job.objects.count() == 4 * 60


def test_any_number_of_threads_has_a_few_connections(engine: Engine) -> None:
    """As under a server with a thread, or a greenlet, for each request."""
    inside = threading.Barrier(60)

    def enqueue_and_stay(engine: Engine) -> bool:
        add.run_later(1)
        inside.wait(30)
        return connections[engine.db.alias].connection is not None

    owns = at_once(*[enqueue_and_stay] * 60)

    assert Job.objects.count() == 60
    assert sum(owns) <= sharing.OWN
    assert len(sharing._idle[engine.db.alias]) <= sharing.SHARED


@pytest.fixture
def by_sharing(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Callable[..., Any]:
    """Call a function on a new thread that must share."""
    monkeypatch.setattr(sharing, "OWN", 0)

    def call(function: Callable[[Engine], Any]) -> Any:
        return at_once(function)[0]

    return call


def test_inside_a_transaction_of_the_queue_a_call_belongs_to_it(
    engine: Engine, by_sharing: Callable[..., Any]
) -> None:
    def roll_back(engine: Engine) -> None:
        with transaction.atomic(using=engine.db.alias):
            handle = add.run_later(1)
            assert get_job(handle.id).state == "ready"
            transaction.set_rollback(True, using=engine.db.alias)

    by_sharing(roll_back)
    assert not Job.objects.exists()


def test_the_threads_own_connection_is_back_after_the_call(
    engine: Engine, by_sharing: Callable[..., Any]
) -> None:
    def call(engine: Engine) -> None:
        own = connections[engine.db.alias]
        add.run_later(1)
        with pytest.raises(LookupError):
            get_job("nonsense")
        assert connections[engine.db.alias] is own
        assert own.connection is None

    by_sharing(call)


def test_a_shared_connection_that_broke_is_replaced(
    engine: Engine, by_sharing: Callable[..., Any]
) -> None:
    by_sharing(lambda engine: add.run_later(1))
    for shared in sharing._idle[engine.db.alias]:
        shared.connection.close()

    by_sharing(lambda engine: add.run_later(2))
    assert Job.objects.count() == 2


def test_a_call_that_gets_no_connection_in_time_fails_as_unavailable(
    engine: Engine, by_sharing: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_PATIENCE", 0.05)
    monkeypatch.setattr(sharing, "_free", threading.BoundedSemaphore(1))
    with sharing._free, pytest.raises(QueueUnavailable, match="connections that this process"):
        by_sharing(lambda engine: add.run_later(1))
    by_sharing(lambda engine: add.run_later(1))


def test_statements_that_a_test_counts_or_forbids_go_by_the_threads_own_connection(
    engine: Engine, by_sharing: Callable[..., Any], tmp_path: Path
) -> None:
    def count(engine: Engine) -> int:
        own = connections[engine.db.alias]
        with CaptureQueriesContext(own) as queries:
            own.close()
            add.run_later(1)
        own.close()
        return len(queries)

    def forbid(engine: Engine) -> None:
        def refuse(*given: object) -> None:
            raise DatabaseError("not in this test")

        with connections[engine.db.alias].execute_wrapper(refuse), pytest.raises(QueueUnavailable):
            add.run_later(1)

    assert by_sharing(count) >= 1
    by_sharing(forbid)
