"""Consumers detect incidents beside their turns: one at a time searches, and all report what they notice."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

import pytest
from django.db import connections

from djjp import run_many
from djjp.consumer import incidents as chore
from djjp.consumer.failure_detector import LEADS_FOR, FailureDetector
from djjp.consumer.incidents import IncidentSearch
from djjp.consumer.maintenance import Maintenance
from djjp.consumer.pool import loop_watchdog
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.engine.incidents import Found
from djjp.ids import new_id
from djjp.models import Consumer, Incident
from djjp.monitoring import detection
from djjp.outbox import lag, relay
from djjp.outbox.models import OutboxJob
from djjp.signals import incident_opened
from tests.monitoring.faults import consumer_row, observe, ready_job
from tests.project.shop.jobs import add, fail
from tests.support.consumers import consuming
from tests.support.engine_calls import register_consumer
from tests.support.jobs import registered
from tests.support.processes import eventually
from tests.support.schedules import by_hand


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search all the time."""
    monkeypatch.setattr(chore, "SEARCH_EVERY", 0.05)
    monkeypatch.setattr(detection, "FIGURES_EVERY", 0.0)
    monkeypatch.setattr(detection, "OPEN_AFTER", {})


def kinds() -> list[str]:
    return sorted(Incident.objects.values_list("kind", flat=True))


