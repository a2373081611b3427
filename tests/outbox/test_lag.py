"""The lag of an outbox: rows that wait for their relay for long are noticed, and others are not."""

from __future__ import annotations

import time

import pytest

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.outbox import lag
from djjp.outbox.lag import Lag
from djjp.outbox.models import OutboxJob


def leave(seconds: float, **given: object) -> OutboxJob:
    at = to_datetime(time.time() - seconds)
    row: OutboxJob = OutboxJob.objects.create(id=new_id(), job="{}", created_at=at, **given)
    return row


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Lag:
    monkeypatch.setattr(lag, "_EVERY", 0.0)
    return Lag("default")


@pytest.mark.one_database
def test_a_row_that_waits_for_long_counts_once_it_was_seen_for_a_while(
    engine: Engine, measured: Lag, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(60)
    measured.measure()
    assert measured.seconds() is None, "a long transaction may just have committed it"
    monkeypatch.setattr(lag, "LASTING", 0.0)
    found = measured.seconds()
    assert found is not None
    assert found >= 60
    OutboxJob.objects.all().delete()
    measured.measure()
    assert measured.seconds() is None


@pytest.mark.one_database
def test_young_rows_and_rows_that_are_set_aside_do_not_count(
    engine: Engine, measured: Lag, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "LASTING", 0.0)
    leave(5)
    leave(60, problem="it is no job")
    measured.measure()
    assert measured.seconds() is None
