"""The promises of schedules, on each database: one job for an occurrence, and independent schedules."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from djjp.engine import Engine
from djjp.engine.schedules import KEEP_OCCURRENCES, KEEP_REPLACED, SILENCE
from djjp.models import Flag, Job, Occurrence, Schedule, Source
from tests.support.engine_calls import NOW, at_once
from tests.support.factories import new_job

MINUTE = 60.0


def schedule(name: str = "one", **given: Any) -> Schedule:
    """Return a schedule as the code declares it."""
    fields = {
        "name": name,
        "job": "test.job",
        "source": Source.CODE,
        "every": timedelta(seconds=MINUTE),
        "arguments": '{"args":[],"kwargs":{}}',
    }
    return Schedule(**{**fields, **given})


def declared(engine: Engine, *names: str, now: float = NOW) -> list[Schedule]:
    engine.schedules.sync([schedule(name) for name in names], now)
    return [Schedule.objects.get(name=name) for name in names]


def jobs() -> set[UUID]:
    return set(Job.objects.values_list("pk", flat=True))


def occurrences() -> list[tuple[int, float]]:
    return sorted(Occurrence.objects.values_list("schedule", "occurs_at"))


# Firing


def test_an_occurrence_gets_its_job_and_a_record(engine: Engine) -> None:
    (row,) = declared(engine, "one")
    job = new_job()
    assert engine.schedules.fire(row, [(NOW + MINUTE, job)]) == 1
    row.refresh_from_db()
    assert (row.fired_until, row.last_occurrence, row.last_job) == (
        NOW + MINUTE,
        NOW + MINUTE,
        job.id,
    )
    assert jobs() == {job.id}
    assert occurrences() == [(row.pk, NOW + MINUTE)]


def test_of_many_concurrent_consumers_one_fires_an_occurrence(engine: Engine) -> None:
    (row,) = declared(engine, "one")
    for n in range(1, 21):
        seen = Schedule.objects.get(pk=row.pk)
        due = NOW + n * MINUTE
        counts = at_once(
            *[lambda engine, seen=seen, due=due: engine.schedules.fire(seen, [(due, new_job())])]
            * 4
        )
        assert sorted(counts) == [0, 0, 0, 1]
    assert len(jobs()) == len(occurrences()) == 20


def test_a_consumer_that_read_the_schedule_before_another_fired_it_does_nothing(
    engine: Engine,
) -> None:
    (seen,) = declared(engine, "one")
    assert engine.schedules.fire(seen, [(NOW + 2 * MINUTE, new_job())]) == 1
    before = jobs()
    # By its own clock an earlier or a later occurrence is due.
    for occurrence in (NOW + MINUTE, NOW + 3 * MINUTE):
        assert engine.schedules.fire(seen, [(occurrence, new_job())]) == 0
    assert jobs() == before
    assert Schedule.objects.get().fired_until == NOW + 2 * MINUTE


def test_an_occurrence_that_had_its_job_gets_no_second_one_though_fired_until_was_set_back(
    engine: Engine,
) -> None:
    """As when a process with a slow clock enables or edits the schedule."""
    (row,) = declared(engine, "one")
    engine.schedules.fire(row, [(NOW + MINUTE, new_job())])
    before, last_job = jobs(), Schedule.objects.get().last_job
    Schedule.objects.update(fired_until=NOW)

    assert engine.schedules.fire(row, [(NOW + MINUTE, new_job())]) == 0

    assert jobs() == before
    after = Schedule.objects.get()
    assert (after.fired_until, after.last_job) == (NOW + MINUTE, last_job)
    assert (
        engine.schedules.fire(after, [(NOW + MINUTE, new_job()), (NOW + 2 * MINUTE, new_job())])
        == 1
    )


def test_an_occurrence_and_its_job_are_written_together_or_not_at_all(engine: Engine) -> None:
    (row,) = declared(engine, "one")
    good, bad = new_job(), new_job(queue=None)
    with pytest.raises(Exception, match=r"(?i)null"), transaction.atomic(using=engine.db.alias):
        engine.schedules.fire(row, [(NOW + MINUTE, good), (NOW + 2 * MINUTE, bad)])
    assert (jobs(), occurrences()) == (set(), [])
    assert Schedule.objects.get().fired_until == NOW


def test_a_schedule_disabled_or_deleted_since_it_was_read_is_not_fired(engine: Engine) -> None:
    off, gone = declared(engine, "off", "gone")
    engine.schedules.enable([off.pk], False, NOW)
    engine.schedules.delete([gone.pk])
    for row in (off, gone):
        assert engine.schedules.fire(row, [(NOW + MINUTE, new_job())]) == 0
    assert (jobs(), occurrences()) == (set(), [])


def test_a_job_whose_unique_key_is_held_uses_up_its_occurrence(engine: Engine) -> None:
    (row,) = declared(engine, "one")
    first, second = (new_job(unique_key="k", flags=Flag.UNIQUE) for _ in range(2))
    engine.schedules.fire(row, [(NOW + MINUTE, first)])
    engine.schedules.fire(Schedule.objects.get(), [(NOW + 2 * MINUTE, second)])
    row.refresh_from_db()
    assert jobs() == {first.id}
    assert (row.last_occurrence, row.last_job) == (NOW + 2 * MINUTE, first.id)


def test_records_of_occurrences_are_kept_for_a_day_and_no_longer(engine: Engine) -> None:
    one, other = declared(engine, "one", "other")
    engine.schedules.fire(other, [(NOW, new_job())])
    for n in (0, 1, KEEP_OCCURRENCES / 2, KEEP_OCCURRENCES, KEEP_OCCURRENCES + 1.5):
        engine.schedules.fire(Schedule.objects.get(pk=one.pk), [(NOW + 1 + n, new_job())])
    assert occurrences() == [
        *(
            (one.pk, NOW + 1 + n)
            for n in (KEEP_OCCURRENCES / 2, KEEP_OCCURRENCES, KEEP_OCCURRENCES + 1.5)
        ),
        (other.pk, NOW),
    ]


# Declared schedules


def test_a_new_schedule_begins_with_its_next_occurrence(engine: Engine) -> None:
    (row,) = declared(engine, "one")
    assert (row.fired_until, row.enabled, row.last_occurrence) == (NOW, True, None)


def test_a_sync_without_changes_writes_nothing_and_takes_no_lock(engine: Engine) -> None:
    declared(engine, "one", "two")
    before = list(Schedule.objects.order_by("pk").values())
    with transaction.atomic(using=engine.db.alias):
        engine.jobs.enqueue(new_job())
        at_once(lambda engine: engine.schedules.sync([schedule("one"), schedule("two")], NOW + 500))
    assert list(Schedule.objects.order_by("pk").values()) == before


def test_a_change_of_one_schedule_changes_no_other_and_not_its_own_switch(
    engine: Engine,
) -> None:
    one, _ = declared(engine, "one", "two")
    by_hand = schedule("one", source=Source.ADMIN, fired_until=NOW)
    by_hand.save()
    for row in Schedule.objects.all():
        engine.schedules.fire(row, [(NOW + MINUTE, new_job())])
    engine.schedules.enable([one.pk], False, NOW)
    others = Schedule.objects.exclude(pk=one.pk).order_by("pk")
    before, one_before = list(others.values()), Schedule.objects.values().get(pk=one.pk)

    hourly = schedule("one", every=None, cron="0 * * * *", tz="UTC")
    engine.schedules.sync([hourly, schedule("two")], NOW + 100)

    assert list(others.values()) == before
    changed = {"every": None, "cron": "0 * * * *", "tz": "UTC", "fired_until": NOW + 100}
    after: dict[str, object] = {**Schedule.objects.values().get(pk=one.pk)}
    assert len(Schedule.objects.get(pk=one.pk).replaced.splitlines()) == 1
    after.pop("replaced")
    assert after.pop("declared_at") == NOW + 100
    assert after == {field: (one_before | changed)[field] for field in after}


def test_changed_arguments_keep_due_occurrences(engine: Engine) -> None:
    declared(engine, "one")
    engine.schedules.sync(
        [schedule("one", arguments='{"args":[1],"kwargs":{}}', catch_up="all")], NOW + 500
    )
    row = Schedule.objects.get()
    assert (row.arguments, row.catch_up, row.fired_until) == (
        '{"args":[1],"kwargs":{}}',
        "all",
        NOW,
    )


def test_a_schedule_no_longer_declared_stays_unchanged(engine: Engine) -> None:
    declared(engine, "one", "two")
    before = list(Schedule.objects.order_by("pk").values())
    engine.schedules.sync([], NOW + 1)
    engine.schedules.sync([schedule("two")], NOW + 1)
    assert list(Schedule.objects.order_by("pk").values()) == before


def test_concurrent_syncs_write_one_row(engine: Engine) -> None:
    at_once(*[lambda engine: engine.schedules.sync([schedule("one"), schedule("two")], NOW)] * 4)
    assert [row.name for row in engine.schedules.all()] == ["one", "two"]


# Changes by users


def test_occurrences_while_a_schedule_was_disabled_get_no_job(engine: Engine) -> None:
    one, two = declared(engine, "one", "two")
    assert engine.schedules.enable([one.pk], False, NOW + 1) == 1
    assert engine.schedules.enable([one.pk, two.pk], True, NOW + 500) == 1
    fired = dict(Schedule.objects.values_list("name", "fired_until"))
    assert fired == {"one": NOW + 500, "two": NOW}


def test_a_deleted_schedule_leaves_no_occurrences(engine: Engine) -> None:
    one, two = declared(engine, "one", "two")
    for row in (one, two):
        engine.schedules.fire(row, [(NOW + MINUTE, new_job())])
    engine.schedules.delete([one.pk])
    assert [row.name for row in engine.schedules.all()] == ["two"]
    assert occurrences() == [(two.pk, NOW + MINUTE)]


# Two versions of the code side by side

OLD, NEW = timedelta(seconds=MINUTE), timedelta(seconds=2 * MINUTE)


def test_a_new_declaration_is_applied_at_once_and_the_old_one_changes_nothing_beside_it(
    engine: Engine,
) -> None:
    engine.schedules.sync([schedule(every=OLD)], NOW)
    engine.schedules.sync([schedule(every=NEW)], NOW + 10)
    assert Schedule.objects.get().every == NEW
    Schedule.objects.update(fired_until=NOW + 120)

    for restart in range(20):
        at = NOW + 120 + 10 * restart
        engine.schedules.sync([schedule(every=OLD if restart % 2 else NEW)], at)

    row = Schedule.objects.get()
    assert (row.every, row.fired_until) == (NEW, NOW + 120)


def test_a_change_that_was_taken_back_is_applied_once_no_consumer_declares_it(
    engine: Engine,
) -> None:
    engine.schedules.sync([schedule(every=OLD)], NOW)
    engine.schedules.sync([schedule(every=NEW)], NOW + 10)

    engine.schedules.sync([schedule(every=OLD)], NOW + 10 + SILENCE - 1)
    assert Schedule.objects.get().every == NEW
    engine.schedules.sync([schedule(every=OLD)], NOW + 10 + SILENCE)
    assert Schedule.objects.get().every == OLD
    # From here on the other one is the older.
    engine.schedules.sync([schedule(every=NEW)], NOW + 20 + SILENCE)
    assert Schedule.objects.get().every == OLD


def test_a_declaration_by_a_clock_that_was_ahead_keeps_no_other_out(engine: Engine) -> None:
    engine.schedules.sync([schedule(every=OLD)], NOW)
    engine.schedules.sync([schedule(every=NEW)], NOW + 366 * 86_400)

    engine.schedules.sync([schedule(every=OLD)], NOW + 20)

    assert Schedule.objects.get().every == OLD


def test_a_schedule_remembers_a_few_declarations_only(engine: Engine) -> None:
    for seconds in range(1, 100):
        engine.schedules.sync([schedule(every=timedelta(seconds=seconds))], NOW + seconds)
    row = Schedule.objects.get()
    assert row.every == timedelta(seconds=99)
    assert len(row.replaced.splitlines()) == KEEP_REPLACED
