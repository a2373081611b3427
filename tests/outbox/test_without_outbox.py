"""Projects as users write them: with the outbox app, without it, and with faulty settings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from django.core import checks
from django.test import override_settings

from tests.support.projects import CHECK, Scratch, check_messages, only_message
from tests.test_routers import APPLICATION, QUEUE, tables

pytestmark = pytest.mark.processes

JOBS = """
from djjp import job

@job
def ship(order): ...
"""
# Not every project here is migrated.
SILENT = 'SILENCED_SYSTEM_CHECKS = ["djjp.W002"]\n'
WITHOUT = SILENT + 'INSTALLED_APPS.append("shop")\n'
WITH = SILENT + 'INSTALLED_APPS += ["djjp.outbox", "shop"]\n'
PRELUDE = """
import django
django.setup()
from contextlib import suppress
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


MIGRATE = """
import sys
import django
django.setup()
from django.core.management import call_command
for alias in sys.argv[1:]:
    call_command("migrate", database=alias, verbosity=0)
"""


def migrated(scratch: Scratch, *aliases: str) -> Scratch:
    done = scratch.python("-c", MIGRATE, *aliases)
    assert done.returncode == 0, done.stderr
    return scratch


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project without the outbox, whose databases are migrated."""
    home = tmp_path_factory.mktemp("without_outbox")
    return migrated(project(home, WITHOUT), "default", "queue").home


@pytest.fixture
def without_outbox(tmp_path: Path, databases: Path) -> Scratch:
    """Return a project of its own for the test, with copies of the migrated databases."""
    shutil.copytree(databases, tmp_path, dirs_exist_ok=True)
    return project(tmp_path, WITHOUT)


def runs(scratch: Scratch, program: str) -> str:
    done = scratch.python("-c", PRELUDE + program)
    assert done.returncode == 0, done.stderr
    return done.stderr


# Without the app


@pytest.mark.end_to_end
def test_without_the_app_a_job_waits_for_the_commit(without_outbox: Scratch) -> None:
    runs(
        without_outbox,
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


@pytest.mark.end_to_end
def test_without_the_app_an_enqueue_in_a_transaction_gets_the_holder_of_its_key(
    without_outbox: Scratch,
) -> None:
    runs(
        without_outbox,
        """
one = ship.using(unique_key="order-{order}")
with transaction.atomic():
    with suppress(ZeroDivisionError), transaction.atomic():
        undone = one.run_later(1)
        1 / 0
    first, other, second = one.run_later(1), one.run_later(2), one.run_later(1)
assert second == first != other
assert first != undone
with transaction.atomic():
    assert one.run_later(1) == first
assert sorted(Job.objects.values_list("pk", "state")) == [(first.id, "ready"), (other.id, "ready")]
with transaction.atomic():
    assert one.run_later(1) == first
    first.cancel()
assert [row.pk == first.id for row in Job.objects.order_by("created_at")] == [True, False, False]
assert [row.state for row in Job.objects.order_by("created_at")] == ["cancelled", "ready", "ready"]
""",
    )


def test_without_the_app_an_unreachable_queue_raises_in_the_caller(without_outbox: Scratch) -> None:
    runs(
        without_outbox,
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


@pytest.mark.end_to_end
@pytest.mark.borrowed
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


@pytest.mark.end_to_end
def test_without_the_app_the_deployment_check_warns_of_the_weaker_promise(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITHOUT)
    assert check_messages(scratch.run(*CHECK)) == []
    assert "djjp.W001" in scratch.run("check", "--deploy").stderr


@pytest.mark.end_to_end
@pytest.mark.parametrize("settings", [WITH, 'DJJP = {"db_name": "default"}\n'])
def test_the_deployment_check_warns_only_where_promises_are_weaker(
    tmp_path: Path, settings: str
) -> None:
    assert "djjp." not in project(tmp_path, settings).run("check", "--deploy").stderr


# With it


@pytest.mark.end_to_end
def test_the_table_is_created_in_the_applications_databases_only(tmp_path: Path) -> None:
    more = """
DATABASES["second"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "second.sqlite3"}
DATABASES["third"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "third.sqlite3"}
DJJP = {"outbox": ["default", "second"]}
"""
    scratch = migrated(project(tmp_path, WITH + more), "default", "queue", "second", "third")
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
    assert check_messages(scratch.run(*CHECK)) == []


def test_migrations_match_the_models(tmp_path: Path) -> None:
    done = project(tmp_path, WITH).run("makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.end_to_end
def test_a_missing_table_is_reported_on_use(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITH)
    scratch.run("migrate", "--database=queue", "--verbosity=0")
    done = scratch.python("-c", PRELUDE + "with transaction.atomic():\n    ship.run_later(1)")
    assert done.returncode == 1
    assert "python manage.py migrate --database=default" in done.stderr


@pytest.mark.end_to_end
@pytest.mark.borrowed
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


@pytest.mark.end_to_end
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

engine.current_call_queue.set(Elsewhere())
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


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("alias", "words"),
    [("elsewhere", "no alias in DATABASES"), ("queue", "the queue's own database")],
)
def test_an_impossible_outbox_is_reported(tmp_path: Path, alias: str, words: str) -> None:
    scratch = project(tmp_path, WITH + f'DJJP = {{"outbox": ["default", "{alias}"]}}\n')
    message = only_message(check_messages(scratch.run(*CHECK)), "djjp.E011")
    assert repr(alias) in message
    assert words in message


def test_a_queue_with_the_application_can_list_the_outbox(tmp_path: Path) -> None:
    scratch = project(tmp_path, WITH + 'DJJP = {"db_name": "default"}\n')
    assert check_messages(scratch.run("check", "--database", "default")) == []


@pytest.mark.parametrize("value", ["default", [1], [""], ["default", "default"], None])
def test_a_value_that_is_no_list_of_aliases_is_refused(value: object) -> None:
    with override_settings(DJJP={"db_name": "sqlite", "outbox": value}):
        [message] = checks.run_checks(tags=["djjp"])
    assert message.id == "djjp.E001"
    assert "a list of aliases in DATABASES, each once" in f"{message.msg} {message.hint}"


def test_a_missing_router_is_reported_alone(tmp_path: Path) -> None:
    only_message(
        check_messages(project(tmp_path, WITH + "DATABASE_ROUTERS = []\n").run(*CHECK)), "djjp.E003"
    )


def test_a_router_that_excludes_the_outbox_is_reported(tmp_path: Path) -> None:
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
    message = only_message(check_messages(scratch.run(*CHECK)), "djjp.E012")
    assert "'default'" in message
