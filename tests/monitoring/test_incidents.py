"""Incidents: each kind is opened once, shown with its remedy, and closed once, whichever process detects it."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from djjp import queues
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.engine import incidents as rows
from djjp.engine.incidents import Found
from djjp.ids import new_id
from djjp.models import Consumer, Depth, Job, Schedule, State
from djjp.models import Incident as Row
from djjp.monitoring import Incident, aincidents, aworst, conditions, detection, incidents, worst
from djjp.monitoring.detection import IncidentDetector, look
from djjp.monitoring.incidents import KINDS, closed, incident
from djjp.outbox import table
from djjp.signals import incident_closed, incident_opened
from tests.monitoring.faults import (
    CONSUMER,
    FAULTS,
    Fault,
    consumer_row,
    depth_samples,
    ready_job,
    total,
)
from tests.project.shop.jobs import echo
from tests.project.shop.models import Execution
from tests.support.engine_calls import at_once
from tests.support.factories import new_job
from tests.support.plans import Plan, postgresql_plan
from tests.support.schedules import by_hand


class Announced:
    """The signals that were sent, and the lines that were logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.opened: list[Incident] = []
        self.closed: list[Incident] = []

    def on_opened(self, sender: object, incident: Incident, **kwargs: Any) -> None:
        assert sender is Incident
        self.opened.append(incident)

    def on_closed(self, sender: object, incident: Incident, **kwargs: Any) -> None:
        self.closed.append(incident)

    @property
    def logged(self) -> list[tuple[str, str]]:
        return [
            (record.levelname, record.getMessage())
            for record in self._caplog.records
            if record.name == "djjp.incidents"
        ]


@pytest.fixture
def announced(caplog: pytest.LogCaptureFixture) -> Iterator[Announced]:
    caplog.set_level(logging.INFO, "djjp.incidents")
    seen = Announced(caplog)
    incident_opened.connect(seen.on_opened)
    incident_closed.connect(seen.on_closed)
    yield seen
    incident_opened.disconnect(seen.on_opened)
    incident_closed.disconnect(seen.on_closed)


