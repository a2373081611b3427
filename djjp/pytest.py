"""Fixtures for pytest: `pytest_plugins = ["djjp.pytest"]` in the `conftest.py` at the root of your tests.

They need pytest-django: a test that uses one must name its databases by
`@pytest.mark.django_db(databases=["default", "queue"])`. They return the tools of `djjp.testing`, which
documents them; it needs Django's models and is imported only when a test uses one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from djjp.testing import EnqueuedJob

__all__ = ["djjp_drain", "djjp_inline", "djjp_jobs"]


@pytest.fixture
def djjp_drain() -> Callable[..., int]:
    """`drain()`: run all due jobs here and now, and return the number of executions."""
    from djjp.testing import drain

    return drain


@pytest.fixture
def djjp_inline() -> Iterator[None]:
    """Run each job at once where the test enqueues it."""
    from djjp.testing import inline

    with inline():
        yield


@pytest.fixture
def djjp_jobs() -> Iterator[list[EnqueuedJob]]:
    """Return the list of the jobs that the test enqueues; it grows with each."""
    from djjp.testing import captured_jobs

    with captured_jobs() as jobs:
        yield jobs
