"""The explanation of one job reads a bounded number of rows, whatever the queue holds.

As in `test_plans`, each database explains its plans, here in a session of an ordinary process: with crowds of
finished, ready and blocked jobs, of holders of a limit, and of parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Engine
from djjp.models import Flag, Job, RateStart, State
from djjp.monitoring import consumers
from djjp.monitoring.explain import explain
from tests.support.databases import QUEUES
from tests.support.plans import ANALYSE, PLAN, Plan, new_engine, run, statements, touched

pytestmark = [pytest.mark.one_pair, pytest.mark.end_to_end]

CROWD = 60_000
COLUMNS = (
    "id, name, queue, priority, state, flags, limit_key, limit_max, waits_for, run_after, created_at,"
    " started_at, finished_at, arguments, consumer, attempts, rescues, pipeline"
)
# By number: finished, ready, blocked by a limit, suspects, scheduled, running under the limit.
ROWS = f"""{{id}}, 'test.job', 'crowd', i % 3,
CASE i % 6 WHEN 0 THEN 'succeeded' WHEN 1 THEN 'ready' WHEN 2 THEN 'blocked' WHEN 3 THEN 'ready'
 WHEN 4 THEN 'scheduled' ELSE 'running' END,
CASE WHEN i % 6 IN (2, 5) THEN {Flag.LIMITED} ELSE 0 END,
CASE WHEN i % 6 IN (2, 5) THEN 'crowd' END, CASE WHEN i % 6 IN (2, 5) THEN 5 END, 0,
CASE WHEN i % 6 = 4 THEN {{time}} END, {{time}}, {{time}}, CASE WHEN i % 6 = 0 THEN {{time}} END, '[]',
CASE WHEN i % 6 = 5 THEN 'other:' || (i % 10) || ':a' END, 0, CASE WHEN i % 6 = 3 THEN 1 ELSE 0 END, NULL"""
FILL = {
    "sqlite": f"""INSERT INTO djjp_job ({COLUMNS})
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CROWD})
        SELECT {ROWS.format(id="printf('%032x', i)", time="datetime('2026-01-01', i || ' seconds')")} FROM n""",
    "postgresql": f"""INSERT INTO djjp_job ({COLUMNS})
        SELECT {ROWS.format(id="lpad(to_hex(i), 32, '0')::uuid", time="to_timestamp(1767225600 + i)")}
        FROM generate_series(1, {CROWD}) AS i""",
}
EDGES = {
    "sqlite": "INSERT INTO djjp_dependency (parent, child, result_path)"
    " SELECT id, printf('%032x', {}), '' FROM djjp_job",
    "postgresql": "INSERT INTO djjp_dependency (parent, child, result_path)"
    " SELECT id, lpad(to_hex({}), 32, '0')::uuid, '' FROM djjp_job",
}
CHILD = 8  # blocked


def job(number: int) -> Job:
    return Job.objects.get(pk=UUID(int=number))


LAST_READY, LAST_BLOCKED, LAST_SUSPECT, LAST_RUNNING = (
    CROWD - 5,
    CROWD - 4,
    CROWD - 3,
    CROWD - 1,
)
CASES: dict[str, Callable[[Engine], object]] = {
    "before, in its queue": lambda e: e.line.before(job(LAST_READY), ["paused"], in_queue=True),
    "before, of all queues": lambda e: e.line.before(job(LAST_READY), ["paused"], in_queue=False),
    "suspects before": lambda e: e.line.suspects_before(job(LAST_SUSPECT)),
    "holders": lambda e: e.line.holders(job(LAST_BLOCKED)),
    "blocked before": lambda e: e.line.blocked_before(job(LAST_BLOCKED)),
    "claimed before": lambda e: e.line.claimed_before(job(LAST_RUNNING), 1767225600.0),
    "parents": lambda e: e.line.parents(UUID(int=CHILD)),
    "held jobs": lambda e: e.consumers.held(),
    "held by one": lambda e: e.consumers.held_by("other:1:a", 200),
    "deepest": lambda e: e.line.deepest(UUID(int=CHILD)),
}


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, dict[tuple[str, str], list[Plan]]]]:
    vendor, plans = request.param, {}
    with new_engine(request, tmp_path_factory.mktemp("crowd"), vendor) as engine:
        run(engine, FILL[vendor], EDGES[vendor].format(CHILD))
        Job.objects.filter(pk=UUID(int=CHILD)).update(waits_for=1)
        RateStart.objects.create(key="rate", until=4e9)
        engine.db.connection.close()  # an ordinary session, unlike a consumer's
        for statistics in ("never analysed", "analysed"):
            for name, call in CASES.items():
                sent = [each for each in statements(engine, call) if "FROM djjp_" in each[0]]
                plans[statistics, name] = [PLAN[vendor](engine, *each) for each in sent]
            run(engine, ANALYSE[vendor])
        yield engine, plans


@pytest.mark.parametrize("statistics", ["never analysed", "analysed"])
@pytest.mark.parametrize("name", CASES)
def test_what_comes_before_a_job_is_found_by_an_index(
    crowded: tuple[Engine, dict[tuple[str, str], list[Plan]]], statistics: str, name: str
) -> None:
    _, plans = crowded
    for plan in plans[statistics, name]:
        assert not plan.scans_all, plan.text


def test_the_recent_ends_are_read_among_a_bounded_number_of_rows(
    crowded: tuple[Engine, Any],
) -> None:
    engine, _ = crowded
    found = engine.line.recent_ends(job(LAST_READY), in_queue=True)
    assert len(found) <= 5_000
    steps = touched(engine, lambda engine: engine.line.recent_ends(job(LAST_READY), in_queue=True))
    assert steps < 400_000 if engine.db.connection.vendor == "sqlite" else steps <= 5_001


@pytest.mark.parametrize("number", [LAST_READY, LAST_BLOCKED, LAST_SUSPECT, LAST_RUNNING, CHILD])
def test_jobs_in_the_crowd_are_explained(crowded: tuple[Engine, Any], number: int) -> None:
    assert explain(UUID(int=number)).causes
    assert consumers() == []
    assert Job.objects.filter(pk=UUID(int=number)).exclude(state=State.SUCCEEDED).exists()
