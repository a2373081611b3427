"""Tests of users, run as users run them: by Django's own runner, and by pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness import ROOT
from tests.scratch import postgres_database

DATABASES = ["sqlite", "queue on postgresql", "both on postgresql"]


@pytest.fixture(params=DATABASES)
def databases(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What tells the project's settings where its databases are: in memory, or on a server."""
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


@pytest.mark.parametrize("outbox", [True, False], ids=["outbox", "no outbox"])
def test_the_stories_of_a_project_come_true(databases: dict[str, str], outbox: bool) -> None:
    environment = databases | ({"BOOKSHOP_OUTBOX": "1"} if outbox else {})
    done = run("-m", "django", "test", "--noinput", "tests.testing.stories", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.rstrip().endswith("OK"), done.stderr
