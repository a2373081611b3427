"""Under an old snapshot a claim passes no pile of dead entries, and loses no job that lies before its mark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Claims
from djjp.engine.postgresql import watermark
from djjp.engine.postgresql.ready import INDEXES
from djjp.ids import new_id
from djjp.models import State
from tests.engine.verbs import NOW, at_once, claim, done, enqueue, failed, finish, release

on_postgresql = pytest.mark.parametrize("queue", ["postgresql"], indirect=True)
# All queues, one by name, and several.
served = pytest.mark.parametrize("queues", [None, ["default"], ["mail", "default", "nobody"]])

PILE = 400


@pytest.fixture
def snapshot(queue: Claims) -> Iterator[Any]:
    """A transaction that is open in the queue's database; a call ends it."""
    import psycopg

    with psycopg.connect(os.environ["DJJP_TEST_SERVER_URL"]) as server:
        server.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        server.execute("SELECT count(*) FROM djjp_job")
        yield server.rollback


@pytest.fixture
def piled(queue: Claims, snapshot: object, monkeypatch: pytest.MonkeyPatch) -> Claims:
    """A queue in which jobs have run under an old snapshot: not as many as it really takes."""
    monkeypatch.setattr(watermark, "PILE", PILE - 100)
    enqueue(queue, PILE)
    finish(queue, "one", *(done(job) for job in claim(queue, "one", PILE)))
    with queue.connection.cursor() as cursor:
        # What the planner does without is for the tests of plans; autovacuum may come by at any time.
        cursor.execute("ANALYZE djjp_job")
    queue.connection.close()
    queue.listener()  # what follows is the session of another consumer
    return queue


def clean(queue: Claims) -> None:
    """Remove what is dead, and be a new session, without marks."""
    with queue.connection.cursor() as cursor:
        cursor.execute("VACUUM djjp_job")
    queue.connection.close()


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks from the start for the time alone."""
    monkeypatch.setattr(watermark, "SOONEST", 3600.0)
    monkeypatch.setattr(watermark, "LATEST", 3600.0)


def met(queue: Claims, call: Callable[[], Any]) -> int:
    """How many entries a verb meets in the indexes by which it could find ready jobs."""

    def count() -> int:
        with queue.connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(pg_stat_get_xact_tuples_returned(name::regclass)) FROM unnest(%s::text[]) AS name",
                [[*INDEXES, "djjp_job_pkey"]],
            )
            return int(cursor.fetchone()[0])

    with queue.turn():
        before = count()
        call()
        return count() - before


def claimed(queue: Claims, limit: int, queues: Sequence[str] | None = None) -> list[UUID]:
    return [job.id for job in claim(queue, "two", limit, queues=queues)]


@on_postgresql
@served
def test_the_second_claim_passes_nothing_that_was_claimed_before(
    piled: Claims, lasting: None, queues: list[str] | None
) -> None:
    ids = enqueue(piled, 60)
    taken: list[UUID] = []

    def take() -> None:
        taken.extend(job.id for job in piled.claim("two", 10, NOW, queues=queues))

    def look() -> None:
        assert piled.has_ready(queues, [])

    assert met(piled, take) > PILE
    assert met(piled, take) < 100
    assert met(piled, take) < 100
    assert met(piled, look) < 100
    assert taken == ids[:30]


@on_postgresql
@served
def test_behind_a_mark_a_claim_passes_no_jobs_of_other_states(
    piled: Claims, lasting: None, queues: list[str] | None
) -> None:
    """The primary key has them in the same order, and looks like a way where most jobs are alike."""
    enqueue(piled, 20)
    enqueue(piled, 3_000, state=State.SCHEDULED, run_after=NOW + 60)
    enqueue(piled, 3_000)
    with piled.connection.cursor() as cursor:
        cursor.execute("ANALYZE djjp_job")
    # At last, for a mark is used for a second.
    assert len(claimed(piled, 10, queues) + claimed(piled, 10, queues)) == 20
    assert met(piled, lambda: piled.claim("two", 10, NOW, queues=queues)) < 100


# How a job becomes ready though there are claimed jobs with greater ids


def retried(queue: Claims) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(queue)
    [job] = claim(queue, "other", 1)
    finish(queue, "other", failed(job))
    return id, lambda: at_once(lambda elsewhere: elsewhere.retry([id]))


def tried_again(queue: Claims) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(queue)
    [job] = claim(queue, "two", 1)
    again = failed(job)._replace(state=State.READY)
    return id, lambda: finish(queue, "two", again)


def given_back(queue: Claims) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(queue)
    [job] = claim(queue, "other", 1)
    return id, lambda: at_once(lambda elsewhere: release(elsewhere, "other", job))


def promoted(queue: Claims) -> tuple[UUID, Callable[[], object]]:
    [id] = enqueue(queue, state=State.SCHEDULED, run_after=NOW - 1)
    return id, lambda: queue.promote(NOW)


def late(queue: Claims) -> tuple[UUID, Callable[[], object]]:
    """Its enqueuer's transaction commits after jobs that were made later."""
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


WAYS = [retried, tried_again, given_back, promoted, late]


@on_postgresql
@served
@pytest.mark.parametrize("way", WAYS)
def test_a_job_before_the_mark_is_found_by_a_claim_that_comes_back_short(
    piled: Claims,
    lasting: None,
    queues: list[str] | None,
    way: Callable[[Claims], tuple[UUID, Callable[[], object]]],
) -> None:
    older, make_ready = way(piled)
    ids = enqueue(piled, 30)
    assert claimed(piled, 10, queues) == ids[:10]
    assert claimed(piled, 10, queues) == ids[10:20]
    make_ready()
    assert claimed(piled, 11, queues) == [older, *ids[20:]]
    assert not claimed(piled, 11, queues)