def test_a_consumer_detects_incidents_beside_its_jobs(
    engine: Engine, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    ready_job(engine, 400, queue="mail")
    with consuming(queues=["default"]):
        eventually(lambda: kinds() == ["no_consumer", "wait"])
        assert add.run_later(1, 2).join(30) == 3
    logged = [r for r in caplog.records if r.name == "djjp.incidents"]
    assert len(logged) == Incident.objects.count() == 2


def test_a_schedule_that_a_consumer_could_not_fire_is_an_incident(
    engine: Engine, often: None
) -> None:
    def broken(*args: object, **kwargs: object) -> str:
        raise RuntimeError("no key today")

    with registered("test.broken", lambda: None, unique_key=broken):
        by_hand("test.broken", time.time() - 60, name="minutely", cron="* * * * *", tz="UTC")
        with consuming():
            eventually(lambda: kinds() == ["schedule_broken"])
    assert "no key today" in Incident.objects.get().facts


def test_a_job_that_blocks_the_event_loop_is_an_incident(
    engine: Engine, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hog(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  (it blocks the loop)

    # On a busy machine it can take longer than 0.1 s until the job is there.
    monkeypatch.setattr(loop_watchdog, "LONGEST", 0.5)
    with registered("test.hog", hog) as job, consuming(concurrency="asyncio"):
        job.run_later(1.5).join(30)
        mine = Incident.objects.filter(kind="loop_blocked", subject="test.hog")
        eventually(mine.exists)
    assert "test_incidents.py:" in mine.get().facts


def test_a_name_whose_jobs_fail_is_an_incident(engine: Engine, often: None) -> None:
    run_many([*(fail.bind("no") for _ in range(12)), *(add.bind(n, 1) for n in range(30))])
    with consuming():
        eventually(lambda: kinds() == ["failing"])
    row = Incident.objects.get()
    figures = json.loads(row.facts)
    assert row.subject == fail.name
    assert figures["failed"] == figures["ended"] >= 10


def test_an_outbox_whose_rows_stay_is_an_incident(
    engine: Engine, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "_EVERY", 0.0)
    monkeypatch.setattr(lag, "LASTING", 0.0)
    monkeypatch.setattr(relay.Sweep, "run", lambda self, **options: None)  # relays nothing
    OutboxJob.objects.create(id=new_id(), job="{}", created_at=to_datetime(time.time() - 60))
    with consuming():
        eventually(lambda: kinds() == ["outbox_behind"])
    assert Incident.objects.get().subject == "default"


def test_a_dead_consumer_is_an_incident_once(
    engine: Engine, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = register_consumer(engine, "host:7:dead", time.time() - 1000)
    monkeypatch.setattr(FailureDetector, "find_dead", lambda self, engine, name: [peer])
    with consuming():
        eventually(lambda: kinds() == ["consumer_lost"])
        assert add.run_later(1, 2).join(30) == 3
    row = Incident.objects.get()
    assert (row.subject, json.loads(row.facts)["consumers"]) == ("host", 1)


@pytest.mark.parametrize("ahead", [-9.0, 9.0])
def test_a_clock_that_is_off_is_noticed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(engine.db, "clock", lambda: time.time() - ahead)
    [found] = observe(engine)
    assert (found.kind, found.subject) == ("clock_skew", "host")
    assert found.facts["seconds"] == pytest.approx(ahead, abs=1)


def test_a_clock_that_is_right_is_not_noticed(engine: Engine) -> None:
    assert observe(engine) == []


# One at a time


def _seen(detector: FailureDetector, engine: Engine, name: str) -> bool:
    detector.find_dead(engine, name)
    return detector.leads(name)


def test_the_first_consumer_that_sends_heartbeats_leads(engine: Engine) -> None:
    for name in ("host:1:a", "host:2:b", "host:3:c"):
        register_consumer(engine, name, time.time())
    detectors = {
        name: FailureDetector(1000, None, reconnect=5)
        for name in ("host:1:a", "host:2:b", "host:3:c")
    }
    leading = [name for name, detector in detectors.items() if _seen(detector, engine, name)]
    assert leading == ["host:1:a"]

    Consumer.objects.filter(pk="host:1:a").delete()
    leading = [name for name, detector in detectors.items() if _seen(detector, engine, name)]
    assert leading == ["host:1:a", "host:2:b"], "the first takes itself for alive"


def test_another_consumer_leads_while_the_first_is_frozen(engine: Engine) -> None:
    register_consumer(engine, "host:1:a", time.time())
    register_consumer(engine, "host:2:b", time.time())
    detector = FailureDetector(1000, None, reconnect=5)
    assert not _seen(detector, engine, "host:2:b")
    detector._now += LEADS_FOR + 1
    assert _seen(detector, engine, "host:2:b")
    engine.consumers.heartbeat("host:1:a", time.time() + 1, locked=True)
    assert not _seen(detector, engine, "host:2:b")


def searching(
    engine: Engine, *found: Found, leads: bool = True, reconnect: float = 0.0
) -> IncidentSearch:
    return IncidentSearch(engine, lambda: list(found), lambda: leads, dict, reconnect=reconnect)


def test_a_consumer_that_does_not_lead_reports_what_it_notices_only(engine: Engine) -> None:
    ready_job(engine, 400)
    search = searching(engine, Found("unheard", "host", {"problem": "x"}), leads=False)
    search.work()
    assert kinds() == ["unheard"]


def test_a_consumer_that_notices_nothing_and_does_not_lead_sends_no_statement(
    engine: Engine, django_assert_num_queries: Any
) -> None:
    search = searching(engine, leads=False)
    with django_assert_num_queries(0, connection=connections[engine.db.alias]):
        search.work()


# Outages and pauses


def test_after_an_outage_nothing_is_judged_before_others_could_come_back(
    engine: Engine, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs have waited during the outage, and other consumers have not reconnected yet."""
    ready_job(engine, 4000)
    search = searching(engine, reconnect=20.0)
    search.pause()
    assert search.due_at > time.monotonic() + 15
    assert kinds() == []


def test_maintenance_pauses_the_search_after_an_outage(engine: Engine, often: None) -> None:
    from djjp.consumer.heartbeat import ConsumerName, Heartbeat

    heartbeat = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    heartbeat.register()
    chores = Maintenance(engine, heartbeat, on_declared_dead=lambda: None)
    ready_job(engine, 4000, queue="mail")
    eventually(lambda: time.monotonic() > chores._incidents.due_at)
    chores.after_outage()
    chores.work(ending=False)
    assert kinds() == []
    heartbeat.deregister()


@pytest.mark.parametrize("which", [0, 1], ids=["frozen", "the machine has slept"])
def test_after_a_pause_of_its_own_a_consumer_searches_for_nothing_yet(
    engine: Engine, which: int
) -> None:
    ready_job(engine, 4000)
    consumer_row()
    search = searching(engine, reconnect=20.0)
    clocks = [*search._clocks]
    clocks[which] -= 100
    search._clocks = (clocks[0], clocks[1])
    search.work()
    assert kinds() == []
    assert search.due_at > time.monotonic() + 15
    search.work()
    assert kinds() == ["wait"]


# Receivers


def test_a_receiver_runs_beside_the_coordinator(engine: Engine, often: None) -> None:
    """A slow receiver delays no turn and no heartbeat."""
    leave, entered = threading.Event(), threading.Event()
    threads = []

    def slow(**kwargs: object) -> None:
        threads.append(threading.current_thread().name)
        entered.set()
        leave.wait(30)

    incident_opened.connect(slow)
    try:
        ready_job(engine, 400, queue="mail")
        with consuming(queues=["default"]):
            assert entered.wait(30)
            assert add.run_later(1, 2).join(30) == 3
    finally:
        leave.set()
        incident_opened.disconnect(slow)
    assert set(threads) == {"djjp-signals"}


@pytest.mark.one_database
def test_without_a_thread_receivers_are_called_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    called = []
    chore.beside(lambda: called.append(threading.current_thread()))
    assert called == [threading.current_thread()]


@pytest.mark.one_database
def test_a_refused_search_is_logged_and_ends_no_consumer(
    engine: Engine, often: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, *args: object) -> None:
        raise ZeroDivisionError

    caplog.set_level(logging.WARNING, "djjp.consumer")
    monkeypatch.setattr(detection.IncidentDetector, "search", broken)
    with consuming():
        eventually(lambda: "a chore failed" in caplog.text)
        assert add.run_later(1, 2).join(30) == 3
    assert "detect incidents (ZeroDivisionError" in caplog.text


@pytest.mark.one_database
def test_the_watchdogs_reports_are_counted_by_job(engine: Engine) -> None:
    from djjp.consumer.pool.loop_watchdog import Blocked

    found = observe(
        engine,
        Blocked("a", 0.1, "x.py:1", again=False),
        Blocked("", 0.1, "y.py:1", again=False),
        Blocked("a", 1.0, "x.py:1", again=True),
        Blocked("a", 0.2, "x.py:2", again=False),
    )
    assert [(each.subject, each.facts["times"], each.facts["longest"]) for each in found] == [
        ("a", 2, 1.0),
        ("", 1, 0.1),
    ]
