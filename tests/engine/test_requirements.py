"""How the tables are stored: PostgreSQL removes what is dead long before it is a fifth of a large table."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

import djjp.engine
from djjp.databases import queue_database
from djjp.models import Job
from tests.conftest import QUEUES
from tests.support.postgres import postgres_database
from tests.support.projects import alias_for


def options(alias: str) -> set[str]:
    """How the table of jobs is stored, where that is not as usual."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'djjp_job'")
        return set(cursor.fetchone()[0] or [])


@pytest.mark.skipif("postgresql" not in QUEUES, reason="there is no PostgreSQL")
def test_migrating_sets_when_the_table_of_jobs_is_vacuumed_also_a_second_time(
    postgres_url: str,
) -> None:
    with (
        postgres_database(postgres_url) as url,
        alias_for(queue_database(url)) as alias,
        override_settings(DJJP={"db_name": alias}),
    ):
        call_command("migrate", database=alias, verbosity=0)
        assert options(alias) == {
            "autovacuum_vacuum_scale_factor=0.01",
            "autovacuum_vacuum_threshold=1000",
        }
        call_command("migrate", "djjp", "zero", database=alias, verbosity=0)
        call_command("migrate", database=alias, verbosity=0)
        assert len(options(alias)) == 2


@pytest.mark.skipif("sqlite" not in QUEUES, reason="only PostgreSQL is tested")
def test_sqlite_has_nothing_to_set(tmp_path: Path) -> None:
    config = queue_database(tmp_path / "queue.sqlite3")
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        call_command("migrate", database=alias, verbosity=0)
        assert djjp.engine.for_alias(alias).requirements.storage_parameters() == []
        call_command("migrate", "djjp", "zero", database=alias, verbosity=0)
        call_command("migrate", database=alias, verbosity=0)
        assert Job.objects.using(alias).count() == 0, "the table is there"
