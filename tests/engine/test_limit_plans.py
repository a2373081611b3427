"""A crowd that waits for its limit, its rate or its time costs the others nothing.

As in `test_plans`, the databases are asked for their plans of the very statements that the verbs send, and
for how much they touch: beside 20,000 jobs that wait on one key, as many in line behind a rate, and as
many that are due, or expire, some day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from djjp.engine import Engine, Outcome
from djjp.models import Flag, Job, State
from tests.engine.test_plans import (
    ANALYSE,
    KEY,
    NOW,
    PLAN,
    QUEUES,
    Plan,
    met,
    new_queue,
    rolled_back,
    run,
    statements,
    touched,
)
from tests.support.factories import new_job

CROWD = 20_000
COLUMNS = (
    "id, name, queue, priority, state, flags, limit_key, limit_max, limit_per, run_after, expires_at,"
    " created_at, arguments, consumer, attempts, rescues"
)
# By number: those that wait for a place, those in line, those under a rate that are due some day, those that
# expire some day, those that run, and those that have ended.
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
UNIQUE = "djjp_job_unique_key"


def limited(engine: Engine, key: str, count: int = 1) -> list[Any]:
    terms = {"flags": Flag.LIMITED, "limit_key": key, "limit_max": 1, "queue": "mine"}
    engine.jobs.enqueue_many([new_job(**terms) for _ in range(count)])
    return engine.jobs.claim("me", count, NOW, queues=["mine"])


def rated(engine: Engine, key: str, count: int) -> list[Any]:
    terms = {"flags": Flag.RATE_LIMITED, "limit_key": key, "limit_max": 1, "limit_per": 60.0}
    engine.jobs.enqueue_many([new_job(**terms, queue="mine") for _ in range(count)])
    return engine.jobs.claim("me", 2, NOW, queues=["mine"])


def turn(engine: Engine, key: str) -> object:
    """A job of a key runs and ends, and the next one is let in."""
    jobs = limited(engine, key, 3)
    [job] = engine.admission.admit(jobs).jobs
    engine.jobs.finish("me", [Outcome(job, State.SUCCEEDED, NOW, NOW)])
    engine.limits.unblock([job.id])
    return engine.admission.admit(engine.jobs.claim("me", 2, NOW, queues=["mine"]))


def unique(engine: Engine) -> object:
    return engine.jobs.enqueue_many(
        [new_job(unique_key=k, flags=Flag.UNIQUE) for k in ("a", "a", "b")]
    )


def looks(engine: Engine, call: Callable[[Engine], object]) -> list[tuple[str, Any]]:
    """What it sends to the table of jobs, but for the inserts."""
    sent = statements(engine, call)
    return [(sql, params) for sql, params in sent if not sql.startswith("INSERT")]


def cost(engine: Engine, call: Callable[[Engine], object]) -> int:
    if engine.db.connection.vendor == "sqlite":
        return touched(engine, call)
    return sum(met(engine, *each) for each in looks(engine, call))


CASES: dict[str, tuple[Callable[[Engine], object], set[str]]] = {
    "a turn, the crowd's key": (lambda engine: turn(engine, "crowd"), {LIMIT}),
    "a turn, another key": (lambda engine: turn(engine, "other"), {LIMIT}),
    "unblock stranded jobs": (lambda engine: engine.limits.unblock_stranded(""), {LIMIT}),
    "the line": (lambda engine: engine.admission.admit(rated(engine, "line", 5)), {LIMIT, LINE}),
    "no line": (lambda engine: engine.admission.admit(rated(engine, "none", 5)), {LIMIT, LINE}),
    "expire": (lambda engine: engine.expiry.expire(time.time(), 500), {EXPIRES}),
    "unique": (unique, {UNIQUE}),
}
# Whose statements these are, `test_plans` knows.
CLAIMS = {"djjp_job_ready_queue", "djjp_job_ready", "djjp_job_running"}


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, dict[tuple[str, str], list[Plan]]]]:
    vendor, plans = request.param, {}
    with new_queue(request, tmp_path_factory.mktemp("crowd"), vendor) as queue:
        run(queue, FILL[vendor])
        for statistics in ("never analysed", "analysed"):
            for name, (call, _) in CASES.items():
                sent = looks(queue, call)
                with rolled_back(queue):
                    plans[statistics, name] = [PLAN[vendor](queue, *each) for each in sent]
            run(queue, ANALYSE[vendor])
        yield queue, plans


@pytest.mark.parametrize("statistics", ["never analysed", "analysed"])
@pytest.mark.parametrize("name", CASES)
def test_what_looks_for_terms_goes_by_its_index(
    crowded: tuple[Engine, dict[tuple[str, str], list[Plan]]], statistics: str, name: str
) -> None:
    _, plans = crowded
    _, indexes = CASES[name]
    for plan in plans[statistics, name]:
        assert not plan.scans_all, plan.text
        assert plan.indexes <= indexes | CLAIMS | {KEY}, plan.text
    used = set().union(*(plan.indexes for plan in plans[statistics, name]))
    assert indexes <= used, [plan.text for plan in plans[statistics, name]]


@pytest.fixture(scope="module")
def costs(crowded: tuple[Engine, Any]) -> dict[str, tuple[int, int]]:
    """What each costs beside the crowd, and beside a few of it."""
    queue, _ = crowded
    beside = {name: cost(queue, call) for name, (call, _) in CASES.items()}
    with rolled_back(queue):
        Job.objects.filter(queue="crowd", pk__gt=UUID(int=1500)).update(state="succeeded")
        return {name: (beside[name], cost(queue, call)) for name, (call, _) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_it_costs_beside_a_crowd_what_it_costs_beside_a_few(
    costs: dict[str, tuple[int, int]], name: str
) -> None:
    beside, few = costs[name]
    assert beside <= few * 1.5 + 50
