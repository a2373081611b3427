"""Each check is met as a user meets it: by `manage.py check` in a project that has the fault."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import django
import pytest
from django.core import checks
from django.db import connections
from django.test import override_settings

import djjp.engine
from djjp.engine import Engine
from tests.support.projects import Scratch

BOTH = ["check", "--database", "default", "--database", "queue"]


def found(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """What `check` reported: the id and the text of each message, with its hint."""
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        assert "no issues" in done.stdout
        return []
    head, errors, body = done.stderr.partition("ERRORS:\n")
    assert head == "SystemCheckError: System check identified some issues:\n\n", done.stderr
    assert errors
    body = body.partition("\n\nSystem check identified")[0]
    messages = re.split(r"^\?: \((.+?)\) ", body, flags=re.MULTILINE)[1:]
    assert all("\tHINT: " in text for text in messages[1::2])
    return list(zip(messages[::2], messages[1::2], strict=True))


def only(reported: list[tuple[str, str]], id: str) -> str:
    """The text of the one message; fails where there is none, another, or more."""
    assert [id for id, _ in reported] == [id], reported
    return reported[0][1]


def test_a_sound_project_has_no_problem(tmp_path: Path) -> None:
    assert found(Scratch(tmp_path).run(*BOTH)) == []


def test_a_sound_project_on_postgres_has_no_problem(tmp_path: Path, postgres_url: str) -> None:
    assert found(Scratch(tmp_path).run(*BOTH, DJJP_DATABASE_URL=postgres_url)) == []


# Settings


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('{"concurrency_limit": 0}', ["DJJP['concurrency_limit'] is 0", "1 to 10,000"]),
        ("[]", ["DJJP is []", "dictionary"]),
    ],
)
def test_wrong_settings_are_told_and_raise_nothing_else(
    tmp_path: Path, setting: str, words: list[str]
) -> None:
    message = only(found(Scratch(tmp_path, f"DJJP = {setting}").run(*BOTH)), "djjp.E001")
    for word in words:
        assert word in message


# Alias and router


def test_a_missing_alias_is_told_and_raises_nothing_else(tmp_path: Path) -> None:
    """`--database queue` itself is refused by Django's own parser, which knows no such alias."""
    project = Scratch(
        tmp_path,
        """
        DATABASES.pop("queue")
        INSTALLED_APPS.append("shop")
        """,
    )
    project.app("shop", jobs="from djjp import job\n\n@job\ndef ship(order): ...\n")
    message = only(found(project.run("check", "--database", "default")), "djjp.E002")
    assert "'queue'" in message
    assert "queue_database(" in message


def test_a_missing_alias_is_told_by_the_name_that_the_setting_gives(tmp_path: Path) -> None:
    message = only(found(Scratch(tmp_path, 'DJJP = {"db_name": "jobs"}').run(*BOTH)), "djjp.E002")
    assert "DATABASES['jobs'] = queue_database(" in message


def test_where_alias_and_router_are_missing_the_alias_alone_is_told(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'DATABASES.pop("queue")\nDATABASE_ROUTERS = []\n')
    message = only(found(project.run("check", "--database", "default")), "djjp.E002")
    assert "queue_database(" in message


def test_a_missing_router_is_told_and_raises_nothing_else(tmp_path: Path) -> None:
    message = only(found(Scratch(tmp_path, "DATABASE_ROUTERS = []").run(*BOTH)), "djjp.E003")
    assert "QueueRouter is missing" in message
    assert "'djjp.routers.QueueRouter' first in DATABASE_ROUTERS" in message


def routers(*names: str) -> str:
    return f"DATABASE_ROUTERS = {[*names, 'djjp.routers.QueueRouter']!r}"


ROUTERS = """
class Reader:
    def db_for_read(self, model, **hints): return "default"

class Miser:
    def allow_migrate(self, db, app_label, **hints): return db == "default"

class Modest:
    def db_for_read(self, model, **hints):
        return "default" if model._meta.app_label == "auth" else None
    def allow_migrate(self, db, app_label, **hints): return None
"""


@pytest.mark.parametrize("name", ["Reader", "Miser"])
def test_a_router_that_answers_for_the_queues_models_before_ours_is_told(
    tmp_path: Path, name: str
) -> None:
    project = Scratch(tmp_path, routers(f"scratch_routers.{name}"))
    project.write("scratch_routers.py", ROUTERS)
    message = only(found(project.run(*BOTH)), "djjp.E003")
    assert "first" in message
    assert "is missing" not in message


