"""Each module does one job: it says which, and is short."""

from __future__ import annotations

import ast

import pytest

from tests.support.imports import MODULES

LONGEST = 300

#: Those that are written by hand.
WRITTEN = [module for module in MODULES if ".migrations" not in f".{module}"]


def has_docstring(source: str) -> bool:
    return not source.strip() or bool(ast.get_docstring(ast.parse(source)))


def is_short(source: str) -> bool:
    return len(source.splitlines()) <= LONGEST


@pytest.mark.parametrize("module", WRITTEN)
def test_a_module_says_its_one_job(module: str) -> None:
    assert has_docstring(MODULES[module].read_text()), f"{module} has no docstring"


@pytest.mark.parametrize("module", WRITTEN)
def test_a_module_is_short(module: str) -> None:
    assert is_short(MODULES[module].read_text()), f"{module} is longer than {LONGEST} lines"


def test_the_guards_see_a_module_that_is_long_or_has_no_docstring() -> None:
    assert not has_docstring("import json\n")
    assert has_docstring("")
    assert not is_short("pass\n" * (LONGEST + 1))
    assert is_short("pass\n" * LONGEST)
