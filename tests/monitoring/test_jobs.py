"""Lists of jobs: each filter, and each pair of filters, finds exactly the jobs that a look at all rows finds."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from django.utils import timezone

from djjp import job
from djjp.durations import to_datetime
from djjp.engine import Engine, Range, Wanted, sources
from djjp.ids import first_id, made_at
from djjp.models import LIVE, Attempt, Flag, Job, State, Tag
from djjp.monitoring import (
    Count,
    Failures,
    Filter,
    FilterError,
    Page,
    acount,
    afailures,
    afind,
    count,
    failures,
    find,
    jobs,
    search,
    walk,
)
from tests.support.consumers import drain
from tests.support.factories import new_job

JOBS = 240
PIPELINE = UUID(int=17)
NOW = time.time()


class Row(NamedTuple):
    """A job of the population, with what is in other tables."""

    job: Job
    tags: set[str]
    classes: set[str]


def population() -> list[Row]:
    """Return jobs of all kinds, some with ids by hand, which are no times."""
    pick = random.Random(16)
    rows = []
    for number in range(JOBS):
        at = NOW - 86_400 + number * 300
        id = UUID(int=first_id(at).int | 7 << 76 | 1 << 63 | pick.getrandbits(62))
        state = pick.choice([*State])
        live = state in LIVE
        job = Job(
            id=UUID(int=pick.getrandbits(128)) if number % 20 == 0 else id,
            name=pick.choice(["shop.mail", "shop.pay", "shop_pay", "other.[x]"]),
            queue=pick.choice(["a", "b"]),
            priority=pick.choice([-5, 0, 0, 9]),
            state=state,
            attempts=pick.randrange(5),
            rescues=pick.choice([0, 0, 1]) if state == State.READY else 0,
            created_at=datetime.fromtimestamp(at, UTC),
            consumer=pick.choice(["one", "two"]) if state not in LIVE[:3] else None,
            arguments="[]",
            flags=Flag.UNLISTED if number % 30 == 7 else 0,
            pipeline=PIPELINE if number % 3 == 0 else None,
            unique_key=f"key {number}" if live else pick.choice(["key 0", "key 100", None]),
        )
        tags = set(pick.sample(["red", "blue"], pick.randrange(3)))
        names = ["builtins.KeyError", "shop.errors.Declined", "KeyError", "other.Declined"]
        rows.append(Row(job, tags, set(pick.choices(names, k=pick.randrange(3)))))
    return rows


def store(engine: Engine, rows: list[Row]) -> None:
    at, alias = timezone.now(), engine.db.alias
    Job.objects.using(alias).bulk_create([row.job for row in rows])
    Tag.objects.using(alias).bulk_create(
        Tag(tag=tag, job=row.job, ended=row.job.state not in LIVE)
        for row in rows
        for tag in row.tags
    )
    Attempt.objects.using(alias).bulk_create(
        Attempt(job=row.job, number=1, started_at=at, finished_at=at, exception_class=name)
        for row in rows
        for name in [*row.classes, *row.classes]  # of each class two attempts
    )


FILTERS = {
    "state": "failed",
    "state ": "ready,scheduled,blocked,running",
    "state  ": "succeeded,failed",
    "queue": "a",
    "name": "shop.*",
    "name ": "*.[x]",
    "exception": "Declined",
    "exception ": "shop.errors.Declined",
    "tag": "red",
    "since": datetime.fromtimestamp(NOW - 43_200, UTC).isoformat(),
    "until": datetime.fromtimestamp(NOW - 21_600, UTC).isoformat(),
    "pipeline": str(PIPELINE),
    "consumer": "one",
    "unique_key": "key 100",
    "attempts": ">=3",
}


def matches(row: Row, given: Mapping[str, str]) -> bool:
    """Return whether a job meets the conditions, by its own values."""
    job = row.job
    met: dict[str, Callable[[str], bool]] = {
        "state": lambda value: job.state in value.split(","),
        "queue": lambda value: job.queue == value,
        "name": lambda value: fnmatchcase(job.name, value.replace("[", "[[]")),
        "exception": lambda value: any(value in (c, c.split(".")[-1]) for c in row.classes),
        "tag": lambda value: value in row.tags,
        "since": lambda value: job.pk >= first_id(datetime.fromisoformat(value).timestamp()),
        "until": lambda value: job.pk < first_id(datetime.fromisoformat(value).timestamp()),
        "pipeline": lambda value: str(job.pipeline) == value,
        "consumer": lambda value: job.consumer == value,
        "unique_key": lambda value: job.unique_key == value,
        "attempts": lambda value: job.attempts >= int(value[2:]),
    }
    return not job.flags & Flag.UNLISTED and all(met[k.strip()](v) for k, v in given.items())


def expected(rows: list[Row], given: Mapping[str, str]) -> list[UUID]:
    """Return the ids of the matching jobs in the order of a list."""
    found = [row.job for row in rows if matches(row, given)]
    keys = {key.strip() for key in given}
    first: Any = ()
    if not keys & {"state", "pipeline", "exception", "tag"}:
        first = LIVE if "unique_key" in keys else (State.RUNNING,) if "consumer" in keys else ()
    found.sort(key=lambda job: (job.state in first, job.pk), reverse=True)
    return [job.pk for job in found]


def pages(wanted: Filter, limit: int, *, backwards: bool = False) -> list[list[UUID]]:
    found, cursor = [], None
    while True:
        page = find(wanted, limit=limit, cursor=cursor, backwards=backwards)
        assert len(page.jobs) <= limit
        found.append([job.pk for job in page.jobs])
        cursor = page.previous if backwards else page.next
        if cursor is None:
            assert page.looked_back_to is None
            return found[::-1] if backwards else found


def walked(wanted: Filter, limit: int) -> list[UUID]:
    """Return the jobs of a walk whose steps read one part of the rows each."""
    found, reached = list[UUID](), None
    while True:
        step = walk(wanted, reached, None, limit, time_limit=-1.0)
        assert len(step.ids) <= limit
        found += step.ids
        if (reached := step.reached) is None:
            return found


CASES = [
    {key: FILTERS[key] for key in keys}
    for size in (0, 1, 2)
    for keys in combinations(FILTERS, size)
    if len({key.strip() for key in keys}) == size
]


ONE_KEY = [case for case in CASES if len(case) < 2]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return population()


@pytest.fixture
def stored(engine: Engine, rows: list[Row]) -> list[Row]:
    store(engine, rows)
    return rows


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_ROWS", "_FEWEST_ROWS", "_MOST_ROWS"):
        monkeypatch.setattr(search, name, 50)


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each search end after its first step."""
    for module in (jobs, search):
        monkeypatch.setattr(module, "SECONDS", -1.0)


