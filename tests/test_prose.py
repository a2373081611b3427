"""The prose of the package: plain English, which an operator understands at first reading."""

from __future__ import annotations

import pytest

from tests.support.imports import MODULES
from tests.support.prose import findings

# Modules whose prose is still to be rewritten. A module that is clean must leave this list.
NOT_YET_CLEAN: set[str] = {
    "consumer.execution",
    "consumer.inline",
    "consumer.pool.sync_threads",
    "consumer.serving",
    "consumer.supervisor",
}


@pytest.mark.parametrize("module", sorted(set(MODULES) - NOT_YET_CLEAN))
def test_the_prose_is_plain(module: str) -> None:
    assert findings(MODULES[module].read_text()) == []


@pytest.mark.parametrize("module", sorted(NOT_YET_CLEAN))
def test_a_module_in_the_list_needs_it(module: str) -> None:
    assert findings(MODULES[module].read_text()), f"{module} is clean: remove it from the list"


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
