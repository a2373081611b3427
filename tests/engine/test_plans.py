"""The cost of a claim does not grow with what lies in the table.

Asked of the databases themselves, with 200,000 finished and 200,000 ready rows: which plan they make
for the very statements that the verbs send, and how much they touch when they run them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command
from django.db import transaction
from django.test import override_settings

import djjp.engine
from djjp.databases import queue_database
from djjp.engine import Claimed, Engine, Outcome
from djjp.engine.postgresql.watermark import DEAD_ENTRIES, FIRST, marks_of
from djjp.models import Dependency, Job, State
from tests.support.factories import new_job
from tests.support.postgres import postgres_database
from tests.support.projects import alias_for

pytestmark = pytest.mark.end_to_end

QUEUES = os.environ.get("DJJP_TEST_QUEUES", "sqlite,postgresql").split(",")

# By number: odd ones have finished. Of the even ones, the first 200,000 wait in a queue that nobody
# serves (it is paused, say), ahead of all others by age and by priority.
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
    CASE WHEN i % 2 = 1 THEN 'null' END, '[]', i % 2, 0
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

NOW = 1_767_225_600.0
SERVED = [f"served-{number}" for number in range(100)]


class Case(NamedTuple):
    """A verb to call, and the index, or one of the indexes, by which it is to find its jobs."""

    call: Callable[[Engine], object]
    indexes: set[str]
    #: Whether it counts its batch by groups, for which SQLite makes one tree, of the batch.
    groups: bool = False


def _finish(engine: Engine) -> object:
    jobs = _claimed(engine)
    return engine.jobs.finish("me", [Outcome(job, State.SUCCEEDED, NOW, NOW) for job in jobs])


def _claimed(engine: Engine) -> list[Claimed]:
    """Jobs of ours that are running."""
    ready = Job.objects.filter(queue="served-7", state="ready")
    ids = list(ready.values_list("id", flat=True))
    ready.update(state="running", consumer="me", attempts=1)
    return [Claimed(id, "test.job", "[]", 1, 0) for id in ids]


def _retry(engine: Engine) -> object:
    return engine.control.retry(
        Job.objects.filter(state="succeeded").values_list("id", flat=True)[:10]
    )


def _let_go(engine: Engine) -> object:
    """Steps of pipelines that have succeeded, each with two that wait for it."""
    parents = [job.id for job in _claimed(engine)]
    below = Job.objects.filter(queue="served-0")
    children = list(below.values_list("id", flat=True)[: 2 * len(parents)])
    below.filter(pk__in=children).update(state="blocked", waits_for=1)
    edges = zip(2 * parents, children, strict=False)
    Dependency.objects.bulk_create(
        [Dependency(parent=p, child=c, result_path="") for p, c in edges], ignore_conflicts=True
    )
    return engine.pipelines.resolve_dependents([], parents)


def _behind_marks(engine: Engine, queues: list[str] | None = None) -> object:
    """A claim as of a session that has met a pile of dead entries, at the crowd's priority."""
    if engine.db.connection.vendor == "postgresql":
        engine.db.connection.ensure_connection()
        marks = marks_of(engine.db.connection.connection, queues, ["x"])
        marks.observe(DEAD_ENTRIES + 1, 0.0)
        places = [None] if queues is None else queues
        marks.advance([(place, 9, FIRST) for place in places], may_go_back=True)
    return engine.jobs.claim("me", 50, NOW, queues=queues, exclude_names=["x"])


KEY = "the primary key"
ANY, BY_QUEUE, DUE = {"djjp_job_ready"}, {"djjp_job_ready_queue"}, {"djjp_job_scheduled"}
# What this consumer runs is as few as the batch.
BATCH = {KEY, "djjp_job_running"}

