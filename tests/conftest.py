"""The databases that the tests run on, all of them real.

A test that takes `engine` runs once for each database in `DJJP_TEST_QUEUES` (all by default), with the
queue's alias set to it. Nothing is rolled back, because other processes read it too: tables are emptied instead.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings
from pytest_django import DjangoDbBlocker

import djjp.engine
from djjp.consumer import start_journal
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.models import (
    Attempt,
    Consumer,
    Dependency,
    Depth,
    IdempotencyKey,
    Incident,
    Job,
    Occurrence,
    Operation,
    Queue,
    RateStart,
    Relayed,
    Release,
    Schedule,
    Tag,
    Token,
    Total,
    TotalEntry,
    Transfer,
)
from djjp.outbox.models import OutboxJob
from tests.project.shop.models import Execution
from tests.support.databases import QUEUES
from tests.support.postgres import (
    drop_database,
    migrated_database,
    one_process_at_a_time,
    shared_server,
)
from tests.support.processes import ROOT, Processes
from tests.support.staying import start_staying

# The development mode is for the process that runs the tests: those that they start are as users' are.
os.environ.pop("PYTHONDEVMODE", None)
# Started processes inherit an ignored signal, as `nohup` ignores SIGHUP; tests send it to them.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


#: The folder that all processes of a run share. Where there are several, each has its home in it.
SHARED = settings.HOME.parent if "PYTEST_XDIST_WORKER" in os.environ else settings.HOME

# The consumers of a user share a folder in the temporary one: those of each process of a run have their own.
if SHARED != settings.HOME:
    (temporary := settings.HOME / "tmp").mkdir(exist_ok=True)
    for folder in (SHARED, settings.HOME):
        folder.chmod(0o711)  # for processes of other users
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)

#: A server to use instead of one from the wheel, and the database on it that the processes of a run copy.
GIVEN_SERVER = os.environ.get("DJJP_TEST_POSTGRES_URL")
TEMPLATE = f"{SHARED.name}-template"


#: The tests that run on both databases in `make test`: databases differ in the engine's two vendor folders only.
ON_BOTH = ("tests.engine.",)
#: Tests of pages, answers and commands: djjp.monitoring reads what they show, and its tests run on both databases.
FACES = ("tests.admin.", "tests.api.", "tests.contrib.", "tests.management.")

#: The watches on files that one process of a run keeps.
MOST_WATCHES = 8
#: The seconds after which a search begins no further step.
SEARCH_LIMITS = (
    *(f"monitoring.{name}.SECONDS" for name in ("failures", "jobs", "search", "slowest")),
    "monitoring.operations.COUNT_TIME",
    *("admin.jobs.SECONDS", "admin.failures.SECONDS"),
    *("admin.dashboard.FAILURES_SECONDS", "admin.names.SEARCH_SECONDS"),
)


def close_connections() -> None:
    """This thread's, and those of the thread in which Django runs what async code does with databases."""
    connections.close_all()
    asyncio.run(sync_to_async(connections.close_all)())


def migrate(alias: str) -> None:
    """Create the tables that belong on an alias, the queue's on each but the application's own."""
    queue = settings.DJJP["db_name"] if alias == "default" else alias
    with override_settings(DJJP={"db_name": queue}):
        call_command("migrate", database=alias, verbosity=0)


def migrate_sqlite(alias: str) -> None:
    """Create the tables of an alias: the first process of a run migrates, the others copy its file."""
    target = Path(connections[alias].settings_dict["NAME"])
    template = SHARED / f"migrated-{target.name}"
    with one_process_at_a_time(SHARED / f"{alias}.lock"):
        if template.exists():
            shutil.copyfile(template, target)
            return
        migrate(alias)
        with connections[alias].cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        close_connections()
        shutil.copyfile(target, template)


def migrate_postgresql(url: str) -> None:
    """Create the queue's tables in a database on a server."""
    connections.settings["postgresql"].update(queue_database(url))
    migrate("postgresql")
    close_connections()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Import a part of the tests before the others do, so that each file's assertions are rewritten once.

    All processes of a run collect all files in one order, and a new checkout has none that is rewritten.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    paths = [Path(argument.partition("::")[0]).absolute() for argument in session.config.args]
    files = [
        file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))
    ]
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for file in sorted(files)[number::count]:
        with suppress(Exception, pytest.skip.Exception):  # which the collection reports
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))


