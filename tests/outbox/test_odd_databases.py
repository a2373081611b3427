"""Application databases with unusual settings: handled, or refused by a check that names the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connections, transaction
from django.test import override_settings

from djjp.engine import Engine
from djjp.models import Job
from djjp.outbox.models import OutboxJob
from tests.management.conftest import run
from tests.outbox.conftest import Application, queued, waiting
from tests.outbox.test_relay import leave
from tests.outbox.test_sweeper import sweeping
from tests.project.shop.jobs import add
from tests.support.processes import eventually
from tests.support.projects import Scratch, alias_for


@contextmanager
def changed(application: Application, engine: Engine, **settings: Any) -> Iterator[str]:
    """Another alias of an application's database, with other settings."""
    with (
        alias_for(application.entry | settings) as alias,
        override_settings(DJJP={"db_name": engine.db.alias, "outbox": [alias]}),
    ):
        yield alias


def test_without_autocommit_a_job_commits_with_the_data_and_is_swept(
    engine: Engine, application: Application
) -> None:
    with changed(application, engine, AUTOCOMMIT=False) as alias:
        connection = connections[alias]
        with sweeping([alias]):
            lost = add.run_later(1)
            with transaction.atomic(alias):
                add.run_later(2)
            connection.rollback()
            handle = add.run_later(3)
            with transaction.atomic(alias):
                other = add.run_later(4)
            assert connection.run_on_commit == []
            connection.commit()
            eventually(lambda: queued() == [handle.id, other.id])
            eventually(lambda: application.waiting() == 0)
        assert lost.id not in queued()


def test_commands_commit_what_they_write_into_an_outbox_without_autocommit(
    engine: Engine, application: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = OutboxJob.objects.using(application.alias)
    deleted, retried, cancelled = leave(3, application.alias)
    rows.filter(pk__in=[deleted, retried]).update(problem="refused")
    with changed(application, engine, AUTOCOMMIT=False) as alias:
        for words in (
            ("outbox", "--delete", str(deleted)),
            ("outbox", "--retry", str(retried)),
            ("cancel", str(cancelled)),
        ):
            assert run(capsys, *words).code == 0
            connections[alias].close()  # as a process does that ends
        assert list(rows.values_list("pk", "problem")) == [(retried, None)]
        assert list(Job.objects.values_list("pk", "state")) == [(cancelled, "cancelled")]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_higher_isolation_loses_no_job(
    engine: Engine, on_postgres: Application, level: str
) -> None:
    options = on_postgres.entry["OPTIONS"] | {
        "options": f"-c default_transaction_isolation={level.replace(' ', chr(92) + ' ')}"
    }
    with changed(on_postgres, engine, OPTIONS=options) as alias:
        with connections[alias].cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            assert cursor.fetchone() == (level,)
        with sweeping([alias]):
            handles = []
            for number in range(20):
                with transaction.atomic(alias):
                    list(
                        OutboxJob.objects.using(alias).values_list("pk")
                    )  # read what others delete
                    handles.append(add.run_later(number))
                with transaction.atomic(alias):
                    handles[-1].cancel()
            eventually(lambda: set(queued()) == {handle.id for handle in handles})
            eventually(lambda: on_postgres.waiting() == 0)


def ids(messages: Any) -> list[str]:
    return [message.id for message in messages]


@pytest.mark.parametrize("name", ["djjp.outbox", "djjp.outbox.apps.OutboxConfig"])
def test_an_outbox_in_the_schemas_of_tenants_is_refused(engine: Engine, name: str) -> None:
    with override_settings(TENANT_APPS=["shop", name]):
        (message,) = run_checks(tags=["djjp"])
    assert message.id == "djjp.E020"
    assert message.hint == (
        "Move 'djjp.outbox' from TENANT_APPS to SHARED_APPS; see docs/trouble.md#djjpe020"
    )

    types = {"public": {"APPS": [name]}, "shop": {"APPS": ["shop"]}}
    with override_settings(TENANT_TYPES=types):
        assert run_checks(tags=["djjp"]) == []
    types["shop"]["APPS"].append(name)
    with override_settings(TENANT_TYPES=types):
        assert ids(run_checks(tags=["djjp"])) == ["djjp.E020"]


def test_a_queue_of_its_own_can_be_an_app_of_tenants(engine: Engine) -> None:
    """Its router keeps its tables out of their database."""
    with override_settings(TENANT_APPS=["djjp"]):
        assert run_checks(tags=["djjp"]) == []
        with override_settings(TENANT_DB_ALIAS=engine.db.alias):
            assert ids(run_checks(tags=["djjp"])) == ["djjp.E020"]


def test_outboxes_in_several_schemas_are_refused(
    engine: Engine, on_postgres: Application, caplog: pytest.LogCaptureFixture
) -> None:
    databases = [on_postgres.alias]
    assert run_checks(tags=["djjp"], databases=databases) == []
    with connections[on_postgres.alias].cursor() as cursor:
        cursor.execute("CREATE SCHEMA tenant")
        cursor.execute("CREATE TABLE tenant.djjp_outbox (LIKE djjp_outbox)")
    (message,) = run_checks(tags=["djjp"], databases=databases)
    assert message.id == "djjp.E021"
    assert "public, tenant" in message.msg
    with sweeping(databases) as sweeper:
        assert sweeper.first_pass_done.wait(30)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "djjp.outbox"]
    assert line.startswith("djjp.E021: the outbox of ")


def test_a_database_that_is_away_keeps_no_consumer_from_its_start(
    engine: Engine, tmp_path: Path
) -> None:
    nowhere = {"ENGINE": "django.db.backends.postgresql", "HOST": str(tmp_path), "NAME": "app"}
    with (
        alias_for(nowhere) as alias,
        override_settings(DJJP={"db_name": engine.db.alias, "outbox": [alias]}),
    ):
        assert run_checks(tags=["djjp"], databases=[alias]) == []


def test_a_queue_without_autocommit_is_refused(engine: Engine) -> None:
    entry = connections.settings[engine.db.alias]
    with (
        alias_for({**entry, "NAME": f"{entry['NAME']}_2", "AUTOCOMMIT": False}) as alias,
        override_settings(DJJP={"db_name": alias}, DATABASE_ROUTERS=["djjp.routers.QueueRouter"]),
    ):
        assert ids(run_checks(tags=["djjp"])) == ["djjp.E022"]


REPLACED = """
from django.core.management.commands.migrate import Command as Migrate


class Command(Migrate):
    def handle(self, *args, **options):
        if options["database"] != "default":
            raise AttributeError("no attribute 'set_schema'")  # as the migrate of django-tenants
        super().handle(*args, **options)
"""


@pytest.mark.end_to_end
def test_the_queue_is_migrated_where_an_app_has_replaced_migrate(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 'INSTALLED_APPS = ["tenants", *INSTALLED_APPS]')
    scratch.app("tenants")
    scratch.write("tenants/management/__init__.py", "")
    scratch.write("tenants/management/commands/__init__.py", "")
    scratch.write("tenants/management/commands/migrate.py", REPLACED)

    refused = scratch.run("start_consumer", "--drain")
    assert ": python manage.py djjp migrate" in refused.stderr
    assert "set_schema" in scratch.run("migrate", "--database=queue").stderr
    made = scratch.run("djjp", "migrate")
    assert (made.returncode, made.stderr) == (0, "")
    assert "djjp.0001_initial... OK" in made.stdout

    drained = scratch.run("start_consumer", "--drain")
    assert drained.returncode == 0, drained.stderr
    assert waiting() == []
