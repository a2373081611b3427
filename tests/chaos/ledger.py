"""The ledger: compare the trace of the jobs with the rows of the queue, and count the differences.

A trigger in the queue's database records each change of a job's state to a final one, or from it, so that no
change is missed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from djjp import monitoring
from djjp.engine import Engine
from djjp.models import FINISHED, Attempt, Flag, Job
from tests.chaos.trace import Trace

_FINAL = "('succeeded', 'failed', 'cancelled')"
_TABLE = "CREATE TABLE chaos_ends (job {uuid}, old varchar(10), new varchar(10))"
_WHEN = f"WHEN (OLD.state IN {_FINAL} OR NEW.state IN {_FINAL})"

# Poison: jobs whose success is refused, and jobs that cannot be claimed.
_REFUSED = """(NEW.name = 'chaos.poisoned' AND NEW.state = 'succeeded'
OR NEW.name = 'chaos.unclaimable' AND NEW.state = 'running')"""
POISON = ("chaos.poisoned", "chaos.unclaimable")

_WATCH = {
    "sqlite": [
        "DROP TABLE IF EXISTS chaos_ends",
        _TABLE.format(uuid="char(32)"),
        "DROP TRIGGER IF EXISTS chaos_ends",
        (
            f"CREATE TRIGGER chaos_ends AFTER UPDATE OF state ON djjp_job {_WHEN}"
            " BEGIN INSERT INTO chaos_ends VALUES (NEW.id, OLD.state, NEW.state); END"
        ),
        "DROP TRIGGER IF EXISTS chaos_poison",
        (
            f"CREATE TRIGGER chaos_poison BEFORE UPDATE OF state ON djjp_job WHEN {_REFUSED}"
            " BEGIN SELECT RAISE(ABORT, 'poison'); END"
        ),
    ],
    "postgresql": [
        _TABLE.format(uuid="uuid"),
        (
            "CREATE FUNCTION chaos_ends() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO chaos_ends VALUES (NEW.id, OLD.state, NEW.state); RETURN NULL; END $$"
        ),
        (
            f"CREATE TRIGGER chaos_ends AFTER UPDATE ON djjp_job FOR EACH ROW {_WHEN}"
            " EXECUTE FUNCTION chaos_ends()"
        ),
        (
            "CREATE FUNCTION chaos_poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'poison'; END $$"
        ),
        (
            f"CREATE TRIGGER chaos_poison BEFORE UPDATE ON djjp_job FOR EACH ROW WHEN {_REFUSED}"
            " EXECUTE FUNCTION chaos_poison()"
        ),
    ],
}


def watch(engine: Engine) -> None:
    """Have the database record each end of a job."""
    with engine.db.connection.cursor() as cursor:
        for statement in _WATCH[engine.db.alias]:
            cursor.execute(statement)


@dataclass
class Verdict:
    """The result of a run: figures, and for each promise the number of jobs that broke it."""

    figures: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Any]] = field(default_factory=dict)

    def promise(self, name: str, against: list[Any]) -> None:
        self.broken[name] = len(against)
        if against:
            self.examples[name] = against[:3]


def judge(
    engine: Engine, trace: Trace, enqueued: set[UUID], cancelled: set[UUID], refused: int
) -> Verdict:
    """Compare the trace and the rows; `refused` is the number of jobs whose enqueue raised an error."""
    # What an expansion has besides its members runs no function, and so leaves no trace.
    everything = Job.objects.using(engine.db.alias).in_bulk()
    rows = {id: row for id, row in everything.items() if not row.flags & Flag.EXPANSION}
    executions = trace.executions()
    failures: Counter[UUID] = Counter()
    deaths: Counter[UUID] = Counter()
    for id, kind in Attempt.objects.using(engine.db.alias).values_list("job_id", "exception_class"):
        (deaths if kind == "ConsumerDied" else failures)[id] += 1
    ends = _ends(engine)
    unconfirmed = [
        r.pk
        for r in rows.values()
        if r.name != "chaos.child" and r.pipeline is None and r.pk not in enqueued
    ]

    def expected(row: Job) -> int:
        """Return the number of executions by their ends: lost with the consumer, failed, or succeeded."""
        return row.rescues + failures[row.pk] + deaths[row.pk] + (row.state == "succeeded")

    over = {id: executions[id] - expected(row) for id, row in rows.items()}
    verdict = Verdict()
    verdict.promise(
        "cancelled, yet not ended so",
        [id for id in cancelled if id in rows and rows[id].state != "cancelled"],
    )
    verdict.promise("lost", [id for id in enqueued | trace.children if id not in rows])
    verdict.promise("stuck", [r.pk for r in rows.values() if r.state not in FINISHED])
    verdict.promise("phantom", [id for id in executions if id not in rows])
    verdict.promise(
        "succeeded, no end in trace",
        [r.pk for r in rows.values() if r.state == "succeeded" and not trace.ended[r.pk]],
    )
    verdict.promise("finished twice", [id for id, times in ends.items() if times > 1])
    verdict.promise("begun twice", [key for key, times in trace.begun.items() if times > 1])
    verdict.promise("too many runs", [(id, n) for id, n in over.items() if n > 0])
    verdict.promise(
        "ran twice, on_crash=fail",
        [r.pk for r in rows.values() if r.on_crash == "fail" and executions[r.pk] > 1],
    )
    verdict.promise(
        "failed unexpectedly",
        [
            r.pk
            for r in rows.values()
            if r.state != "succeeded"
            and r.name not in {"chaos.hopeless", "chaos.large", "chaos.fatal", *POISON}
            and r.on_crash != "fail"
            and r.pk not in cancelled
        ],
    )
    verdict.promise(
        "poison did not fail",
        [
            r.pk
            for r in rows.values()
            if r.name in POISON and r.state != "failed" and r.pk not in cancelled
        ],
    )
    verdict.promise("refused, yet there", unconfirmed[refused:])
    verdict.promise(
        "fatal, and not failed",
        [
            r.pk
            for r in rows.values()
            if r.name == "chaos.fatal" and r.state != "failed" and r.pk not in cancelled
        ],
    )
    verdict.promise("totals that differ from the rows", _miscounted(everything.values()))
    verdict.figures = {
        "jobs": len(rows),
        "executions": executions.total(),
        "rescues": sum(row.rescues for row in rows.values()),
        "failed attempts": failures.total(),
        "died, on_crash=fail": deaths.total(),
        "killed before their first line": -sum(n for n in over.values() if n < 0),
        "poison": sum(row.name in POISON for row in rows.values()),
        "refused enqueues": refused,
        "of these there": len(unconfirmed),
    }
    return verdict


def _miscounted(rows: Iterable[Job]) -> list[Any]:
    """Return the names whose totals are not those of their jobs, each of which has ended once."""
    counted = {f.name: (f.succeeded, f.failed, f.cancelled, f.rescued) for f in monitoring.ever()}
    jobs: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if not row.flags & Flag.UNLISTED:
            jobs[row.name].update({row.state: 1})
        if not row.flags & Flag.EXPANSION:
            jobs[row.name].update({"rescued": row.rescues})
    kinds = ("succeeded", "failed", "cancelled", "rescued")
    ended = {name: tuple(found[kind] for kind in kinds) for name, found in jobs.items()}
    return [
        (name, counted.get(name), ended.get(name))
        for name in {*counted, *ended}
        if counted.get(name, (0, 0, 0, 0)) != ended.get(name, (0, 0, 0, 0))
    ]


def _ends(engine: Engine) -> Counter[UUID]:
    """Return for each job the number of changes to a final state or from it, which must be 1."""
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SELECT job FROM chaos_ends")
        return Counter(UUID(str(id)) for (id,) in cursor.fetchall())
