from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db import router
from django.db.models import Model
from django.test import override_settings

from djjp.engine import Engine
from djjp.models import Attempt, Job
from djjp.routers import QueueRouter
from tests.project.shop.models import Execution
from tests.support.postgres import postgres_database
from tests.support.projects import Scratch

OURS = list(apps.get_app_config("djjp").get_models())
OTHERS = [model for model in apps.get_models() if not model._meta.app_label.startswith("djjp")]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

by_name = pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)


@by_name
@pytest.mark.parametrize("alias", ["sqlite", "postgresql", "default"])
def test_every_queue_model_is_read_and_written_on_the_alias_of_the_setting(
    model: type[Model], alias: str
) -> None:
    with override_settings(DJJP={"db_name": alias}):
        assert router.db_for_read(model) == alias
        assert router.db_for_write(model) == alias
        assert model._default_manager.all().db == alias


def test_no_other_model_is_sent_to_the_queue() -> None:
    assert OTHERS
    for model in OTHERS:
        assert router.db_for_read(model) == "default"
        assert router.db_for_write(model) == "default"


def test_the_tables_of_each_go_to_their_own_database_only() -> None:
    with override_settings(DJJP={"db_name": "sqlite"}):
        for model in OURS:
            assert router.allow_migrate_model("sqlite", model)
            assert not router.allow_migrate_model("default", model)
            assert not router.allow_migrate_model("postgresql", model)
        for model in OTHERS:
            assert router.allow_migrate_model("default", model)
            assert not router.allow_migrate_model("sqlite", model)
            assert router.allow_migrate_model("postgresql", model), (
                "where others go is no matter of ours"
            )


def test_a_queue_kept_with_the_application_excludes_no_model() -> None:
    with override_settings(DJJP={"db_name": "default"}):
        for model in [*OURS, *OTHERS]:
            assert router.allow_migrate_model("default", model)
        for model in OURS:
            assert not router.allow_migrate_model("sqlite", model)


def test_migrations_without_a_model_go_by_their_app() -> None:
    with override_settings(DJJP={"db_name": "sqlite"}):
        assert router.allow_migrate("sqlite", "djjp", tidy=True)
        assert not router.allow_migrate("default", "djjp", tidy=True)
        assert not router.allow_migrate("sqlite", "shop", tidy=True)


def _job(alias: str | None = None) -> Job:
    job = Job(name="test.job", arguments="{}", created_at=NOW)
    job._state.db = alias
    return job


def test_a_row_read_with_using_keeps_to_the_database_it_came_from() -> None:
    with override_settings(DJJP={"db_name": "sqlite"}):
        elsewhere = _job("postgresql")
        assert router.db_for_write(Job, instance=elsewhere) == "postgresql"
        assert router.db_for_read(Attempt, instance=elsewhere) == "postgresql"
        assert elsewhere.failures.all().db == "postgresql"
        assert Job.objects.using("postgresql").db == "postgresql"
        assert router.db_for_write(Job, instance=_job()) == "sqlite"


def test_a_row_of_the_application_does_not_draw_a_queue_model_to_its_database() -> None:
    row = Execution(key="k", process=1, at=0.0)
    row._state.db = "default"
    with override_settings(DJJP={"db_name": "sqlite"}):
        assert router.db_for_read(Job, instance=row) == "sqlite"
        assert router.db_for_write(Attempt, instance=row) == "sqlite"


def _attempt(job: Job) -> Attempt:
    return Attempt(
        job=job, number=1, consumer="c", started_at=NOW, finished_at=NOW, exception_class="E"
    )


def test_rows_of_the_queue_relate_to_each_other(engine: Engine) -> None:
    job = Job.objects.create(name="test.job", arguments="{}", created_at=NOW)
    attempt = _attempt(job)
    attempt.save()
    assert job._state.db == attempt._state.db == engine.db.alias
    assert list(job.failures.all()) == [attempt]
    assert Attempt.objects.select_related("job").get().job == job


def test_rows_of_two_queues_do_not_relate() -> None:
    attempt = _attempt(_job("sqlite"))
    attempt._state.db = "sqlite"
    with pytest.raises(ValueError, match="router"):
        attempt.job = _job("postgresql")


