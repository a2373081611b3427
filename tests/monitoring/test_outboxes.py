"""An outbox shows what waits in it and what the queue refuses, from a bounded number of rows and characters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djjp import call_options, chain
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Flag
from djjp.monitoring import outboxes
from djjp.monitoring.outboxes import outbox
from djjp.outbox import serialization, table
from djjp.outbox.models import OutboxJob
from tests.project.shop.jobs import add
from tests.support.factories import new_job


@pytest.fixture(autouse=True)
def empty(engine: Engine) -> Iterator[None]:
    yield
    OutboxJob.objects.all().delete()


def wait(
    ago: float = 60.0, *, cancelled: bool = False, problem: str | None = None, **job: Any
) -> Any:
    """Write a job into the outbox that no relay has taken."""
    new = new_job(**job)
    OutboxJob.objects.create(
        id=new.id,
        job=serialization.to_text(new),
        created_at=timezone.now() - timedelta(seconds=ago),
        cancelled=cancelled,
        problem=problem,
    )
    return new.id


def test_an_empty_outbox_has_nothing(engine: Engine) -> None:
    found = outbox("default")
    assert (str(found.waiting), found.oldest_wait, found.calls) == ("0", None, [])
    assert (found.set_aside, found.error) == ([], "")


def test_what_waits_is_listed_with_its_job_the_oldest_first(engine: Engine) -> None:
    options = call_options.to_text({}, ["tenant-42"])
    first = wait(600.0, name="shop.send", queue="mail", options=options, flags=Flag.TAGGED)
    second = wait(cancelled=True)

    found = outbox("default")

    assert str(found.waiting) == "2"
    assert found.oldest_wait == pytest.approx(600.0, abs=60)
    one, two = found.calls
    assert (one.id, one.name, one.queue, one.jobs, one.tags) == (
        first,
        "shop.send",
        "mail",
        1,
        ["tenant-42"],
    )
    assert one.arguments == '{"args":[],"kwargs":{}}'
    assert abs(one.enqueued_at.timestamp() - time.time()) < 60
    assert (two.id, two.cancelled, one.cancelled) == (second, True, False)


def test_a_pipeline_is_one_call_with_its_jobs(engine: Engine) -> None:
    bound = chain(add.bind(1, 2), add.bind(3))
    from django.db import transaction

    with transaction.atomic():
        bound.run_later()
        # Seen inside the transaction: the relay begins after it.
        [call] = outbox("default").calls
    assert (call.name, call.jobs) == (add.name, 2)


def test_rows_that_are_set_aside_have_their_problem(engine: Engine) -> None:
    key = wait(problem="priority is 99999")
    found = outbox("default")
    assert (str(found.waiting), found.calls) == ("0", [])
    assert [(row.key, row.problem) for row in found.set_aside] == [(key, "priority is 99999")]


def test_rows_that_are_set_aside_have_their_job_and_their_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(problem="no", name="shop.send")
    OutboxJob.objects.create(
        id=new_id(), job='{"name": 1}', created_at=timezone.now(), problem="damaged"
    )
    named, damaged = outbox("default").set_aside
    assert (named.name, damaged.name) == ("shop.send", "")
    assert named.enqueued_at is not None
    assert abs(named.enqueued_at.timestamp() - time.time()) < 3_600
    monkeypatch.setattr(outboxes, "MOST_CHARACTERS", 10)
    assert [row.name for row in outbox("default").set_aside] == ["", ""]


def test_a_damaged_row_is_listed_with_its_problem(engine: Engine) -> None:
    OutboxJob.objects.create(id=new_id(), job='{"name": 1}', created_at=timezone.now())
    [call] = outbox("default").calls
    assert "this is no job: it lacks" in call.problem
    assert (call.name, call.arguments, call.jobs) == ("", None, 0)


def test_large_calls_are_listed_and_not_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "MOST_CHARACTERS", 1_000)
    small = wait(name="small")
    large = wait(name="large", arguments='{"args":["%s"],"kwargs":{}}' % ("x" * 2_000))
    found = outbox("default")
    assert [(call.id, call.name) for call in found.calls] == [(small, "small"), (large, "")]


def test_the_count_and_the_lists_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "MOST_COUNTED", 3)
    for _ in range(5):
        wait()
        wait(problem="no")
    found = outbox("default", limit=2)
    assert str(found.waiting) == "3+"
    assert (len(found.calls), len(found.set_aside)) == (2, 2)
    assert len(table.rows_set_aside("default")) == 5


def test_the_number_of_statements_does_not_depend_on_the_rows(engine: Engine) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connections["default"]) as sent:
            outbox("default")
        return len(sent)

    wait()
    wait(problem="no")
    few = statements()
    for _ in range(30):
        wait()
        wait(problem="no")
    assert statements() == few


def test_a_database_that_does_not_answer_is_reported(engine: Engine) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "outbox": ["default"]}):
        settings = connections.settings["default"]
        name = settings["NAME"]
        connections["default"].close()
        settings["NAME"] = "/nowhere/at/all"
        try:
            found = outbox("default")
        finally:
            connections["default"].close()
            settings["NAME"] = name
    assert "unable to open database file" in found.error
    assert found.calls == []
