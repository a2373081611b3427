"""Tables of each release from 0.2.0 on, filled by its code, are migrated, read and run by the code of today."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.test import Client, override_settings

import djjp
from djjp import get_job, queues, tokens
from djjp.engine import Engine
from djjp.jobs import JobHandle
from djjp.models import Job, Schedule, State
from djjp.testing import drain
from tests.support.consumers import consuming
from tests.support.processes import eventually
from tests.upgrade.fill import TOKEN
from tests.upgrade.tables import ALIAS, HERE, load, names, new_database

RELEASES = sorted(path.name for path in HERE.glob("*.*.*"))
CENTURIES_LATER, PAUSED = '{"args":[3,3],"kwargs":{}}', "upgrade-paused"


@contextmanager
def loaded(release: str, vendor: str, kind: str, folder: Path) -> Iterator[None]:
    """Load a fixture into a new database, which has the alias `upgrade` during the block."""
    server = os.environ.get("DJJP_TEST_SERVER_URL", "")
    with new_database(vendor, folder, server) as place:
        load(vendor, place, (HERE / release / f"{vendor}-{kind}.sql").read_text())
        yield


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def queue(engine: Engine, release: str, tmp_path: Path) -> Iterator[None]:
    """Make the migrated fixture the queue in force."""
    with (
        loaded(release, engine.db.alias, "queue", tmp_path),
        override_settings(DJJP={"db_name": ALIAS}),
    ):
        call_command("migrate", database=ALIAS, verbosity=0)
        yield


@pytest.fixture
def admin() -> Iterator[Client]:
    """Return a client of a superuser."""
    client = Client()
    client.force_login(User.objects.create_superuser("upgrade"))
    yield client
    User.objects.all().delete()
    Session.objects.all().delete()


def jobs(name: str, *states: str) -> list[JobHandle]:
    """Return the handles of the jobs of a name in some states, in the order of their enqueues."""
    found = Job.objects.filter(name=f"upgrade.{name}", state__in=states).order_by("id")
    return [get_job(job.pk) for job in found]


# The fixtures


def test_this_version_has_a_fixture() -> None:
    """A version that is not released yet has one too: it is made anew until then, by `make fixture`."""
    assert djjp.__version__ in RELEASES


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
@pytest.mark.parametrize("kind", ["queue", "outbox"])
def test_a_fixture_has_rows_in_each_table_and_no_name_of_the_machine_that_made_it(
    release: str, vendor: str, kind: str
) -> None:
    text = (HERE / release / f"{vendor}-{kind}.sql").read_text()
    tables = set(re.findall(r'^CREATE TABLE (?:public\.)?"?(djjp_\w+)', text, re.MULTILINE))
    filled = set(re.findall(r'^INSERT INTO (?:public\.)?"?(djjp_\w+)', text, re.MULTILINE))

    assert len(tables) == {"queue": 19, "outbox": 1}[kind] or release != "0.2.0"
    assert filled == tables
    assert set(re.findall(r'File "([^"]+)"', text)) <= {"/srv/project/tests/upgrade/jobs.py"}


# The queue


def test_the_migrated_tables_are_those_of_a_new_database(queue: None, engine: Engine) -> None:
    tables = names(ALIAS)

    assert tables == names(engine.db.alias), (
        "a migration that this release has was changed: write one of its own, or, if the release is not out, "
        "run `make fixture`"
    )
    assert len(tables) >= 19


def test_all_checks_pass(queue: None) -> None:
    call_command("check", databases=[ALIAS], fail_level="WARNING")


def test_what_has_ended_is_read(queue: None) -> None:
    added, *_ = jobs("add", "succeeded")
    (failed,) = [job for job in jobs("fail", "failed") if job.attempts == 1]

    assert added.join(timeout=0) == 3
    assert failed.errors[0].message == "ended"
    assert "raise ValueError(text)" in failed.errors[0].traceback
    assert len(jobs("add", "cancelled")) == 2
    assert PAUSED in queues.paused()
    token = tokens.authenticate(TOKEN)
    assert token is not None
    assert token.scope == "operate"


def test_each_page_of_the_admin_answers(queue: None, admin: Client) -> None:
    pages = ["", "job/", "consumer/", "schedule/", "incident/"]
    pages += [f"job/{pk}/change/" for pk in Job.objects.values_list("pk", flat=True)]
    codes = {page: admin.get(f"/admin/djjp/{page}").status_code for page in pages}

    assert codes == dict.fromkeys(pages, 200)


def test_what_was_left_runs_with_the_code_of_today(queue: None) -> None:
    (total,) = jobs("total", "blocked")
    (dead,) = jobs("add", "running")
    left = [job for name in ("limited", "unique", "over_http") for job in jobs(name, "ready")]
    schedule = Schedule.objects.get(name="upgrade.nightly")

    with consuming():
        assert total.join(timeout=60) == 10 + 11 + 12
        assert dead.join(timeout=60) == 101
        assert [job.join(timeout=60) for job in left] == ["limited", "limited", 7, 17]
        eventually(lambda: jobs("nightly", "succeeded"), within=60)

    assert Schedule.objects.get(pk=schedule.pk).fired_until > schedule.fired_until
    assert Job.objects.get(queue=PAUSED).state == State.READY
    assert Job.objects.get(arguments=CENTURIES_LATER).state == State.SCHEDULED


# The outbox


def test_a_job_of_the_outbox_reaches_the_queue(
    engine: Engine, release: str, tmp_path: Path
) -> None:
    with (
        loaded(release, engine.db.alias, "outbox", tmp_path),
        override_settings(DJJP={"db_name": engine.db.alias, "outbox": [ALIAS]}),
    ):
        call_command("migrate", "djjp_outbox", database=ALIAS, verbosity=0)

        drain()

        (job,) = jobs("add", "succeeded")
        assert job.join(timeout=0) == 505


@pytest.mark.parametrize("vendor", ["sqlite"])
def test_a_fixture_without_a_table_is_noticed(
    release: str, vendor: str, tmp_path: Path, sqlite_file: None
) -> None:
    with loaded(release, vendor, "outbox", tmp_path):
        assert list(names(ALIAS)) == ["djjp_outbox"]
        assert names(ALIAS) != names("sqlite")
