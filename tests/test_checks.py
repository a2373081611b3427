"""System checks: in this process by `run_checks`, and by `manage.py` where the start of Django matters."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dj_database_url
import django
import pytest
from _pytest.monkeypatch import MonkeyPatch
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper as SQLiteWrapper
from django.test import override_settings

import djjp.engine
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.exceptions import JobNameTaken
from djjp.jobs import job, registry
from tests.docs.markdown import anchors
from tests.management.conftest import run
from tests.project.shop.jobs import add
from tests.support.consumers import drain
from tests.support.databases import QUEUES
from tests.support.projects import Scratch, alias_for

OURS = "djjp.routers.QueueRouter"
SQLITE = "django.db.backends.sqlite3"


def reported(databases: Iterable[str] = ()) -> list[checks.CheckMessage]:
    """Return what djjp's checks report in this process. Each message is an error with an id and a hint."""
    messages = checks.run_checks(tags=["djjp"], databases=[*databases])
    for message in messages:
        assert isinstance(message, checks.Error)
        assert str(message.id).startswith("djjp.")
        assert str(message.hint).endswith(place_of(str(message.id)))
    return messages


def place_of(id: str) -> str:
    """Return the end of a hint: the heading that explains the check, which must exist."""
    anchor = id.replace(".", "").lower()
    assert anchor in anchors("docs/trouble.md")
    return f"; see docs/trouble.md#{anchor}"


def only(messages: Sequence[checks.CheckMessage], id: str) -> str:
    """Return the text and the hint of the one message; fail where there is none, another, or more."""
    assert [message.id for message in messages] == [id], messages
    return f"{messages[0].msg}\n{messages[0].hint}"


@contextmanager
def queue_on(config: dict[str, Any], **djjp: Any) -> Iterator[str]:
    """Put the queue on a new alias with this entry of `DATABASES`; yields the alias."""
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias, **djjp}):
        yield alias


def sqlite_at(path: object) -> dict[str, Any]:
    return {"ENGINE": SQLITE, "NAME": path}


# A sound project


def test_the_databases_of_these_tests_have_no_problem(engine: Engine) -> None:
    assert reported([engine.db.alias, "default"]) == []
    assert list(djjp.engine.current().requirements.configuration_problems()) == []
    assert list(djjp.engine.current().requirements.server_problems()) == []


# Settings


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"concurrency_limit": 0}, ["DJJP['concurrency_limit'] is 0", "1 to 10,000"]),
        ([], ["DJJP is []", "dictionary"]),
    ],
)
def test_wrong_settings_are_reported_and_raise_nothing_else(
    setting: object, words: list[str]
) -> None:
    with override_settings(DJJP=setting):
        message = only(reported(connections), "djjp.E001")
    for word in words:
        assert word in message


# Alias and router


@pytest.mark.parametrize("name", ["queue", "jobs"])
def test_a_missing_alias_is_reported_by_the_name_in_the_setting_and_raises_nothing_else(
    name: str,
) -> None:
    with override_settings(DJJP={} if name == "queue" else {"db_name": name}):
        message = only(reported(connections), "djjp.E002")
    assert f"DATABASES[{name!r}] = queue_database(" in message


def test_where_alias_and_router_are_missing_the_alias_alone_is_reported() -> None:
    with override_settings(DJJP={}, DATABASE_ROUTERS=[]):
        message = only(reported(connections), "djjp.E002")
    assert "queue_database(" in message


def test_a_missing_router_is_reported_and_raises_nothing_else(engine: Engine) -> None:
    with override_settings(DATABASE_ROUTERS=[]):
        message = only(reported([engine.db.alias, "default"]), "djjp.E003")
    assert "routed to default: QueueRouter is missing" in message
    assert f"{OURS!r} first in DATABASE_ROUTERS" in message


class ReadsOnDefault:
    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "default"


class MigratesDefaultOnly:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "default"


class RoutesItsOwnApp:
    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "default" if model._meta.app_label == "auth" else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (ReadsOnDefault, "routed to default: another router decides first"),
        (MigratesDefaultOnly, "get no tables there: another router decides first"),
    ],
)
def test_a_router_that_decides_for_the_queues_models_before_ours_is_reported(
    engine: Engine, other: type, fault: str
) -> None:
    with override_settings(DATABASE_ROUTERS=[other(), OURS]):
        message = only(reported([engine.db.alias, "default"]), "djjp.E003")
    assert fault in message
    assert f"{OURS!r} first in DATABASE_ROUTERS" in message


