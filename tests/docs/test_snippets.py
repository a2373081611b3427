"""What the README and the pages in `docs/` show is run, on both databases."""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from djjp.engine import Engine
from djjp.management.commands.start_consumer import command as start_consumer
from tests.docs.markdown import PAGES, Block, blocks
from tests.docs.project import SETTINGS, Project, settings_of_the_readme
from tests.support.processes import ROOT

pytestmark = pytest.mark.end_to_end

#: The blocks that no test runs, by the first line of each: installation, targets of the Makefile (which are
#: too long for a test, and have tests of their own), pictures and a unit of systemd.
NOT_RUN = {
    "README.md": [
        "your application                    the queue's own database                 a consumer",
        "pip install .                  # the queue in an SQLite file",
        "make demo          # index the source of Python's standard library, as a pipeline of jobs",
    ],
    "docs/atomic-enqueue.md": [
        "your application's database                          the queue's database",
        "python manage.py migrate djjp_outbox zero --fake --database=stock",
    ],
    "docs/consumer.md": ["[Unit]"],
    "docs/internals.md": [
        "flowchart TD",
        "run_after is later              its time has come",
    ],
    "docs/pipelines.md": ["┌─> double(factor=2) ─┐"],
    "docs/trouble.md": ["pip install 'djjp[postgres]'"],
}
#: The pages that tell of what their first settings turn on.
WITH_ITS_SETTINGS = {"docs/atomic-enqueue.md"}
#: Pages whose blocks need the first settings that the page shows.
ITS_OWN_SETTINGS = ["docs/django-tasks.md"]
CHECK = """
from django.core.management import call_command

call_command("check", fail_level="WARNING")
"""
MIGRATE = """
from django.db import connections

for alias in connections:
    call_command("migrate", database=alias, verbosity=0)
call_command("check", databases=list(connections), fail_level="WARNING")
"""
SETTINGS_BLOCKS = [b for p in PAGES if p != "README.md" for b in blocks(p) if b.file == SETTINGS]
PAGES_WITH_CODE = [p for p in PAGES if any(b.language in ("python", "console") for b in blocks(p))]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the README's settings, before its first `migrate`."""
    project = Project.new(tmp_path_factory.mktemp("docs") / "fresh")
    project.configure(settings_of_the_readme())
    return project


@pytest.fixture(scope="session")
def migrated(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = fresh.copy(tmp_path_factory.mktemp("docs") / "migrated", None)
    project.shell("python manage.py migrate && python manage.py migrate --database=queue")
    return project


@pytest.fixture
def url(engine: Engine) -> str | None:
    """Where the page's project finds its queue: a server, or its own SQLite file."""
    return os.environ["DJJP_TEST_SERVER_URL"] if engine.db.alias == "postgresql" else None


@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_what_a_page_shows_runs(
    page: str, url: str | None, fresh: Project, migrated: Project, tmp_path: Path
) -> None:
    """`Project` fails the test where a block fails, or gives something else than the page shows."""
    start = fresh if page == "README.md" else migrated
    project = start.copy(tmp_path / "project", url)
    shown = [block for block in blocks(page) if block.language in ("python", "console")]
    project.write([block for block in shown if block.file not in (None, SETTINGS)])
    if page in ITS_OWN_SETTINGS:
        project.configure(next(block for block in shown if block.file == SETTINGS))
    if page in WITH_ITS_SETTINGS:
        project.configure(next(block for block in shown if block.file == SETTINGS))
    with project.running():
        for block in shown:
            if block.file is None:
                project.run(block)


@pytest.mark.parametrize("block", SETTINGS_BLOCKS, ids=str)
def test_settings_that_a_page_shows_hold_a_queue(
    block: Block, url: str | None, migrated: Project, tmp_path: Path
) -> None:
    """Each by itself, after the README's. The session fails the test where a check or `migrate` does."""
    project = migrated.copy(tmp_path / "project", url)
    project.configure(block)
    with project.running():
        project.execute(replace(block, text=CHECK))
        # Without DJJP_DATABASE_URL, the server is one that the page made up.
        if url is not None or "postgres://" not in block.text:
            project.execute(replace(block, text=MIGRATE))


def test_no_block_slips_through_unrun() -> None:
    """Every block says how it is run; the few that are not run are named here."""
    ran = {"python", "console"}
    skipped = {
        page: [b.text.splitlines()[0].strip() for b in blocks(page) if b.language not in ran]
        for page in PAGES
    }
    assert {page: firsts for page, firsts in skipped.items() if firsts} == NOT_RUN
    assert {b.language for p in PAGES for b in blocks(p)} - ran == {"sh", "text", "ini", "mermaid"}
    for page in PAGES:
        assert (ROOT / page).read_text().count("\n```") == 2 * len(blocks(page)), page


def test_targets_of_the_makefile_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text())
        named += [
            t for b in blocks(page) for t in re.findall(r"^make ([a-z-]+)", b.text, re.MULTILINE)
        ]
        assert set(named) <= targets, page


def test_the_unit_of_systemd_starts_a_consumer_that_exists() -> None:
    (unit,) = [block for block in blocks("docs/consumer.md") if block.language == "ini"]
    parsed = configparser.ConfigParser()
    parsed.read_string(unit.text)
    words = parsed["Service"]["ExecStart"].split()
    assert words[1:3] == ["manage.py", "start_consumer"]
    known = {option for parameter in start_consumer.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
