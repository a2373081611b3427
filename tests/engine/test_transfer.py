"""A transfer moves every row of a queue to another database, once, whatever is killed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections

from djjp import Limit, chain, expand, get_job, group, job, run_many
from djjp.consumer.transfer import transfer
from djjp.databases import queue_database
from djjp.engine import Engine, routing
from djjp.engine import transfer as moving
from djjp.models import (
    Attempt,
    Consumer,
    Dependency,
    Flag,
    IdempotencyKey,
    Job,
    Occurrence,
    Queue,
    RateStart,
    Relayed,
    Schedule,
    Tag,
    Token,
    Transfer,
)
from djjp.pipelines import expansion
from djjp.queues import pause
from tests.management.conftest import run
from tests.support.consumers import consuming, drain
from tests.support.engine_calls import register_consumer
from tests.support.projects import alias_for

MODELS = (
    *(Queue, Schedule, Occurrence, RateStart, Relayed, Dependency, Job, Attempt, Tag),
    *(Token, IdempotencyKey),
)


@job(name="transfer.work")
def work(number: int = 0) -> int:
    return number


@job(name="transfer.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(name="transfer.numbers")
def numbers(count: int) -> list[int]:
    return list(range(count))


@job(name="transfer.fail", max_attempts=2, backoff=0)
def fail() -> None:
    raise ValueError("no")


@job(name="transfer.one", limit=Limit("one", 1), unique_key="u-{number}")
def one(number: int) -> None: ...


@pytest.fixture
def other(engine: Engine, tmp_path: Path) -> Iterator[str]:
    """The alias of another database, without tables."""
    alias = "moved"
    connections.settings[alias] = connections.configure_settings(
        {"default": {}, alias: queue_database(tmp_path / "moved.sqlite3")}
    )[alias]
    routing._engine.cache_clear()
    yield alias
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]


def move(source: str, target: str) -> int:
    return transfer(source, target, lambda moved, total: None)


def content(alias: str) -> dict[str, list[Any]]:
    """Return all rows of a queue; ids that a database has chosen are left out."""
    found = {}
    for model in MODELS:
        names = [
            field.attname
            for field in model._meta.concrete_fields
            if model is Schedule or field is not model._meta.auto_field
        ]
        rows = model._base_manager.using(alias).order_by(*names[:2]).values_list(*names)
        found[model.__name__] = sorted(map(repr, rows))
    return found


def fill(engine: Engine) -> None:
    """Give a queue rows of every kind."""
    run_many(work.bind(n) for n in range(5))
    fail.run_later()
    chain(group(work.bind(1), work.bind(2)), total.bind()).run_later()
    drain()
    run_many(work.bind(n) for n in range(20))
    work.using(run_after=timedelta(days=1), queue="late").run_later(7)
    chain(group(work.bind(3), work.bind(4)), total.bind()).run_later()
    one.run_later(1)
    one.run_later(2)
    run_many(work.using(tags=["billing", f"tenant-{n}"], timeout=5).bind(n) for n in range(9))
    with_context = work.bind(1).to_row()._replace(context='{"trace":"t"}', flags=Flag.CONTEXT)
    engine.jobs.enqueue(with_context)
    pause("late", 3600)
    pause("mail")
    alias, now = engine.db.alias, datetime(2026, 10, 25, 1, 30, 0, 123456, tzinfo=UTC)
    schedule = Schedule.objects.using(alias).create(
        name="nightly", job="transfer.work", every=timedelta(days=1), arguments="{}", fired_until=5
    )
    Occurrence.objects.using(alias).create(schedule=schedule.pk, occurs_at=4.5)
    RateStart.objects.using(alias).create(key="k", until=9e9, count=3)
    Relayed.objects.using(alias).create(id="018f2a1e-0000-7000-8000-000000000001", relayed_at=now)
    for number in range(3):
        token = Token.objects.using(alias).create(
            name=f"t{number}", digest=f"{number}", scope="read", created_at=now
        )
        for key in ("a", "b"):
            IdempotencyKey.objects.using(alias).create(
                token=token.pk, key=key, fingerprint="f", jobs="", created_at=now
            )


def test_everything_is_moved_there_and_back(engine: Engine, other: str) -> None:
    home = engine.db.alias
    fill(engine)
    before = content(home)
    assert all(before.values())

    moved = move(home, other)

    assert moved == sum(map(len, before.values()))
    assert content(other) == before
    assert not any(content(home).values())

    move(other, home)

    assert content(home) == before
    assert not any(content(other).values())
    made = Schedule.objects.create(name="new", job="x", arguments="{}", fired_until=1)
    assert made.pk not in (None, Schedule.objects.get(name="nightly").pk)


def test_the_jobs_run_where_they_are_moved_to(engine: Engine, other: str, settings: Any) -> None:
    first = chain(group(work.bind(3), work.bind(4)), total.bind()).run_later()
    single = one.run_later(1)
    move(engine.db.alias, other)

    settings.DJJP = settings.DJJP | {"db_name": other}
    drain()

    assert get_job(first.id).join(timeout=5) == 7
    assert get_job(single.id).join(timeout=5) is None


def test_an_expansion_that_a_kill_has_left_half_done_goes_on_there(
    engine: Engine, other: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "MEMBERS_AT_ONCE", 4)
    handle = chain(numbers.bind(10), expand(work), total.bind()).run_later()
    add_piece = type(engine.expansion).add
    pieces = iter(["a", "b"])

    def add_two(self: Any, *args: Any, **options: Any) -> bool:
        next(pieces)
        return add_piece(self, *args, **options)

    monkeypatch.setattr(type(engine.expansion), "add", add_two)
    drain()
    monkeypatch.undo()
    expanding = handle.steps[1]
    handle.retry()
    Job.objects.filter(pk=expanding.id).update(state="running", consumer="gone:1:a", claim=1)
    assert handle.progress == (1 + 8, 1 + 8 + 2)

    settings.DJJP = settings.DJJP | {"heartbeat_limit": 0.5}
    move(engine.db.alias, other)

    settings.DJJP = settings.DJJP | {"db_name": other}
    drain()

    assert get_job(handle.id).join(timeout=5) == sum(range(10))
    assert Job.objects.using(other).filter(name="transfer.work").count() == 10 + 2


class Killed(BaseException):
    """Stands for a kill: no code of djjp handles it."""


@pytest.mark.parametrize("killed_at", [0, 6, 8, 11])
def test_a_transfer_that_was_killed_goes_on(
    engine: Engine, other: str, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_ROWS", 7)
    fill(engine)
    before = content(engine.db.alias)
    steps = 0
    real = moving._delete

    def delete(at: Engine, *args: Any) -> None:
        """Be killed after the target's commit, and before the source's."""
        nonlocal steps
        if at.db.alias == engine.db.alias:
            steps += 1
            if steps == killed_at + 1:
                raise Killed
        real(at, *args)

    monkeypatch.setattr(moving, "_delete", delete)
    with pytest.raises(Killed):
        move(engine.db.alias, other)

    for alias in (engine.db.alias, other):
        assert Transfer.objects.using(alias).get().finished_at is None
    move(engine.db.alias, other)

    assert content(other) == before
    assert not any(content(engine.db.alias).values())
    for alias in (engine.db.alias, other):
        assert Transfer.objects.using(alias).get().finished_at is not None


def test_no_consumer_starts_while_a_transfer_is_unfinished(
    engine: Engine, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.run_later()

    def killed(self: Any) -> None:
        raise Killed

    monkeypatch.setattr(moving.Transferring, "finish", killed)
    with pytest.raises(Killed):
        move(engine.db.alias, other)

    with pytest.raises(ImproperlyConfigured, match="transfer to moved is not finished"):
        drain()
    assert not Consumer.objects.exists()
    monkeypatch.undo()
    move(engine.db.alias, other)
    drain()


def test_a_living_consumer_is_a_refusal(engine: Engine, other: str) -> None:
    handle = work.run_later()
    with consuming():
        handle.join(timeout=20)
        with pytest.raises(ValueError, match="lives; stop it first"):
            move(engine.db.alias, other)

    assert not Transfer.objects.exists()
    assert Job.objects.count() == 1


def test_a_consumer_that_starts_meanwhile_is_a_refusal(
    engine: Engine, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = moving.Transferring.begin

    def begin_late(self: Any) -> Any:
        taken_back = begin(self)
        register_consumer(engine, "host:1:a")
        engine.consumers.acquire_lock("host:1:a")
        return taken_back

    monkeypatch.setattr(moving.Transferring, "begin", begin_late)
    work.run_later()
    try:
        with pytest.raises(ValueError, match="host:1:a"):
            move(engine.db.alias, other)
    finally:
        engine.consumers.release_lock("host:1:a")

    assert not Transfer.objects.exists()
    assert Job.objects.count() == 1


def test_jobs_of_dead_consumers_are_rescued_first(
    engine: Engine, other: str, settings: Any
) -> None:
    handle = work.run_later()
    Job.objects.update(state="running", consumer="gone:1:a", attempts=1, claim=1)

    settings.DJJP = settings.DJJP | {"heartbeat_limit": 0.5}
    move(engine.db.alias, other)

    moved = Job.objects.using(other).get()
    assert (moved.pk, moved.state, moved.rescues) == (handle.id, "ready", 1)


def test_a_target_with_rows_of_its_own_is_a_refusal(engine: Engine, other: str) -> None:
    work.run_later()
    move(engine.db.alias, other)
    Transfer.objects.using(other).all().delete()
    work.run_later()

    with pytest.raises(ValueError, match="has 1 rows of its own"):
        move(engine.db.alias, other)

    assert Job.objects.count() == 1
    assert Job.objects.using(other).count() == 1


def test_what_is_enqueued_later_is_moved_by_another_run(engine: Engine, other: str) -> None:
    first = work.run_later(1)
    move(engine.db.alias, other)
    later = work.run_later(2)

    assert move(engine.db.alias, other) == 1

    assert {row.pk for row in Job.objects.using(other).all()} == {first.id, later.id}


def test_a_job_whose_key_is_taken_in_the_target_meanwhile_is_cancelled(
    engine: Engine, other: str
) -> None:
    first = one.run_later(1)
    move(engine.db.alias, other)
    second = one.run_later(1)

    move(engine.db.alias, other)

    row = Job.objects.using(other).get(pk=second.id)
    assert (row.state, row.reason) == ("cancelled", f"job {first.id} has its unique key")
    assert row.finished_at is not None


def test_tables_are_created_where_their_migrations_are_recorded_without_them(
    engine: Engine, other: str
) -> None:
    """As in the application's database, where the router has kept them away from `migrate`."""
    call_command("migrate", "djjp", database=other, verbosity=0)
    assert "djjp_job" not in connections[other].introspection.table_names()
    work.run_later()

    move(engine.db.alias, other)

    assert Job.objects.using(other).count() == 1


