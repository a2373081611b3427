"""The styles of the pages: each rule is closed, because one that is not takes all that follow with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import djjp

pytestmark = pytest.mark.one_pair

STYLES = Path(djjp.__file__).parent / "static" / "djjp" / "admin.css"


def unclosed(styles: str) -> list[str]:
    """Return the lines that begin a rule inside another one, and the last line if a rule is open there."""
    depth, found = 0, []
    lines = re.sub(
        r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), styles, flags=re.DOTALL
    )
    for line in lines.splitlines():
        if depth and line[:1].strip() and "{" in line:
            found.append(line)
        depth += line.count("{") - line.count("}")
    return [*found, "the end"] if depth else found


def test_each_rule_is_closed() -> None:
    assert unclosed(STYLES.read_text()) == []


def test_the_guard_sees_a_rule_that_is_not_closed() -> None:
    assert unclosed(".a {\n  x: y;\n.b { x: y; }\n") == [".b { x: y; }", "the end"]
    assert unclosed("@media x {\n  .a { b: c; }\n}\n/* { */\n") == []
