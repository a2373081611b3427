"""Under an old snapshot a claim skips dead entries, and loses no job before its mark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Engine
from djjp.engine.postgresql import watermark
from djjp.engine.postgresql.ready import INDEXES
from djjp.ids import new_id
from djjp.models import State
from tests.support.engine_calls import NOW, at_once, claim, done, enqueue, failed, finish, release

# All queues, one by name, and several.
served = pytest.mark.parametrize("queues", [None, ["default"], ["mail", "default", "nobody"]])

FINISHED_JOBS = 400


@pytest.fixture
def snapshot(engine: Engine) -> Iterator[Any]:
    """A transaction that is open in the queue's database; a call ends it."""
    import psycopg

    with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as server:
        server.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        server.execute("SELECT count(*) FROM djjp_job")
        yield server.rollback


@pytest.fixture
def with_dead_entries(engine: Engine, snapshot: object, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A queue in which jobs have run under an old snapshot: fewer than marks take in production."""
    monkeypatch.setattr(watermark, "DEAD_ENTRIES", FINISHED_JOBS - 100)
    enqueue(engine, FINISHED_JOBS)
    finish(engine, "one", *(done(job) for job in claim(engine, "one", FINISHED_JOBS)))
    with engine.db.connection.cursor() as cursor:
        # The tests of plans cover a table without statistics; autovacuum could run at any time.
        cursor.execute("SET lock_timeout = 0")  # it can wait for an autovacuum
        cursor.execute("ANALYZE djjp_job")
    engine.db.connection.close()
    engine.db.listener()  # from here on this is the session of another consumer
    return engine


def clean(engine: Engine) -> None:
    """Remove the dead entries, and start a new session, without marks."""
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0")
        cursor.execute("VACUUM djjp_job")
    engine.db.connection.close()


@pytest.fixture
def lasting_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No claim starts at the beginning because of the time alone."""
    monkeypatch.setattr(watermark, "SHORTEST_PAUSE", 3600.0)
    monkeypatch.setattr(watermark, "LONGEST_PAUSE", 3600.0)


def entries_read(engine: Engine, call: Callable[[], Any]) -> int:
    """Return the number of entries that a call reads in the indexes by which it could find ready jobs."""

    def count() -> int:
        with engine.db.connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(pg_stat_get_xact_tuples_returned(name::regclass)) FROM unnest(%s::text[]) AS name",
                [[*INDEXES, "djjp_job_pkey"]],
            )
            return int(cursor.fetchone()[0])

    with engine.db.transaction():
        before = count()
        call()
        return count() - before


def claimed(engine: Engine, limit: int, queues: Sequence[str] | None = None) -> list[UUID]:
    return [job.id for job in claim(engine, "two", limit, queues=queues)]


@pytest.mark.postgresql_only
@served
def test_the_second_claim_reads_no_entries_of_jobs_claimed_before(
    with_dead_entries: Engine, lasting_marks: None, queues: list[str] | None
) -> None:
    ids = enqueue(with_dead_entries, 60)
    taken: list[UUID] = []

    def take() -> None:
        taken.extend(job.id for job in with_dead_entries.jobs.claim("two", 10, NOW, queues=queues))

    def query() -> None:
        assert with_dead_entries.jobs.has_ready(queues, [])

    assert entries_read(with_dead_entries, take) > FINISHED_JOBS
    assert entries_read(with_dead_entries, take) < 100
    assert entries_read(with_dead_entries, take) < 100
    assert entries_read(with_dead_entries, query) < 100
    assert taken == ids[:30]


@pytest.mark.postgresql_only
@served
def test_after_a_mark_a_claim_reads_no_jobs_of_other_states(
    with_dead_entries: Engine, lasting_marks: None, queues: list[str] | None
) -> None:
    """The primary key has the same order, and tempts the planner where most jobs are alike."""
    enqueue(with_dead_entries, 20)
    enqueue(with_dead_entries, 3_000, state=State.SCHEDULED, run_after=NOW + 60)
    enqueue(with_dead_entries, 3_000)
    with with_dead_entries.db.connection.cursor() as cursor:
        cursor.execute("ANALYZE djjp_job")
    # Only now, because a mark is used for a second.
    assert (
        len(claimed(with_dead_entries, 10, queues) + claimed(with_dead_entries, 10, queues)) == 20
    )
    assert (
        entries_read(
            with_dead_entries, lambda: with_dead_entries.jobs.claim("two", 10, NOW, queues=queues)
        )
        < 100
    )


