"""Unapplied migrations: named by the checks, and by each command that needs the tables."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine
from djjp.unapplied import unapplied
from tests.support.projects import Scratch

OUTBOX = 'INSTALLED_APPS += ["djjp.outbox"]'


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project whose databases are migrated, with the outbox."""
    project = Scratch(tmp_path_factory.mktemp("migrated"), OUTBOX)
    for alias in ("queue", "default"):
        assert project.run("migrate", f"--database={alias}", "-v0").returncode == 0
    return project.home


@pytest.fixture
def project(tmp_path: Path, migrated: Path) -> Scratch:
    """Return a project of its own for the test, with copies of the migrated databases."""
    shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
    return Scratch(tmp_path, OUTBOX)


def add_migrations(project: Scratch) -> None:
    """Let the code come with migrations that are not applied, as a newer version's does."""
    for name, package in {
        "djjp": "djjp.migrations",
        "djjp_outbox": "djjp.outbox.migrations",
    }.items():
        project.write(f"newer_{name}/__init__.py", "")
        project.write(
            f"newer_{name}/0001_initial.py",
            f"""
            from importlib import import_module

            Migration = import_module("{package}.0001_initial").Migration
            """,
        )
        project.write(
            f"newer_{name}/0002_more.py",
            f"""
            from django.db import migrations

            class Migration(migrations.Migration):
                dependencies = [("{name}", "0001_initial")]
            """,
        )
    with (project.home / "scratch_settings.py").open("a") as settings:
        settings.write(
            '\nMIGRATION_MODULES = {"djjp": "newer_djjp", "djjp_outbox": "newer_djjp_outbox"}\n'
        )


@pytest.mark.end_to_end
def test_newer_code_is_named_the_migrations_that_it_needs_and_the_command(project: Scratch) -> None:
    add_migrations(project)

    checked = project.run("check", "--database", "queue", "--database", "default")
    started = [
        project.run("start_consumer", "--drain"),
        project.run("start_consumer", "--drain", "--processes", "2"),
    ]
    shown = project.run("djjp", "status")

    assert checked.stderr.count("djjp.W002") == 2
    for alias, app in {"queue": "djjp", "default": "djjp_outbox"}.items():
        assert f"the database {alias!r} lacks migrations of {app}: 0002_more\n" in checked.stderr
        assert f"Run: python manage.py migrate --database={alias}; see docs/" in checked.stderr
    for done in [*started, shown]:
        assert done.returncode == 1
        assert done.stderr.strip().count("\n") == 0
        assert "lacks migrations of djjp (0002_more)" in done.stderr
        assert "python manage.py migrate --database=queue" in done.stderr


@pytest.mark.end_to_end
def test_migrate_runs_and_after_it_the_consumer_starts(project: Scratch) -> None:
    add_migrations(project)

    migrated = project.run("migrate", "--database=queue")
    started = project.run("start_consumer", "--drain")

    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert started.returncode == 0
    assert "the database 'default' lacks migrations of djjp_outbox (0002_more)" in started.stderr


@pytest.mark.end_to_end
def test_older_code_starts_on_a_queue_that_is_newer(project: Scratch) -> None:
    """As the consumers of the last version do, while a deployment is under way."""
    with closing(sqlite3.connect(project.home / "queue.sqlite3", isolation_level=None)) as queue:
        queue.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('djjp', '0002_more', '')"
        )

    done = project.run("start_consumer", "--drain", "-v", "0")

    assert (done.returncode, done.stderr) == (0, "")


def test_a_queue_without_tables_is_reported_too(tmp_path: Path) -> None:
    done = Scratch(tmp_path).run("start_consumer", "--drain")

    assert done.returncode == 1
    assert "lacks migrations of djjp (0001_initial)" in done.stderr


@pytest.mark.end_to_end
def test_a_queue_that_was_forgotten_is_reported_and_a_new_project_is_not(tmp_path: Path) -> None:
    project = Scratch(tmp_path)
    assert "no issues" in project.run("check", "--database", "queue").stdout
    project.run("migrate", "-v0")

    checked = project.run("check", "--database", "queue")

    assert "the database 'queue' lacks migrations of djjp: 0001_initial\n" in checked.stderr


@pytest.mark.end_to_end
def test_migrations_that_are_recorded_without_their_tables_are_named_with_the_commands_that_create_them(
    project: Scratch,
) -> None:
    """As after `migrate` on an alias that was not the queue's then."""
    with (project.home / "scratch_settings.py").open("a") as settings:
        settings.write('\ndel DATABASES["queue"]\nDJJP = {"db_name": "default"}\n')

    checked = project.run("check", "--database", "default")
    shown = project.run("djjp", "status", "--json")
    refused = project.run("start_consumer", "--drain")

    assert checked.stderr.count("djjp.W002") == 1
    said = "the database 'default' has no table of djjp, although its migrations are recorded as applied"
    for done in (shown, refused):
        assert done.returncode == 1
        assert done.stderr.strip().count("\n") == 0
        assert said in done.stderr
    assert '"misconfigured"' in shown.stdout
    commands = shown.stderr.partition("create the tables: ")[2].strip().split(" && ")
    assert len(commands) == 2
    for command in commands:
        assert f"{command}" in checked.stderr
        python, manage, *words = command.split()
        assert (python, manage) == ("python", "manage.py")
        assert project.run(*words).returncode == 0
    assert project.run("djjp", "status").returncode == 0


def test_it_costs_one_query_beside_the_look_for_the_table(engine: Engine) -> None:
    with CaptureQueriesContext(connections[engine.db.alias]) as queries:
        assert unapplied(engine.db.alias, "djjp") == []
    assert len(queries) <= 2


def test_a_project_can_switch_migrations_off(engine: Engine) -> None:
    for module in (None, "nowhere.migrations"):
        with override_settings(MIGRATION_MODULES={"djjp": module}):
            assert unapplied(engine.db.alias, "djjp") == []


def test_a_squashed_migration_stands_for_those_that_it_replaces(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "squashed_djjp"
    package.mkdir()
    (package / "__init__.py").write_text("")
    migration = "from django.db import migrations\nclass Migration(migrations.Migration):\n    replaces = {}\n"
    (package / "0001_squashed.py").write_text(migration.format([("djjp", "0001_initial")]))
    (package / "0002_other.py").write_text(migration.format([("djjp", "0001_gone")]))
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(MIGRATION_MODULES={"djjp": "squashed_djjp"}):
        assert unapplied(engine.db.alias, "djjp") == ["0002_other"]
    for name in [name for name in sys.modules if name.startswith("squashed_djjp")]:
        del sys.modules[name]
