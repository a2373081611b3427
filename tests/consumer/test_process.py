"""One consumer process, from its options to its exit code, within the test's own."""

from __future__ import annotations

import gc
from contextlib import ExitStack

import pytest
from django.core.management import call_command
from django.db import connections, transaction

from djjp.consumer.consumer import Consumer
from djjp.consumer.process import consume
from djjp.engine import Engine
from djjp.models import Consumer as ConsumerRow
from djjp.models import Job
from tests.project.shop.jobs import add


def test_objects_loaded_before_the_run_are_not_garbage_collected_during_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_over = []
    run = Consumer.run

    def looking(consumer: Consumer) -> bool:
        passed_over.append(gc.get_freeze_count())
        return run(consumer)

    monkeypatch.setattr(Consumer, "run", looking)

    assert consume(drain=True) == 0
    assert passed_over[0] > 10_000
    assert gc.get_freeze_count() == 0


def test_a_consumer_inside_a_transaction_keeps_it_and_its_connection_open(
    engine: Engine,
) -> None:
    with transaction.atomic(using=engine.db.alias), ExitStack() as stack:
        handle = add.run_later(1, b=2)
        stack.enter_context(transaction.atomic(using="default"))
        before = [connections[alias].connection for alias in ("default", engine.db.alias)]

        call_command("start_consumer", "--drain")

        assert handle.join(0) == 3
        after = [connections[alias].connection for alias in ("default", engine.db.alias)]
        assert None not in after
        assert all(one is other for one, other in zip(before, after, strict=True))
        assert connections[engine.db.alias].in_atomic_block
        transaction.set_rollback(True, using=engine.db.alias)
    assert not Job.objects.exists(), "what happened in the transaction went with it"
    assert not ConsumerRow.objects.exists()