def test_a_router_before_ours_that_leaves_our_models_alone_is_welcome(tmp_path: Path) -> None:
    project = Scratch(tmp_path, routers("scratch_routers.Modest"))
    project.write("scratch_routers.py", ROUTERS)
    assert found(project.run(*BOTH)) == []


# The database


def test_a_queue_in_the_same_file_as_another_alias_is_told_however_the_file_is_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "link.sqlite3").symlink_to(tmp_path / "queue.sqlite3")
    project = Scratch(
        tmp_path,
        """
        for alias, name in {
            "path": HOME / "queue.sqlite3",
            "relative": "queue.sqlite3",
            "roundabout": HOME / "nowhere" / ".." / "queue.sqlite3",
            "symlink": HOME / "link.sqlite3",
        }.items():
            DATABASES[alias] = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
        """,
    )
    reported = found(project.run(*BOTH))
    assert [id for id, _ in reported] == ["djjp.E004"] * 4
    for alias in ("path", "relative", "roundabout", "symlink"):
        assert sum(f"'queue' and the alias {alias!r} are one" in text for _, text in reported) == 1


def test_a_queue_in_the_same_postgres_database_as_another_alias_is_told(
    tmp_path: Path, postgres_url: str
) -> None:
    import dj_database_url

    project = Scratch(tmp_path, f'DATABASES["default"] = {dj_database_url.parse(postgres_url)!r}')
    message = only(found(project.run(*BOTH, DJJP_DATABASE_URL=postgres_url)), "djjp.E004")
    assert "'default'" in message


def test_two_postgres_databases_of_one_name_on_two_servers_are_two(tmp_path: Path) -> None:
    """Told without connecting, as nobody is at home at either."""
    project = Scratch(
        tmp_path,
        """
        DATABASES["default"] = queue_database("postgres:///jobs?host=/first")
        DATABASES["queue"] = queue_database("postgres:///jobs?host=/second")
        """,
    )
    assert found(project.run("check")) == []


def test_an_in_memory_queue_is_told(tmp_path: Path) -> None:
    name = "file:queue?mode=memory&cache=shared"
    project = Scratch(
        tmp_path, f'DATABASES["queue"] = queue_database("queue") | {{"NAME": "{name}"}}'
    )
    message = only(found(project.run(*BOTH)), "djjp.E005")
    assert name in message
    assert "queue_database(BASE_DIR / 'queue.sqlite3')" in message


def test_two_databases_in_memory_are_not_taken_for_one(tmp_path: Path) -> None:
    project = Scratch(
        tmp_path,
        """
        DATABASES["default"]["NAME"] = ":memory:"
        DATABASES["queue"] = queue_database(":memory:")
        """,
    )
    only(found(project.run(*BOTH)), "djjp.E005")


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


MYSQL = """
from django.db.backends.sqlite3.base import DatabaseWrapper as Base

class DatabaseWrapper(Base):
    vendor = "mysql"
"""


def test_an_engine_that_djjp_cannot_claim_on_is_told(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'DATABASES["queue"]["ENGINE"] = "scratch_engine"')
    project.app("scratch_engine", base=MYSQL)
    message = only(found(project.run(*BOTH)), "djjp.E007")
    assert "'mysql'" in message
    assert "SQLite and PostgreSQL" in message


@pytest.fixture
def without_psycopg(tmp_path: Path) -> Path:
    """A folder that, on the path of a process, keeps every psycopg from being imported there."""
    folder = tmp_path / "blocked"
    for module in ("psycopg", "psycopg2"):
        package = folder / module
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise ModuleNotFoundError({module!r})")
    return folder


def test_a_missing_driver_is_told_with_the_extra_that_brings_it(
    tmp_path: Path, without_psycopg: Path
) -> None:
    project = Scratch(
        tmp_path,
        f"""
        import sys
        sys.path.insert(0, {str(without_psycopg)!r})
        """,
    )
    done = project.run("check", DJJP_DATABASE_URL="postgres://ann@db.example/jobs")
    if django.VERSION >= (6, 1):
        # Its own checks of models load each backend, and raise before others are heard.
        assert "Error loading psycopg" in done.stderr
        return
    message = only(found(done), "djjp.E007")
    assert "psycopg" in message
    assert "pip install 'djjp[postgres]'" in message


def test_an_sqlite_queue_needs_no_postgres_driver(tmp_path: Path, without_psycopg: Path) -> None:
    project = Scratch(tmp_path, f"import sys\nsys.path.insert(0, {str(without_psycopg)!r})")
    assert found(project.run(*BOTH)) == []


