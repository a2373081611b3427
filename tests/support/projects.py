"""Scratch projects and databases: made for one test, and gone after it.

What only shows when Django starts (checks, migrations, discovery) is tried on projects that the test
writes as a user would have written them, each run in a process of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

from django.db import connections

from tests.support.processes import ROOT

SETTINGS = """
from pathlib import Path
from djjp.databases import queue_database
from tests.project.plain import *

HOME = Path(__file__).parent
ROOT_URLCONF = "scratch_urls"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "application.sqlite3"},
    "queue": queue_database(HOME / "queue.sqlite3"),
}
"""

URLS = """
from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
"""


class Scratch:
    """A project in a folder of its own: the queue on SQLite, unless `settings` says otherwise."""

    def __init__(self, home: Path, settings: str = "") -> None:
        self.home = home
        self.write("scratch_settings.py", SETTINGS + dedent(settings))
        self.write("scratch_urls.py", URLS)

    def write(self, path: str, text: str) -> None:
        """Add a file to the project."""
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text))

    def app(self, name: str, **modules: str) -> None:
        """Add an app, which `settings` is to install; `jobs="..."` is the text of its `jobs.py`."""
        self.write(f"{name}/__init__.py", "")
        for module, text in modules.items():
            self.write(f"{name}/{module}.py", text)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m django COMMAND …` in the project, to its end."""
        return self.python("-m", "django", *command, **environment)

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python …` in the project, to its end; a warning is an error here too."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DJJP_", "DJANGO_"))}
        env |= {
            "DJANGO_SETTINGS_MODULE": "scratch_settings",
            "PYTHONPATH": os.pathsep.join([str(self.home), str(ROOT)]),
            "PYTHONWARNINGS": "error",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.home,
            env=env | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@contextmanager
def alias_for(config: dict[str, Any]) -> Iterator[str]:
    """An alias that Django knows for a while, from an entry as in `DATABASES`."""
    alias = f"scratch_{secrets.token_hex(4)}"
    known = {"default": connections.settings["default"], alias: config}
    connections.settings[alias] = connections.configure_settings(known)[alias]
    try:
        yield alias
    finally:
        connections[alias].close()
        if (driver := connections[alias].connection) is not None:
            driver.close()  # in memory, where Django keeps it open
        del connections[alias]
        del connections.settings[alias]


#: The arguments of `manage.py` that check the databases of a `Scratch` project too.
CHECK = ["check", "--database", "default", "--database", "queue"]


def check_messages(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """Return what `manage.py check` reported: the id and the text of each message, with its hint."""
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        assert "no issues" in done.stdout
        return []
    head, errors, body = done.stderr.partition("ERRORS:\n")
    assert head == "SystemCheckError: System check identified some issues:\n\n", done.stderr
    assert errors
    body = body.partition("\n\nSystem check identified")[0]
    messages = re.split(r"^\?: \((.+?)\) ", body, flags=re.MULTILINE)[1:]
    assert all("\tHINT: " in text for text in messages[1::2])
    return list(zip(messages[::2], messages[1::2], strict=True))


def only_message(reported: list[tuple[str, str]], id: str) -> str:
    """Return the text of the one message; fail if there is none, another, or more."""
    assert [id for id, _ in reported] == [id], reported
    return reported[0][1]
