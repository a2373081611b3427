"""One consumer, in this process: the jobs that it claims, runs, writes and leaves to others."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError, connections
from django.test import override_settings

from djjp import run_many
from djjp.consumer import outage
from djjp.consumer.consumer import Consumer
from djjp.consumer.process import consume
from djjp.consumer.rescue import rescue
from djjp.durations import seconds
from djjp.engine import Engine, Listener
from djjp.models import Attempt, Job
from djjp.models import Consumer as ConsumerRow
from tests.project.shop.jobs import add, anap, echo, fail, fan_out, mail, nap, record
from tests.project.shop.models import Execution
from tests.support.consumers import consuming, drain
from tests.support.engine_calls import claim, enqueue, register_consumer
from tests.support.factories import new_job
from tests.support.jobs import registered
from tests.support.processes import Processes, eventually
from tests.support.staying import let_end, stay


def test_drain_runs_all_ready_jobs_and_ends(engine: Engine) -> None:
    handles = run_many(add.bind(i, b=1) for i in range(500))

    consumer = drain()

    assert [handle.join(0) for handle in handles] == [i + 1 for i in range(500)]
    assert consumer.executed == 500
    assert set(Job.objects.values_list("consumer", "attempts")) == {(consumer.name, 1)}


def test_drain_on_an_empty_queue_ends_at_once(engine: Engine) -> None:
    assert drain().executed == 0


def test_an_ended_job_shows_when_it_was_created_started_and_finished(engine: Engine) -> None:
    handle = nap.run_later(0.05)
    drain()

    row = Job.objects.get(pk=handle.id)
    assert row.started_at is not None
    assert row.finished_at is not None
    assert row.created_at <= row.started_at <= row.finished_at - timedelta(seconds=0.05)


def test_a_failed_job_keeps_its_traceback_and_the_next_one_runs(engine: Engine) -> None:
    failed, fine = fail.run_later("no stock"), add.run_later(1)

    drain(1)

    failed.refresh()
    assert failed.state == "failed"
    assert [error.message for error in failed.errors] == ["no stock"]
    assert "raise ValueError(message)" in failed.errors[0].traceback
    assert fine.join(0) == 1


def test_higher_priority_goes_first_and_equals_in_their_order(engine: Engine) -> None:
    for key in ("a", "b"):
        record.run_later(key)
        record.using(priority=9).run_later(f"urgent {key}")

    drain(1)

    keys = list(Execution.objects.order_by("pk").values_list("key", flat=True))
    assert keys == ["urgent a", "urgent b", "a", "b"]


def test_coroutine_jobs_run_in_the_same_pool(engine: Engine) -> None:
    handles = [anap.run_later(0.01) for _ in range(5)]

    drain()

    assert all(handle.join(0) for handle in handles)


def test_only_the_named_queues_are_served(engine: Engine) -> None:
    served, other = mail.run_later("a@b.c"), add.run_later(1)

    drain(queues=["mail"])

    served.refresh()
    other.refresh()
    assert (served.state, other.state) == ("succeeded", "ready")


def test_drain_leaves_jobs_of_the_future_alone(engine: Engine) -> None:
    later = add.using(run_after=timedelta(hours=1)).run_later(1)
    due = add.using(run_after=timedelta(milliseconds=1)).run_later(2)
    time.sleep(0.01)

    drain()

    later.refresh()
    due.refresh()
    assert (later.state, due.state) == ("scheduled", "succeeded")


def test_drain_runs_the_jobs_that_its_jobs_enqueue(engine: Engine) -> None:
    handle = fan_out.run_later(20)

    assert drain().executed == 21
    assert len(handle.join(0)) == 20


@pytest.mark.parametrize("slots", [1, 7])
def test_max_jobs_is_exact(engine: Engine, slots: int) -> None:
    run_many(add.bind(i) for i in range(300))

    consumer = Consumer(slots, max_jobs=123)
    consumer.run()

    assert consumer.executed == 123
    assert Job.objects.filter(state="succeeded").count() == 123
    assert Job.objects.filter(state="ready", attempts=0).count() == 177


def test_a_job_that_is_not_registered_here_is_left_to_others_and_causes_no_busy_loop(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.jobs.enqueue_many([new_job(name="shop.of_tomorrow", priority=9) for _ in range(50)])
    known = add.run_later(1)

    with caplog.at_level(logging.WARNING, "djjp"):
        drain()

    assert known.join(0) == 1
    unknown = Job.objects.filter(name="shop.of_tomorrow")
    assert set(unknown.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}
    assert [r.getMessage() for r in caplog.records if "of_tomorrow" in r.getMessage()] == [
        "left to other consumers: no job named 'shop.of_tomorrow' is registered here"
    ]


def test_a_late_outcome_is_dropped_and_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    handle = stay.run_later()
    consumer = Consumer(1, max_jobs=1)  # a drain would rescue the job from `another`

    def rescue_meanwhile() -> None:
        eventually(lambda: Job.objects.filter(state="running").exists())
        Job.objects.update(consumer="another", attempts=2)
        let_end()
        connections.close_all()

    thief = threading.Thread(target=rescue_meanwhile)
    thief.start()
    with caplog.at_level(logging.WARNING, "djjp"):
        consumer.run()
    thief.join()

    row = Job.objects.get(pk=handle.id)
    assert (row.state, row.consumer, row.result) == ("running", "another", None)
    assert "no longer ours" in caplog.text


def test_a_row_that_is_deleted_while_it_runs_harms_nothing(engine: Engine) -> None:
    stay.run_later()
    other = add.run_later(1)

    def delete_meanwhile() -> None:
        eventually(lambda: Job.objects.filter(state="running", name=stay.name).exists())
        Job.objects.filter(name=stay.name).delete()
        let_end()
        connections.close_all()

    deleter = threading.Thread(target=delete_meanwhile)
    deleter.start()
    drain(1)
    deleter.join()

    assert other.join(0) == 1
    assert not Attempt.objects.exists()


def test_slow_jobs_do_not_wait_behind_each_other_while_another_consumer_is_free(
    engine: Engine,
) -> None:
    """The first consumer has measured tiny jobs and has a large read-ahead when they become slow."""
    together = threading.Barrier(
        4
    )  # so long that all slots have one: a job that waits behind another breaks it
    with registered("test.slow", lambda: together.wait(60)) as slow:
        run_many(add.bind(i) for i in range(2000))
        run_many(slow.bind() for _ in range(4))

        consumers = [Consumer(2), Consumer(2)]
        threads = [threading.Thread(target=run_and_close, args=[c]) for c in consumers]
        for thread in threads:
            thread.start()
        eventually(lambda: not Job.objects.filter(finished_at=None).exists())
        for consumer, thread in zip(consumers, threads, strict=True):
            consumer.stop()
            thread.join()

    assert {*Job.objects.values_list("state", flat=True)} == {"succeeded"}
    shares = Counter(Job.objects.filter(name=slow.name).values_list("consumer", flat=True))
    assert shares == {consumer.name: 2 for consumer in consumers}


def run_and_close(consumer: Consumer) -> None:
    try:
        consumer.run()
    finally:
        connections.close_all()


def test_arguments_arrive_as_they_were_given(engine: Engine) -> None:
    handle = echo.run_later(timedelta(days=1), {"a": (1, 2)}, flag=b"\x00")

    drain()

    assert handle.join(0) == [[timedelta(days=1), {"a": (1, 2)}], {"flag": b"\x00"}]


def test_a_queue_without_tables_is_refused_and_the_error_names_the_command(
    processes: Processes, tmp_path: Path
) -> None:
    ended = processes.run(
        "start_consumer", "--drain", DJJP_TEST_HOME=str(tmp_path), DJJP_TEST_ALIAS="sqlite"
    )

    assert ended.returncode == 1
    assert "python manage.py migrate --database=sqlite" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_consumer_whose_listener_fails_at_first_registers_once_and_keeps_one_journal(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registered: list[str] = []
    refusals = [OperationalError("away"), OperationalError("away")]
    register, listener = engine.consumers.register, engine.db.listener

    def recording(row: ConsumerRow) -> None:
        registered.append(row.name)
        register(row)

    def refusing() -> Listener:
        if refusals:
            raise refusals.pop()
        return listener()

    monkeypatch.setattr(engine.consumers, "register", recording)
    monkeypatch.setattr(engine.db, "listener", refusing)
    handle = add.run_later(1)

    consumer = drain()

    assert handle.join(0) == 1
    assert registered == [consumer.name]
    assert not ConsumerRow.objects.exists()
    assert "keeps no start journal" not in caplog.text
    assert caplog.text.count("the queue's database refused (away)") == 2


@pytest.mark.parametrize("long", [True, False])
def test_the_end_of_an_outage_is_logged_once_if_it_was_long(
    long: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [OperationalError("away"), OperationalError("away")]
    listener = engine.db.listener

    def refusing() -> Listener:
        if refusals:
            raise refusals.pop()
        return listener()

    monkeypatch.setattr(engine.db, "listener", refusing)
    monkeypatch.setattr(outage, "_LONG", 0.0 if long else 3600.0)

    handle = add.run_later(1)
    drain()

    assert handle.join(0) == 1
    assert caplog.text.count("the queue's database refused (away)") == 2
    assert caplog.text.count("the queue's database answers again, after ") == int(long)


def test_a_second_registration_under_the_same_name_does_no_harm(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The row was written, and the response lost."""
    registered: list[str] = []
    register = engine.consumers.register

    def losing_the_response(row: ConsumerRow) -> None:
        register(row)
        registered.append(row.name)
        if len(registered) == 1:
            raise OperationalError("away")

    monkeypatch.setattr(engine.consumers, "register", losing_the_response)
    handle = add.run_later(1)

    consumer = drain()

    assert handle.join(0) == 1
    assert registered == [consumer.name] * 2
    assert not ConsumerRow.objects.exists()
    assert "keeps no start journal" not in caplog.text


@pytest.mark.parametrize("most", [10**400, math.inf, 1e300])
def test_a_consumer_works_with_settings_of_any_size(engine: Engine, most: float) -> None:
    durations = ("heartbeat_limit", "frozen_limit", "keep_succeeded", "keep_failed")
    large = {"max_rescues": 10**400, **dict.fromkeys((*durations, "shutdown_timeout"), most)}
    [id] = enqueue(engine, name=add.name, arguments='{"args":[1],"kwargs":{}}')
    claim(engine, "dead")
    with override_settings(DJJP={"db_name": engine.db.alias, **large}):
        assert rescue(engine, register_consumer(engine, "dead")).jobs == 1
        assert consume(drain=True) == 0
        assert Job.objects.get(pk=id).state == "succeeded"
        with consuming(shutdown_timeout=seconds("shutdown_timeout", most)):
            handle = stay.run_later()
            eventually(lambda: Job.objects.get(pk=handle.id).state == "running")
            let_end()
            handle.join(30)
