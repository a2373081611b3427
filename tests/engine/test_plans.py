"""The cost of a claim does not grow with the table.

Each database explains its plans for the statements that the verbs send, with 200,000 finished and 200,000
ready rows, and counts the rows that it reads for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from djjp.engine import Claimed, Engine, Outcome
from djjp.engine.postgresql.watermark import DEAD_ENTRIES, FIRST, marks_of
from djjp.ids import new_id
from djjp.models import Dependency, Job, State, Verb
from tests.support.databases import QUEUES
from tests.support.factories import new_job
from tests.support.plans import (
    ANALYSE,
    KEY,
    NOW,
    PLAN,
    PLAN_IN_USE,
    Plan,
    new_engine,
    rolled_back,
    run,
    statements,
    touched,
)

pytestmark = pytest.mark.end_to_end


# By number: odd jobs have finished. Of the even ones, the first 200,000 are ready in a queue that no consumer
# serves (a paused one, for example), and precede all others by age and by priority. The first 10,000 are suspects.
COLUMNS = (
    "id, name, queue, priority, state, run_after, created_at, finished_at, consumer, result,"
    " arguments, attempts, rescues"
)
ROWS = """
    {id}, 'test.job',
    CASE WHEN i <= 400000 THEN 'paused' ELSE 'served-' || ((i / 2) % 100) END,
    CASE WHEN i <= 400000 THEN 9 ELSE 0 END,
    CASE WHEN i % 2 = 1 THEN 'succeeded' WHEN i <= 402000 THEN 'ready' ELSE 'scheduled' END,
    CASE WHEN i > 402000 THEN {time} END, {time},
    CASE WHEN i % 2 = 1 THEN {time} END, CASE WHEN i % 2 = 1 THEN 'gone' END,
    CASE WHEN i % 2 = 1 THEN 'null' END, '[]', i % 2, CASE WHEN i <= 20000 THEN 1 ELSE 0 END
"""
FILL = {
    "sqlite": f"""INSERT INTO djjp_job ({COLUMNS})
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 404000)
        SELECT {ROWS.format(id="printf('%032x', i)", time="datetime('2026-01-01', i || ' seconds')")}
        FROM n""",
    "postgresql": f"""INSERT INTO djjp_job ({COLUMNS})
        SELECT {ROWS.format(id="lpad(to_hex(i), 32, '0')::uuid", time="to_timestamp(1767225600 + i)")}
        FROM generate_series(1, 404000) AS i""",
}

SERVED = [f"served-{number}" for number in range(100)]


class Case(NamedTuple):
    """A verb to call, and the index, or one of the indexes, by which it must find its jobs."""

    call: Callable[[Engine], object]
    indexes: set[str]
    #: Whether it counts its batch by groups, for which SQLite makes one tree, of the batch.
    groups: bool = False


def _finish(engine: Engine, *queues: str) -> object:
    jobs = _claimed(engine, *queues)
    return engine.jobs.finish("me", [Outcome(job, State.SUCCEEDED, NOW, NOW) for job in jobs])


def _claimed(engine: Engine, *queues: str) -> list[Claimed]:
    """Return running jobs of this consumer."""
    ready = Job.objects.filter(queue__in=queues or ["served-7"], state="ready")
    ids = list(ready.values_list("id", flat=True))
    ready.update(state="running", consumer="me", attempts=1, claim=1)
    return [Claimed(id, "test.job", "[]", 1, 0, claim=1) for id in ids]


def _retry(engine: Engine) -> object:
    return engine.control.retry(
        Job.objects.filter(state="succeeded").values_list("id", flat=True)[:10]
    )


def _bulk(engine: Engine, verb: Verb, state: State) -> object:
    """Do a verb to ten jobs whose state allows it."""
    ids = list(Job.objects.exclude(queue="paused").values_list("id", flat=True)[:10])
    Job.objects.filter(pk__in=ids).update(state=state)
    return engine.bulk.do(verb, ids, "7", NOW)


def _resolve_dependents(engine: Engine) -> None:
    """Resolve the dependents of steps that have succeeded, two for each."""
    parents = [job.id for job in _claimed(engine)]
    below = Job.objects.filter(queue="served-0")
    children = list(below.values_list("id", flat=True)[: 2 * len(parents)])
    below.filter(pk__in=children).update(state="blocked", waits_for=1)
    edges = zip(2 * parents, children, strict=False)
    Dependency.objects.bulk_create(
        [Dependency(parent=p, child=c, result_path="") for p, c in edges], ignore_conflicts=True
    )
    engine.pipelines.resolve_dependents([], parents)


def _behind_marks(engine: Engine, queues: list[str] | None = None) -> object:
    """Claim as in a session that has read many dead entries, at the crowd's priority."""
    if engine.db.connection.vendor == "postgresql":
        engine.db.connection.ensure_connection()
        marks = marks_of(engine.db.connection.connection, queues, ["x"])
        marks.observe(DEAD_ENTRIES + 1, 0.0)
        names = [None] if queues is None else queues
        marks.advance([(name, 9, FIRST) for name in names], may_go_back=True)
    return engine.jobs.claim("me", 50, NOW, queues=queues, exclude_names=["x"])


