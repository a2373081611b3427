"""Fixtures for pytest: `pytest_plugins = ["djjp.pytest"]` in the `conftest.py` at the root of your tests.

They go with pytest-django: a test that takes one names its databases by
`@pytest.mark.django_db(databases=["default", "queue"])`. What they give is documented in `djjp.testing`,
which needs Django's models and is imported only when a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from djjp.testing import EnqueuedJob


@pytest.fixture
def djjp_drain() -> Callable[..., int]:
    """`drain()`: runs all due work here and now, and returns how many executions there were."""
    from djjp.testing import drain

    return drain


@pytest.fixture
def djjp_inline() -> Iterator[None]:
    """Each job runs at once where the test enqueues it."""
    from djjp.testing import inline

    with inline():
        yield


@pytest.fixture
def djjp_jobs() -> Iterator[list[EnqueuedJob]]:
    """The list of what the test enqueues, as it grows."""
    from djjp.testing import captured_jobs

    with captured_jobs() as jobs:
        yield jobs