# How a job becomes ready after jobs with greater ids were claimed


def retried(engine: Engine) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(engine)
    [job] = claim(engine, "other", 1)
    finish(engine, "other", failed(job))
    return id, lambda: at_once(lambda engine: engine.control.retry([id]))


def tried_again(engine: Engine) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(engine)
    [job] = claim(engine, "two", 1)
    again = failed(job)._replace(state=State.READY)
    return id, lambda: finish(engine, "two", again)


def released(engine: Engine) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(engine)
    [job] = claim(engine, "other", 1)
    return id, lambda: at_once(lambda elsewhere: release(elsewhere, "other", job))


def promoted(engine: Engine) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(engine, state=State.SCHEDULED, run_after=NOW - 1)
    return id, lambda: engine.jobs.promote(NOW)


def late(engine: Engine) -> tuple[UUID, Callable[[], object]]:
    """The transaction of its enqueue commits after later jobs were claimed."""
    import psycopg

    id, server = new_id(), psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"])
    server.execute(
        "INSERT INTO djjp_job (id, name, queue, priority, state, created_at, arguments, attempts, rescues)"
        " VALUES (%s, 'test.job', 'default', 0, 'ready', now(), '[]', 0, 0)",
        [id],
    )
    stack = ExitStack()
    stack.callback(server.close)
    stack.callback(server.commit)
    return id, stack.close


WAYS = [retried, tried_again, released, promoted, late]


@pytest.mark.postgresql_only
@served
@pytest.mark.parametrize("way", WAYS)
def test_a_claim_that_finds_too_few_jobs_finds_a_job_before_the_mark(
    with_dead_entries: Engine,
    lasting_marks: None,
    queues: list[str] | None,
    way: Callable[[Engine], tuple[UUID, Callable[[], object]]],
) -> None:
    older, make_ready = way(with_dead_entries)
    ids = enqueue(with_dead_entries, 30)
    assert claimed(with_dead_entries, 10, queues) == ids[:10]
    assert claimed(with_dead_entries, 10, queues) == ids[10:20]
    make_ready()
    assert claimed(with_dead_entries, 11, queues) == [older, *ids[20:]]
    assert not claimed(with_dead_entries, 11, queues)


@pytest.mark.postgresql_only
@served
def test_has_ready_finds_a_job_before_the_mark(
    with_dead_entries: Engine, lasting_marks: None, queues: list[str] | None
) -> None:
    older, make_ready = released(with_dead_entries)
    enqueue(with_dead_entries, 20)
    assert (
        len(claimed(with_dead_entries, 10, queues) + claimed(with_dead_entries, 10, queues)) == 20
    )
    assert not with_dead_entries.jobs.has_ready(queues, [])
    make_ready()
    assert with_dead_entries.jobs.has_ready(queues, [])
    assert claimed(with_dead_entries, 10, queues) == [older]


@pytest.mark.postgresql_only
@served
def test_under_constant_load_jobs_before_the_mark_are_claimed_after_a_second(
    with_dead_entries: Engine, queues: list[str] | None
) -> None:
    """And then all of them, in order, before any younger job."""
    older = enqueue(with_dead_entries, 3)
    held = claim(with_dead_entries, "other", 3)
    enqueue(with_dead_entries, 4)
    assert len(claimed(with_dead_entries, 2, queues) + claimed(with_dead_entries, 2, queues)) == 4
    at_once(lambda elsewhere: release(elsewhere, "other", *held))
    give_up_at = time.monotonic() + 60
    while True:
        enqueue(with_dead_entries, 10)
        [first] = claimed(with_dead_entries, 1, queues)
        if first in older or time.monotonic() > give_up_at:
            break
    assert [
        first,
        *claimed(with_dead_entries, 1, queues),
        *claimed(with_dead_entries, 1, queues),
    ] == older