def test_a_router_before_ours_that_decides_for_its_own_models_is_no_problem(engine: Engine) -> None:
    with override_settings(DATABASE_ROUTERS=[RoutesItsOwnApp(), OURS]):
        assert reported([engine.db.alias, "default"]) == []


# The database


def test_a_queue_in_the_same_file_as_another_alias_is_reported_by_any_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.sqlite3").symlink_to(tmp_path / "queue.sqlite3")
    (tmp_path / "queue.sqlite3").touch()
    (tmp_path / "hard.sqlite3").hardlink_to(tmp_path / "queue.sqlite3")
    names = [
        tmp_path / "queue.sqlite3",
        "queue.sqlite3",
        tmp_path / "nowhere" / ".." / "queue.sqlite3",
        tmp_path / "link.sqlite3",
        tmp_path / "hard.sqlite3",
    ]
    with ExitStack() as stack:
        queue = stack.enter_context(queue_on(queue_database(tmp_path / "queue.sqlite3")))
        others = [stack.enter_context(alias_for(sqlite_at(name))) for name in names]
        messages = reported([queue])
    assert [message.id for message in messages] == ["djjp.E004"] * len(names)
    for other, message in zip(others, messages, strict=True):
        assert f"{queue!r} and the alias {other!r} are one" in message.msg


def test_a_queue_in_the_same_postgres_database_as_another_alias_is_reported(
    postgres_url: str,
) -> None:
    with override_settings(DJJP={"db_name": "postgresql"}):
        assert reported(["postgresql"]) == []
        with alias_for({**dj_database_url.parse(postgres_url)}) as other:
            message = only(reported(["postgresql"]), "djjp.E004")
    assert repr(other) in message


def test_two_postgres_databases_of_one_name_on_two_servers_are_two() -> None:
    """They are compared without a connection: there is no server at either address."""
    with (
        alias_for(queue_database("postgres:///jobs?host=/first")),
        queue_on(queue_database("postgres:///jobs?host=/second")),
    ):
        assert reported() == []


def test_an_in_memory_queue_is_reported() -> None:
    name = "file:queue?mode=memory&cache=shared"
    with queue_on(queue_database("queue") | {"NAME": name}) as queue:
        message = only(reported([queue]), "djjp.E005")
    assert name in message
    assert "queue_database(BASE_DIR / 'queue.sqlite3')" in message


@pytest.mark.parametrize(
    "given", ["queue.sqlite3", "sqlite:///queue.sqlite3", "data/queue.sqlite3"]
)
def test_a_relative_path_is_reported(given: str) -> None:
    with queue_on(queue_database(given)) as queue:
        message = only(reported([queue]), "djjp.E023")
    assert "queue_database(BASE_DIR / 'queue.sqlite3')" in message
    assert f"sqlite:///{Path.cwd()}/" in message


@pytest.mark.parametrize("name", ["", "file:queue.sqlite3", "file:///tmp/queue?mode=ro", "a\0b"])
def test_a_name_that_is_no_path_is_reported(name: str) -> None:
    with queue_on(queue_database("queue") | {"NAME": name}) as queue:
        message = only(reported([queue]), "djjp.E005")
    assert repr(name) in message
    assert "queue_database(BASE_DIR / 'queue.sqlite3')" in message


@pytest.mark.parametrize(
    "name", ["a?b=c&mode=rwc", "a#b", "100%", "%41", " a b ", "käse:x", "'a' \"b\"", "~", "$HOME"]
)
def test_a_consumer_runs_on_a_file_of_any_other_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with queue_on(queue_database(tmp_path / name)) as queue:
        call_command("migrate", database=queue, verbosity=0)
        assert reported([queue]) == []
        add.run_later(1)
        assert drain().executed == 1
    assert (tmp_path / name).stat().st_size > 0


def test_what_another_user_owns_is_reported() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act for another user")
    with TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        file = folder / "queue.sqlite3"
        with queue_on(queue_database(file)) as queue:
            check_as_nobody(queue, folder, file)


