"""Projects with packages of others: each is skipped, with a word, where its package is not installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.postgres import postgres_database
from tests.support.projects import Scratch

#: The databases that can hold the queue.
DATABASES = ["sqlite", "postgresql"]

#: Start of each script: Django with its tables.
START = """
import django

django.setup()

from django.core.management import call_command

for alias in ("default", "queue"):
    call_command("migrate", database=alias, verbosity=0)
"""


def need(module: str, package: str) -> None:
    """Skip the test if a package is not installed."""
    if find_spec(module) is None:
        pytest.skip(f"{package} is not installed")


@contextmanager
def queue_url(database: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the URL of an empty queue on PostgreSQL in `QUEUE_URL`; nothing for SQLite."""
    if database == "sqlite":
        yield
        return
    with postgres_database(beside=request.getfixturevalue("postgres_url")) as url:
        os.environ["QUEUE_URL"] = url
        yield
        del os.environ["QUEUE_URL"]


def run(home: Path, settings: str, script: str, **modules: str) -> str:
    """Run a script in a new project with an app `shop`; return its output."""
    project = Scratch(home, settings)
    project.app("shop", **modules)
    project.write("script.py", START + script)
    # A deprecation in the package is not djjp's.
    done = project.python("script.py", PYTHONWARNINGS="default")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