CASES = {
    "claim, every queue": Case(lambda q: q.jobs.claim("me", 50, NOW), ANY),
    "claim, but not some names": Case(
        lambda q: q.jobs.claim("me", 50, NOW, exclude_names=["x", "y"]), ANY
    ),
    "claim, one queue": Case(lambda q: q.jobs.claim("me", 50, NOW, queues=["served-7"]), BY_QUEUE),
    # Where nearly all ready jobs are of this queue, the order of all is as good as its own.
    "claim, the crowded queue": Case(
        lambda q: q.jobs.claim("me", 50, NOW, queues=["paused"]), BY_QUEUE | ANY
    ),
    "claim, an empty queue": Case(
        lambda q: q.jobs.claim("me", 50, NOW, queues=["nobody"]), BY_QUEUE
    ),
    "claim, three queues": Case(lambda q: q.jobs.claim("me", 50, NOW, queues=SERVED[:3]), BY_QUEUE),
    "claim, a hundred queues": Case(lambda q: q.jobs.claim("me", 50, NOW, queues=SERVED), BY_QUEUE),
    "claim, three queues, but not some names": Case(
        lambda q: q.jobs.claim("me", 50, NOW, queues=SERVED[:3], exclude_names=["x", "y"]), BY_QUEUE
    ),
    "claim, behind marks": Case(_behind_marks, ANY),
    "claim, one queue, behind marks": Case(lambda q: _behind_marks(q, ["paused"]), BY_QUEUE | ANY),
    "claim, three queues, behind marks": Case(lambda q: _behind_marks(q, SERVED[:3]), BY_QUEUE),
    "look, every queue": Case(lambda q: q.jobs.has_ready(None, []), ANY),
    "look, one queue": Case(lambda q: q.jobs.has_ready(["served-7"], []), BY_QUEUE),
    "look, a hundred queues": Case(lambda q: q.jobs.has_ready(SERVED, ["x"]), BY_QUEUE),
    "which queues have something ready": Case(lambda q: q.queues.with_ready(), BY_QUEUE),
    "promote": Case(lambda q: q.jobs.promote(NOW), DUE),
    "next due": Case(lambda q: q.jobs.next_due(), DUE),
    "finish": Case(_finish, BATCH),
    "release": Case(lambda q: q.jobs.release("me", _claimed(q)), BATCH),
    "let go": Case(_let_go, {KEY, "djjp_dependency_pkey"}, groups=True),
    # Steps of pipelines are looked for too; where there are hardly any, their index is as good a way.
    "retry": Case(_retry, {KEY, "djjp_job_pipeline"}),
}
# What the database knew of the table when it planned: nothing; how it was when it was small, by
# statements that it has prepared since then; and how it is.
STATISTICS = ["never analysed", "analysed while tiny", "analysed while small", "analysed"]


@contextmanager
def rolled_back(engine: Engine) -> Iterator[None]:
    """A transaction that leaves nothing behind."""
    with transaction.atomic(using=engine.db.alias):
        yield
        transaction.set_rollback(True, using=engine.db.alias)