def test_a_target_that_does_not_answer_is_named(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alias_for(queue_database(tmp_path / "no" / "queue.sqlite3")) as alias:
        ran = run(capsys, "transfer", engine.db.alias, alias, "--json")
    assert ran.code == 69
    assert (
        f"the queue's database {alias!r} did not take the call: unable to open"
        in ran.document("Failure")["error"]["detail"]
    )


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (("nowhere", "moved"), "'nowhere' is no alias in DATABASES"),
        (("moved", "nowhere"), "'nowhere' is no alias in DATABASES"),
        (("moved", "moved"), "are one database"),
    ],
)
@pytest.mark.usefixtures("engine", "other")
def test_aliases_of_two_databases_are_needed(aliases: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        move(*aliases)


def test_another_transfer_must_be_finished_first(engine: Engine, other: str) -> None:
    now = datetime.now(UTC)
    Transfer.objects.create(other="elsewhere", incoming=False, started_at=now)

    with pytest.raises(ValueError, match="the transfer to elsewhere is unfinished"):
        move(engine.db.alias, other)


def test_parts_are_bounded_by_their_size(
    engine: Engine, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_CHARACTERS", 1000)
    parts: list[int] = []
    for _ in range(4):
        row = work.bind(1).to_row()
        Job.objects.create(
            id=row.id, name=row.name, arguments=" " * 600, created_at=datetime.now(UTC)
        )

    transfer(engine.db.alias, other, lambda moved, total: parts.append(moved))

    assert parts == [1, 2, 3, 4]


def test_enqueuers_go_on_meanwhile(
    engine: Engine, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_ROWS", 5)
    move(engine.db.alias, other)  # creates the tables
    handles = list(run_many(work.bind(n) for n in range(50)))
    stop = threading.Event()

    def enqueue() -> None:
        handles.extend(work.run_later(number) for number in range(30))
        connections.close_all()
        stop.set()

    thread = threading.Thread(target=enqueue)
    thread.start()
    move(engine.db.alias, other)
    thread.join(30)
    move(engine.db.alias, other)

    assert stop.is_set()
    assert {row.pk for row in Job.objects.using(other).all()} == {each.id for each in handles}


def test_every_table_is_moved_or_stays() -> None:
    assert {*MODELS, *moving.STAYING} == {*moving._moving(), *moving.STAYING}


@pytest.mark.usefixtures("other")
def test_the_command_shows_progress(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    work.run_later()
    alias = engine.db.alias

    call_command("djjp", "transfer", alias, "moved")

    assert capsys.readouterr().out.splitlines() == [
        "1 of 1 rows moved",
        f"the queue is moved from {alias} to moved: 1 rows",
    ]