@on_postgresql
@served
def test_a_job_before_the_mark_is_found_by_a_look(
    piled: Claims, lasting: None, queues: list[str] | None
) -> None:
    older, make_ready = given_back(piled)
    enqueue(piled, 20)
    assert len(claimed(piled, 10, queues) + claimed(piled, 10, queues)) == 20
    assert not piled.has_ready(queues, [])
    make_ready()
    assert piled.has_ready(queues, [])
    assert claimed(piled, 10, queues) == [older]


@on_postgresql
@served
def test_where_jobs_never_run_short_those_before_the_mark_come_after_a_second(
    piled: Claims, queues: list[str] | None
) -> None:
    """And then all of them, in order, before any that is younger."""
    older = enqueue(piled, 3)
    held = claim(piled, "other", 3)
    enqueue(piled, 4)
    assert len(claimed(piled, 2, queues) + claimed(piled, 2, queues)) == 4
    at_once(lambda elsewhere: release(elsewhere, "other", *held))
    give_up_at = time.monotonic() + 60
    while True:
        enqueue(piled, 10)
        [first] = claimed(piled, 1, queues)
        if first in older or time.monotonic() > give_up_at:
            break
    assert [first, *claimed(piled, 1, queues), *claimed(piled, 1, queues)] == older


@on_postgresql
@served
def test_behind_the_marks_higher_priorities_come_first(
    piled: Claims, lasting: None, queues: list[str] | None
) -> None:
    plain = enqueue(piled, 40)
    assert claimed(piled, 5, queues) + claimed(piled, 5, queues) == plain[:10]
    [low], [high], [highest] = (enqueue(piled, priority=p) for p in (-32768, 3, 32767))
    between = enqueue(piled, 2, priority=1)
    assert claimed(piled, 3, queues) == [highest, high, between[0]]
    again = enqueue(piled, 1, priority=3)
    assert claimed(piled, 3, queues) == [*again, between[1], plain[10]]
    assert claimed(piled, 30, queues) == [*plain[11:], low]


@on_postgresql
def test_behind_the_marks_the_queues_are_merged(piled: Claims, lasting: None) -> None:
    names = ["default", "mail"]
    ids = [enqueue(piled, queue=names[number % 2])[0] for number in range(12)]
    foreign = enqueue(piled, queue="not served", priority=9)
    for at in range(0, 12, 4):
        assert claimed(piled, 4, names) == ids[at : at + 4]
    assert claimed(piled, 4) == foreign


@on_postgresql
def test_names_that_are_passed_over_are_passed_over_behind_marks(
    piled: Claims, lasting: None
) -> None:
    ids = [enqueue(piled, name=f"name.{number % 2}")[0] for number in range(12)]
    for at in range(0, 12, 4):
        [one, two] = claim(piled, "two", 2, without=["name.1"])
        assert [one.id, two.id] == [ids[at], ids[at + 2]]


@on_postgresql
@pytest.mark.parametrize("queues", [None, ["default"]])
def test_behind_the_marks_nothing_is_locked_but_what_is_taken(
    piled: Claims, lasting: None, queues: list[str] | None
) -> None:
    enqueue(piled, 20)
    enqueue(piled, 15, priority=-1)
    assert len(claimed(piled, 15, queues)) == 15
    with piled.turn():
        mine = piled.claim("two", 10, NOW, queues=queues)
        [theirs] = at_once(lambda elsewhere: claim(elsewhere, "three", 10, queues=queues))
        assert len(mine) == len(theirs) == 10


@on_postgresql
def test_without_a_pile_a_job_that_was_given_back_is_the_first_again(
    queue: Claims, lasting: None
) -> None:
    clean(queue)
    first, second, third = enqueue(queue, 3)
    held = claim(queue, "other", 1)
    assert claimed(queue, 1) == [second]
    at_once(lambda elsewhere: release(elsewhere, "other", *held))
    assert claimed(queue, 1) == [first]
    assert claimed(queue, 1) == [third]


@on_postgresql
def test_once_the_old_snapshot_is_gone_claims_begin_at_the_start_again(
    piled: Claims, snapshot: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = enqueue(piled, 5)
    held = claim(piled, "other", 1)
    assert claimed(piled, 1) == others[:1]
    snapshot()
    clean(piled)
    assert claimed(piled, 1) == others[1:2]
    at_once(lambda elsewhere: release(elsewhere, "other", *held))
    assert claimed(piled, 4) == [first, *others[2:]]


def test_more_marks_than_are_kept_are_forgotten() -> None:
    marks = watermark.Marks()
    marks.looked(watermark.PILE + 1, 0.0)
    marks.reached([(None, number, new_id()) for number in range(300)], back=False)
    assert len(marks.parts(None)) == 301
    marks.reached([(None, 1000 + number, new_id()) for number in range(300)], back=False)
    assert len(marks.parts(None)) == 301


def test_a_session_forgets_sets_of_queues_that_are_too_many() -> None:
    class Session:
        """Anything that can be referred to weakly."""

    session = Session()
    first = watermark.marks_of(session, ["0"], [])
    assert watermark.marks_of(session, ["0"], []) is first
    for number in range(1000):
        watermark.marks_of(session, [str(number)], [])
    assert watermark.marks_of(session, ["0"], []) is not first