class Time:
    """The clock of the queue's database, which only the test puts forward.

    It stands still meanwhile: on a busy machine fifty searches take longer than what is left of a limit.
    """

    def __init__(self) -> None:
        self._start = time.time()
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._start + self.ahead

    def pass_(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def clock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Time:
    now = Time()
    monkeypatch.setattr(engine.db, "clock", now)
    monkeypatch.setattr(detection, "FIGURES_EVERY", 0.0)
    return now


def open_rows() -> list[tuple[str, str]]:
    rows = Row.objects.filter(closed_at__isnull=True)
    return sorted(rows.values_list("kind", "subject"))


def search_for(
    engine: Engine,
    clock: Time,
    seconds: float,
    *detectors: IncidentDetector,
    reported: Sequence[Found] = (),
) -> None:
    """Search every 5 s for some time."""
    for _ in range(int(seconds / 5)):
        clock.pass_(5)
        for detector in detectors:
            detector.search(engine, reported)


# All kinds


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_an_incident_is_opened_once_and_closed_once_by_several_consumers(
    engine: Engine, clock: Time, announced: Announced, fault: Fault
) -> None:
    key = (fault.kind, fault.subject)
    consumer_row(["default"])
    fault.cause(engine)
    one, other = IncidentDetector(), IncidentDetector()
    for _ in range(3):
        for detector in (one, other):
            detector.search(engine, fault.reports(engine))
        clock.pass_(5)

    assert open_rows() == [key]
    [opened] = announced.opened
    assert (opened.kind, opened.subject, opened.is_open) == (*key, True)
    assert announced.logged == [("WARNING", f"incident: {opened.sentence}")]
    [shown] = incidents(open_only=True)
    assert shown.id == opened.id
    assert worst() == shown

    fault.end(engine)
    before = None
    while before != (
        before := Row.objects.get().seen_at
    ):  # the figures of the last minutes show it
        clock.pass_(20)
        one.search(engine)
    close_after = detection.CLOSE_EVENT_AFTER.get(fault.kind, detection.CLOSE_AFTER)
    last_seen = Row.objects.get().seen_at.timestamp()
    for seconds, still_open in ((-2.0, [key]), (2.0, [])):
        clock.pass_(last_seen + close_after + seconds - clock())
        one.search(engine)
        other.search(engine)
        assert open_rows() == still_open

    [closed] = announced.closed
    assert (closed.id, closed.is_open) == (opened.id, False)
    assert len(announced.opened) == 1
    level, line = announced.logged[-1]
    assert (len(announced.logged), level) == (2, "INFO")
    assert line.startswith(f"the incident {fault.kind} {fault.subject} is over; it has lasted for ")
    assert worst() is None
    assert [each.id for each in incidents()] == [opened.id]


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if not f.needs_consumer], ids=lambda fault: fault.kind
)
def test_where_no_consumer_is_alive_the_caller_detects_it(
    engine: Engine, clock: Time, announced: Announced, fault: Fault
) -> None:
    fault.cause(engine)
    look()
    look()
    assert (fault.kind, fault.subject) in open_rows()
    assert len(announced.opened) == len(open_rows()) == len(announced.logged)
    fault.end(engine)
    Consumer.objects.all().delete()
    Job.objects.all().delete()
    clock.pass_(fault.lasts + 61)
    look()
    assert open_rows() == []
    assert {each.kind for each in announced.closed} == {each.kind for each in announced.opened}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_a_sentence_names_its_figures_and_ends_in_the_remedy(
    engine: Engine, clock: Time, fault: Fault
) -> None:
    fault.cause(engine)
    consumer_row(["default"])
    detector = IncidentDetector()
    for _ in range(2):
        detector.search(engine, fault.reports(engine))
        clock.pass_(5)
    [shown] = incidents(open_only=True)
    assert shown.severity == KINDS.index(fault.kind) + 1
    assert shown.sentence.endswith(f": {shown.remedy}")
    assert shown.remedy.startswith("python manage.py ")
    assert shown.sentence.isprintable()
    assert repr(fault.subject) in shown.sentence
    assert any(character.isdigit() for character in shown.sentence) or fault.kind in (
        "schedule_broken",
        "unheard",
    )


def type_in(remedy: str) -> None:
    """Run a command as a shell would pass it on; a consumer ends once it has no more to do."""
    python, manage, command, *arguments = shlex.split(remedy)
    assert (python, manage) == ("python", "manage.py")
    drains = ["--drain"] if command == "start_consumer" else []
    # What is wrong gives `check` the exit code 1; it prints the fix.
    with suppress(CommandError) if arguments == ["check"] else nullcontext():
        call_command(command, *arguments, *drains)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_each_remedy_works_when_it_is_typed(engine: Engine, clock: Time, fault: Fault) -> None:
    consumer_row(["default"])
    fault.cause(engine)
    detector = IncidentDetector()
    for _ in range(2):
        detector.search(engine, fault.reports(engine))
        clock.pass_(5)
    [shown] = incidents(open_only=True)
    Consumer.objects.all().delete()
    type_in(shown.remedy)
    if fault.kind in ("no_consumer", "wait", "schedule_broken"):  # others need time, or a person
        Consumer.objects.all().delete()
        consumer_row(["default"])
        clock.pass_(5)
        assert engine.incidents.open()[0].seen_at
        before = Row.objects.get().seen_at
        detector.search(engine)
        assert Row.objects.get().seen_at == before, "it was not found again"


@pytest.mark.parametrize("queue", ["a,b", "a:3", "-x", "it's; rm", "a b"])
def test_a_remedy_serves_a_queue_of_any_name(engine: Engine, queue: str) -> None:
    ready_job(engine, 60, queue=queue)
    look()
    shown = worst()
    assert shown is not None
    type_in(shown.remedy)
    assert Job.objects.get().state == State.SUCCEEDED


# From the first search to the end


def test_an_incident_that_comes_and_goes_is_one(
    engine: Engine, clock: Time, announced: Announced
) -> None:
    consumer_row()
    detector = IncidentDetector()
    for _ in range(5):
        ready_job(engine, 400 + clock.ahead)
        search_for(engine, clock, 10, detector)
        Job.objects.all().delete()
        search_for(engine, clock, 40, detector)
    assert len(announced.opened) == Row.objects.count() == 1
    assert announced.closed == []


def test_an_incident_that_comes_back_after_its_end_is_another_one(
    engine: Engine, clock: Time, announced: Announced
) -> None:
    consumer_row()
    detector = IncidentDetector()
    for _ in range(2):
        ready_job(engine, 400)
        search_for(engine, clock, 10, detector)
        Job.objects.all().delete()
        search_for(engine, clock, 70, detector)
    assert len(announced.opened) == len(announced.closed) == Row.objects.count() == 2


def test_a_new_consumer_closes_nothing_before_it_has_searched_for_a_while(
    engine: Engine, clock: Time
) -> None:
    """Consumers that start and crash again and again see their queue unserved in between."""
    consumer_row()
    IncidentDetector().search(engine, [Found("unheard", "host", {"problem": "x"})])
    clock.pass_(1000)
    detector = IncidentDetector()
    search_for(engine, clock, 50, detector)
    assert open_rows() == [("unheard", "host")]
    detector.forget()  # an outage
    search_for(engine, clock, 55, detector)
    assert open_rows() == [("unheard", "host")]
    search_for(engine, clock, 15, detector)
    assert open_rows() == []


def test_two_processes_that_detect_the_same_at_the_same_time_announce_it_once(
    engine: Engine, announced: Announced
) -> None:
    ready_job(engine, 400)

    at_once(*[lambda _: look()] * 3)
    assert open_rows() == [("no_consumer", "default"), ("wait", "default")]
    assert sorted(each.kind for each in announced.opened) == ["no_consumer", "wait"]


def test_a_receiver_that_raises_or_exits_harms_nothing(
    engine: Engine, announced: Announced, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**kwargs: Any) -> None:
        raise RuntimeError("no pager today")

    def exits(**kwargs: Any) -> None:
        sys.exit(7)

    ready_job(engine, 60)
    for receiver in (broken, exits):
        incident_opened.connect(receiver)
    try:
        look()
    finally:
        for receiver in (broken, exits):
            incident_opened.disconnect(receiver)
    assert open_rows() == [("no_consumer", "default")]
    assert "no pager today" in caplog.text
    assert "a receiver of no_consumer has tried to end the process" in caplog.text


def test_an_incident_that_is_rolled_back_is_not_announced(
    engine: Engine, announced: Announced
) -> None:
    ready_job(engine, 60)
    with engine.db.transaction():
        look()
        transaction.set_rollback(True, using=engine.db.alias)
    assert (open_rows(), announced.opened, announced.logged) == ([], [], [])


def test_where_a_consumer_is_alive_the_caller_detects_nothing(engine: Engine) -> None:
    ready_job(engine, 600)
    consumer_row(["other"])
    look()
    assert open_rows() == []


def test_a_consumer_that_may_come_back_after_an_outage_counts_as_alive(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has taken the locks of all sessions, and the consumers have not reconnected yet."""
    ready_job(engine, 600)
    consumer_row(heartbeat_at=to_datetime(time.time() - 100))
    monkeypatch.setattr(engine.db, "up_for", lambda: 3.0)
    look()
    assert open_rows() == []
    monkeypatch.setattr(engine.db, "up_for", lambda: 3600.0)
    look()
    assert ("no_consumer", "default") in open_rows()


# What is wrong, and what is not


@pytest.mark.parametrize("served", [["mail"], ["m*"], ["x", "*"], None, ["mail:3", "x:1"]])
def test_a_queue_that_is_served_has_a_consumer(
    engine: Engine, clock: Time, served: list[str] | None
) -> None:
    ready_job(engine, 60, queue="mail")
    consumer_row(served)
    search_for(engine, clock, 20, IncidentDetector())
    assert open_rows() == []


@pytest.mark.parametrize("given", [{"queues": ["*", "not mail"]}, {"quiet": True}])
def test_a_queue_that_is_excluded_or_served_by_a_quiet_consumer_has_none(
    engine: Engine, clock: Time, given: dict[str, Any]
) -> None:
    ready_job(engine, 60, queue="mail")
    consumer_row(**given)
    search_for(engine, clock, 20, IncidentDetector())
    [shown] = incidents()
    assert (shown.kind, shown.subject) == ("no_consumer", "mail")
    quiet = f"python manage.py djjp consumers unquiet {CONSUMER}"
    start = "python manage.py start_consumer --queues mail"
    assert shown.remedy == (quiet if "quiet" in given else start)


def test_a_restart_of_the_only_consumer_is_no_incident(engine: Engine, clock: Time) -> None:
    ready_job(engine, 200)
    detector = IncidentDetector()
    detector.search(engine)
    clock.pass_(3)
    consumer_row()
    detector.search(engine)
    assert open_rows() == []


def test_jobs_that_have_just_become_due_need_no_consumer_yet(engine: Engine, clock: Time) -> None:
    ready_job(engine, 1)
    engine.jobs.enqueue(
        new_job(queue="later", state=State.SCHEDULED, run_after=time.time() - 1, created_at=1.0)
    )
    look()
    assert open_rows() == []


def test_a_scheduled_job_that_nobody_makes_ready_is_due(engine: Engine) -> None:
    engine.jobs.enqueue(
        new_job(queue="later", state=State.SCHEDULED, run_after=time.time() - 60, created_at=1.0)
    )
    look()
    assert open_rows() == [("no_consumer", "later")]


def test_a_paused_queue_is_wanted(engine: Engine, clock: Time) -> None:
    ready_job(engine, 600, queue="mail")
    depth_samples([1, 2, 3, 4, 5, 6], "mail")
    queues.pause("mail")
    look()
    assert open_rows() == []
    queues.resume("mail")
    look()
    assert open_rows() == [("backlog", "mail"), ("no_consumer", "mail"), ("wait", "mail")]


@pytest.mark.parametrize("alert", [None, 60, timedelta(minutes=1), 0.5, timedelta(days=400)])
def test_a_wait_is_an_incident_from_wait_alert_on(
    engine: Engine, clock: Time, alert: float | timedelta | None
) -> None:
    ready_job(engine, 90)
    consumer_row()
    with override_settings(DJJP={"db_name": engine.db.alias, "wait_alert": alert}):
        IncidentDetector().search(engine)
    short = alert in (60, timedelta(minutes=1), 0.5)
    assert open_rows() == ([("wait", "default")] if short else [])


def test_the_last_priority_of_a_queue_counts(engine: Engine, clock: Time) -> None:
    ready_job(engine, 400, priority=-5)
    for priority in (3, 0):
        ready_job(engine, 1, priority=priority)
    consumer_row()
    IncidentDetector().search(engine)
    assert open_rows() == [("wait", "default")]


def test_a_job_that_was_scheduled_waits_since_its_time(engine: Engine, clock: Time) -> None:
    ready_job(engine, 4000, run_after=time.time() - 10)
    consumer_row()
    IncidentDetector().search(engine)
    assert open_rows() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"limit_key": "k", "limit_max": 1},
        {"limit_key": "k", "limit_max": 1, "limit_per": 60.0},
        {"claim": 1},
        {"pipeline": "0192f0c1-2345-7000-8000-000000000000"},
    ],
    ids=["limit", "rate", "retried", "pipeline"],
)
def test_a_job_that_became_ready_at_an_unknown_time_waits_since_it_was_seen_first(
    engine: Engine, clock: Time, changes: dict[str, Any]
) -> None:
    ready_job(engine, 4000)
    Job.objects.update(**changes)
    consumer_row()
    detector = IncidentDetector()
    search_for(engine, clock, 290, detector)
    assert open_rows() == []
    search_for(engine, clock, 20, detector)
    assert open_rows() == [("wait", "default")]


def test_jobs_that_wait_for_a_permit_or_for_their_time_are_no_wait(
    engine: Engine, clock: Time
) -> None:
    ready_job(engine, 4000)
    Job.objects.update(state=State.BLOCKED, limit_key="k", limit_max=1)
    ready_job(engine, 4000, state=State.SCHEDULED, run_after=time.time() + 100)
    consumer_row()
    search_for(engine, clock, 400, IncidentDetector())
    assert open_rows() == []


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"failed": 10}, True),
        ({"failed": 9}, False),
        ({"failed": 6, "succeeded": 4}, True),
        ({"failed": 5, "succeeded": 5}, False),
        ({"failed": 6, "cancelled": 6}, False),
        ({"retried": 100, "succeeded": 20}, False),
    ],
)
def test_a_name_is_failing_when_most_of_ten_ends_have_failed(
    engine: Engine, figures: dict[str, int], expected: bool
) -> None:
    total(**figures)
    look()
    assert open_rows() == ([("failing", "shop.mail")] if expected else [])


def test_the_ends_of_a_name_count_in_all_its_queues(engine: Engine) -> None:
    total(failed=6)
    total(failed=6, queue="other")
    total(succeeded=100, queue="other", name="shop.else")
    look()
    [found] = incidents()
    assert found.facts == {"failed": 12, "ended": 12}


@pytest.mark.parametrize(
    ("counts", "ended", "expected"),
    [
        ([100, 120, 180, 200, 300, 400], 0, True),
        ([100, 120, 110, 200, 190, 400], 0, True),
        ([0, 0, 0, 0, 0, 400], 0, True),
        ([100, 120, 180, 200, 300, 400], 130, True),
        ([100, 120, 180, 200, 300, 400], 140, False),
        ([400, 400, 400, 400, 400, 400], 0, False),
        ([100, 500, 480, 470, 460, 450], 0, False),
        ([200, 100, 180, 200, 300, 400], 0, False),
        ([100, 200, 300], 0, False),
    ],
)
def test_a_backlog_grows_for_five_minutes_and_would_take_long_to_drain(
    engine: Engine, counts: list[int], ended: int, expected: bool
) -> None:
    depth_samples(counts)
    total(queue="mail", succeeded=ended)
    look()
    assert open_rows() == ([("backlog", "mail")] if expected else [])


def test_a_backlog_at_the_end_of_the_counts_stays_one(engine: Engine, clock: Time) -> None:
    depth_samples([90_000, 95_000, 97_000, 98_000, 99_000, 100_000])
    look()
    assert open_rows() == [("backlog", "mail")]
    before = Row.objects.get().seen_at
    clock.pass_(10)
    Depth.objects.filter(queue="mail").update(ready=100_000)
    look()
    assert Row.objects.get().seen_at > before


def nightly(**fields: Any) -> Schedule:
    plain: dict[str, Any] = {"job": echo.name, "cron": "0 4 * * *", "tz": "UTC"}
    return by_hand(**{"name": "nightly", "fired_until": time.time(), **plain, **fields})


@pytest.mark.parametrize("fields", [{"job": "long.gone"}, {"cron": "never * * * *"}])
def test_a_disabled_schedule_is_not_broken(engine: Engine, fields: dict[str, str]) -> None:
    nightly(**fields, enabled=False)
    look()
    assert open_rows() == []


@pytest.mark.parametrize(
    ("fields", "names", "expected"),
    [
        ({}, [echo.name], False),
        ({"job": "long.gone"}, [echo.name], True),
        ({"job": "long.gone"}, ["long.gone"], False),
        ({"job": "long.gone", "cron": "never * * * *"}, ["long.gone"], True),
        ({"cron": "never * * * *"}, [echo.name], True),
        ({"arguments": "damaged"}, [echo.name], True),
    ],
)
def test_a_schedule_that_no_consumer_can_fire_is_broken(
    engine: Engine, clock: Time, fields: dict[str, str], names: list[str], expected: bool
) -> None:
    nightly(**fields)
    consumer_row(names=names)
    IncidentDetector().search(engine)
    assert open_rows() == ([("schedule_broken", "nightly")] if expected else [])


def test_a_schedule_whose_key_raises_is_broken(engine: Engine, clock: Time) -> None:
    row = nightly()
    consumer_row()
    IncidentDetector().search(engine, refused={row.pk: "no key today"})
    [shown] = incidents()
    assert "'nightly' cannot be fired: no key today;" in shown.sentence


def test_reports_add_up_while_the_incident_is_open(engine: Engine) -> None:
    for name, jobs in (("host:8:b", 2), ("host:9:c", 1)):
        engine.incidents.record(
            [
                Found(
                    "consumer_lost",
                    "host",
                    {"consumers": 1, "jobs": jobs, "failed": 0, "name": name},
                    sums=("consumers", "jobs", "failed"),
                )
            ],
            time.time(),
        )
    [shown] = incidents()
    assert shown.facts == {"consumers": 2, "jobs": 3, "failed": 0, "name": "host:9:c"}
    assert shown.sentence.startswith(
        "2 consumers have died on 'host', the last one host:9:c; 3 jobs were rescued;"
    )


@pytest.mark.parametrize(("ahead", "expected"), [(9.0, True), (1.0, False), (-60.0, False)])
def test_heartbeats_from_the_future_show_a_clock_that_is_ahead(
    engine: Engine, clock: Time, ahead: float, expected: bool
) -> None:
    consumer_row(heartbeat_at=to_datetime(time.time() + ahead))
    IncidentDetector().search(engine)
    assert open_rows() == ([("clock_skew", "host")] if expected else [])


def test_an_outbox_that_cannot_be_read_does_not_break_the_callers_transaction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(alias: str) -> float:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")
        return 0.0

    monkeypatch.setattr(table, "oldest", refuse)
    ready_job(engine, 60)
    with transaction.atomic("default"):
        look()
        Execution.objects.create(key="x", process=1, at=0.0)
    assert open_rows() == [("no_consumer", "default")]
    assert Execution.objects.count() == 1


def test_where_incidents_cannot_be_written_the_caller_goes_on(
    engine: Engine, announced: Announced
) -> None:
    """As on a standby server."""
    read_only = {
        "sqlite": "PRAGMA query_only = ON",
        "postgresql": "SET default_transaction_read_only = on",
    }
    ready_job(engine, 60)
    with engine.db.connection.cursor() as cursor:
        cursor.execute(read_only[engine.db.connection.vendor])
    try:
        look()
        assert incidents() == []
    finally:
        engine.db.connection.close()
    [(level, line)] = announced.logged
    assert level == "INFO"
    assert line.startswith("incidents cannot be written: ")


def test_a_coroutine_can_detect_them_too(engine: Engine) -> None:
    ready_job(engine, 60)
    asyncio.run(detection.alook())
    assert open_rows() == [("no_consumer", "default")]


# Lists and retention


def written(kind: str, subject: str, seconds: float, closed: float | None = None) -> Row:
    now = time.time()
    return Row.objects.create(
        kind=kind,
        subject=subject,
        opened_at=to_datetime(now - seconds),
        seen_at=to_datetime(now - seconds),
        closed_at=None if closed is None else to_datetime(now - closed),
    )


def test_open_incidents_come_first_the_worst_of_them_at_the_top(engine: Engine) -> None:
    written("no_consumer", "closed", 900, 800)
    written("no_consumer", "closed later", 500, 400)
    written("unheard", "host", 900)
    written("wait", "a", 50)
    written("wait", "b", 100)
    written("no_consumer", "c", 10)
    found = [each.subject for each in incidents()]
    assert found == ["c", "b", "a", "host", "closed later", "closed"]
    assert [each.subject for each in incidents(limit=2)] == ["c", "b"]
    assert [each.subject for each in incidents(open_only=True)] == found[:4]
    lately = incidents(since=to_datetime(time.time() - 600))
    assert [each.subject for each in lately] == found[:5]
    best = worst()
    assert best is not None
    assert best.subject == "c"


def test_an_open_incident_shows_that_it_was_not_seen_for_a_while(engine: Engine) -> None:
    ready_job(engine, 60)
    look()
    [fresh] = incidents()
    assert fresh.sentence.startswith("no consumer serves")
    Row.objects.update(seen_at=to_datetime(time.time() - 45))
    [stale] = incidents()
    assert re.sub(r"^last seen \d+ s ago: ", "", stale.sentence) == fresh.sentence
    assert stale.sentence != fresh.sentence
    Row.objects.update(closed_at=to_datetime(time.time()))
    [closed] = incidents()
    assert closed.sentence == fresh.sentence


def test_coroutines_list_incidents_too(engine: Engine) -> None:
    written("wait", "a", 50)

    async def both() -> tuple[list[Incident], Incident | None]:
        return await aincidents(open_only=True), await aworst()

    found, first = asyncio.run(both())
    assert [first] == found


def test_a_row_of_another_version_or_by_hand_is_shown(engine: Engine) -> None:
    written("from_the_future", "x\nforged", 50)
    Row.objects.filter(pk=written("wait", "a", 50).pk).update(facts="damaged")
    for each in incidents():
        assert "something is wrong with" in each.sentence
        assert each.sentence.isprintable()
    IncidentDetector().search(engine)
    assert ("from_the_future", "x\nforged") in open_rows()


def test_closed_incidents_are_deleted_after_thirty_days_or_beyond_their_number(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_CLOSED", 3)
    day = 86_400.0
    written("wait", "old and open", 90 * day)
    written("wait", "old", 40 * day, 31 * day)
    for number in range(5):
        written("wait", f"young {number}", 10 * day, 5 * day)
    IncidentDetector().search(engine)
    left = sorted(Row.objects.values_list("subject", flat=True))
    assert left == ["old and open", "young 2", "young 3", "young 4"]


# Costs


def test_a_search_takes_a_bounded_number_of_statements(engine: Engine, clock: Time) -> None:
    consumer_row(["default"])
    counts = []
    for number in (1, 30):
        for each in range(number):
            ready_job(engine, 900, queue=f"{number}-{each}")
            total(name=f"{number}-{each}", failed=20)
            by_hand("long.gone", time.time(), name=f"{number}-{each}", cron="0 4 * * *", tz="UTC")
        detector = IncidentDetector()
        detector.search(engine)
        clock.pass_(5)
        detector.search(engine)  # opens
        with CaptureQueriesContext(connections[engine.db.alias]) as captured:
            detector.search(engine)
        counts.append(len(captured))
    assert len(open_rows()) > 100
    assert counts[0] == counts[1]
    assert counts[0] <= 17


def test_any_number_of_incidents_is_opened_and_kept_by_the_same_statements(
    engine: Engine, clock: Time, announced: Announced
) -> None:
    counts = []
    for number in (1, 30):
        for each in range(number):
            ready_job(engine, 60, queue=f"{number}-{each}")
        with CaptureQueriesContext(connections[engine.db.alias]) as opens:
            look()
        before = dict(Row.objects.values_list("subject", "seen_at"))
        clock.pass_(5)
        with CaptureQueriesContext(connections[engine.db.alias]) as keeps:
            look()
        seen = Row.objects.values_list("subject", "seen_at")
        assert all(at > before[subject] for subject, at in seen)
        counts.append((len(opens), len(keeps)))
        Job.objects.all().delete()
        Row.objects.all().delete()
    assert counts[0] == counts[1]
    assert len(announced.opened) == 31
    assert not announced.closed


def test_an_incident_that_another_process_has_just_opened_is_not_announced_again(
    engine: Engine, clock: Time
) -> None:
    found = [Found("wait", f"q{number}", {"wait": 400.0, "limit": 300.0}) for number in range(3)]
    engine.incidents.record(found[1:2], clock())

    opened = engine.incidents.record(found, clock(), [])  # read before

    assert [row.subject for row in opened] == ["q0", "q2"]
    assert open_rows() == [("wait", "q0"), ("wait", "q1"), ("wait", "q2")]


def test_an_incident_that_was_closed_since_it_was_read_is_opened_anew(
    engine: Engine, clock: Time
) -> None:
    found = [Found("wait", "mail", {"wait": 400.0, "limit": 300.0})]
    engine.incidents.record(found, clock())
    read = engine.incidents.open()
    engine.incidents.close(read, clock())
    clock.pass_(5)

    [row] = engine.incidents.record(found, clock(), read)

    assert row.pk != read[0].pk
    assert open_rows() == [("wait", "mail")]


@pytest.mark.postgresql_only
def test_the_search_of_a_session_that_is_no_consumers_is_planned_along_the_index_too(
    engine: Engine,
) -> None:
    """On tables that were never analyzed the planner would read all ready jobs for each queue."""
    engine.jobs.enqueue_many([new_job(queue=f"q{n % 100}", priority=n % 2) for n in range(3000)])
    connection = engine.db.connection
    plans: list[Plan] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "djjp_job" in sql and '"djjp_job"' not in sql and not sql.startswith("EXPLAIN"):
            plans.append(postgresql_plan(engine, sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        look()
    assert len(plans) >= 3
    for plan in plans:
        assert plan.indexes <= {
            "djjp_job_ready_queue",
            "djjp_job_suspect",
            "djjp_job_scheduled",
        }, plan.text
        assert not plan.scans_all, plan.text


def test_a_search_of_an_idle_queue_writes_nothing(engine: Engine, clock: Time) -> None:
    consumer_row()
    detector = IncidentDetector()
    detector.search(engine)  # prunes
    with CaptureQueriesContext(connections[engine.db.alias]) as captured:
        detector.search(engine)
    first_words = {query["sql"].split()[0] for query in captured}
    assert first_words <= {"SELECT", "WITH", "BEGIN", "SET", "COMMIT"}
    assert len(captured) <= 15


def test_an_incident_that_is_open_is_written_once_in_some_seconds(
    engine: Engine, clock: Time
) -> None:
    ready_job(engine, 400)
    look()
    seen = Row.objects.values_list("seen_at", flat=True)
    first = set(seen.all())
    look()
    assert set(seen.all()) == first
    clock.pass_(5)
    look()
    assert not set(seen.all()) & first


def test_a_search_opens_no_more_incidents_of_a_kind_than_a_page_can_show(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "MOST", 5)
    for number in range(8):
        ready_job(engine, 400, queue=f"q{number}")
        total(name=f"n{number}", failed=20, late=1)
    look()
    kinds = [kind for kind, _ in open_rows()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "no_consumer": 5,
        "wait": 5,
        "failing": 5,
        "late_results": 5,
    }


def test_closed_incidents_are_listed_by_kind_and_page_by_page(engine: Engine) -> None:
    at = to_datetime(time.time() - 600)
    rows = [
        Row.objects.create(
            kind=kind, subject=f"q{number}", opened_at=at, seen_at=at, closed_at=ended
        )
        for number, (kind, ended) in enumerate(
            [("wait", at), ("wait", None), ("failing", at), ("wait", at + timedelta(seconds=90))]
        )
    ]

    assert [each.subject for each in closed()] == ["q3", "q2", "q0"]
    assert [each.subject for each in closed(kind="wait")] == ["q3", "q0"]
    assert [each.subject for each in closed(kind="wait", before=rows[3].pk)] == ["q0"]
    assert [each.subject for each in closed(limit=1)] == ["q3"]
    assert closed(limit=1)[0].seconds == pytest.approx(90)


def test_one_incident_is_found_by_its_id(engine: Engine) -> None:
    at = to_datetime(time.time() - 600)
    row = Row.objects.create(kind="wait", subject="mail", opened_at=at, seen_at=at)

    found = incident(row.pk)

    assert found is not None
    assert (found.kind, found.subject, found.is_open) == ("wait", "mail", True)
    assert found.seconds == pytest.approx(600, abs=30)
    assert incident(new_id()) is None