ANY, BY_QUEUE, DUE = {"djjp_job_ready"}, {"djjp_job_ready_queue"}, {"djjp_job_scheduled"}
SUSPECTS = {"djjp_job_suspect"}
# This consumer runs no more jobs than the batch has.
BATCH = {KEY, "djjp_job_running"}
# Where there are hardly any steps of pipelines, their index is as good; that of live tags is another table's.
BESIDE = {"djjp_job_pipeline", "djjp_tag_live"}

CASES = {
    "claim, every queue": Case(lambda engine: engine.jobs.claim("me", 50, NOW), ANY),
    "claim, without some names": Case(
        lambda engine: engine.jobs.claim("me", 50, NOW, exclude_names=["x", "y"]), ANY
    ),
    "claim, one queue": Case(
        lambda engine: engine.jobs.claim("me", 50, NOW, queues=["served-7"]), BY_QUEUE
    ),
    # Where nearly all ready jobs are of this queue, the order of all is as good as its own.
    "claim, the crowded queue": Case(
        lambda engine: engine.jobs.claim("me", 50, NOW, queues=["paused"]), BY_QUEUE | ANY
    ),
    "claim, an empty queue": Case(
        lambda engine: engine.jobs.claim("me", 50, NOW, queues=["nobody"]), BY_QUEUE
    ),
    "claim, three queues": Case(
        lambda engine: engine.jobs.claim("me", 50, NOW, queues=SERVED[:3]), BY_QUEUE
    ),
    "claim, a hundred queues": Case(
        lambda engine: engine.jobs.claim("me", 50, NOW, queues=SERVED), BY_QUEUE
    ),
    "claim, three queues, without some names": Case(
        lambda engine: engine.jobs.claim(
            "me", 50, NOW, queues=SERVED[:3], exclude_names=["x", "y"]
        ),
        BY_QUEUE,
    ),
    "claim, behind marks": Case(_behind_marks, ANY),
    "claim, one queue, behind marks": Case(
        lambda engine: _behind_marks(engine, ["paused"]), BY_QUEUE | ANY
    ),
    "claim, three queues, behind marks": Case(
        lambda engine: _behind_marks(engine, SERVED[:3]), BY_QUEUE
    ),
    "has_ready, every queue": Case(lambda engine: engine.jobs.has_ready(None, []), ANY),
    "has_ready, one queue": Case(lambda engine: engine.jobs.has_ready(["served-7"], []), BY_QUEUE),
    "has_ready, a hundred queues": Case(
        lambda engine: engine.jobs.has_ready(SERVED, ["x"]), BY_QUEUE
    ),
    "queues with ready jobs": Case(lambda engine: engine.queues.with_ready(), BY_QUEUE),
    "waits of all queues": Case(lambda engine: engine.waits.first(), BY_QUEUE),
    "ready jobs of three queues": Case(
        lambda engine: engine.waits.count(["paused", "served-7", "nobody"], 1000), BY_QUEUE
    ),
    "queues with due jobs": Case(lambda engine: engine.waits.due_queues(NOW), DUE),
    "queues with suspects": Case(lambda engine: engine.queues.with_suspects(), SUSPECTS),
    "first suspect, the crowded queue": Case(
        lambda engine: engine.suspects.first(["paused"]), SUSPECTS
    ),
    "first suspect, a hundred queues": Case(
        lambda engine: engine.suspects.first(SERVED, ["x"]), SUSPECTS
    ),
    "outlook": Case(lambda engine: engine.jobs.outlook(NOW), DUE | SUSPECTS),
    "promote": Case(lambda engine: engine.jobs.promote(NOW), DUE),
    "next due": Case(lambda engine: engine.jobs.next_due(), DUE),
    "finish": Case(_finish, BATCH),
    "finish, a large batch": Case(lambda engine: _finish(engine, *SERVED[:20]), BATCH),
    "release": Case(lambda engine: engine.jobs.release("me", _claimed(engine)), BATCH),
    "resolve dependents": Case(_resolve_dependents, {KEY, "djjp_dependency_pkey"}, groups=True),
    # It queries for steps of pipelines too; where there are hardly any, their index is as good.
    "retry": Case(_retry, {KEY, "djjp_job_pipeline"}),
    **{
        f"bulk {verb}": Case(partial(_bulk, verb=verb, state=state), {KEY, *BESIDE})
        for verb, state in [
            (Verb.RETRY, State.SUCCEEDED),
            (Verb.CANCEL, State.READY),
            (Verb.RUN, State.SCHEDULED),
            (Verb.MOVE, State.READY),
            (Verb.PRIORITY, State.READY),
            (Verb.DELETE, State.SUCCEEDED),
        ]
    },
    "steps of a pipeline": Case(
        lambda engine: engine.graphs.of(new_id(), 100), {"djjp_job_pipeline"}
    ),
    "has running jobs": Case(lambda engine: engine.bulk.has_running(), {"djjp_job_running"}),
}
# The statistics with which the database planned: none; those of a small table, with statements prepared since
# then; and current ones.
STATISTICS = ["never analysed", "analysed while tiny", "analysed while small", "analysed"]


