"""Django's tasks, enqueued to djjp on each database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from djjp.engine import Engine
from tests.support.tasks_env import TASKS


@pytest.fixture
def tasks_on_djjp(engine: Engine) -> Iterator[Engine]:
    with override_settings(TASKS=TASKS):
        yield engine