def flat(found: list[list[UUID]]) -> list[UUID]:
    return [id for page in found for id in page]


def filter_of(given: Mapping[str, str]) -> Filter:
    return Filter.of({key.strip(): value for key, value in given.items()})


def test_each_filter_and_each_pair_finds_the_jobs_that_match(stored: list[Row]) -> None:
    for given in CASES:
        ids = expected(stored, given)
        assert flat(pages(filter_of(given), 100)) == ids, given
        assert count(filter_of(given)) == (len(ids), True), given


def test_pages_in_both_directions_have_the_same_jobs(stored: list[Row], small_steps: None) -> None:
    for given in ONE_KEY:
        ids, wanted = expected(stored, given), filter_of(given)
        assert flat(pages(wanted, 20)) == ids, given
        assert flat(pages(wanted, 20, backwards=True)) == ids, given


def test_a_search_goes_on_where_its_time_has_ended(
    stored: list[Row], small_steps: None, no_time: None
) -> None:
    for given in ONE_KEY:
        ids, wanted = expected(stored, given), filter_of(given)
        assert flat(pages(wanted, 20)) == ids, given
        assert flat(pages(wanted, 20, backwards=True)) == ids, given
        assert walked(wanted, 20) == sorted(ids), given


def test_a_page_names_the_time_to_which_it_has_looked_back(
    stored: list[Row], small_steps: None, no_time: None
) -> None:
    ids = sorted((row.job.pk for row in stored), reverse=True)
    page = find(Filter.parse("attempts:>100"))
    assert (page.jobs, page.previous) == ([], None)
    assert page.looked_back_to == to_datetime(min(made_at(ids[49]), time.time()))
    second = find(Filter.parse("attempts:>100"), cursor=page.next)
    assert second.looked_back_to == to_datetime(made_at(ids[99]))
    assert second.previous is not None
    back = find(Filter(), cursor=second.previous, backwards=True, limit=40)
    listed = {*expected(stored, {})}
    assert [job.pk for job in back.jobs] == [id for id in ids[:50] if id in listed][-40:]


def test_a_page_can_be_left_in_both_directions(stored: list[Row]) -> None:
    ids = expected(stored, {})
    first = find(Filter(), limit=10)
    second = find(Filter(), limit=10, cursor=first.next)
    again = find(Filter(), limit=10, cursor=second.previous, backwards=True)
    assert [job.pk for job in second.jobs] == ids[10:20]
    assert (first.jobs, first.previous, first.next) == (again.jobs, None, again.next)
    oldest = find(Filter(), limit=10, backwards=True)
    assert ([job.pk for job in oldest.jobs], oldest.next) == (ids[-10:], None)


def test_a_page_keeps_its_place_while_jobs_come_and_go(stored: list[Row], engine: Engine) -> None:
    ids = expected(stored, {})
    first = find(Filter(), limit=10)
    engine.jobs.enqueue(new_job(id=UUID(int=2**128 - 1)))
    Job.objects.filter(pk__in=[ids[3], ids[9], ids[10]]).delete()
    second = find(Filter(), limit=10, cursor=first.next)
    assert [job.pk for job in second.jobs] == ids[11:21]


