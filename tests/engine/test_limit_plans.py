"""Jobs that wait for a limit, a rate or a time make no other job dearer.

As in `test_plans`, each database explains its plans and counts the rows that it reads: with 20,000 jobs
blocked by one limit, 20,000 throttled by a rate, and 20,000 each that are due, or expire, some day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Engine, Outcome
from djjp.models import Flag, Job, State
from tests.support.databases import QUEUES
from tests.support.factories import new_job
from tests.support.plans import (
    ANALYSE,
    KEY,
    NOW,
    PLAN,
    Plan,
    new_engine,
    rolled_back,
    rows_read,
    run,
    statements,
    touched,
)

pytestmark = pytest.mark.one_pair

CROWD = 20_000
COLUMNS = (
    "id, name, queue, priority, state, flags, limit_key, limit_max, limit_per, run_after, expires_at,"
    " created_at, arguments, consumer, attempts, rescues"
)
# By number: blocked jobs, throttled jobs, jobs under a rate that are due some day, jobs that expire some day,
# running jobs, and finished jobs.
ROWS = f"""{{id}}, 'test.job', 'crowd', 0,
CASE i % 6 WHEN 0 THEN 'blocked' WHEN 3 THEN 'ready' WHEN 4 THEN 'running' WHEN 5 THEN 'succeeded'
 ELSE 'scheduled' END,
CASE i % 6 WHEN 1 THEN {Flag.RATE_LIMITED | Flag.THROTTLED} WHEN 2 THEN {Flag.RATE_LIMITED}
 WHEN 3 THEN {Flag.EXPIRES}
 WHEN 4 THEN 0 ELSE {Flag.LIMITED} END,
CASE i % 6 WHEN 0 THEN 'crowd' WHEN 1 THEN 'line' WHEN 2 THEN 'line' WHEN 5 THEN 'crowd' END,
CASE WHEN i % 6 NOT IN (3, 4) THEN 1 END, CASE WHEN i % 6 IN (1, 2) THEN 1.0 END,
CASE WHEN i % 6 IN (1, 2) THEN {{time}} END, CASE WHEN i % 6 = 3 THEN {{time}} END, {{time}}, '[]',
CASE WHEN i % 6 = 4 THEN 'other' END, 0, 0"""
FILL = {
    "sqlite": f"""INSERT INTO djjp_job ({COLUMNS})
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {6 * CROWD})
        SELECT {ROWS.format(id="printf('%032x', i)", time="datetime('2126-01-01', i || ' seconds')")} FROM n""",
    "postgresql": f"""INSERT INTO djjp_job ({COLUMNS})
        SELECT {ROWS.format(id="lpad(to_hex(i), 32, '0')::uuid", time="to_timestamp(4922899200 + i)")}
        FROM generate_series(1, {6 * CROWD}) AS i""",
}
LIMIT, LINE, EXPIRES = "djjp_job_limit", "djjp_job_throttled", "djjp_job_expires"
UNIQUE, SCHEDULED = "djjp_job_unique_key", "djjp_job_scheduled"


def limited(engine: Engine, key: str, count: int = 1) -> list[Any]:
    constraints = {"flags": Flag.LIMITED, "limit_key": key, "limit_max": 1, "queue": "mine"}
    engine.jobs.enqueue_many([new_job(**constraints) for _ in range(count)])
    return engine.jobs.claim("me", count, NOW, queues=["mine"])


def rated(engine: Engine, key: str, count: int) -> list[Any]:
    constraints = {"flags": Flag.RATE_LIMITED, "limit_key": key, "limit_max": 1, "limit_per": 60.0}
    engine.jobs.enqueue_many([new_job(**constraints, queue="mine") for _ in range(count)])
    return engine.jobs.claim("me", 2, NOW, queues=["mine"])


def turn(engine: Engine, key: str) -> object:
    """Run and finish a job of a key, and unblock the next one."""
    jobs = limited(engine, key, 3)
    [job] = engine.admission.admit(jobs).jobs
    engine.jobs.finish("me", [Outcome(job, State.SUCCEEDED, NOW, NOW)])
    engine.limits.unblock([job.id])
    return engine.admission.admit(engine.jobs.claim("me", 2, NOW, queues=["mine"]))


def held(engine: Engine) -> object:
    """Take a permit of the crowd's key, and find that it is held."""
    assert limited(engine, "crowd")
    assert [each.key for each in engine.holding.full(time.time() + 10)] == ["crowd"]
    return engine.holding.holder("crowd"), engine.holding.blocked("crowd")


