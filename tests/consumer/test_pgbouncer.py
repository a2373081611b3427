"""Behind a real PgBouncer: jobs run in both of its modes, by `DJJP["listen"]` alone in transaction mode."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from djjp import chain, run_many
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.models import Consumer, Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.pgbouncer import pooler
from tests.support.processes import eventually
from tests.support.projects import alias_for

pytestmark = [pytest.mark.postgresql_only]


@contextmanager
def behind(mode: str, listen: bool, options: str = "") -> Iterator[str]:
    """Have the queue behind a PgBouncer; the tables are those of the engine's own alias."""
    url = connections["postgresql"].settings_dict
    direct = f"postgres://postgres@/{url['NAME']}?host={url['HOST'] or url['OPTIONS']['host']}"
    with (
        pooler(direct, mode) as address,
        alias_for(queue_database(address + options)) as alias,
        override_settings(DJJP={"db_name": alias, "listen": listen}),
    ):
        yield alias
        connections[alias].close()


def statements_of_sessions() -> int:
    """Return the number of statements that this thread's session has prepared, behind whatever is between."""
    with connections[Job.objects.db].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        count: int = cursor.fetchone()[0]
    return count


def test_in_transaction_mode_listen_alone_is_enough(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        behind("transaction", listen=False),
        caplog.at_level(logging.INFO),
        consuming(4),
        consuming(4),
    ):
        handles = [add.run_later(1, number) for number in range(20)]
        handles += run_many(add.bind(2, number) for number in range(300))
        last = chain(add.bind(1, 1), add.bind(1)).run_later()
        assert [handle.join(30) for handle in handles[:20]] == [1 + n for n in range(20)]
        assert last.join(30) == 3
        eventually(lambda: not Job.objects.exclude(state="succeeded").exists())
        assert statements_of_sessions() == 0
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_consumer_that_listens_behind_a_pooler_warns_once_polls_and_holds_no_lock(
    engine: Engine, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    with behind(mode, listen=True, options="?prepare_threshold=none"), consuming(2):
        for number in range(5):
            assert add.run_later(1, number).join(30) == 1 + number
        assert [row.locked for row in Consumer.objects.all()] == [False]
    warnings = [r.getMessage() for r in caplog.records if r.name == "djjp.consumer"]
    assert len(warnings) == 1
    assert "through a pooler" in warnings[0]


def test_an_enqueuer_needs_no_setting_in_session_mode(engine: Engine) -> None:
    with behind("session", listen=True):
        handles: list[Any] = [add.run_later(1, number) for number in range(10)]
    with consuming(2):
        assert [handle.join(30) for handle in handles] == [1 + n for n in range(10)]