@pytest.mark.postgresql_only
@served
def test_after_the_marks_higher_priorities_come_first(
    with_dead_entries: Engine, lasting_marks: None, queues: list[str] | None
) -> None:
    plain = enqueue(with_dead_entries, 40)
    assert (
        claimed(with_dead_entries, 5, queues) + claimed(with_dead_entries, 5, queues) == plain[:10]
    )
    [low], [high], [highest] = (enqueue(with_dead_entries, priority=p) for p in (-32768, 3, 32767))
    between = enqueue(with_dead_entries, 2, priority=1)
    assert claimed(with_dead_entries, 3, queues) == [highest, high, between[0]]
    again = enqueue(with_dead_entries, 1, priority=3)
    assert claimed(with_dead_entries, 3, queues) == [*again, between[1], plain[10]]
    assert claimed(with_dead_entries, 30, queues) == [*plain[11:], low]


@pytest.mark.postgresql_only
def test_after_the_marks_the_queues_are_merged(
    with_dead_entries: Engine, lasting_marks: None
) -> None:
    names = ["default", "mail"]
    ids = [enqueue(with_dead_entries, queue=names[number % 2])[0] for number in range(12)]
    foreign = enqueue(with_dead_entries, queue="not served", priority=9)
    for at in range(0, 12, 4):
        assert claimed(with_dead_entries, 4, names) == ids[at : at + 4]
    assert claimed(with_dead_entries, 4) == foreign


@pytest.mark.postgresql_only
def test_excluded_names_are_excluded_after_marks(
    with_dead_entries: Engine, lasting_marks: None
) -> None:
    ids = [enqueue(with_dead_entries, name=f"name.{number % 2}")[0] for number in range(12)]
    for at in range(0, 12, 4):
        [one, two] = claim(with_dead_entries, "two", 2, exclude_names=["name.1"])
        assert [one.id, two.id] == [ids[at], ids[at + 2]]


@pytest.mark.postgresql_only
@pytest.mark.parametrize("queues", [None, ["default"]])
def test_after_the_marks_only_claimed_jobs_are_locked(
    with_dead_entries: Engine, lasting_marks: None, queues: list[str] | None
) -> None:
    enqueue(with_dead_entries, 20)
    enqueue(with_dead_entries, 15, priority=-1)
    assert len(claimed(with_dead_entries, 15, queues)) == 15
    with with_dead_entries.db.transaction():
        mine = with_dead_entries.jobs.claim("two", 10, NOW, queues=queues)
        [theirs] = at_once(lambda elsewhere: claim(elsewhere, "three", 10, queues=queues))
        assert len(mine) == len(theirs) == 10


@pytest.mark.postgresql_only
def test_without_dead_entries_a_released_job_is_the_first_again(
    engine: Engine, lasting_marks: None
) -> None:
    clean(engine)
    first, second, third = enqueue(engine, 3)
    held = claim(engine, "other", 1)
    assert claimed(engine, 1) == [second]
    at_once(lambda elsewhere: release(elsewhere, "other", *held))
    assert claimed(engine, 1) == [first]
    assert claimed(engine, 1) == [third]


@pytest.mark.postgresql_only
def test_once_the_old_snapshot_is_gone_claims_start_at_the_beginning_again(
    with_dead_entries: Engine, snapshot: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = enqueue(with_dead_entries, 5)
    held = claim(with_dead_entries, "other", 1)
    assert claimed(with_dead_entries, 1) == others[:1]
    snapshot()
    clean(with_dead_entries)
    assert claimed(with_dead_entries, 1) == others[1:2]
    at_once(lambda elsewhere: release(elsewhere, "other", *held))
    assert claimed(with_dead_entries, 4) == [first, *others[2:]]


def test_too_many_marks_are_forgotten() -> None:
    marks = watermark.Marks()
    marks.observe(watermark.DEAD_ENTRIES + 1, 0.0)
    marks.advance([(None, number, new_id()) for number in range(300)], may_go_back=False)
    assert len(marks.parts(None)) == 301
    marks.advance([(None, 1000 + number, new_id()) for number in range(300)], may_go_back=False)
    assert len(marks.parts(None)) == 301


def test_a_session_forgets_too_many_sets_of_queues() -> None:
    class Session:
        """An object that takes weak references."""

    session = Session()
    first = watermark.marks_of(session, ["0"], [])
    assert watermark.marks_of(session, ["0"], []) is first
    for number in range(1000):
        watermark.marks_of(session, [str(number)], [])
    assert watermark.marks_of(session, ["0"], []) is not first