def test_a_queue_that_is_part_of_each_request_is_told(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'DATABASES["queue"]["ATOMIC_REQUESTS"] = True')
    message = only(found(project.run(*BOTH)), "djjp.E008")
    assert "Remove ATOMIC_REQUESTS from DATABASES['queue']" in message


def test_an_application_may_have_atomic_requests(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'DATABASES["default"]["ATOMIC_REQUESTS"] = True')
    assert found(project.run(*BOTH)) == []


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    url = f"postgres:///jobs?host={tmp_path}"
    message = only(found(Scratch(tmp_path).run(*BOTH, DJJP_DATABASE_URL=url)), "djjp.E010")
    assert "'queue'" in message


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    project = Scratch(
        tmp_path, 'DATABASES["queue"] = queue_database(HOME / "nowhere" / "q.sqlite3")'
    )
    message = only(found(project.run(*BOTH)), "djjp.E010")
    assert "'queue'" in message


def test_a_server_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number alone is played: no test can count on a server that old."""
    monkeypatch.setitem(connections["postgresql"].__dict__, "pg_version", 13_00_23)
    with override_settings(DJJP={"db_name": "postgresql"}):
        [message] = reported(["postgresql"])
    assert message.id == "djjp.E006"
    assert "PostgreSQL 14 or newer" in message.msg
    assert "13" in message.msg


def test_an_sqlite_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number alone is played, for Python carries one SQLite only."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr("sqlite3.sqlite_version", "3.34.1")
    with override_settings(DJJP={"db_name": "sqlite"}):
        [message] = reported(["sqlite"])
    assert message.id == "djjp.E006"
    assert "SQLite 3.35 or newer" in message.msg
    assert "3.34.1" in message.msg


def reported(databases: Iterable[str]) -> list[checks.CheckMessage]:
    """What djjp's own checks say in this process."""
    messages = checks.run_checks(tags=["djjp"], databases=[*databases])
    for message in messages:
        assert isinstance(message, checks.Error)
        assert str(message.id).startswith("djjp.")
        assert message.hint
    return messages


def test_the_databases_of_these_tests_have_no_problem(engine: Engine) -> None:
    assert reported([engine.db.alias, "default"]) == []
    assert list(djjp.engine.current().requirements.configuration_problems()) == []
    assert list(djjp.engine.current().requirements.server_problems()) == []


def test_only_the_database_that_is_asked_for_is_connected_to(tmp_path: Path) -> None:
    """`check --database default` goes through while the queue's server is down."""
    done = Scratch(tmp_path).run(
        "check", "--database", "default", DJJP_DATABASE_URL=f"postgres:///jobs?host={tmp_path}"
    )
    assert found(done) == []


# Jobs

SHIP = """
from djjp import job

@job(name="ship")
def {function}(order): ...
"""


def test_two_jobs_of_one_name_are_told_by_both_functions(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'INSTALLED_APPS += ["shop", "depot"]')
    project.app("shop", jobs=SHIP.format(function="ship_parcel"))
    project.app("depot", jobs=SHIP.format(function="ship_pallet"))
    message = only(found(project.run(*BOTH)), "djjp.E009")
    assert "'ship'" in message
    assert "shop.jobs.ship_parcel" in message
    assert "depot.jobs.ship_pallet" in message


def test_two_jobs_of_one_name_in_one_module_are_told_too(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'INSTALLED_APPS += ["shop"]')
    project.app("shop", jobs=SHIP.format(function="ship_once") + SHIP.format(function="ship_twice"))
    message = only(found(project.run(*BOTH)), "djjp.E009")
    assert "shop.jobs.ship_once" in message
    assert "shop.jobs.ship_twice" in message


def test_a_consumer_refuses_to_start_on_what_a_check_finds(tmp_path: Path) -> None:
    project = Scratch(tmp_path, "DATABASE_ROUTERS = []")
    done = project.run("start_consumer", "--drain")
    assert done.returncode == 1
    assert "djjp.E003" in done.stderr
    assert "Traceback" not in done.stderr


# Every check at once


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    project = Scratch(
        tmp_path,
        """
        DATABASES["queue"] = queue_database(HOME / "application.sqlite3")
        DATABASES["queue"]["ATOMIC_REQUESTS"] = True
        DATABASE_ROUTERS = []
        """,
    )
    assert sorted(id for id, _ in found(project.run(*BOTH))) == [
        "djjp.E003",
        "djjp.E004",
        "djjp.E008",
    ]