def test_a_live_job_of_a_key_and_a_running_job_of_a_consumer_come_first(stored: list[Row]) -> None:
    oldest = min(
        (row.job for row in stored if row.job.state == State.READY), key=lambda job: job.pk
    )
    Job.objects.filter(pk=oldest.pk).update(unique_key="key")
    Job.objects.filter(unique_key="key 0").exclude(state__in=LIVE).update(unique_key="key")
    found = find(Filter.parse("unique_key:key"), limit=5)
    assert found.jobs[0].state == State.READY
    assert {job.state for job in found.jobs[1:]}.isdisjoint(LIVE)
    states = [job.state for job in find(Filter.parse("consumer:one"), limit=1000).jobs]
    assert State.RUNNING not in states[states.count(State.RUNNING) :]


def test_coroutines_have_twins(stored: list[Row]) -> None:
    async def read() -> tuple[Page, Count, Failures]:
        return await afind(Filter(), limit=5), await acount(Filter()), await afailures(Filter())

    page, number, failed = asyncio.run(read())
    assert page == find(Filter(), limit=5)
    assert number == count(Filter())
    assert failed.groups == failures(Filter()).groups != []


@job(name="tests.lists")
def lists() -> list[Any]:
    return [len(find(Filter()).jobs), str(count(Filter()))]


@job(name="tests.alists")
async def alists() -> list[Any]:
    return [len((await afind(Filter())).jobs), str(await acount(Filter()))]


def test_a_running_job_can_read_lists(engine: Engine) -> None:
    handles = [lists.run_later(), alists.run_later()]
    drain()
    for handle in handles:
        handle.refresh()
        assert handle.result == [2, "2"]


def test_jobs_have_neither_arguments_nor_results(stored: list[Row]) -> None:
    job = find(Filter(), limit=1).jobs[0]
    assert job.get_deferred_fields() == {"arguments", "result"}


def test_a_walk_ends_with_the_last_job_that_is_wanted(stored: list[Row]) -> None:
    ids = sorted(expected(stored, {}))
    step = walk(Filter(), ids[4], ids[9], 3)
    assert (step.ids, step.reached) == (ids[5:8], ids[7])
    assert walk(Filter(), step.reached, ids[9], 3) == (ids[8:10], None)


def test_a_count_ends_at_its_bound(stored: list[Row], small_steps: None) -> None:
    number = len(expected(stored, {}))
    assert str(count(Filter(), most=number)) == str(number)
    assert str(count(Filter(), most=number - 1)) == f"{number - 1}+"
    assert str(Count(10_000, is_exact=False)) == "10,000+"


def test_a_count_that_runs_out_of_time_is_not_exact(
    stored: list[Row], small_steps: None, no_time: None
) -> None:
    assert not count(Filter.parse("attempts:>100")).is_exact


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("", ""),
        ("", "x" * 33),
        ("", "0" * 32),
        ("", "1" + "0" * 32),  # there is no second phase
        ("state:failed consumer:a", "1" + "0" * 32),
        ("consumer:a", "2" + "0" * 32),
    ],
)
def test_a_cursor_that_no_page_has_is_refused(engine: Engine, text: str, cursor: str) -> None:
    with pytest.raises(
        FilterError, match=r"cursor is .*; it must be one from a page of this filter"
    ):
        find(Filter.parse(text), cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_its_bounds_is_refused(engine: Engine, limit: int) -> None:
    with pytest.raises(FilterError, match="it must be a number from 1 to 1,000"):
        find(Filter(), limit=limit)


def test_an_index_in_another_order_is_no_source_of_many_jobs(
    stored: list[Row], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MOST_SORTED", 5)
    given = {"state": "running"}
    assert engine.search.sources.best(Wanted(states=[State.RUNNING]), Range()) is None
    assert flat(pages(filter_of(given), 20)) == expected(stored, given)


def test_many_priorities_or_classes_are_no_source(
    stored: list[Row], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MOST_PARTS", 1)
    monkeypatch.setattr(sources, "MOST_CLASSES", 4)
    for given in ({"state": "ready"}, {"exception": "Declined"}):
        wanted = filter_of(given)
        asked = Wanted(states=wanted.state, exception=wanted.exception)
        assert engine.search.sources.best(asked, Range()) is None
        assert flat(pages(wanted, 20)) == expected(stored, given)


@pytest.mark.sqlite_only
def test_ids_by_hand_that_are_none_are_passed_over(stored: list[Row], engine: Engine) -> None:
    odd: list[Any] = ["x", "zz", "0123", b"\xff\x00", -5]
    with engine.db.connection.cursor() as cursor:
        for id in odd:
            cursor.execute(
                "INSERT INTO djjp_job SELECT %s, name, queue, priority, 'failed', "
                "attempts, rescues, claim, run_after, created_at, started_at, finished_at, consumer,"
                " arguments, result, on_crash, cancel_requested, reason, progress_done, progress_total,"
                " flags, pipeline, waits_for, input, unique_key, limit_key, limit_max, limit_per,"
                " expires_at, options, context FROM djjp_job WHERE id = %s",
                [id, stored[1].job.pk.hex],
            )
    for given in ({}, {"state": "failed"}, {"queue": "a"}):
        assert flat(pages(filter_of(given), 50)) == expected(stored, given)
