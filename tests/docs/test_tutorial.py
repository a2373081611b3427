"""Run the tutorial of five minutes from an empty folder, and the tests of the bookshop.

The other blocks of the bookshop run with those of all pages.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs.markdown import blocks
from tests.docs.project import SETTINGS, Project, settings_of_the_readme


@pytest.mark.end_to_end
def test_the_shop_of_the_tutorial_passes_its_own_tests(tmp_path: Path) -> None:
    project = Project.new(tmp_path / "project")
    shown = [block for block in blocks("docs/tutorial.md") if block.file]
    settings = [block for block in shown if block.file == SETTINGS]
    project.configure(settings_of_the_readme(), *settings)
    project.write([block for block in shown if block.file != SETTINGS])
    shutil.rmtree(project.home / "shop" / "migrations")  # the tables are created without one
    assert "\nOK\n" in project.shell("python manage.py test")


def test_a_shell_started_again_after_each_change_of_the_code_has_all_names_that_the_tutorial_uses() -> (
    None
):
    known: set[str] = set()
    missing = []
    for block in blocks("docs/tutorial.md"):
        if block.file:
            known = set(dir(builtins))
        for example in doctest.DocTestParser().get_examples(block.text):
            names = [n for n in ast.walk(ast.parse(example.source)) if isinstance(n, ast.Name)]
            known |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
            known |= _imported(example.source)
            used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
            missing += [(str(block), name) for name in used - known]
    assert missing == []


def _imported(source: str) -> set[str]:
    """Return the names that the imports and the `except … as` of an example bind."""
    nodes = list(ast.walk(ast.parse(source)))
    handlers = {n.name for n in nodes if isinstance(n, ast.ExceptHandler) and n.name}
    return handlers | {n.asname or n.name for n in nodes if isinstance(n, ast.alias)}


DASHBOARD = """
from django.test import Client

client = Client(SERVER_NAME="127.0.0.1")
assert client.login(username="admin", password="secret")
page = client.get("/admin/djjp/")
assert page.status_code == 200
failed = client.get("/admin/djjp/job/?state=failed").content.decode()
assert "shop.jobs.charge" in failed
"""


@pytest.mark.end_to_end
def test_the_five_minutes_work_from_an_empty_folder(tmp_path: Path) -> None:
    """`Project` fails the test if a block fails, or if its output is not that on the page."""
    project = Project.nothing(tmp_path / "project")
    with project.running():
        for block in blocks("docs/five-minutes.md"):
            if block.file == SETTINGS:
                project.configure(block)
            elif block.file:
                project.write([block])
            elif block.language != "sh":
                project.run(block)
        project.execute(replace(block, text=DASHBOARD))
