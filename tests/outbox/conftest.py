"""Databases of the application that have an outbox, beside each queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings

from djjp.databases import queue_database
from djjp.engine import Engine, Outcome
from djjp.jobs import enqueue
from djjp.models import Job, State
from djjp.outbox.models import OutboxJob
from tests.project.shop.models import Execution
from tests.support.postgres import postgres_database
from tests.support.projects import alias_for


class Application(NamedTuple):
    """A database of the application: its alias, and its entry in DATABASES for other processes."""

    alias: str
    entry: dict[str, Any]

    def waiting(self) -> int:
        """Return the number of rows in its outbox."""
        return OutboxJob.objects.using(self.alias).count()


@pytest.fixture(autouse=True)
def rested() -> None:
    """Let this process relay in spite of failures in earlier tests."""
    enqueue._paused_until = 0.0


@contextmanager
def _application(entry: dict[str, Any], engine: Engine, *beside: str) -> Iterator[Application]:
    with (
        alias_for(entry) as alias,
        override_settings(DJJP={"db_name": engine.db.alias, "outbox": [*beside, alias]}),
    ):
        for app in ("djjp_outbox", "shop"):
            call_command("migrate", app, database=alias, verbosity=0)
        yield Application(alias, entry)


@pytest.fixture
def on_sqlite(engine: Engine, tmp_path: Path) -> Iterator[Application]:
    """The application on SQLite as Django sets it up, without WAL."""
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "app.sqlite3")}
    with _application(entry, engine) as application:
        yield application


@pytest.fixture
def on_postgres(engine: Engine, postgres_url: str) -> Iterator[Application]:
    with (
        postgres_database(beside=postgres_url) as url,
        _application(queue_database(url), engine) as application,
    ):
        yield application


@pytest.fixture(params=["on_sqlite", "on_postgres"])
def application(request: pytest.FixtureRequest) -> Application:
    found: Application = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def second(engine: Engine, tmp_path: Path) -> Iterator[Application]:
    """A second database with an outbox; the first is `default`."""
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "second.sqlite3")}
    with _application(entry, engine, "default") as application:
        yield application


def waiting(alias: str = "default") -> list[UUID]:
    """Return the ids in an outbox."""
    return list(OutboxJob.objects.using(alias).order_by("pk").values_list("pk", flat=True))


def queued() -> list[UUID]:
    """Return the ids in the queue."""
    return list(Job.objects.order_by("pk").values_list("pk", flat=True))


def executions(alias: str = "default") -> int:
    return Execution.objects.using(alias).count()


class _Undo(Exception):
    """Rolls a block back."""


@contextmanager
def undone(using: str = "default") -> Iterator[None]:
    """An `atomic()` block that ends in an error, and so is rolled back."""
    with suppress(_Undo), transaction.atomic(using):
        yield
        raise _Undo


def execute(alias: str = "default") -> Execution:
    """Change the application's data."""
    return Execution.objects.using(alias).create(key="k", process=0, at=0.0)


def run_and_prune(engine: Engine) -> list[UUID]:
    """Run every ready job as a consumer does, and prune it; return their ids."""
    with engine.db.transaction():
        claimed = engine.jobs.claim("tester", 1000, time.time())
        now = time.time()
        engine.jobs.finish(
            "tester", [Outcome(job, State.SUCCEEDED, now, now, "1") for job in claimed]
        )
    engine.pruning.prune([State.SUCCEEDED], time.time() + 60, None, 10_000)
    assert not Job.objects.filter(pk__in=[job.id for job in claimed]).exists()
    return [job.id for job in claimed]


def go_away(alias: str) -> Callable[[], None]:
    """Make a database unreachable for this thread; return a function that restores it."""
    connection = connections[alias]
    connection.close()
    before = dict(connection.settings_dict)
    sqlite = before["ENGINE"].endswith("sqlite3")
    nowhere = {"NAME": "/nowhere/file.sqlite3"} if sqlite else {"HOST": "127.0.0.1", "PORT": "1"}
    connection.settings_dict.update(nowhere)

    def come_back() -> None:
        connection.close()
        connection.settings_dict.clear()
        connection.settings_dict.update(before)

    return come_back
