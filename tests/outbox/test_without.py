"""Projects as users write them: with the app, without it, and with something wrong about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.projects import Scratch
from tests.test_checks import BOTH, found, only
from tests.test_routers import APPLICATION, QUEUE, tables

JOBS = """
from djjp import job

@job
def ship(order): ...
"""
WITHOUT = 'INSTALLED_APPS.append("shop")\n'
WITH = 'INSTALLED_APPS += ["djjp.outbox", "shop"]\n'
PRELUDE = """
import django
django.setup()
from django.db import connections, transaction
from django.test import TestCase
from djjp.exceptions import JobDoesNotExist, QueueUnavailable
from djjp.models import Job
from shop.jobs import ship
"""


def project(home: Path, settings: str) -> Scratch:
    scratch = Scratch(home, settings)
    scratch.app("shop", jobs=JOBS)
    return scratch


def migrated(scratch: Scratch) -> Scratch:
    for command in (["migrate"], ["migrate", "--database=queue"]):
        done = scratch.run(*command, "--verbosity=0")
        assert done.returncode == 0, done.stderr
    return scratch


def runs(scratch: Scratch, program: str) -> str:
    done = scratch.python("-c", PRELUDE + program)
    assert done.returncode == 0, done.stderr
    return done.stderr


# Without the app


def test_without_the_app_a_job_waits_for_the_commit(tmp_path: Path) -> None:
    runs(
        migrated(project(tmp_path, WITHOUT)),
        """
with transaction.atomic():
    handle = ship.run_later(1)
    assert handle.state == "ready"
    try:
        handle.refresh()
    except JobDoesNotExist:
        pass
    else:
        raise AssertionError("it is nowhere yet")
    try:
        with transaction.atomic():
            ship.run_later(2)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
assert [job.pk for job in Job.objects.all()] == [handle.id]
handle.refresh()
try:
    with transaction.atomic():
        ship.run_later(3)
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert Job.objects.count() == 1
""",
    )


def test_without_the_app_one_whose_unique_key_is_held_comes_in_cancelled(tmp_path: Path) -> None:
    runs(
        migrated(project(tmp_path, WITHOUT)),
        """
one = ship.using(unique_key="order-{order}")
with transaction.atomic():
    first, other, second = one.run_later(1), one.run_later(2), one.run_later(1)
for handle in (first, other, second):
    handle.refresh()
assert (first.state, other.state, second.state) == ("ready", "ready", "cancelled")
assert second.reason == f"job {first.id} has its unique key", second.reason
assert one.run_later(1) == first
""",
    )


def test_without_the_app_a_queue_that_is_away_is_the_callers_to_know(tmp_path: Path) -> None:
    runs(
        migrated(project(tmp_path, WITHOUT)),
        """
connections["queue"].settings_dict["NAME"] = "/nowhere/queue.sqlite3"
try:
    with transaction.atomic():
        ship.run_later(1)
except QueueUnavailable:
    pass
else:
    raise AssertionError("the job is lost, and nobody was told")
""",
    )


def test_without_the_app_a_testcase_enqueues_at_once(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITHOUT)
    scratch.write(
        "shop/tests.py",
        """
from django.db import transaction
from django.test import TestCase
from djjp.models import Job
from shop.jobs import ship

class Tests(TestCase):
    databases = {"default", "queue"}

    def test_at_once(self):
        handle = ship.run_later(1)
        assert Job.objects.get().pk == handle.id

    def test_with_a_block(self):
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            handle = ship.run_later(1)
            assert not Job.objects.exists()
        assert Job.objects.get().pk == handle.id
""",
    )
    done = scratch.run("test", "shop")
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


def test_without_the_app_a_deployment_is_told_what_is_not_promised(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITHOUT)
    assert found(scratch.run(*BOTH)) == []
    assert "djjp.W001" in scratch.run("check", "--deploy").stderr


@pytest.mark.parametrize("settings", [WITH, 'DJJP = {"db_name": "default"}\n'])
def test_where_there_is_nothing_to_tell_a_deployment_is_told_nothing(
    tmp_path: Path, settings: str
) -> None:
    assert "djjp." not in project(tmp_path, settings).run("check", "--deploy").stderr


# With it


def test_the_table_is_made_in_the_applications_databases_only(tmp_path: Path) -> None:
    more = """
DATABASES["second"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "second.sqlite3"}
DATABASES["third"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "third.sqlite3"}
DJJP = {"outbox": ["default", "second"]}
"""
    scratch = migrated(project(tmp_path, WITH + more))
    for alias in ("second", "third"):
        assert scratch.run("migrate", f"--database={alias}", "--verbosity=0").returncode == 0
    ours = {
        alias: {t for t in tables(tmp_path / f"{alias}.sqlite3") if t.startswith("djjp")}
        for alias in ("application", "second", "third", "queue")
    }
    assert ours == {
        "application": {"djjp_outbox"},
        "second": {"djjp_outbox"},
        "third": set(),
        "queue": QUEUE,
    }
    assert tables(tmp_path / "queue.sqlite3") == QUEUE | {"django_migrations"}
    assert tables(tmp_path / "application.sqlite3") >= APPLICATION
    assert found(scratch.run(*BOTH)) == []


def test_migrations_say_what_the_models_say(tmp_path: Path) -> None:
    done = project(tmp_path, WITH).run("makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_table_that_is_not_there_is_told_on_use(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITH)
    scratch.run("migrate", "--database=queue", "--verbosity=0")
    done = scratch.python("-c", PRELUDE + "with transaction.atomic():\n    ship.run_later(1)")
    assert done.returncode == 1
    assert "python manage.py migrate --database=default" in done.stderr


def test_a_testcase_uses_the_outbox_and_sweeps_it_in_its_own_transaction(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITH)
    scratch.write(
        "shop/tests.py",
        """
