"""Tags: the jobs that have one are found in bounded time, whatever else the queue has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connections

from djjp.engine import Engine, NewJob, Outcome, Range, Wanted
from djjp.models import LIVE, Flag, Job, State, Tag
from djjp.monitoring import tagged_jobs
from tests.support.databases import QUEUES
from tests.support.factories import new_job
from tests.support.plans import ANALYSE, new_engine, rolled_back, run


def tagged_job(*tags: str, **given: Any) -> NewJob:
    text = '{"tags":[' + ",".join(f'"{tag}"' for tag in tags) + "]}"
    return new_job(flags=Flag.TAGGED, options=text, **given)


def end(engine: Engine, state: State = State.SUCCEEDED, count: int = 100) -> None:
    now = time.time()
    claimed = engine.jobs.claim("me", count, now)
    assert not engine.jobs.finish("me", [Outcome(each, state, now, now) for each in claimed])


def ids(tag: str, **how: Any) -> list[UUID]:
    return [job.pk for job in tagged_jobs(tag, **how)]


def marks() -> set[bool]:
    return set(Tag.objects.values_list("ended", flat=True))


def test_jobs_are_found_by_tag_newest_first_in_pages(engine: Engine) -> None:
    jobs = [tagged_job("a", "b") for _ in range(5)]
    engine.jobs.enqueue_many(jobs)
    engine.jobs.enqueue(tagged_job("b"))
    newest = sorted((job.id for job in jobs), reverse=True)
    assert ids("a") == newest
    assert ids("a", limit=2) == newest[:2]
    assert ids("a", limit=2, before=newest[1]) == newest[2:4]
    assert (len(ids("b")), ids("c")) == (6, [])


def test_live_leaves_out_the_jobs_that_have_ended(engine: Engine) -> None:
    jobs = [tagged_job("a") for _ in range(3)]
    engine.jobs.enqueue_many(jobs)
    end(engine, count=1)
    end(engine, State.FAILED, count=1)
    assert ids("a", live=True) == [jobs[2].id]
    assert len(ids("a")) == 3
    engine.control.cancel([jobs[2].id], time.time())
    assert ids("a", live=True) == []
    assert marks() == {True}


def test_a_job_that_ended_without_a_mark_is_no_live_job(engine: Engine) -> None:
    engine.jobs.enqueue(tagged_job("a"))
    Job.objects.update(state=State.FAILED)
    assert (ids("a", live=True), marks()) == ([], {False})


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_retried_job_is_live_again(engine: Engine, state: State) -> None:
    job = tagged_job("a")
    engine.jobs.enqueue(job)
    end(engine, state)
    assert engine.control.retry([job.id]) == 1
    assert (ids("a", live=True), marks()) == ([job.id], {False})
    assert engine.control.cancel([job.id], time.time()) == 1
    assert engine.control.retry([job.id]) == 1
    assert ids("a", live=True) == [job.id]


def test_an_attempt_that_is_not_the_last_leaves_the_job_live(engine: Engine) -> None:
    job = tagged_job("a")
    engine.jobs.enqueue(job)
    end(engine, State.READY)
    assert (ids("a", live=True), marks()) == ([job.id], {False})


def test_a_late_outcome_marks_nothing(engine: Engine) -> None:
    engine.jobs.enqueue(tagged_job("a"))
    (claimed,) = engine.jobs.claim("me", 1, time.time())
    engine.jobs.release("me", [claimed])
    assert engine.jobs.finish("me", [Outcome(claimed, State.SUCCEEDED, 1.0, 2.0)])
    assert marks() == {False}


def test_a_job_that_meets_the_holder_of_its_key_leaves_no_tag(engine: Engine) -> None:
    key = {"unique_key": "k"}
    first = tagged_job("a", **key)._replace(flags=Flag.TAGGED | Flag.UNIQUE)
    second = tagged_job("a", "b", **key)._replace(flags=Flag.TAGGED | Flag.UNIQUE)
    assert not engine.jobs.enqueue(first)
    assert engine.jobs.enqueue(second)
    assert set(Tag.objects.values_list("tag", "job_id")) == {("a", first.id)}


def test_tags_are_pruned_with_their_job(engine: Engine) -> None:
    engine.jobs.enqueue_many([tagged_job("a"), new_job(), tagged_job("b", priority=-1)])
    end(engine, count=2)
    deleted, _ = engine.pruning.prune([State.SUCCEEDED], time.time() + 60, None, 100)
    assert deleted == 2
    assert [tag.tag for tag in Tag.objects.all()] == ["b"]
    Job.objects.all().delete()
    assert not Tag.objects.exists()


@pytest.mark.parametrize("tag", ["ünï", "\N{SNOWMAN} & co", "a'b", "x" * 100, "\U0001f600"])
def test_a_tag_can_be_any_text(engine: Engine, tag: str) -> None:
    from tests.project.shop.jobs import add

    handle = add.using(tags=[tag]).run_later(1)
    assert (ids(tag, live=True), handle.tags) == ([handle.id], [tag])


# Plans and costs

CROWD = 20_000
FILL = {
    "sqlite": f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CROWD})
        INSERT INTO {{into}} SELECT {{values}} FROM n""",
    "postgresql": f"INSERT INTO {{into}} SELECT {{values}} FROM generate_series(1, {CROWD}) AS i",
}
ID = {"sqlite": "printf('%032x', i)", "postgresql": "lpad(to_hex(i), 32, '0')::uuid"}


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A queue in which many jobs of one tag have ended, and a few wait behind them in the order of ids."""
    vendor = request.param
    with new_engine(request, tmp_path_factory.mktemp("tags"), vendor) as engine:
        into = "djjp_tag (tag, job_id, ended)"
        values = f"CASE i % 2 WHEN 0 THEN 'crowd' ELSE 't' || i END, {ID[vendor]}, i > 6"
        run(engine, FILL[vendor].format(into=into, values=values))
        yield engine


def plan(engine: Engine, *, live: bool = False, before: UUID | None = None) -> str:
    """Return the plan by which a search reads the next ids of the crowd's tag."""
    wanted = Wanted(tag="crowd", states=LIVE if live else ())
    (part,) = next(engine.search.sources._candidates(wanted)).parts
    keys = engine.db.keys([before]) if before is not None else [None]
    sql, params = part.first(100, Range(below=keys[0]))
    connection = connections[engine.db.alias]
    with rolled_back(engine), connection.cursor() as cursor:
        cursor.execute(sql, params)
        assert len(cursor.fetchall()) == (3 if live else 100)
        explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        cursor.execute(f"{explain} {sql}", params)
        return "\n".join(str(line[-1]) for line in cursor.fetchall())


@pytest.mark.parametrize("analysed", [False, True])
def test_a_page_of_a_tag_is_read_in_order_from_its_index(crowded: Engine, analysed: bool) -> None:
    vendor = connections[crowded.db.alias].vendor
    if analysed:
        run(crowded, ANALYSE[vendor].replace("djjp_job", "djjp_tag"))
    live, every = plan(crowded, live=True), plan(crowded)
    after = plan(crowded, before=UUID(int=CROWD))
    key = {"sqlite": "sqlite_autoindex_djjp_tag_1", "postgresql": "djjp_tag_pkey"}[vendor]
    assert "djjp_tag_live" in live
    assert key in every
    assert key in after
    for text in (live, every, after):
        assert "Seq Scan" not in text
        assert "SCAN" not in text
        assert "TEMP B-TREE" not in text
