"""Run the blocks of the README and of the pages in `docs/`, on both databases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from djjp.engine import Engine
from tests.docs.markdown import PAGES, Block, blocks
from tests.docs.project import SETTINGS, Project, settings_of_the_readme
from tests.support.processes import ROOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.one_database]

#: The blocks that no test runs, by the first line of each: installation, targets of the Makefile (which take
#: too long, and have other tests), pictures and a unit of systemd.
NOT_RUN = {
    "README.md": [
        "make demo          # index the source of Python's standard library, as a pipeline of jobs",
    ],
    "docs/admin.md": [
        "# mysite/admin.py",
        "import unfold.admin",
    ],  # of packages that are not installed
    "docs/atomic-enqueue.md": [
        "your application's database                          the queue's database",
        "python manage.py migrate djjp_outbox zero --fake --database=stock",
        "python manage.py djjp migrate",
        "python manage.py djjp outbox --retry 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722",
    ],
    "docs/commands.md": [  # a program that is not installed here; PostgreSQL has its own means
        "python manage.py djjp backup queue-backup.sqlite3",
        "rm -f queue.sqlite3-wal queue.sqlite3-shm",
        "python manage.py djjp transfer queue new_queue",
        'eval "$(_DJJP_COMPLETE=bash_source djjp)"',
    ],
    "docs/comparison.md": [
        "make bench-peers                                       # installs them in .venv-peers first"
    ],
    "docs/consumer.md": ["djjp 0.2.0: consumer web1:4711:b06b94c3256ceacd"],
    "docs/deploying.md": [  # read by test_deploying.py
        "CREATE ROLE mysite LOGIN PASSWORD 'secret';",
        "python manage.py start_consumer --health-file /tmp/alive --health-port 8080",
        "# /etc/systemd/system/mysite-consumer.service",
        "# compose.yaml",
        "# consumer.yaml",
        "# probes of a container, by file",
        "# part of the container of a web pod",
        "# scaling.yaml",
    ],
    "docs/five-minutes.md": ["python3 -m venv .venv", "python manage.py runserver"],
    "docs/high-availability.md": ["# postgresql.conf of each server"],
    "docs/http.md": [  # a server that is not there, and a part of an answer
        "pip install 'djjp[api]'",
        'curl https://example.com/djjp/v1/jobs -H "Authorization: Bearer $TOKEN" \\',
        (
            '{"type": "docs/errors.md#invalid-body", "title": "The body has wrong values", "status": 422, '
            '"slug": "invalid-body",'
        ),
    ],
    "docs/incidents.md": [
        (
            "incident: no consumer serves the queue 'mail', where 12 jobs wait, the oldest for 3 min; "
            "start one: python manage.py start_consumer --queues mail"
        )
    ],
    "docs/internals.md": [
        "flowchart TD",
        "run_after is later              its time has come",
    ],
    "docs/metrics.md": ["# prometheus.yml"],
    "docs/pipelines.md": ["┌─> double(factor=2) ─┐", "┌─> length ─┐"],
    "docs/trouble.md": ["pip install 'djjp[postgres]'"],
}
#: The pages whose blocks need the first settings that the page shows.
ITS_OWN_SETTINGS = [
    "docs/atomic-enqueue.md",
    "docs/django-tasks.md",
    "docs/hooks.md",
    "docs/tutorial.md",
]
CHECK = """
from django.core.management import call_command

call_command("check", fail_level="WARNING")
"""
MIGRATE = """
from django.db import connections
from djjp import conf

queue = conf.db_name()
if "djjp_job" not in connections[queue].introspection.table_names():  # as djjp.W002 says
    call_command("migrate", "djjp", "zero", fake=True, database=queue, verbosity=0)
for alias in connections:
    call_command("migrate", database=alias, verbosity=0)
call_command("check", databases=list(connections), fail_level="WARNING")
"""
#: The pages that have no other settings before theirs.
FROM_THE_BEGINNING = ["README.md", "docs/five-minutes.md"]
SETTINGS_BLOCKS = [
    b for p in PAGES if p not in FROM_THE_BEGINNING for b in blocks(p) if b.file == SETTINGS
]
#: The page of five minutes is run by test_tutorial.py, from an empty folder.
PAGES_WITH_CODE = [
    p
    for p in PAGES
    if p != "docs/five-minutes.md" and any(b.language in ("python", "console") for b in blocks(p))
]

#: The longest pages, whose commands and jobs do the same on each database; tests of the package run them on both.
ON_SQLITE_ONLY = [
    "docs/commands.md",
    "docs/consumer.md",
    "docs/queues.md",
    "docs/testing.md",
    "docs/tutorial.md",
]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with the README's settings, before its first `migrate`."""
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
    """Return the URL of the queue of the page's project; None for its own SQLite file."""
    return os.environ["DJJP_TEST_SERVER_URL"] if engine.db.alias == "postgresql" else None


@pytest.fixture
def new_project(
    url: str | None, fresh: Project, migrated: Project, tmp_path: Path
) -> Callable[[str], Project]:
    """Make a project for a page."""
    return lambda page: (fresh if page == "README.md" else migrated).copy(tmp_path / "project", url)


@pytest.mark.parametrize("page", sorted({*PAGES_WITH_CODE} - {*ON_SQLITE_ONLY}))
def test_the_blocks_of_a_page_run(page: str, new_project: Callable[[str], Project]) -> None:
    run(page, new_project(page))


@pytest.mark.sqlite_only
@pytest.mark.parametrize("page", ON_SQLITE_ONLY)
def test_the_blocks_of_a_long_page_run(
    engine: Engine, page: str, new_project: Callable[[str], Project]
) -> None:
    run(page, new_project(page))


def run(page: str, project: Project) -> None:
    """Run the blocks of a page: `Project` fails the test if one does, or if its output is another one."""
    shown = [block for block in blocks(page) if block.language in ("python", "console")]
    project.write([block for block in shown if block.file not in (None, SETTINGS)])
    if page in ITS_OWN_SETTINGS:
        project.configure(next(block for block in shown if block.file == SETTINGS))
    with project.running():
        for block in shown:
            if block.file is None:
                project.run(block)


@pytest.mark.parametrize("block", SETTINGS_BLOCKS, ids=str)
def test_the_settings_on_a_page_can_hold_a_queue(
    block: Block, url: str | None, migrated: Project, tmp_path: Path
) -> None:
    """Each block alone follows the README's. The session fails the test if a check or `migrate` fails."""
    project = migrated.copy(tmp_path / "project", url)
    if block.page == "docs/hooks.md":  # they name a class of the page
        project.write([b for b in blocks(block.page) if b.file not in (None, SETTINGS)])
    project.configure(block)
    with project.running():
        project.execute(replace(block, text=CHECK))
        # Without DJJP_DATABASE_URL, the server of the page does not exist.
        if url is not None or "postgres://" not in block.text:
            project.execute(replace(block, text=MIGRATE))


def test_no_block_is_left_out() -> None:
    """The language of a block decides how it runs; the blocks that do not run are listed here."""
    ran = {"python", "console"}
    skipped = {
        page: [b.text.splitlines()[0].strip() for b in blocks(page) if b.language not in ran]
        for page in PAGES
    }
    assert {page: firsts for page, firsts in skipped.items() if firsts} == NOT_RUN
    assert {b.language for p in PAGES for b in blocks(p)} - ran == {
        "sh",
        "sql",
        "text",
        "ini",
        "mermaid",
        "yaml",
    }
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
