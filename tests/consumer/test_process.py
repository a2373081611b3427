"""One consumer process, from its options to its exit code, within the test's own."""

from __future__ import annotations

import gc

import pytest

from djjp.consumer.consumer import Consumer
from djjp.consumer.process import consume
from djjp.engine import Engine


def test_collections_pass_over_what_was_loaded_before_for_as_long_as_the_consumer_runs(
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