def unique(engine: Engine) -> object:
    return engine.jobs.enqueue_many(
        [new_job(unique_key=k, flags=Flag.UNIQUE) for k in ("a", "a", "b")]
    )


def selects_and_updates(engine: Engine, call: Callable[[Engine], object]) -> list[tuple[str, Any]]:
    """Return the statements that a call sends to the table of jobs, without the inserts."""
    sent = statements(engine, call)
    return [(sql, params) for sql, params in sent if not sql.startswith("INSERT")]


def cost(engine: Engine, call: Callable[[Engine], object]) -> int:
    if engine.db.connection.vendor == "sqlite":
        return touched(engine, call)
    return sum(rows_read(engine, *each) for each in selects_and_updates(engine, call))


CASES: dict[str, tuple[Callable[[Engine], object], set[str]]] = {
    "a turn, the crowd's key": (lambda engine: turn(engine, "crowd"), {LIMIT}),
    "a turn, another key": (lambda engine: turn(engine, "other"), {LIMIT}),
    "unblock stranded jobs": (lambda engine: engine.limits.unblock_stranded(""), {LIMIT}),
    "held permits": (held, {LIMIT}),
    "the line": (lambda engine: engine.admission.admit(rated(engine, "line", 5)), {LIMIT, LINE}),
    "no line": (lambda engine: engine.admission.admit(rated(engine, "none", 5)), {LIMIT, LINE}),
    "expire": (lambda engine: engine.expiry.expire(time.time(), 500), {EXPIRES}),
    "unique": (unique, {UNIQUE}),
    "misfits": (lambda engine: engine.repair.misfits(500), {"djjp_job_misfit", SCHEDULED}),
}
# `test_plans` tests the statements that use these.
CLAIMS = {"djjp_job_ready_queue", "djjp_job_ready", "djjp_job_running"}
# A search for misfits can read all suspects: jobs that were rescued and are ready again.
ALSO = {"misfits": {"djjp_job_suspect"}}


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, dict[tuple[str, str], list[Plan]]]]:
    vendor, plans = request.param, {}
    with new_engine(request, tmp_path_factory.mktemp("crowd"), vendor) as engine:
        run(engine, FILL[vendor])
        for statistics in ("never analysed", "analysed"):
            for name, (call, _) in CASES.items():
                sent = selects_and_updates(engine, call)
                with rolled_back(engine):
                    plans[statistics, name] = [PLAN[vendor](engine, *each) for each in sent]
            run(engine, ANALYSE[vendor])
        yield engine, plans


@pytest.mark.parametrize("statistics", ["never analysed", "analysed"])
@pytest.mark.parametrize("name", CASES)
def test_a_verb_on_constraints_uses_its_index(
    crowded: tuple[Engine, dict[tuple[str, str], list[Plan]]], statistics: str, name: str
) -> None:
    _, plans = crowded
    _, indexes = CASES[name]
    for plan in plans[statistics, name]:
        assert not plan.scans_all, plan.text
        assert plan.indexes <= indexes | ALSO.get(name, set()) | CLAIMS | {KEY}, plan.text
    used = set().union(*(plan.indexes for plan in plans[statistics, name]))
    assert indexes <= used, [plan.text for plan in plans[statistics, name]]


@pytest.fixture(scope="module")
def costs(crowded: tuple[Engine, Any]) -> dict[str, tuple[int, int]]:
    """Return the cost of each call with the crowd, and with a few jobs of it."""
    engine, _ = crowded
    with_crowd = {name: cost(engine, call) for name, (call, _) in CASES.items()}
    with rolled_back(engine):
        Job.objects.filter(queue="crowd", pk__gt=UUID(int=1500)).update(state="succeeded")
        return {name: (with_crowd[name], cost(engine, call)) for name, (call, _) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_call_costs_no_more_with_a_crowd_than_with_a_few(
    costs: dict[str, tuple[int, int]], name: str
) -> None:
    with_crowd, few = costs[name]
    assert with_crowd <= few * 1.5 + 50