def statements(
    engine: Engine, call: Callable[[Engine], object], *, commit: bool = False
) -> list[tuple[str, Any]]:
    """What a verb sends to the table of jobs."""
    sent: list[tuple[str, Any]] = []

    def keep(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        # Not those of the ORM, by which some cases find their rows: it quotes its names.
        if "djjp_job" in sql and '"djjp_job"' not in sql:
            sent.append((sql, params))
        return execute(sql, params, many, context)

    around = engine.db.transaction() if commit else rolled_back(engine)
    with around, engine.db.connection.execute_wrapper(keep):
        call(engine)
    assert sent
    return sent


class Plan(NamedTuple):
    """A plan, read for what matters here, and its text for a failure."""

    indexes: set[str]
    scans_all: bool
    sorts_all: bool
    text: str


def sqlite_plan(engine: Engine, sql: str, params: Any) -> Plan:
    with engine.db.connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
        text = "\n".join(step for *_, step in cursor.fetchall())
    used = re.findall(r"(?:djjp_job|job) USING (?:COVERING )?INDEX (\S+)", text)
    return Plan(
        {KEY if name.startswith("sqlite_autoindex_djjp_job") else name for name in used},
        scans_all=bool(
            re.search(r"SCAN (djjp_job|job)(?! USING (COVERING )?INDEX djjp_job_)", text)
        ),
        sorts_all="TEMP B-TREE" in text,
        text=text,
    )


def postgresql_plan(engine: Engine, sql: str, params: Any) -> Plan:
    with engine.db.connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
        return _read(cursor.fetchone()[0])


def postgresql_plan_in_use(engine: Engine, sql: str, params: Any) -> Plan:
    """The plan of the statement that this session has prepared, which the server may have kept.

    Not to be asked after a rollback: the driver then lets go of what it has prepared.
    """
    numbers = iter(range(1, 1000))
    prepared = re.sub("%s", lambda _: f"${next(numbers)}", sql)
    values = ", ".join(_literal(value) for value in params or [])
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE statement = %s", [prepared])
        (name,) = cursor.fetchone()
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {name}" + (f" ({values})" if values else ""))
        return _read(cursor.fetchone()[0])


def _literal(value: Any) -> str:
    from psycopg import sql

    return sql.Literal(value).as_string(None)


def _read(document: Any) -> Plan:
    root = (json.loads(document) if isinstance(document, str) else document)[0]["Plan"]
    indexes, scans, sorts = set[str](), False, False

    def walk(node: Mapping[str, Any], under_sort: bool) -> None:
        """A sort of what limits have let through, the heads of some queues, is a small one."""
        nonlocal scans, sorts
        kind = node["Node Type"]
        under_sort = kind in ("Sort", "Incremental Sort") or (under_sort and kind != "Limit")
        if "Index Name" in node:
            name = node["Index Name"]
            indexes.add(KEY if name == "djjp_job_pkey" else name)
        if node.get("Relation Name") == "djjp_job" and "Scan" in kind:
            # By the primary key a verb looks jobs up, and does not walk along it.
            by_key = node.get("Index Name") == "djjp_job_pkey"
            walks = by_key and "(id = " not in node.get("Index Cond", "")
            scans = scans or kind == "Seq Scan" or walks
            sorts = sorts or under_sort
        for child in node.get("Plans", []):
            walk(child, under_sort)

    walk(root, under_sort=False)
    return Plan(indexes, scans, sorts, json.dumps(root, indent=1))


Plans = dict[tuple[str, str], list[Plan]]
PLAN = {"sqlite": sqlite_plan, "postgresql": postgresql_plan}
PLAN_IN_USE = {"sqlite": sqlite_plan, "postgresql": postgresql_plan_in_use}
# It would be luck whether the server's own analysis came before or after.
UNTOUCHED = {
    "sqlite": [],
    "postgresql": ["ALTER TABLE djjp_job SET (autovacuum_enabled = off)"],
}
ANALYSE = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE djjp_job"}


def run(engine: Engine, *sql: str) -> None:
    with engine.db.connection.cursor() as cursor:
        for statement in sql:
            cursor.execute(statement)


def plans_now(engine: Engine, vendor: str) -> dict[str, list[Plan]]:
    """The plan that each verb gets now."""
    engine.db.listener()  # makes the session a consumer's
    made = {}
    for name, case in CASES.items():
        sent = statements(engine, case.call)
        with rolled_back(engine):
            made[name] = [PLAN[vendor](engine, *statement) for statement in sent]
    return made


def plans_of_before(engine: Engine, vendor: str, size: int) -> dict[str, list[Plan]]:
    """The plan that each verb goes by among many jobs after it was used, often, among few."""
    engine.db.listener()  # makes the session a consumer's
    engine.jobs.enqueue_many([new_job(state=State.SUCCEEDED) for _ in range(size)])
    run(engine, ANALYSE[vendor])
    sent: dict[str, list[tuple[str, Any]]] = {}
    for name, case in CASES.items():
        for _ in range(10):  # the server decides after the fifth time whether to keep a plan
            engine.jobs.enqueue_many([new_job(queue="served-7"), new_job(queue="served-0")])
            sent[name] = statements(engine, case.call, commit=True)
    run(engine, "DELETE FROM djjp_job", FILL[vendor])
    return {
        name: [PLAN_IN_USE[vendor](engine, *statement) for statement in sent[name]]
        for name in CASES
    }


@contextmanager
def new_queue(request: pytest.FixtureRequest, folder: Path, vendor: str) -> Iterator[Engine]:
    """A queue in a database of its own, which nobody has analysed."""
    with ExitStack() as stack:
        if vendor == "sqlite":
            config = queue_database(folder / f"{secrets.token_hex(4)}.sqlite3")
        else:
            url = stack.enter_context(postgres_database(request.getfixturevalue("postgres_url")))
            config = queue_database(url)
        alias = stack.enter_context(alias_for(config))
        with override_settings(DJJP={"db_name": alias}):
            call_command("migrate", database=alias, verbosity=0)
            engine = djjp.engine.current()
            run(engine, *UNTOUCHED[vendor])
            engine.db.listener()  # as a consumer does: it also sets up the consumer's session
            yield engine


@pytest.fixture(scope="module", params=QUEUES)
def crowded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Plans]]:
    """A queue with the crowd in it, and the plans that its database made."""
    vendor, folder = request.param, tmp_path_factory.mktemp("crowd")
    found = []
    with new_queue(request, folder, vendor) as queue:
        run(queue, FILL[vendor])
        found.append(plans_now(queue, vendor))
    with new_queue(request, folder, vendor) as queue:
        found.append(plans_of_before(queue, vendor, 5))
    with new_queue(request, folder, vendor) as queue:
        found.append(plans_of_before(queue, vendor, 1000))
        run(queue, ANALYSE[vendor])
        found.append(plans_now(queue, vendor))
        plans = {
            (statistics, name): plans
            for statistics, by_name in zip(STATISTICS, found, strict=True)
            for name, plans in by_name.items()
        }
        yield queue, plans