def check_as_nobody(queue: str, folder: Path, file: Path) -> None:
    """Open a queue to others bit by bit, until a consumer of another user runs."""
    with acting_for_nobody():
        assert f"in {str(folder)!r}" in only(reported([queue]), "djjp.E014")
    folder.chmod(0o755)
    with acting_for_nobody():
        assert f"in {str(folder)!r}" in only(reported([queue]), "djjp.E014")
    call_command("migrate", database=queue, verbosity=0)
    connections[queue].close()
    with acting_for_nobody():
        only(reported([queue]), "djjp.E014")
    folder.chmod(0o777)
    with acting_for_nobody():
        message = only(reported([queue]), "djjp.E014")
        assert f"in {str(file)!r}" in message
        assert f"chown USER {file}" in message
    file.chmod(0o666)
    # Without an outbox: the other user cannot open the application's database, in which a consumer would sweep it.
    with acting_for_nobody(), override_settings(DJJP={"db_name": queue, "outbox": []}):
        assert reported([queue]) == []
        add.run_later(1)
        assert drain().executed == 1
        connections[queue].close()


@contextmanager
def acting_for_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif("postgresql" not in QUEUES, reason="there is no PostgreSQL")
def test_a_queue_with_only_psycopg2_installed_is_reported_before_it_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("djjp.engine.postgresql.requirements.is_psycopg3", False)
    with queue_on(queue_database(f"postgres:///jobs?host={tmp_path}")) as queue:
        message = only(reported([queue]), "djjp.E007")
    assert "pip install 'djjp[postgres]'" in message


# Django leaves a connection open whose init_command has failed.
@pytest.mark.filterwarnings("ignore:unclosed database in <sqlite3:ResourceWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {"OPTIONS": {"no_such_option": 1}},
        {"OPTIONS": {"transaction_mode": "SOMETIMES"}},
        {"OPTIONS": {"init_command": "PRAGMA"}},
        {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": True}},
        {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"isolation_level": "none"}},
    ],
)
def test_options_that_the_driver_refuses_are_reported(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = queue_database(tmp_path / "queue.sqlite3") | changes
    with queue_on(config) as queue:
        message = only(reported([queue]), "djjp.E010")
    assert repr(queue) in message
    gc.collect()  # of that connection, while the warning is ignored


WRONG = [
    ({"NAME": None}, "['NAME'] is None; it must be the path of a file"),
    ({"NAME": 5}, "['NAME'] is 5; it must be the path of a file"),
    ({"NAME": b"/srv/q"}, "['NAME'] is b'/srv/q'; it must be the path of a file"),
    ({"OPTIONS": None}, "['OPTIONS'] is of type NoneType; it must be a dictionary"),
    ({"OPTIONS": {"timeout": "30"}}, "['timeout'] is '30'; it must be a number of seconds"),
    ({"OPTIONS": {"init_command": None}}, "['init_command'] is None; it must be SQL, as a text"),
    ({"CONN_MAX_AGE": "x"}, "['CONN_MAX_AGE'] is 'x'; it must be a number of seconds, or None"),
    ({"TIME_ZONE": "Nope/Nope"}, "['TIME_ZONE'] is 'Nope/Nope'; it must be the name of a time"),
]


@pytest.mark.one_database
@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_a_wrong_value_of_an_entry_is_reported_and_refused_by_commands(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = queue_database(tmp_path / "queue.sqlite3")
    with queue_on(config) as queue, MonkeyPatch.context() as patch:
        for key, value in changes.items():
            patch.setitem(connections.settings[queue], key, value)
        message = only(reported([queue]), "djjp.E010")
        assert words in message
        assert f"Correct DATABASES[{queue!r}]" in message
        ran = run(capsys, "status", "--json")
        with pytest.raises(CommandError) as refused:
            call_command("start_consumer", drain=True)
    assert ran.code == 1
    error = ran.document("Failure")["error"]
    assert (error["slug"], words in error["detail"]) == ("misconfigured", True)
    assert words in str(refused.value)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *WRONG,
        ({"OPTIONS": {"no_such_option": 1}}, "cannot be used: 'no_such_option' is an invalid"),
    ],
)
def test_a_wrong_value_of_an_outboxs_entry_is_reported_and_refused_by_commands(
    engine: Engine,
    changes: dict[str, Any],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with alias_for(sqlite_at(tmp_path / "stock.sqlite3")) as alias, MonkeyPatch.context() as patch:
        for key, value in changes.items():
            patch.setitem(connections.settings[alias], key, value)
        with override_settings(DJJP={"db_name": engine.db.alias, "outbox": [alias]}):
            assert words in only(reported([alias]), "djjp.E011")
            failed = [run(capsys, name, "--json") for name in ("status", "outbox")]
            with pytest.raises(CommandError) as refused:
                call_command("start_consumer", drain=True)
    for ran in failed:
        assert ran.code == 1
        error = ran.document("Failure")["error"]
        assert (error["slug"], words in error["detail"]) == ("misconfigured", True)
    assert words in str(refused.value)


@pytest.mark.one_database
def test_an_outbox_on_no_alias_is_named_by_commands(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "outbox": ["nope"]}):
        for name in ("status", "outbox"):
            ran = run(capsys, name, "--json")
            assert ran.code == 1
            error = ran.document("Failure")["error"]
            assert error["slug"] == "misconfigured"
            assert error["detail"] == "DJJP['outbox'] names 'nope', which is no alias in DATABASES"