from django.db import connections, transaction
from django.test import TestCase
from djjp.jobs import get_job
from djjp.models import Job
from djjp.outbox.models import OutboxJob
from djjp.outbox.relay import sweep
from shop.jobs import ship

class Tests(TestCase):
    databases = {"default", "queue"}

    @classmethod
    def setUpTestData(cls):
        cls.first = ship.run_later(0)

    def test_sweep(self):
        handle = ship.run_later(1)
        assert get_job(handle.id).state == "ready"
        with transaction.atomic():
            inner = ship.run_later(2)
        assert not Job.objects.exists()
        assert sweep() == 3
        assert {job.pk for job in Job.objects.all()} == {self.first.id, handle.id, inner.id}
        assert not OutboxJob.objects.exists()
        assert sweep() == 0
        assert connections["default"].in_atomic_block

    def test_captured_callbacks(self):
        ship.run_later(1)
        for _ in range(2):
            before = Job.objects.count()
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                handle = ship.run_later(2)
            assert len(callbacks) == 1
            assert Job.objects.filter(pk=handle.id).exists()
            assert Job.objects.count() > before

    def test_nothing_is_left_of_the_other_tests(self):
        assert [row.pk for row in OutboxJob.objects.all()] == [self.first.id]
        assert not Job.objects.exists()
""",
    )
    done = scratch.run("test", "shop")
    assert done.returncode == 0, done.stderr
    assert "Ran 3 tests" in done.stderr


def test_where_the_queue_is_with_the_application_a_consumers_job_enqueues_in_its_own_transaction(
    tmp_path: Path,
) -> None:
    scratch = project(tmp_path, WITH + 'DATABASES.pop("queue")\nDJJP = {"db_name": "default"}\n')
    assert scratch.run("migrate", "--verbosity=0").returncode == 0
    runs(
        scratch,
        """
from concurrent.futures import ThreadPoolExecutor
from djjp import engine
from djjp.jobs import get_job
from djjp.outbox.models import OutboxJob

class Elsewhere:
    def call(self, verb):
        def work():
            try:
                return verb(engine.current())
            finally:
                connections.close_all()
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(work).result(60)

engine.coordinator.set(Elsewhere())
try:
    with transaction.atomic():
        handle = ship.run_later(1)
        assert get_job(handle.id).state == "ready"
        assert not OutboxJob.objects.exists()
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert not Job.objects.exists()
with transaction.atomic():
    handle = ship.run_later(1)
assert Job.objects.get().pk == handle.id
""",
    )


# Checks


@pytest.mark.parametrize(
    ("alias", "words"),
    [("elsewhere", "no alias in DATABASES"), ("queue", "the queue's own database")],
)
def test_an_outbox_where_none_can_be_is_told(tmp_path: Path, alias: str, words: str) -> None:
    scratch = project(tmp_path, WITH + f'DJJP = {{"outbox": ["default", "{alias}"]}}\n')
    message = only(found(scratch.run(*BOTH)), "djjp.E011")
    assert repr(alias) in message
    assert words in message


def test_a_queue_with_the_application_may_have_the_outbox_listed(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITH + 'DJJP = {"db_name": "default"}\n')
    assert found(scratch.run("check", "--database", "default")) == []


@pytest.mark.parametrize("value", ['"default"', "[1]", '[""]', '["default", "default"]', "None"])
def test_what_is_no_list_of_aliases_is_refused(tmp_path: Path, value: str) -> None:
    message = only(
        found(project(tmp_path, f'{WITH}DJJP = {{"outbox": {value}}}\n').run(*BOTH)), "djjp.E001"
    )
    assert "a list of aliases in DATABASES, each once" in re.sub(r"\s+", " ", message)


def test_a_missing_router_is_told_by_itself(tmp_path: Path) -> None:
    only(found(project(tmp_path, WITH + "DATABASE_ROUTERS = []\n").run(*BOTH)), "djjp.E003")


def test_a_router_that_keeps_the_outbox_out_is_told(tmp_path: Path) -> None:
    scratch = project(
        tmp_path, WITH + 'DATABASE_ROUTERS = ["miser.Miser", "djjp.routers.QueueRouter"]\n'
    )
    scratch.write(
        "miser.py",
        """
        class Miser:
            def allow_migrate(self, db, app_label, **hints):
                return False if app_label == "djjp_outbox" else None
        """,
    )
    message = only(found(scratch.run(*BOTH)), "djjp.E012")
    assert "'default'" in message