def test_the_crowd_is_there(crowded: tuple[Engine, Any]) -> None:
    jobs = Job.objects.all()
    assert jobs.filter(state="succeeded").count() >= 200_000
    assert jobs.filter(state="ready", queue="paused").count() == 200_000
    assert jobs.filter(state="ready").exclude(queue="paused").count() == 1_000
    assert jobs.filter(state="scheduled").count() == 1_000


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("name", CASES)
def test_a_verb_goes_by_its_index(
    crowded: tuple[Engine, Plans], statistics: str, name: str
) -> None:
    _, plans = crowded
    _, indexes, groups = CASES[name]
    for plan in plans[statistics, name]:
        assert not plan.scans_all, plan.text
        if groups and plan.text.count("TEMP B-TREE") == 1:
            assert "TEMP B-TREE FOR GROUP BY" in plan.text
        else:
            assert not plan.sorts_all, plan.text
        # A claim writes what it found by the primary key.
        assert plan.indexes <= indexes | {KEY}, plan.text
    assert any(indexes & plan.indexes for plan in plans[statistics, name]), plans[statistics, name]


# How much is touched


def touched(engine: Engine, call: Callable[[Engine], object]) -> int:
    """How much the database does for a verb: steps of SQLite's machine, or rows that Postgres meets."""
    if engine.db.connection.vendor == "sqlite":
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        engine.db.connection.ensure_connection()
        driver = engine.db.connection.connection
        with rolled_back(engine):
            driver.set_progress_handler(count, 10)
            try:
                call(engine)
            finally:
                driver.set_progress_handler(None, 0)
        return steps * 10
    return sum(met(engine, *statement) for statement in statements(engine, call))


def met(engine: Engine, sql: str, params: Any) -> int:
    """How many jobs Postgres meets for a statement."""
    with rolled_back(engine), engine.db.connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
        document = cursor.fetchone()[0]
    return _met((json.loads(document) if isinstance(document, str) else document)[0]["Plan"])


def _met(node: Mapping[str, Any]) -> int:
    below = sum(_met(child) for child in node.get("Plans", []))
    if node.get("Relation Name") != "djjp_job" or "Scan" not in node["Node Type"]:
        return below
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return below + int(rows * node["Actual Loops"])


NOT_CROWDED = [
    *(
        "claim, one queue",
        "claim, an empty queue",
        "claim, three queues",
        "claim, a hundred queues",
    ),
    *("look, one queue", "look, a hundred queues", "which queues have something ready"),
]


@pytest.fixture(scope="module")
def costs(crowded: tuple[Engine, Any]) -> dict[str, tuple[int, int]]:
    """What each verb costs beside the crowd, and once the crowd is gone."""
    queue, _ = crowded
    beside = {name: touched(queue, CASES[name].call) for name in NOT_CROWDED}
    with rolled_back(queue):
        Job.objects.filter(queue="paused").update(state="cancelled")
        return {name: (beside[name], touched(queue, CASES[name].call)) for name in NOT_CROWDED}


@pytest.mark.parametrize("name", NOT_CROWDED)
def test_a_crowd_in_a_queue_that_is_not_served_is_not_passed_through(
    costs: dict[str, tuple[int, int]], name: str
) -> None:
    beside, alone = costs[name]
    assert beside <= alone * 1.2 + 20


def test_a_claim_from_all_meets_no_more_jobs_than_it_takes(crowded: tuple[Engine, Any]) -> None:
    """From 200,000 ready jobs it costs what it costs from as many as it takes."""
    queue, _ = crowded
    call = CASES["claim, every queue"].call
    among_many = touched(queue, call)
    with rolled_back(queue):
        Job.objects.filter(state="ready").update(state="cancelled")
        queue.jobs.enqueue_many([new_job() for _ in range(50)])
        alone = touched(queue, call)
    assert among_many <= alone * 1.2 + 20


def test_what_has_finished_costs_a_new_job_nothing(crowded: tuple[Engine, Any]) -> None:
    """Every index but the primary key covers live states only, or steps of pipelines."""
    queue, _ = crowded
    with queue.db.connection.cursor() as cursor:
        constraints = queue.db.connection.introspection.get_constraints(cursor, "djjp_job")
        names = {name for name, found in constraints.items() if found["index"]}
        assert names == ANY | BY_QUEUE | DUE | {
            "djjp_job_running",
            "djjp_job_cancelling",
            "djjp_job_pipeline",
            "djjp_job_limit",
            "djjp_job_throttled",
            "djjp_job_expires",
            "djjp_job_unique_key",
        }
        if queue.db.connection.vendor == "sqlite":
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''")
        else:
            cursor.execute(
                "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'djjp_job'"
            )
        definitions = dict(cursor.fetchall())
    for name in names:
        assert " WHERE " in definitions[name], definitions[name]