def test_two_databases_in_memory_are_not_taken_for_one() -> None:
    with alias_for(sqlite_at(":memory:")), queue_on(queue_database(":memory:")) as queue:
        only(reported([queue]), "djjp.E005")


def test_a_backend_that_djjp_cannot_claim_on_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queue_on(sqlite_at(tmp_path / "queue.sqlite3")) as queue:
        monkeypatch.setattr(SQLiteWrapper, "vendor", "mysql")
        message = only(reported([queue]), "djjp.E007")
    assert "'mysql'" in message
    assert "SQLite and PostgreSQL" in message


def test_a_queue_that_is_part_of_each_request_is_reported(tmp_path: Path) -> None:
    config = queue_database(tmp_path / "queue.sqlite3") | {"ATOMIC_REQUESTS": True}
    with queue_on(config) as queue:
        message = only(reported([queue]), "djjp.E008")
    assert f"Remove ATOMIC_REQUESTS from DATABASES[{queue!r}]" in message


def test_an_application_may_have_atomic_requests(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    assert reported([engine.db.alias, "default"]) == []
    with override_settings(DJJP={"db_name": "default"}):
        # Its migrations are recorded, but the router has kept the tables away.
        found = checks.run_checks(tags=["djjp"], databases=["default"])
        assert [message.id for message in found] == ["djjp.W002"]


def test_a_server_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    with queue_on(queue_database(f"postgres:///jobs?host={tmp_path}")) as queue:
        message = only(reported([queue]), "djjp.E010")
    assert repr(queue) in message


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with queue_on(queue_database(tmp_path / "nowhere" / "queue.sqlite3")) as queue:
        message = only(reported([queue]), "djjp.E010")
        # Django's own checks connect for some fields, and raise: djjp's models have none of these.
        assert len(checks.run_checks(databases=[queue])) == 1
    assert repr(queue) in message


def test_only_a_database_that_is_named_is_connected_to(tmp_path: Path) -> None:
    """`check --database default` succeeds while the queue's server is down."""
    with queue_on(queue_database(f"postgres:///jobs?host={tmp_path}")):
        assert reported(["default"]) == []


def test_a_server_that_is_too_old_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the version number is replaced: no test can count on a server that old."""
    monkeypatch.setitem(connections["postgresql"].__dict__, "pg_version", 13_00_23)
    with override_settings(DJJP={"db_name": "postgresql"}):
        message = only(reported(["postgresql"]), "djjp.E006")
    assert "PostgreSQL 14 or newer" in message
    assert "13" in message


def test_an_sqlite_that_is_too_old_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the version number is replaced, because Python carries one SQLite only."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr("sqlite3.sqlite_version", "3.34.1")
    with override_settings(DJJP={"db_name": "sqlite"}):
        message = only(reported(["sqlite"]), "djjp.E006")
    assert "SQLite 3.35 or newer" in message
    assert "3.34.1" in message


# Jobs


def test_two_jobs_of_one_name_in_one_module_are_reported_by_both_functions(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_jobs", dict(registry._jobs))

    @job(name="ship")
    def ship_once(order: int) -> None: ...

    with pytest.raises(JobNameTaken) as caught:

        @job(name="ship")
        def ship_twice(order: int) -> None: ...

    monkeypatch.setattr(registry, "conflict", caught.value)  # as at the start: see the next test
    message = only(reported([engine.db.alias, "default"]), "djjp.E009")
    assert "'ship'" in message
    assert "ship_once" in message
    assert "ship_twice" in message


# Every check at once


def test_several_faults_are_reported_at_once(tmp_path: Path) -> None:
    config = queue_database(tmp_path / "application.sqlite3") | {"ATOMIC_REQUESTS": True}
    with (
        alias_for(sqlite_at(tmp_path / "application.sqlite3")),
        queue_on(config) as queue,
        override_settings(DATABASE_ROUTERS=[]),
    ):
        messages = reported([queue, "default"])
    assert sorted(str(message.id) for message in messages) == [
        "djjp.E003",
        "djjp.E004",
        "djjp.E008",
    ]


# In processes, because the start of Django matters


SHIP = """
from djjp import job

@job(name="ship")
def {function}(order): ...
"""


def refused(project: Scratch) -> str:
    """Start a consumer that a check refuses; return what it reports."""
    done = project.run("start_consumer", "--drain")
    assert done.returncode == 1
    assert "the consumer does not start" in done.stderr
    assert "HINT: " in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_consumer_refuses_to_start_when_two_jobs_have_one_name(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'INSTALLED_APPS += ["shop", "depot"]')
    project.app("shop", jobs=SHIP.format(function="ship_parcel"))
    project.app("depot", jobs=SHIP.format(function="ship_pallet"))
    message = refused(project)
    assert "(djjp.E009)" in message
    assert "'ship'" in message
    assert "shop.jobs.ship_parcel" in message
    assert "depot.jobs.ship_pallet" in message


def test_a_consumer_refuses_to_start_without_the_queues_alias(tmp_path: Path) -> None:
    """Jobs are registered without the alias, so that the check can report it."""
    project = Scratch(tmp_path, 'DATABASES.pop("queue")\nINSTALLED_APPS.append("shop")\n')
    project.app("shop", jobs=SHIP.format(function="ship_parcel"))
    message = refused(project)
    assert "(djjp.E002)" in message
    assert "queue_database(" in message


def test_tests_of_users_run_on_djangos_own_test_databases(tmp_path: Path) -> None:
    """`manage.py test` puts SQLite in memory and runs the checks on that."""
    project = Scratch(tmp_path)
    project.write(
        "test_shop.py",
        """
        from django.test import TestCase
        from djjp.models import Job

        class QueueTests(TestCase):
            databases = {"default", "queue"}

            def test_the_queue_is_there(self):
                self.assertEqual(Job.objects.count(), 0)
        """,
    )
    done = project.run("test")
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr


@pytest.mark.end_to_end
def test_an_sqlite_queue_needs_no_postgres_driver_and_a_postgres_queue_names_the_extra(
    tmp_path: Path,
) -> None:
    for module in (
        "psycopg",
        "psycopg2",
    ):  # on the path, these keep every psycopg from being imported
        package = tmp_path / "blocked" / module
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise ModuleNotFoundError({module!r})")
    project = Scratch(tmp_path, f"import sys\nsys.path.insert(0, {str(tmp_path / 'blocked')!r})")

    assert project.run("migrate", "--database=queue").returncode == 0
    sound = project.run("check", "--database", "default", "--database", "queue")
    assert sound.returncode == 0, sound.stderr
    assert "no issues" in sound.stdout

    missing = project.run("check", DJJP_DATABASE_URL="postgres://ann@db.example/jobs")
    assert missing.returncode == 1
    assert "psycopg" in missing.stderr
    if django.VERSION >= (6, 1):
        # Django's own checks of models load each backend, and raise before djjp's checks report.
        assert "Error loading psycopg" in missing.stderr
    else:
        assert "(djjp.E007)" in missing.stderr
        assert "pip install 'djjp[postgres]'" in missing.stderr
        assert "Traceback" not in missing.stderr