Plans = dict[tuple[str, str], list[Plan]]


def plans_now(engine: Engine, vendor: str) -> dict[str, list[Plan]]:
    """Return the plans of each verb now."""
    engine.db.listener()  # sets up the session as a consumer does
    made = {}
    for name, case in CASES.items():
        sent = statements(engine, case.call)
        with rolled_back(engine):
            made[name] = [PLAN[vendor](engine, *statement) for statement in sent]
    return made


def plans_of_before(engine: Engine, vendor: str, size: int) -> dict[str, list[Plan]]:
    """Return the plans that each verb uses among many jobs after it was called, often, among few."""
    engine.db.listener()  # sets up the session as a consumer does
    if (
        vendor == "postgresql"
    ):  # its driver prepares a limited number, and forgets the least recent ones
        engine.db.connection.connection.prepared_max = None
    engine.jobs.enqueue_many([new_job(state=State.SUCCEEDED) for _ in range(size)])
    run(engine, ANALYSE[vendor])
    sent: dict[str, list[tuple[str, Any]]] = {}
    for name, case in CASES.items():
        for _ in range(10):  # after the fifth call the server decides whether to keep a plan
            engine.jobs.enqueue_many([new_job(queue="served-7"), new_job(queue="served-0")])
            sent[name] = statements(engine, case.call, commit=True)
    run(engine, "DELETE FROM djjp_job", FILL[vendor])
    return {
        name: [PLAN_IN_USE[vendor](engine, *statement) for statement in sent[name]]
        for name in CASES
    }


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Plans]]:
    """Yield the engine of a queue with the crowd, and the plans that its database made."""
    vendor, folder = request.param, tmp_path_factory.mktemp("crowd")
    found = []
    with new_engine(request, folder, vendor) as engine:
        run(engine, FILL[vendor])
        found.append(plans_now(engine, vendor))
    with new_engine(request, folder, vendor) as engine:
        found.append(plans_of_before(engine, vendor, 5))
    with new_engine(request, folder, vendor) as engine:
        found.append(plans_of_before(engine, vendor, 1000))
        run(engine, ANALYSE[vendor])
        found.append(plans_now(engine, vendor))
        plans = {
            (statistics, name): plans
            for statistics, by_name in zip(STATISTICS, found, strict=True)
            for name, plans in by_name.items()
        }
        yield engine, plans


def test_the_crowd_is_there(crowded: tuple[Engine, Any]) -> None:
    jobs = Job.objects.all()
    assert jobs.filter(state="succeeded").count() >= 200_000
    assert jobs.filter(state="ready", queue="paused").count() == 200_000
    assert jobs.filter(state="ready").exclude(queue="paused").count() == 1_000
    assert jobs.filter(state="scheduled").count() == 1_000


@pytest.mark.parametrize("statistics", STATISTICS)
def test_each_verb_uses_its_index(crowded: tuple[Engine, Plans], statistics: str) -> None:
    """One test for all verbs: the crowd is made in each process that runs a test of this module."""
    _, plans = crowded
    faults = {name: _faults(plans[statistics, name], CASES[name]) for name in CASES}
    assert not {name: each for name, each in faults.items() if each}


