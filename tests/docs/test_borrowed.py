"""Each borrowed internal is listed with a test, which runs on every pair of Python and Django."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.docs.markdown import code, table
from tests.support.processes import ROOT

ROWS = [(code(module), code(test)) for module, _, test in table("docs/borrowed.md", "Module")]


@cache
def borrowed(path: str) -> dict[str, bool]:
    """Return the tests of a file, each with whether it has the marker `borrowed`."""
    return {
        node.name: any("pytest.mark.borrowed" in ast.unparse(each) for each in node.decorator_list)
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize(("module", "test"), ROWS)
def test_a_borrowed_part_has_its_test(module: str, test: str) -> None:
    path, _, name = test.partition("::")

    assert (ROOT / module).is_file()
    assert name in borrowed(path)
    assert borrowed(path)[name], f"{test} has no marker `borrowed`"


def test_every_test_with_the_marker_is_in_the_table() -> None:
    listed = {test for _, test in ROWS}
    marked = {
        f"{path.relative_to(ROOT)}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name, has_marker in borrowed(str(path.relative_to(ROOT))).items()
        if has_marker
    }

    assert marked == listed