def test_no_row_of_the_queue_relates_to_one_of_the_application() -> None:
    kind = ContentType(app_label="shop", model="execution")
    kind._state.db = "sqlite"  # not even if both came from one database
    assert router.allow_relation(_job("sqlite"), kind) is False
    assert router.allow_relation(kind, _job("sqlite")) is False


def test_relations_within_the_application_are_left_to_others() -> None:
    ours = QueueRouter()
    kind = ContentType(app_label="shop", model="execution")
    assert ours.allow_relation(kind, Execution()) is None
    assert ours.db_for_read(ContentType) is None
    assert ours.db_for_write(ContentType) is None
    assert ours.allow_migrate("default", "shop") is None


# migrate: the tables in the files and on the server


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in found if not name.startswith("sqlite_")}
    finally:
        connection.close()


APPLICATION = {
    "auth_user",
    "django_admin_log",
    "django_content_type",
    "django_session",
    "django_migrations",
}
QUEUE = {
    "djjp_job",
    "djjp_attempt",
    "djjp_consumer",
    "djjp_dependency",
    "djjp_queue",
    "djjp_relayed",
    "djjp_schedule",
    "djjp_occurrence",
    "djjp_rate_start",
    "djjp_tag",
    "djjp_transfer",
    "djjp_total",
    "djjp_total_entry",
    "djjp_depth",
    "djjp_idempotency_key",
    "djjp_incident",
    "djjp_operation",
    "djjp_release",
    "djjp_token",
}


@pytest.mark.end_to_end
def test_migrate_creates_in_each_file_its_own_tables_only(tmp_path: Path) -> None:
    project = Scratch(tmp_path)
    for command in (["migrate"], ["migrate", "--database=queue"]):
        done = project.run(*command, "--verbosity=0")
        assert done.returncode == 0, done.stderr
    application, queue = (
        tables(tmp_path / "application.sqlite3"),
        tables(tmp_path / "queue.sqlite3"),
    )
    assert queue == QUEUE | {"django_migrations"}
    assert application >= APPLICATION
    assert not {name for name in application if name.startswith("djjp")}


@pytest.mark.end_to_end
def test_the_order_of_the_two_migrations_does_not_matter(tmp_path: Path) -> None:
    project = Scratch(tmp_path)
    assert project.run("migrate", "--database=queue", "--verbosity=0").returncode == 0
    assert tables(tmp_path / "queue.sqlite3") == QUEUE | {"django_migrations"}
    assert tables(tmp_path / "application.sqlite3") == set()
    assert project.run("migrate", "--verbosity=0").returncode == 0
    assert not {n for n in tables(tmp_path / "application.sqlite3") if n.startswith("djjp")}


def test_migrate_creates_the_queues_tables_only_on_a_postgres_server(
    tmp_path: Path, postgres_url: str
) -> None:
    import psycopg

    project = Scratch(tmp_path)
    with postgres_database(beside=postgres_url) as url:
        done = project.run("migrate", "--database=queue", "--verbosity=0", DJJP_DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        with psycopg.connect(url) as looking:
            found = looking.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            assert {name for (name,) in found} == QUEUE | {"django_migrations"}
    assert not (tmp_path / "queue.sqlite3").exists()


@pytest.mark.end_to_end
def test_a_queue_on_the_default_alias_is_created_with_the_application(tmp_path: Path) -> None:
    project = Scratch(tmp_path, 'DATABASES.pop("queue")\nDJJP = {"db_name": "default"}\n')
    done = project.run("migrate", "--verbosity=0")
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path / "application.sqlite3") >= APPLICATION | QUEUE
    assert not (tmp_path / "queue.sqlite3").exists()


@pytest.mark.end_to_end
def test_a_queue_on_the_default_alias_needs_no_router(tmp_path: Path) -> None:
    project = Scratch(
        tmp_path, 'DATABASES.pop("queue")\nDATABASE_ROUTERS = []\nDJJP = {"db_name": "default"}\n'
    )
    assert project.run("migrate", "--verbosity=0").returncode == 0
    assert project.run("check", "--database", "default").returncode == 0
    assert tables(tmp_path / "application.sqlite3") >= APPLICATION | QUEUE