def _faults(plans: list[Plan], case: Case) -> list[str]:
    """Return what a verb's plans read that it must not, each with the plan."""
    _, indexes, groups = case
    faults = []
    for plan in plans:
        if plan.scans_all:
            faults.append(f"scans all: {plan.text}")
        if groups and plan.text.count("TEMP B-TREE") == 1:
            if "TEMP B-TREE FOR GROUP BY" not in plan.text:
                faults.append(f"sorts: {plan.text}")
        elif plan.sorts_all:
            faults.append(f"sorts all: {plan.text}")
        # A claim writes the jobs found by the primary key.
        if others := plan.indexes - indexes - {KEY}:
            faults.append(f"uses {others}: {plan.text}")
    if not any(indexes & plan.indexes for plan in plans):
        faults.append(f"uses none of {indexes}: {[plan.text for plan in plans]}")
    return faults


# How much is touched

NOT_CROWDED = [
    *(
        "claim, one queue",
        "claim, an empty queue",
        "claim, three queues",
        "claim, a hundred queues",
    ),
    *("first suspect, a hundred queues", "outlook"),
    *("has_ready, one queue", "has_ready, a hundred queues", "queues with ready jobs"),
]


def test_a_crowd_in_a_queue_that_is_not_served_is_not_read(crowded: tuple[Engine, Any]) -> None:
    engine, _ = crowded
    with_crowd = {name: touched(engine, CASES[name].call) for name in NOT_CROWDED}
    with rolled_back(engine):
        Job.objects.filter(queue="paused").update(state="cancelled")
        alone = {name: touched(engine, CASES[name].call) for name in NOT_CROWDED}
    assert {
        n: (with_crowd[n], alone[n]) for n in alone if with_crowd[n] > alone[n] * 1.2 + 20
    } == {}


def test_a_claim_from_all_queues_reads_no_more_jobs_than_it_takes(
    crowded: tuple[Engine, Any],
) -> None:
    """It costs the same with 200,000 ready jobs as with only the 50 that it takes."""
    engine, _ = crowded
    call = CASES["claim, every queue"].call
    among_many = touched(engine, call)
    with rolled_back(engine):
        Job.objects.filter(state="ready").update(state="cancelled")
        engine.jobs.enqueue_many([new_job() for _ in range(50)])
        alone = touched(engine, call)
    assert among_many <= alone * 1.2 + 20


def test_finished_jobs_cost_a_new_job_nothing(crowded: tuple[Engine, Any]) -> None:
    """Every index except the primary key covers live states only, failed jobs, or steps of pipelines."""
    engine, _ = crowded
    with engine.db.connection.cursor() as cursor:
        constraints = engine.db.connection.introspection.get_constraints(cursor, "djjp_job")
        names = {name for name, found in constraints.items() if found["index"]}
        assert names == ANY | BY_QUEUE | DUE | SUSPECTS | {
            "djjp_job_misfit",
            "djjp_job_failed",
            "djjp_job_waiting",
            "djjp_job_running",
            "djjp_job_cancelling",
            "djjp_job_pipeline",
            "djjp_job_limit",
            "djjp_job_throttled",
            "djjp_job_expires",
            "djjp_job_unique_key",
        }
        if engine.db.connection.vendor == "sqlite":
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''")
        else:
            cursor.execute(
                "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'djjp_job'"
            )
        definitions = dict(cursor.fetchall())
    for name in names:
        assert " WHERE " in definitions[name], definitions[name]


@pytest.mark.sqlite_only
@pytest.mark.parametrize("analysed", [1, 2, 30, 300, 3000])
def test_no_verb_reads_the_whole_table_after_an_analysis_of_a_small_one(
    engine: Engine, analysed: int
) -> None:
    """With batches that are larger than the table was."""
    engine.jobs.enqueue_many([new_job() for _ in range(analysed)])
    run(engine, ANALYSE["sqlite"])
    engine.db.connection.close()  # a session reads the statistics once
    for queue in ("served-7", "served-0"):
        engine.jobs.enqueue_many([new_job(queue=queue) for _ in range(400)])
    due = [(key, NOW) for key in engine.db.keys(Job.objects.values_list("id", flat=True)[:200])]
    calls = {name: case.call for name, case in CASES.items()}
    calls["reschedule"] = lambda engine: engine.db.reschedule("state = 'scheduled'", due)
    engine.db.listener()  # sets up the session as a consumer does
    for name, call in calls.items():
        plans = [PLAN["sqlite"](engine, *statement) for statement in statements(engine, call)]
        assert (name, [plan.text for plan in plans if plan.scans_all]) == (name, [])
