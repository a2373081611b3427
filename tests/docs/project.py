"""The project in which the blocks of a page run, as `startproject mysite` and `startapp shop` make it.

* A Python block whose first line names a file (`# shop/jobs.py`) is written there, before anything runs.
  `# mysite/settings.py` is put at the end of the settings.
* Other Python blocks run in one session of the project, in order.
* A console block runs its `$` lines as commands of a shell. A `start_consumer` without an end runs until
  the next one, or until the end of the page, and must then exit with 0.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.docs.markdown import Block, blocks
from tests.docs.session import FLAGS
from tests.support.processes import ROOT, eventually

SETTINGS = "mysite/settings.py"

# A consumer gets a signal only after it has logged its start. djjp itself configures no logging.
_LOGGING = """
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "djjp": {"handlers": ["stderr"], "level": "INFO"},
        "djjp.consumer.jobs": {"level": "WARNING"},  # nobody reads a line for each job
    },
}
"""


class Project:
    """A Django project in its own folder, with the queue at `url`, or in its SQLite file for None."""

    def __init__(self, home: Path, url: str | None) -> None:
        self.home = home
        self._log = home.with_suffix(".log")  # of the consumer
        self._consumer: subprocess.Popen[str] | None = None
        self._session: subprocess.Popen[str] | None = None
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DJJP_", "DJANGO_"))}
        self._environment = inherited | {
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{home}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",  # keeps the order of stdout and stderr
            "PYTHONWARNINGS": "error",
        }
        if url is not None:
            self._environment["DJJP_DATABASE_URL"] = url

    @classmethod
    def nothing(cls, home: Path) -> Project:
        """Create an empty folder in which djjp and Django are installed."""
        project = cls(home, None)
        binaries = home / "bin"
        binaries.mkdir(parents=True)
        for name, command in [("python", ""), ("django-admin", "-m django ")]:
            script = binaries / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command}"$@"\n')
            script.chmod(0o755)
        return project

    @classmethod
    def new(cls, home: Path) -> Project:
        """Create a project by Django's own commands."""
        project = cls.nothing(home)
        project.shell("env -u DJANGO_SETTINGS_MODULE django-admin startproject mysite .")
        project.shell("python manage.py startapp shop")
        return project

    def copy(self, home: Path, url: str | None) -> Project:
        """Return a copy of the project in another folder."""
        shutil.copytree(self.home, home)
        return Project(home, url)

    def configure(self, *added: Block) -> None:
        """Put blocks at the end of the settings."""
        with (self.home / SETTINGS).open("a") as settings:
            settings.writelines(f"\n{block.text}" for block in added)
            settings.write(_LOGGING)

    def write(self, files: list[Block]) -> None:
        """Write the files that blocks name; blocks of one file are its parts, in order."""
        texts: dict[str, str] = {}
        for block in files:
            assert block.file is not None
            texts[block.file] = f"{texts.get(block.file, '')}{block.text}\n"
        for path, text in texts.items():
            (self.home / path).write_text(text)

    def shell(self, command: str) -> str:
        """Run a command to its end, which must be a success; return its output."""
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        return done.stdout

    def run(self, block: Block) -> None:
        """Run a block of Python, or the commands of a console block."""
        if block.language == "python":
            self.execute(block)
            return
        for command, expected in _commands(block):
            if _runs_until_stopped(command):
                self._start(command)
            else:
                _compare(block, command, expected, self.shell(command))

    def execute(self, block: Block) -> None:
        """Run Python in the session, which starts with the first block."""
        if self._session is None:
            self._session = self._popen([sys.executable, "-m", "tests.docs.session"])
        process = self._session
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([block.text, str(block)]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise AssertionError(f"{block}: the session ended\n{process.communicate()[1]}")
        problem = json.loads(answer)
        assert problem is None, f"{block}\n{problem}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """End all processes that the blocks have started at the end of this block."""
        try:
            yield
            self._stop()
        finally:
            for process in (self._consumer, self._session):
                if process is not None:
                    process.kill()
                    process.communicate()

    def _start(self, command: str) -> None:
        """Start a consumer, whose log goes to a file: a pipe that nobody reads would fill up, and block it."""
        self._stop()
        self._log.write_text("")
        with self._log.open("a") as log:
            self._consumer = process = self._popen(["/bin/sh", "-c", f"exec {command}"], log)
        eventually(lambda: self._serves() or process.poll() is not None)
        assert self._serves(), f"$ {command}\n{self._log.read_text()}"

    def _serves(self) -> bool:
        return " serves " in self._log.read_text()

    def _stop(self) -> None:
        process, self._consumer = self._consumer, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0, f"{process.args!r}\n{self._log.read_text()}"

    def _popen(
        self, arguments: list[str], output: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            arguments,
            cwd=self.home,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
        )


def settings_of_the_readme() -> Block:
    """Return the only settings block of the README, which every other page assumes."""
    (block,) = [block for block in blocks("README.md") if block.file == SETTINGS]
    return block


def _commands(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that the block shows for it."""
    first, *rest = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert first == "", f"{block}: a console block begins with $"
    return [(command, expected) for command, _, expected in (each.partition("\n") for each in rest)]


def _runs_until_stopped(command: str) -> bool:
    return "start_consumer" in command and not re.search("--(drain|max-jobs|help)", command)


def _compare(block: Block, command: str, expected: str, got: str) -> None:
    if expected.strip():
        same = doctest.OutputChecker().check_output(expected, got, FLAGS)
        assert same, f"{block}\n$ {command}\n{got}\n--- is not what the page shows:\n{expected}"
