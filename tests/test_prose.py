"""The prose of the package, its docs and its programs: plain English, which an operator understands at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.prose import findings, findings_in_page

pytestmark = pytest.mark.one_pair

#: The package's modules, benchmarks, the example, the programs of the docs and the tests.
PROGRAMS = [
    path
    for folder in ("benchmarks", "djjp", "docs", "example_multidb", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "example_multidb/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def complaints(paths: list[Path], find: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """Return what is found in some files, by their paths."""
    found = {str(path.relative_to(ROOT)): find(path.read_text()) for path in paths}
    return {path: sentences for path, sentences in found.items() if sentences}


def test_the_prose_of_programs_is_plain() -> None:
    assert len(PROGRAMS) > 500
    assert complaints(PROGRAMS, findings) == {}


def test_the_prose_of_pages_is_plain() -> None:
    assert len(PAGES) > 40
    assert complaints(PAGES, findings_in_page) == {}


# The guard itself


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('"""Jobs that run by themselves."""', "'by themselves'"),
        ("# All but for\n# the first.", "'but for'"),
        ("# It takes as many\n# as there are.", "'as many as'"),
        ("def f():\n    '''Whether it lives.'''", "begins with 'Whether'"),
        ("async def f():\n    '''How many there are.'''", "begins with 'How many'"),
        ("class A:\n    '''What runs.'''", "begins with 'What'"),
        ("logger.warning('%s waits in vain', name)", "'in vain'"),
        ("raise ValueError(f'{x} is told of it')", "'is told'"),
        ("if x:  # whoever asks\n    pass", "'whoever'"),
    ],
)
def test_the_guard_sees_a_banned_phrase(source: str, complaint: str) -> None:
    assert complaint in "\n".join(findings(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Return whether the job runs."""',
        "name = 'by itself'  # a text that nobody reads",
        "# N jobs, except the first.",
        "raise ValueError('the timeout must be positive')",
    ],
)
def test_the_guard_accepts_plain_prose(source: str) -> None:
    assert findings(source) == []


def test_the_guard_sees_a_banned_phrase_in_a_page_and_not_in_its_code() -> None:
    assert findings_in_page("It waits in\nvain.") == ["'in vain': write without effect"]
    assert findings_in_page("Run it.\n```sh\nin vain\n```\n`in vain`") == []
