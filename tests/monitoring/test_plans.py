"""A list of jobs reads along one index, or a bounded number of rows, whatever else the queue has.

The jobs of each index are older than 20,000 jobs that have succeeded, so that a walk from the newest job would
read these first. Each database explains its plans and counts the rows that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from django.db import connections

from djjp.engine import Engine, Range, Wanted
from djjp.engine.search import Step
from djjp.models import State
from djjp.monitoring import Filter, find, jobs, search
from tests.support.databases import QUEUES
from tests.support.plans import (
    KEY,
    PLAN,
    PLAN_IN_USE,
    Plan,
    new_engine,
    rolled_back,
    run,
    touched,
)

pytestmark = pytest.mark.one_pair

CROWD = 20_000
COLUMNS = (
    "id, name, queue, priority, state, attempts, rescues, claim, created_at, arguments, consumer,"
    " pipeline, unique_key"
)
ROWS = f"""{{id}}, 'shop.mail', CASE WHEN i % 100 = 2 THEN 'rare' ELSE 'crowd' END, i % 2,
CASE WHEN i > {CROWD} THEN 'succeeded' WHEN i % 200 = 5 THEN 'running'
 ELSE CASE i % 5 WHEN 0 THEN 'blocked' WHEN 1 THEN 'scheduled' WHEN 3 THEN 'failed' ELSE 'ready' END END,
