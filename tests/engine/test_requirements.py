"""Storage: PostgreSQL removes dead rows long before they are a fifth of a large table, and compresses no entry."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

import djjp.engine
from djjp.databases import queue_database
from djjp.models import Job
from tests.support.databases import QUEUES
from tests.support.postgres import postgres_database
from tests.support.projects import alias_for


def options(alias: str) -> set[str]:
    """Return the storage parameters of the table of jobs."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'djjp_job'")
        return set(cursor.fetchone()[0] or [])


def storage_of_figures(alias: str) -> str:
    """Return how the server stores the text of an entry of the totals."""
    with connections[alias].cursor() as cursor:
        cursor.execute(
            """SELECT CASE attstorage WHEN 'e' THEN 'EXTERNAL' ELSE attstorage::text END FROM pg_attribute
            WHERE attrelid = 'djjp_total_entry'::regclass AND attname = 'figures'"""
        )
        (storage,) = cursor.fetchone()
        return str(storage)


@pytest.mark.skipif("postgresql" not in QUEUES, reason="there is no PostgreSQL")
def test_migrating_sets_the_storage_parameters_also_a_second_time(
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
        assert storage_of_figures(alias) == "EXTERNAL"
        call_command("migrate", "djjp", "zero", database=alias, verbosity=0)
        call_command("migrate", database=alias, verbosity=0)
        assert len(options(alias)) == 2
        assert storage_of_figures(alias) == "EXTERNAL"


@pytest.mark.skipif("sqlite" not in QUEUES, reason="only PostgreSQL is tested")
def test_sqlite_has_no_storage_parameters(tmp_path: Path) -> None:
    config = queue_database(tmp_path / "queue.sqlite3")
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        call_command("migrate", database=alias, verbosity=0)
        assert djjp.engine.for_alias(alias).requirements.storage_parameters() == []
        call_command("migrate", "djjp", "zero", database=alias, verbosity=0)
        call_command("migrate", database=alias, verbosity=0)
        assert Job.objects.using(alias).count() == 0, "the table is there"
