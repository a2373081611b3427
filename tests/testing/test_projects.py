"""Tests of users, run as users run them: by Django's own runner, and by pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.postgres import postgres_database
from tests.support.processes import ROOT

pytestmark = pytest.mark.end_to_end

DATABASES = ["sqlite", "queue on postgresql", "both on postgresql"]


@pytest.fixture(params=DATABASES)
def databases(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Return the environment that places the project's databases in memory or on a server."""
    variables = {
        "sqlite": [],
        "queue on postgresql": ["BOOKSHOP_QUEUE_URL"],
        "both on postgresql": ["BOOKSHOP_QUEUE_URL", "BOOKSHOP_APPLICATION_URL"],
    }[request.param]
    with ExitStack() as made:
        yield {
            variable: made.enter_context(
                postgres_database(beside=request.getfixturevalue("postgres_url"))
            )
            for variable in variables
        }


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DJJP_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=inherited
        | {"DJANGO_SETTINGS_MODULE": "tests.testing.settings", "PYTHONWARNINGS": "error"}
        | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.borrowed
@pytest.mark.parametrize("outbox", [True, False], ids=["outbox", "no outbox"])
def test_a_project_passes_its_own_tests(databases: dict[str, str], outbox: bool) -> None:
    environment = databases | ({"BOOKSHOP_OUTBOX": "1"} if outbox else {})
    done = run("-m", "django", "test", "--noinput", "tests.testing.stories", **environment)
    assert done.returncode == 0, done.stderr
    assert "\nOK\n" in done.stderr, done.stderr


FIXTURES = """
import pytest
from djjp.testing import assert_enqueued
from tests.testing.bookshop.jobs import order

needs_queue = pytest.mark.django_db(databases=["default", "queue"])

@needs_queue
def test_drain(djjp_drain):
    handle = order.run_later("Emma")
    assert djjp_drain() == 1
    assert handle.join(timeout=0) == "Emma"

@needs_queue
def test_inline(djjp_inline):
    assert order.run_later("Emma").join(timeout=0) == "Emma"

@needs_queue
def test_jobs(djjp_jobs, djjp_drain):
    order.run_later("Emma")
    (job,) = djjp_jobs
    assert (job.name, job.args) == ("shop.order", ("Emma",))
    assert_enqueued(order, args=["Emma"])

@needs_queue
def test_nothing_of_the_other_tests_is_left(djjp_jobs, djjp_drain):
    assert (djjp_jobs, djjp_drain()) == ([], 0)

@pytest.mark.django_db(databases=["default", "queue"], transaction=True)
def test_without_transactions(djjp_inline, djjp_drain):
    assert order.run_later("Emma").join(timeout=0) == "Emma"
    assert djjp_drain() == 0

@pytest.mark.django_db
def test_a_database_that_is_not_named(djjp_drain):
    with pytest.raises(AssertionError, match=r'django_db\\(databases=\\["default", "queue"\\]\\)'):
        djjp_drain()
"""


@pytest.mark.parametrize("databases", ["sqlite", "both on postgresql"], indirect=True)
def test_the_fixtures_of_pytest(databases: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["djjp.pytest"]')
    (tmp_path / "test_shop.py").write_text(FIXTURES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)),
        *("-c", str(tmp_path / "pytest.ini"), str(tmp_path)),
        **databases,
        BOOKSHOP_OUTBOX="1",
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


TOGETHER = """
from django.test import TestCase
from djjp.testing import assert_enqueued, captured_jobs, drain, inline
from tests.testing.bookshop import jobs

class Together(TestCase):
    def test_all(self):
        with captured_jobs() as enqueued:
            jobs.order_all.run_later("Emma")
            assert_enqueued(jobs.order_all)
            self.assertEqual(drain(), 2)
        self.assertEqual([job.destination for job in enqueued], ["queue", "queue"])
        with inline():
            handle = jobs.order_twice.run_later("Sanditon")
            self.assertEqual(handle.state, "ready")  # as it was enqueued
            handle.refresh()
            self.assertEqual(handle.state, "failed")
            self.assertEqual(jobs.order.run_later("Persuasion").join(timeout=0), "Persuasion")
"""


@pytest.mark.parametrize("databases", ["sqlite", "both on postgresql"], indirect=True)
def test_a_queue_in_the_applications_database(databases: dict[str, str], tmp_path: Path) -> None:
    """One transaction then holds the test's data, the jobs and what they do."""
    (tmp_path / "tests_together.py").write_text(TOGETHER)
    done = run(
        *("-m", "django", "test", "--noinput", "tests_together"),
        **databases,
        BOOKSHOP_ALIAS="default",
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr
