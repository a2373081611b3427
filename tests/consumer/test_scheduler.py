"""Consumers fire schedules: each occurrence once, whichever consumer fires it and whatever its clock shows."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp import codec, recurrence, testing
from djjp.consumer import scheduler
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.maintenance import Maintenance
from djjp.consumer.scheduler import Scheduler
from djjp.engine import Engine
from djjp.models import Consumer, Job, Occurrence, Schedule, Source, State
from tests.project.shop.jobs import TALLY, echo, mail, tally
from tests.support.consumers import consuming, drain
from tests.support.engine_calls import at_once
from tests.support.processes import Processes, eventually
from tests.support.schedules import by_hand, registered

MINUTE = timedelta(minutes=1)
START = 1_767_225_600.0  # a full hour


def fired() -> list[float]:
    return sorted(Occurrence.objects.values_list("occurs_at", flat=True))


def keeper(engine: Engine, began: float = START) -> Scheduler:
    made = Scheduler(engine)
    made._started = began
    return made


# Which slots


def test_an_interval_that_is_longer_than_any_consumer_lives_fires(
    engine: Engine,
) -> None:
    with registered(every=timedelta(minutes=10)):
        for minute in range(61):
            keeper(engine, START + 60 * minute + 1).work(START + 60 * minute + 1)
    assert fired() == [START + 600 * n for n in range(1, 7)]
    assert Job.objects.count() == 6


def test_occurrences_do_not_depend_on_when_a_consumer_starts(engine: Engine) -> None:
    with registered(cron="*/10 * * * *"):
        first = keeper(engine)
        first.work(START + 123)
        for now in (599, 600.0, 601, 1199.9, 1200.5):
            keeper(engine).work(START + now)
    assert fired() == [START + 600, START + 1200]


def test_a_new_schedule_starts_with_its_next_occurrence(engine: Engine) -> None:
    with registered(every=MINUTE, catch_up="all"):
        watch = keeper(engine)
        assert not watch.work(START + 30)
        assert not watch.work(START + 59.9)
        assert watch.work(START + 60.0)
    assert fired() == [START + 60]


def test_consumers_whose_clocks_differ_fire_each_occurrence_once(engine: Engine) -> None:
    with registered(every=1):
        keeper(engine).work(START)
        keepers = {skew: keeper(engine) for skew in (-0.35, -0.01, 0.0, 0.01)}
        for step in range(1, 41):
            now = START + step * 0.25
            works = [partial(k.work, now + skew) for skew, k in keepers.items()]
            at_once(*[lambda _, work=work: work() for work in works])
    assert fired() == [START + n for n in range(1, 11)]
    assert Job.objects.count() == 10


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", []),
        ("once", [START + 600]),
        ("all", [START + 60 * n for n in range(1, 11)]),
    ],
)
def test_occurrences_that_passed_while_no_consumer_ran(
    engine: Engine, catch_up: str, expected: list[float]
) -> None:
    with registered(every=MINUTE, catch_up=catch_up):
        keeper(engine).work(START + 1)
        back = keeper(engine, began=START + 630)
        back.work(START + 630)
        assert fired() == expected
        back.work(START + 645)
        assert fired() == expected
        back.work(START + 660)
        assert fired() == [*expected, START + 660], "and goes on as usual"
    assert Job.objects.count() == len(expected) + 1


def test_without_catch_up_an_occurrence_can_be_a_little_late_and_no_more(engine: Engine) -> None:
    """As when the database was away: this consumer was there when the slot came."""
    with registered(every=timedelta(hours=1), catch_up="none"):
        watch = keeper(engine)
        watch.work(START + 1)
        watch.work(START + 3600 + 30)
        watch.work(START + 7200 + 61)
    assert fired() == [START + 3600]


def test_missed_occurrences_are_fired_in_batches_between_the_turns(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "BATCH", 4)
    with registered(every=MINUTE, catch_up="all"):
        watch = keeper(engine)
        watch.work(START + 1)
        counts = []
        for _ in range(4):
            watch.work(START + 601)
            counts.append(len(fired()))
            watch._read_at = time.monotonic() + 1000
            # Measured by the real clock, on which all of these times are past.
            assert watch.due() < 0
        assert counts == [4, 8, 10, 10]


# The fired jobs


def test_a_scheduled_job_has_its_arguments_and_options(engine: Engine) -> None:
    options: dict[str, Any] = {
        "queue": "reports",
        "priority": 3,
        "expires_after": 60,
        "unique_key": "k",
    }
    given: dict[str, Any] = {"schedule_args": [1, (2, 3)], "schedule_kwargs": {"day": "monday"}}
    with registered(every=MINUTE, **options, **given):
        watch = keeper(engine)
        for n in range(3):
            watch.work(START + 1 + 60 * n)
    made = Job.objects.get()  # the second has found its unique key held
    assert (made.name, made.queue, made.priority) == ("test.scheduled", "reports", 3)
    assert codec.decode_arguments(made.arguments) == ([1, (2, 3)], {"day": "monday"})
    assert made.expires_at is not None
    assert fired() == [START + 60, START + 120]
    assert Schedule.objects.get().last_job == made.pk


@pytest.mark.parametrize(
    "fields",
    [
        {"job": "long.gone"},
        {"job": mail.name, "arguments": '{"args":[1,2,3],"kwargs":{}}'},
        {"job": echo.name, "source": Source.CODE},
        {"job": echo.name, "arguments": "damaged"},
        {"job": echo.name, "every": None, "cron": "never * * * *", "tz": "UTC"},
    ],
)
def test_a_schedule_that_cannot_be_fired_here_is_left_to_others(
    engine: Engine, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "djjp.consumer")
    by_hand(fired_until=START, **{"every": MINUTE, **fields})
    before = Schedule.objects.values().get()
    with registered(every=MINUTE):
        watch = keeper(engine)
        for n in range(3):
            watch.work(START + 1 + 60 * n)
            assert watch.due() > -1e9
    assert len(fired()) == 2
    assert set(Job.objects.values_list("name", flat=True)) == {"test.scheduled"}
    assert Schedule.objects.values().get(pk=before["id"]) == before
    logged = [r.getMessage() for r in caplog.records]
    assert len(logged) == 1
    assert "is left to other consumers" in logged[0]


def test_a_key_that_raises_delays_no_other_schedule(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> str:
        raise RuntimeError("no key today")

    with registered("test.broken", every=MINUTE, unique_key=broken), registered(every=MINUTE):
        watch = keeper(engine)
        for n in range(3):
            watch.work(START + 1 + 60 * n)
    assert list(Job.objects.values_list("name", flat=True)) == ["test.scheduled"] * 2
    assert caplog.text.count("no key today") == 1


def test_a_schedule_removed_from_the_code_fires_no_more_until_it_is_declared_again(
    engine: Engine,
) -> None:
    with registered(every=MINUTE):
        keeper(engine).work(START + 1)
    keeper(engine).work(START + 301)
    assert fired() == []
    with registered(every=MINUTE):
        keeper(engine).work(START + 601)
    assert fired() == [START + 600]


def test_a_disabled_schedule_stays_disabled_when_consumers_start(engine: Engine) -> None:
    with registered(every=MINUTE):
        keeper(engine).work(START + 1)
        Schedule.objects.update(enabled=False)
        watch = keeper(engine)
        watch.work(START + 61)
        assert fired() == []
        assert not Schedule.objects.get().enabled
        assert watch.due() > 0, "its slots are nothing to wait for"


# Costs


def test_an_idle_consumer_without_schedules_reads_them_rarely(engine: Engine) -> None:
    watch = Scheduler(engine)
    with CaptureQueriesContext(connections[engine.db.alias]) as captured:
        watch.work(time.time())
    assert [query["sql"].split()[0] for query in captured] == ["SELECT"]
    assert scheduler.READ_EVERY - 1 < watch.due() <= scheduler.READ_EVERY


def test_the_next_occurrence_is_remembered(engine: Engine) -> None:
    with registered(every=timedelta(seconds=1.5)):
        watch = Scheduler(engine)
        watch.work(time.time())
        following = recurrence.first(
            recurrence.Every(1_500_000), Schedule.objects.get().fired_until
        )
        assert following is not None
        before = time.time()
        due = watch.due()
        # It falls while it is asked for.
        assert following - time.time() - 0.001 <= due <= following - before + 0.001


# Consumers


def test_a_consumer_that_is_about_to_end_fires_nothing_and_waits_for_no_occurrence(
    engine: Engine,
) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    chores = Maintenance(engine, presence, on_declared_dead=lambda: None)
    with registered(every=0.1):
        keeper(engine).work(START)
        chores.beat()
        for _ in range(3):
            chores.work(ending=True)
    assert fired() == []
    assert chores._scheduler.due() > 0, "a slot that is due would keep it from resting"


def test_a_consumer_fires_an_occurrence_when_it_is_due_and_ends_as_usual(engine: Engine) -> None:
    with registered(every=0.2), consuming():
        eventually(lambda: Job.objects.filter(state=State.SUCCEEDED).count() >= 3)
    assert len(fired()) == Job.objects.count()
    # The consumer gives jobs back when it ends: the one in its pool's queue, and the next occurrence.
    assert Job.objects.exclude(state=State.SUCCEEDED).count() <= 2


def test_a_drain_fires_due_occurrences_and_waits_for_none(
    engine: Engine,
) -> None:
    with registered(every=timedelta(days=1), catch_up="all"):
        assert drain().executed == 0
        Schedule.objects.update(fired_until=time.time() - 86_400 * 3)
        assert drain().executed == 3
        assert drain().executed == 0


def test_the_drain_of_tests_fires_no_schedule(engine: Engine) -> None:
    with registered(every=MINUTE):
        keeper(engine).work(START)
        assert testing.drain() == 0
    assert fired() == []


@pytest.mark.end_to_end
def test_real_consumers_share_a_schedule_whatever_queues_they_serve(
    engine: Engine, processes: Processes
) -> None:
    """`--queues` selects the jobs that a consumer runs: schedules belong to no queue."""
    TALLY.unlink(missing_ok=True)
    half = {"every": timedelta(seconds=0.5), "catch_up": "all", "arguments": _key("beat")}
    row = by_hand(tally.name, time.time(), **half)
    consumers = [processes.consumer("--queues", "mail"), processes.consumer()]
    eventually(lambda: len(fired()) >= 5 and Consumer.objects.count() == 2)
    Schedule.objects.update(enabled=False)
    eventually(lambda: not Job.objects.exclude(state=State.SUCCEEDED).exists())
    assert [processes.end(each)[0] for each in consumers] == [0, 0]
    assert len(TALLY.read_text().splitlines()) == Job.objects.count() == len(fired())
    assert {later - before for before, later in pairwise(fired())} == {0.5}, "none was left out"
    row.refresh_from_db()
    assert row.last_occurrence == fired()[-1]


def test_a_consumer_of_other_queues_alone_fires_too(engine: Engine, processes: Processes) -> None:
    by_hand(mail.name, time.time(), every=timedelta(seconds=0.5), arguments=_key("a@b.c"))
    consumer = processes.consumer("--queues", "default")
    eventually(lambda: Job.objects.count() >= 2)
    assert processes.end(consumer)[0] == 0
    assert set(Job.objects.values_list("queue", "state")) == {("mail", State.READY)}


def _key(text: str) -> str:
    return codec.encode_arguments((text,), {}, None)


# Clocks that were ahead


@pytest.mark.parametrize("catch_up", ["none", "once", "all"])
def test_a_schedule_that_a_clock_a_year_ahead_has_fired_goes_on_from_now(
    engine: Engine, catch_up: str, caplog: pytest.LogCaptureFixture
) -> None:
    with registered(every=1, catch_up=catch_up):
        watch = Scheduler(engine)
        watch.work(time.time())
        watch.work(time.time() + 366 * 86_400)
        Job.objects.all().delete()
        [ahead] = Schedule.objects.values_list("fired_until", flat=True)
        if catch_up == "all":  # it fires a hundred at a time
            ahead = time.time() + 366 * 86_400
            Schedule.objects.update(fired_until=ahead)
            Occurrence.objects.all().delete()
        assert ahead > time.time() + 86_400
        for _ in range(3):
            watch.work(time.time())
        [back] = Schedule.objects.values_list("fired_until", flat=True)
        assert abs(back - time.time()) < 10
        watch.work(time.time() + 2)
    assert Job.objects.exists()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "by a clock that was ahead; it goes on from now" in caplog.text


def test_a_consumer_whose_own_clock_is_behind_fires_nothing_again(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with registered(every=1, catch_up="all"):
        Scheduler(engine).work(time.time() - 10)
        Scheduler(engine).work(time.time())
        count = Job.objects.count()
        [before] = Schedule.objects.values_list("fired_until", flat=True)
        Scheduler(engine).work(time.time() - 7_200)
        assert Schedule.objects.get().fired_until == before
    assert Job.objects.count() == count
    assert caplog.records == []


def test_with_catch_up_none_a_consumer_that_began_under_a_clock_ahead_fires_again(
    engine: Engine,
) -> None:
    with registered(every=1, catch_up="none"):
        Scheduler(engine).work(time.time() - 5)
        watch = keeper(engine, time.time() + 366 * 86_400)
        watch.work(time.time())
        assert watch.work(time.time() + 2)


# Two versions of the code side by side


def test_restarts_of_two_versions_in_turn_fire_each_occurrence_once(engine: Engine) -> None:
    """The new version takes over at its first start; from then on its times are the only ones."""
    with registered(every=10, catch_up="all"):
        keeper(engine).work(START)
    for now in range(5, 605, 5):
        is_new = now >= 100 and now % 2
        with registered(every=20 if is_new else 10, catch_up="all"):
            keeper(engine).work(START + now)
    with registered(every=20, catch_up="all"):
        keeper(engine).work(START + 605)
    assert fired() == [START + n for n in (*range(10, 110, 10), *range(120, 605, 20))]
    assert Job.objects.count() == len(fired())


def test_an_occurrence_that_is_due_when_the_times_change_gets_its_job(engine: Engine) -> None:
    with registered(every=MINUTE):
        keeper(engine).work(START)
    with registered(every=timedelta(hours=1)):
        keeper(engine).work(START + 61)
        assert fired() == [START + 60]
        keeper(engine).work(START + 3_599)
        assert fired() == [START + 60]