1, CASE WHEN i % 1000 = 4 THEN 1 ELSE 0 END, 0, {{time}}, '[]',
CASE WHEN i > {CROWD} OR i % 200 = 5 THEN 'one' END,
CASE WHEN i % 2 = 0 AND i < {CROWD} THEN {{pipeline}} END, 'key ' || i"""
FILL = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    " INSERT INTO {into} SELECT {values} FROM n",
    "postgresql": "INSERT INTO {into} SELECT {values} FROM generate_series(1, {count}) AS i",
}
VALUES = {
    "sqlite": {
        "id": "printf('%032x', i)",
        "time": "datetime('2026-01-01', i || ' seconds')",
        "pipeline": f"'{17:032x}'",
    },
    "postgresql": {
        "id": "lpad(to_hex(i), 32, '0')::uuid",
        "time": "to_timestamp(1767225600 + i)",
        "pipeline": f"'{17:032x}'::uuid",
    },
}

# The filters that an index serves, with their indexes.
INDEXED = {
    "state:failed": {"djjp_job_failed"},
    "state:scheduled": {"djjp_job_waiting"},
    "state:blocked": {"djjp_job_waiting"},
    "state:running": {"djjp_job_running"},
    "state:ready": {"djjp_job_ready", "djjp_job_suspect", "djjp_job_misfit"},
    "state:ready queue:rare": {"djjp_job_ready_queue", "djjp_job_suspect", "djjp_job_misfit"},
    "state:failed,blocked": {"djjp_job_failed", "djjp_job_waiting"},
    "state:failed name:shop.*": {"djjp_job_failed"},
    "state:running consumer:one": {"djjp_job_running"},
    'state:ready,blocked unique_key:"key 10"': {"djjp_job_unique_key"},
    f"pipeline:{17:032x}": {"djjp_job_pipeline"},
    "exception:Error": {"djjp_attempt_class"},
    "exception:shop.Error": {"djjp_attempt_class"},
    "tag:crowd": {"the primary key of tags"},
    "tag:crowd state:ready,blocked": {"djjp_tag_live"},
}
WALKS = [Wanted(), Wanted(queue="rare"), Wanted(name="n*"), Wanted(states=[State.CANCELLED])]


def fill(engine: Engine, vendor: str) -> None:
    def insert(into: str, values: str, count: int = 2 * CROWD) -> None:
        values = values.format(**VALUES[vendor])
        run(engine, FILL[vendor].format(into=into, values=values, count=count))

    insert(f"djjp_job ({COLUMNS})", ROWS)
    insert("djjp_tag (tag, job_id, ended)", "'crowd', {id}, i % 5 = 3", CROWD)
    insert("djjp_tag (tag, job_id, ended)", "'t' || i, {id}, true")
    run(
        engine,
        """INSERT INTO djjp_attempt (job_id, number, consumer, started_at, finished_at, exception_class,
message, traceback) SELECT id, 1, 'one', created_at, created_at, 'shop.Error', '', '' FROM djjp_job
WHERE state = 'failed'""",
    )


#: Sessions of operations, which consumers work off, and one of a command or a web process.
SESSIONS = ["consumer, never analysed", "consumer, analysed", "web, analysed"]


def plans(
    engine: Engine, text: str, explain: Callable[[Engine, str, Any], Plan], *, commit: bool = False
) -> tuple[list[Plan], list[Plan]]:
    """Return the plans for the first page of a filter: of reads along indexes, and of reads of jobs by ids."""
    sent: list[tuple[str, Any]] = []

    def keep(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent.append((sql, params))
        return execute(sql, params, many, context)

    with connections[engine.db.alias].execute_wrapper(keep):
        find(Filter.parse(text))
    # Not the last one, by which the ORM reads the rows of the page.
    along = [each for each in sent[:-1] if "CASE" not in each[0]]
    by_ids = [each for each in sent if "CASE" in each[0]]
    # After a rollback the driver discards the statements that it has prepared.
    with nullcontext() if commit else rolled_back(engine):
        explained = [[explain(engine, *each) for each in some] for some in (along, by_ids)]
    return explained[0], explained[1]


@pytest.fixture(scope="module", autouse=True)
def _unhurried() -> Iterator[None]:
    """Have each search send all its statements, and those of an idle machine, also on a busy one."""

    def grown(rows: int, seconds: float, left: float) -> int:
        return min(rows * search._GROWTH, search._MOST_ROWS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "SECONDS", 60.0)
        patch.setattr(search, "adapted", grown)
        yield


Crowded = tuple[Engine, dict[tuple[str, str], tuple[list[Plan], list[Plan]]]]


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowded]:
    vendor, found = request.param, {}
    with new_engine(request, tmp_path_factory.mktemp("lists"), vendor) as engine:
        fill(engine, vendor)
        for session in SESSIONS:
            if session == "consumer, analysed":
                tables = ("job", "tag", "attempt") if vendor == "postgresql" else ()
                run(engine, *[f"ANALYZE djjp_{name}" for name in tables] or ["ANALYZE"])
            elif session == "web, analysed":
                engine.db.connection.close()
            for text in INDEXED:
                found[session, text] = plans(engine, text, PLAN[vendor])
        yield engine, found


def indexes(plan: Plan) -> set[str]:
    used = plan.indexes | {*re.findall(r"djjp_\w+_(?:class|live)\b", plan.text)}
    if re.search("sqlite_autoindex_djjp_tag_1|djjp_tag_pkey", plan.text):
        used = used - {"djjp_tag_pkey"} | {"the primary key of tags"}
    return used


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("text", INDEXED)
def test_a_filter_reads_along_its_index(crowded: Crowded, text: str, session: str) -> None:
    _, found = crowded
    along, by_ids = found[session, text]
    for plan in along:
        assert KEY not in plan.indexes, plan.text
        assert not plan.scans_all, plan.text
        assert "Seq Scan" not in plan.text
    assert indexes(along[-1]) == INDEXED[text], along[-1].text
    assert by_ids
    for plan in by_ids:
        assert KEY in plan.indexes, plan.text
        assert not plan.scans_all, plan.text
        assert "hashed" not in plan.text


@pytest.mark.parametrize("text", INDEXED)
def test_a_page_of_an_index_reads_a_bounded_number_of_rows(crowded: Crowded, text: str) -> None:
    engine, _ = crowded
    cost = touched(engine, lambda engine: find(Filter.parse(text)))
    assert cost <= search._FIRST_ROWS * (250 if engine.db.connection.vendor == "sqlite" else 4)


@pytest.mark.parametrize("text", INDEXED)
def test_a_plan_that_the_server_keeps_reads_along_the_index_too(
    crowded: Crowded, text: str
) -> None:
    engine, _ = crowded
    if engine.db.connection.vendor != "postgresql":
        pytest.skip("SQLite keeps no plans")
    for _ in range(12):
        find(Filter.parse(text))
    along, by_ids = plans(engine, text, PLAN_IN_USE["postgresql"], commit=True)
    assert indexes(along[-1]) == INDEXED[text], along[-1].text
    for plan in along:
        assert not plan.scans_all, plan.text
    for plan in by_ids:
        assert KEY in plan.indexes, plan.text
        assert not plan.scans_all, plan.text


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("wanted", WALKS)
def test_a_step_of_a_walk_reads_no_more_rows_than_it_may(
    crowded: Crowded, wanted: Wanted, newest_first: bool
) -> None:
    engine, _ = crowded

    def step(rows: int, within: Range) -> Step:
        return engine.search.step(None, wanted, within, rows, newest_first=newest_first)

    middle = step(3_000, Range()).reached
    for within in (Range(), Range().behind(middle, newest_first=newest_first)):
        cost = touched(engine, partial(lambda within, _: step(500, within), within))
        assert cost <= 500 * (60 if engine.db.connection.vendor == "sqlite" else 2) + 100


def test_a_count_of_all_jobs_reads_no_more_than_its_bound(crowded: Crowded) -> None:
    engine, _ = crowded
    cost = touched(engine, lambda engine: engine.search.count_newest(500))
    assert cost <= 500 * (60 if engine.db.connection.vendor == "sqlite" else 2) + 100
