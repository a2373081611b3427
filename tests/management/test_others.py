"""The documents of `schedules`, `pause`, `resume`, `prune`, `migrate`, `backup`, `transfer` and `outbox`."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import override_settings

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Job, Schedule
from djjp.outbox.models import OutboxJob
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add, echo
from tests.support.projects import alias_for
from tests.support.schedules import by_hand

NOBODY = "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722"


def test_a_schedule_is_run_disabled_and_enabled(engine: Engine, djjp: Djjp) -> None:
    by_hand(echo.name, time.time(), name="often", every=timedelta(minutes=5))
    (listed,) = djjp("schedules", "--json").document("Schedules")["schedules"]
    assert (listed["name"], listed["job"], listed["every"]) == ("often", echo.name, 300.0)
    assert listed["next_at"]

    job = djjp("schedules", "run", "often", "--json").document("WholeJob")
    assert Job.objects.get(pk=job["id"]).name == echo.name
    assert djjp("schedules", "disable", "often").out == "often is disabled\n"
    assert djjp("schedules", "disable", "often").out == "often was disabled already\n"
    assert not Schedule.objects.get().enabled
    (listed,) = djjp("schedules", "enable", "often", "--json").document("Schedules")["schedules"]
    assert listed["enabled"]


def test_a_schedule_that_cannot_run_is_a_conflict(engine: Engine, djjp: Djjp) -> None:
    by_hand(add.name, time.time(), name="no argument", every=timedelta(minutes=5))
    ran = djjp("schedules", "run", "no argument", "--json")
    assert ran.code == 1
    assert ran.document("Failure")["error"]["slug"] == "conflict"


def test_pauses_have_their_document(engine: Engine, djjp: Djjp) -> None:
    (paused,) = djjp("pause", "mail", "--for", "60", "--json").document("Pauses")["queues"]
    assert paused["paused"]
    assert paused["paused_until"]
    (resumed,) = djjp("resume", "mail", "--json").document("Pauses")["queues"]
    assert resumed == {"name": "mail", "paused": False, "paused_until": None}


def test_commands_of_the_tables_have_their_documents(
    engine: Engine, djjp: Djjp, tmp_path: Path
) -> None:
    assert djjp("prune", "--json").document("Prune") == {"pruned": 0}
    alias = engine.db.alias
    assert djjp("migrate", "--json").document("Migrate") == {"database": alias, "migrated": True}
    ran = djjp("transfer", alias, alias, "--json")
    assert ran.code == 1
    assert ran.document("Failure")["error"]["slug"] == "failed"


@pytest.mark.sqlite_only
def test_a_backup_has_its_document(engine: Engine, djjp: Djjp, tmp_path: Path) -> None:
    target = str(tmp_path / "copy.sqlite3")
    assert djjp("backup", target, "--json").document("Backup") == {"file": target}


def test_outboxes_have_their_document(engine: Engine, djjp: Djjp) -> None:
    key = "01a20ea130c578999bf1a6a7d8c6d723"
    then = to_datetime(time.time() - 60)
    OutboxJob.objects.create(id=key, job="{}", created_at=then, problem="odd")
    document = djjp("outbox", "--json").document("Outboxes")
    assert document["outboxes"] == [{"alias": "default", "waiting": 0}]
    assert "outbox of default: 0 jobs wait for their relay\n" in djjp("outbox").out
    (aside,) = document["set_aside"]
    assert (aside["alias"], aside["problem"]) == ("default", "odd")
    assert djjp("outbox", "--delete", aside["id"], "--json").document("Outboxes")["deleted"] == [
        aside["id"]
    ]
    ran = djjp("outbox", "--retry", aside["id"], "--json")
    assert ran.code == 3
    assert ran.document("Failure")["error"]["slug"] == "job-not-found"


@pytest.mark.one_database
def test_an_outbox_without_its_table_is_named_with_the_command_that_creates_it(
    engine: Engine, djjp: Djjp, tmp_path: Path
) -> None:
    config = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "stock.sqlite3")}
    with alias_for(config) as alias, _outbox_on(engine, alias):
        ran = djjp("outbox", "--json")
        assert ran.code == 1
        error = ran.document("Failure")["error"]
        assert error["slug"] == "misconfigured"
        assert error["detail"].startswith(f"the database {alias!r} lacks migrations of djjp_outbox")
        assert f"python manage.py migrate --database={alias}" in error["detail"]
        _require_not_the_queues(djjp, alias, f"migrate --database={alias}")


@pytest.mark.one_database
def test_an_outbox_that_does_not_answer_is_not_taken_for_the_queue(
    engine: Engine, djjp: Djjp, tmp_path: Path
) -> None:
    config = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "no" / "stock")}
    with alias_for(config) as alias, _outbox_on(engine, alias):
        for words in (["outbox"], ["show", NOBODY], ["cancel", NOBODY]):
            ran = djjp(*words, "--json")
            assert ran.code == 1
            error = ran.document("Failure")["error"]
            assert error["slug"] == "failed"
            assert error["detail"].startswith(f"the outbox of {alias!r} ")
            assert error["detail"].endswith("unable to open database file")


def _outbox_on(engine: Engine, alias: str) -> override_settings:
    return override_settings(DJJP={"db_name": engine.db.alias, "outbox": [alias]})


def _require_not_the_queues(djjp: Djjp, alias: str, remedy: str) -> None:
    for verb in ("show", "cancel"):
        ran = djjp(verb, NOBODY, "--json")
        assert ran.code == 1
        error = ran.document("Failure")["error"]
        assert error["slug"] == "failed"
        assert f"the outbox of {alias!r} cannot be used: no such table" in error["detail"]
        assert remedy in error["detail"]


@pytest.mark.one_database
def test_a_watched_status_has_no_single_document(djjp: Djjp) -> None:
    ran = djjp("status", "--watch", "--json")
    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == "usage"