@pytest.fixture(scope="session", autouse=True)
def application_database(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The application's database, migrated; and leave for every test to use databases."""
    with django_db_blocker.unblock():
        if connections["default"].vendor == "sqlite":
            migrate_sqlite("default")
        else:
            migrate("default")
        yield
        close_connections()


@pytest.fixture(autouse=True)
def time_to_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give searches the time that they need on a busy machine: a test of their limit sets its own."""
    for name in SEARCH_LIMITS:
        # Some of the package's functions have the names of their modules.
        module, _, limit = name.rpartition(".")
        monkeypatch.setattr(import_module(f"djjp.{module}"), limit, 60.0)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what a run shares; of several processes the one that shares the tests out does."""
    if hasattr(config, "workerinput"):
        return
    if GIVEN_SERVER is not None:
        drop_database(GIVEN_SERVER, TEMPLATE)
    if settings.HOME.name.startswith("djjp-test-"):
        shutil.rmtree(settings.HOME, ignore_errors=True)


#: Fixtures of tests that start processes.
STARTING_PROCESSES = {"processes", "scratch", "project"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes, which take longest and depend least on versions."""
    for item in items:
        if STARTING_PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


def pytest_collection_finish() -> None:
    """Keep what was loaded out of garbage collections, a seventh of a run, and collect less often."""
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database with the queue's tables: on `DJJP_TEST_POSTGRES_URL`, or on the server that the run shares."""
    with ExitStack() as stack:
        given = GIVEN_SERVER
        if given is None:
            given = stack.enter_context(shared_server(SHARED / "postgresql")).get_uri()
        url = stack.enter_context(migrated_database(given, TEMPLATE, migrate_postgresql))
        os.environ["DJJP_TEST_SERVER_URL"] = url
        connections.settings["postgresql"].update(queue_database(url))
        yield url
        close_connections()


@pytest.fixture(scope="session")
def sqlite_file() -> None:
    """The queue's tables in its own SQLite file."""
    migrate_sqlite("sqlite")


#: A queue's tables, in an order that no foreign key forbids.
TABLES = [
    model._meta.db_table
    for model in (
        Attempt,
        Dependency,
        Job,
        Consumer,
        Relayed,
        Queue,
        Occurrence,
        Schedule,
        RateStart,
        Tag,
        Token,
        Transfer,
        Total,
        TotalEntry,
        Depth,
        IdempotencyKey,
        Incident,
        Operation,
        Release,
    )
]


def empty_tables(engine: Engine) -> None:
    """Delete what a test has written, on each database in one transaction."""
    for name in Consumer.objects.values_list("pk", flat=True):  # killed consumers
        start_journal.clear(engine.db.runtime_dir(), name)
    deletes = [f"DELETE FROM {table}" for table in TABLES]
    with connections[engine.db.alias].cursor() as cursor:
        if connections[engine.db.alias].vendor == "postgresql":
            # One statement, and so one round trip. A listener ends with its test: nobody reads its notifications.
            cursor.execute(f"DO $$ BEGIN {'; '.join(deletes)}; UNLISTEN *; END $$")
        else:
            with transaction.atomic(engine.db.alias):
                for delete in deletes:
                    cursor.execute(delete)
    with transaction.atomic("default"):
        OutboxJob.objects.all()._raw_delete("default")
        Execution.objects.all()._raw_delete("default")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `engine` once for each database, unless its marks choose one.

    On its second database it is an end-to-end test, unless it belongs to `ON_BOTH`; and also if it does, when it
    starts processes or is marked with `one_database`. The mark `both_databases` excepts a test from this.
    """
    marks = list(metafunc.definition.iter_markers())
    chosen = any(mark.name == "parametrize" and "engine" in mark.args[0] for mark in marks)
    if "engine" in metafunc.fixturenames and not chosen:
        names = {mark.name for mark in marks}
        aliases = QUEUES
        for only in names & {"sqlite_only", "postgresql_only"}:
            aliases = [alias for alias in aliases if only.startswith(alias)]
        is_face = metafunc.module.__name__.startswith(FACES)
        starts_processes = STARTING_PROCESSES & set(metafunc.fixturenames)
        is_on_both = metafunc.module.__name__.startswith(ON_BOTH) and not starts_processes
        later = [pytest.mark.second_database]
        if "both_databases" not in names and ("one_database" in names or not is_on_both):
            later.append(pytest.mark.end_to_end)
            if "one_database" in names:
                later.append(pytest.mark.long)
            if is_face and not starts_processes and "end_to_end" not in names:
                later.append(pytest.mark.second_face)
        params = [
            pytest.param(alias, marks=later if alias in aliases[1:] else []) for alias in aliases
        ]
        metafunc.parametrize("engine", params, indirect=True)


def release_watches() -> None:
    """Collect consumers that have ended: until then each keeps a watch on a file, of which a user has 128."""
    opened = Path("/proc/self/fd")
    if opened.exists() and sum(is_watch(each) for each in opened.iterdir()) > MOST_WATCHES:
        gc.collect()


def is_watch(descriptor: Path) -> bool:
    with suppress(OSError):  # the one that lists them
        return descriptor.readlink().name == "anon_inode:inotify"
    return False


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The engine of the queue on one database, with `DJJP` set to it; empty at the start."""
    alias = request.param
    if alias != "default":  # the application's, which is migrated
        request.getfixturevalue("postgres_url" if alias == "postgresql" else "sqlite_file")
    start_staying()
    with override_settings(DJJP={"db_name": alias}):
        yield djjp.engine.current()
        empty_tables(djjp.engine.current())
    release_watches()


@pytest.fixture
def processes(engine: Engine) -> Iterator[Processes]:
    """Starts consumers and other commands of the test project; none outlives its test."""
    started = Processes(engine.db.alias)
    yield started
    started.kill()
