"""`djjp check` tries everything, and prints a fix for each problem; `bench` leaves nothing."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings

from djjp import queues
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.management import bench, round_trip
from djjp.models import Consumer, Job, Queue, Total, TotalEntry
from djjp.outbox.models import OutboxJob
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.factories import consumer_row
from tests.support.processes import eventually


def checked(djjp: Djjp, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Return the exit code, and the findings by the name of their check."""
    ran = djjp("check", *options, "--json")
    found: dict[str, list[dict[str, Any]]] = {}
    for each in ran.document("Check")["checks"]:
        found.setdefault(each["check"], []).append(each)
    assert (ran.code == 0) is all(each["ok"] for some in found.values() for each in some)
    return ran.code, found


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for longer than users do, because tests can run on a busy machine."""
    monkeypatch.setattr(round_trip.round_trip, "__defaults__", (30.0,))
    monkeypatch.setattr("djjp.management.check._WAKE_WITHIN", 30.0)


def test_all_is_well_with_a_consumer_and_its_round_trip(engine: Engine, djjp: Djjp) -> None:
    with consuming():
        eventually(Consumer.objects.exists)
        code, found = checked(djjp, "--round-trip")
        assert djjp("check").lines[-1] == "all is well"
    assert code == 0
    assert found.keys() == {
        *(
            "project",
            "database",
            "indexes",
            "clocks",
            "wake-ups",
            "consumers",
            "outbox",
            "incidents",
        ),
        "round trip",
    }
    assert not Job.objects.exists()
    assert not Queue.objects.exists()


def test_the_round_trip_takes_a_queue_that_is_not_paused(engine: Engine, djjp: Djjp) -> None:
    queues.pause("default")
    with consuming():
        eventually(Consumer.objects.exists)
        _, found = checked(djjp, "--round-trip")
    assert found["round trip"][0]["ok"]
    assert not Job.objects.exists()
    assert not TotalEntry.objects.exists()


def test_without_a_consumer_it_names_the_command_that_starts_one(
    engine: Engine, djjp: Djjp
) -> None:
    code, found = checked(djjp, "--round-trip")
    assert code == 1
    assert found["consumers"][0]["fix"] == "Start one: python manage.py start_consumer"
    assert found["round trip"][0]["fix"] == "Start one: python manage.py start_consumer"
    shown = djjp("check").lines
    assert "PROBLEM  consumers: none is registered" in shown
    assert shown[-1] == "1 problem found"


def test_a_round_trip_that_no_consumer_makes_ends_and_leaves_no_job(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer_row("h:1:dead")
    monkeypatch.setattr(round_trip.round_trip, "__defaults__", (0.0,))
    _, found = checked(djjp, "--round-trip")
    (outcome,) = found["round trip"]
    assert "no consumer has started a job in default" in outcome["text"]
    assert not Job.objects.exists()


def test_a_consumer_that_sends_no_heartbeats_is_found(engine: Engine, djjp: Djjp) -> None:
    consumer_row("h:1:dead", ago=3600)
    none, dead = checked(djjp)[1]["consumers"]
    assert none["text"] == "none is alive"
    assert dead["text"].endswith("ago: it is dead")
    assert not dead["ok"]


def test_an_index_that_is_missing_or_has_other_columns_is_found_with_the_statement_that_mends_it(
    engine: Engine, djjp: Djjp
) -> None:
    def execute(statement: str) -> None:
        with connections[engine.db.alias].cursor() as cursor:
            cursor.execute(statement)

    execute("DROP INDEX djjp_job_failed")
    execute("DROP INDEX djjp_job_running")
    execute("CREATE INDEX djjp_job_running ON djjp_job (name)")
    try:
        _, found = checked(djjp)
        missing, changed = sorted(found["indexes"], key=lambda each: str(each["text"]))
        assert missing["text"] == "the index djjp_job_failed of djjp_job is missing"
        assert changed["text"] == (
            "the index djjp_job_running of djjp_job has the columns name, not consumer"
        )
    finally:
        for each in found["indexes"]:
            for statement in each["fix"].rstrip(";").split(";"):
                execute(statement)
    _, found = checked(djjp)
    assert [each["ok"] for each in found["indexes"]] == [True]


@pytest.mark.postgresql_only
def test_an_index_that_was_not_built_to_its_end_is_found(engine: Engine, djjp: Djjp) -> None:
    valid = "UPDATE pg_index SET indisvalid = %s WHERE indexrelid = 'djjp_job_failed'::regclass"
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute(valid, [False])
        try:
            _, found = checked(djjp)
        finally:
            cursor.execute(valid, [True])
    assert "is invalid" in found["indexes"][0]["text"]


def test_a_clock_that_is_ahead_is_found(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine.db), "clock", lambda self: time.time() + 60)
    _, found = checked(djjp)
    assert "differs by 60 s" in found["clocks"][0]["text"]


def test_wake_ups_that_nobody_notices_are_found(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf:
        def woken(self) -> bool:
            return False

        def interval(self, quiet: float) -> float:
            return 0.01

    monkeypatch.setattr(type(engine.db), "listener", lambda self: Deaf())
    monkeypatch.setattr("djjp.management.check._WAKE_WITHIN", 0.05)
    _, found = checked(djjp)
    assert "no connection has noticed a write" in found["wake-ups"][0]["text"]


def test_jobs_that_wait_in_an_outbox_or_are_refused_are_found(engine: Engine, djjp: Djjp) -> None:
    with transaction.atomic():
        add.run_later(1)
        transaction.set_rollback(False)
    hour_ago = to_datetime(time.time() - 3600)
    OutboxJob.objects.create(id="01a20ea130c578999bf1a6a7d8c6d722", job="{}", created_at=hour_ago)
    OutboxJob.objects.create(
        id="01a20ea130c578999bf1a6a7d8c6d723", job="{}", created_at=hour_ago, problem="odd"
    )
    _, found = checked(djjp)
    refused, late = found["outbox"]
    assert "the queue refuses 1 job of default: odd" in refused["text"]
    assert "the first for over 10 s" in late["text"]


@pytest.mark.one_database
def test_a_wrong_setting_is_found_before_all_that_depends_on_it(engine: Engine, djjp: Djjp) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "outbox": ["nowhere"]}):
        code, found = checked(djjp)
    assert code == 1
    assert found.keys() == {"project"}
    assert "E011" in found["project"][0]["text"]


# bench


def test_the_bench_measures_its_rates_and_leaves_nothing(engine: Engine, djjp: Djjp) -> None:
    mine = add.using(run_after=timedelta(hours=1)).run_later(1)
    left = bench._Bench(engine, 10)
    engine.jobs.enqueue(left._new())  # of a bench that was killed
    rates = djjp("bench", "--jobs", "20", "--json").document("Bench")["rates"]
    assert [rate["what"] for rate in rates] == [
        *("enqueue_one", "enqueue_many", "turn_of_one", "drain")
    ]
    assert all(rate["per_second"] > 0 for rate in rates)
    assert [job.pk for job in Job.objects.all()] == [mine.id]
    assert not queues.paused()
    assert not Total.objects.exists()
    assert not TotalEntry.objects.exists()


def test_a_bench_that_is_interrupted_leaves_nothing(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, number: int, at_once: int) -> None:
        assert Job.objects.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(bench._Bench, "_drain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        djjp("bench", "--jobs", "20")
    assert not Job.objects.exists()
    assert not queues.paused()


def test_no_consumer_takes_the_jobs_of_the_bench(engine: Engine, djjp: Djjp) -> None:
    with consuming() as consumer:
        djjp("bench", "--jobs", "200")
    assert consumer.executed == 0
