"""Several databases with an outbox: the innermost transaction takes the job, or the one that is named."""

from __future__ import annotations

import pytest
from django.db import connections, transaction

from djjp import run_many
from djjp.engine import Engine
from tests.outbox.conftest import Application, queued, undone, waiting
from tests.project.shop.jobs import add

pytestmark = pytest.mark.both_databases


def holders(second: Application) -> tuple[int, int]:
    return len(waiting()), second.waiting()


@pytest.mark.borrowed
def test_the_innermost_transaction_takes_the_job_whichever_way_they_are_nested(
    engine: Engine, second: Application
) -> None:
    for outer, inner, held in (
        ("default", second.alias, (0, 1)),
        (second.alias, "default", (1, 0)),
    ):
        with transaction.atomic(outer), transaction.atomic(inner):
            add.run_later(1)
            assert holders(second) == held
    assert len(queued()) == 2


def test_a_savepoint_is_a_block_like_any_other(engine: Engine, second: Application) -> None:
    with transaction.atomic(), transaction.atomic(second.alias):
        with transaction.atomic():
            add.run_later(1)
            assert holders(second) == (1, 0)
        add.run_later(2)
        assert holders(second) == (1, 1)


def test_ended_blocks_do_not_count(engine: Engine, second: Application) -> None:
    with transaction.atomic():
        with transaction.atomic(second.alias):
            add.run_later(1)
        add.run_later(2)
        assert holders(second) == (1, 0)
        with undone(second.alias):
            add.run_later(3)
        add.run_later(4)
        assert holders(second) == (2, 0)
    assert len(queued()) == 3


def test_a_new_connection_numbers_its_blocks_too(engine: Engine, second: Application) -> None:
    for alias in ("default", second.alias):
        connections[alias].close()
    with transaction.atomic(second.alias), transaction.atomic():
        add.run_later(1)
        assert holders(second) == (1, 0)


def test_the_job_goes_with_the_transaction_that_took_it(
    engine: Engine, second: Application
) -> None:
    with transaction.atomic(), undone(second.alias):
        add.run_later(1)
        add.using(database="default").run_later(2)
    assert len(queued()) == 1


def test_using_names_the_transaction(engine: Engine, second: Application) -> None:
    with transaction.atomic(), transaction.atomic(second.alias):
        outer = add.using(database="default")
        outer.run_later(1)
        assert holders(second) == (1, 0)
        run_many([outer.bind(2), add.bind(3), add.using(database=second.alias).bind(4)])
        assert holders(second) == (2, 2)
    assert len(queued()) == 4


def test_a_named_database_without_a_transaction_delays_nothing(
    engine: Engine, second: Application
) -> None:
    with transaction.atomic():
        add.using(database=second.alias).run_later(1)
        assert len(queued()) == 1
        assert holders(second) == (0, 0)


def test_only_a_database_with_an_outbox_can_be_named(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"database is 'elsewhere'.*'default'"):
        add.using(database="elsewhere")


def test_a_transaction_on_the_queue_is_not_one_of_the_application(
    engine: Engine,
) -> None:
    with transaction.atomic(), transaction.atomic(engine.db.alias):
        add.run_later(1)
        assert (len(waiting()), len(queued())) == (1, 0)
    assert len(queued()) == 1
