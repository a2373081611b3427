"""Each module has one purpose: its docstring names it, and the module is short."""

from __future__ import annotations

import ast

import pytest

from tests.support.imports import MODULES

pytestmark = pytest.mark.one_pair

#: About 300 lines are the aim, and no reason to cut one purpose in two; from here on a module has two.
LONGEST = 400

#: Those that are written by hand.
WRITTEN = [module for module in MODULES if ".migrations" not in f".{module}"]


def has_docstring(source: str) -> bool:
    return not source.strip() or bool(ast.get_docstring(ast.parse(source)))


def is_short(source: str) -> bool:
    return len(source.splitlines()) <= LONGEST


def test_each_module_states_its_one_purpose() -> None:
    assert [module for module in WRITTEN if not has_docstring(MODULES[module].read_text())] == []


def test_each_module_is_short() -> None:
    assert [module for module in WRITTEN if not is_short(MODULES[module].read_text())] == []


def test_the_guards_see_a_module_that_is_long_or_has_no_docstring() -> None:
    assert not has_docstring("import json\n")
    assert has_docstring("")
    assert not is_short("pass\n" * (LONGEST + 1))
    assert is_short("pass\n" * LONGEST)
