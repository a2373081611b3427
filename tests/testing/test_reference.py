"""The page on testing documents every tool, and nothing else."""

from __future__ import annotations

import inspect
import re

import djjp.pytest
from djjp import testing
from tests.docs.markdown import code, prose, table
from tests.support.processes import ROOT

PAGE = "docs/testing.md"


def test_each_tool_is_documented() -> None:
    for name in testing.__all__:
        assert re.search(rf"\b{name}\b", prose(PAGE)), name


def test_the_parameters_of_the_assertions_are_documented() -> None:
    documented = [code(row[0]) for row in table(PAGE, "Argument")]
    assert documented == list(inspect.signature(testing.assert_enqueued).parameters)
    others = inspect.signature(testing.assert_not_enqueued).parameters
    assert [name for name in documented if name != "count"] == list(others)


def test_each_fixture_is_documented_and_no_other() -> None:
    source = (ROOT / "djjp/pytest.py").read_text()
    there = re.findall(r"@pytest.fixture\ndef (\w+)\(", source)
    assert [code(row[0]) for row in table(PAGE, "Fixture")] == there
    assert all(hasattr(djjp.pytest, name) for name in there)
