"""The ledger: holds what the jobs did against what the queue says, and counts what does not agree.

A trigger in the queue's database writes down each time that a job's state becomes a final one, or
leaves it: so nothing between two looks is missed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from djjp.engine import Engine
from djjp.models import FINISHED, Attempt, Job
from tests.chaos.trace import Trace

_FINAL = "('succeeded', 'failed', 'cancelled')"
_TABLE = "CREATE TABLE chaos_ends (job {uuid}, old varchar(10), new varchar(10))"
_WHEN = f"WHEN (OLD.state IN {_FINAL} OR NEW.state IN {_FINAL})"

_WATCH = {
    "sqlite": [
        "DROP TABLE IF EXISTS chaos_ends",
        _TABLE.format(uuid="char(32)"),
        "DROP TRIGGER IF EXISTS chaos_ends",
        (
            f"CREATE TRIGGER chaos_ends AFTER UPDATE OF state ON djjp_job {_WHEN}"
            " BEGIN INSERT INTO chaos_ends VALUES (NEW.id, OLD.state, NEW.state); END"
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
    ],
}


def watch(engine: Engine) -> None:
    """Have the database write down each end of a job."""
    with engine.db.connection.cursor() as cursor:
        for statement in _WATCH[engine.db.alias]:
            cursor.execute(statement)


@dataclass
class Verdict:
    """What a run has come to: figures, and the promises that were broken, by how many jobs."""

    figures: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Any]] = field(default_factory=dict)

    def promise(self, name: str, against: list[Any]) -> None:
        self.broken[name] = len(against)
        if against:
            self.examples[name] = against[:3]


def judge(engine: Engine, trace: Trace, enqueued: set[UUID], refused: int) -> Verdict:
    """Compare; `refused` is the number of jobs whose enqueue said that it had failed."""
    rows = Job.objects.using(engine.db.alias).in_bulk()
    executions = trace.executions()
    failures: Counter[UUID] = Counter()
    deaths: Counter[UUID] = Counter()
    for id, kind in Attempt.objects.using(engine.db.alias).values_list("job_id", "exception_class"):
        (deaths if kind == "ConsumerDied" else failures)[id] += 1
    ends = _ends(engine)
    unconfirmed = [r.pk for r in rows.values() if r.name != "chaos.child" and r.pk not in enqueued]

    def expected(row: Job) -> int:
        """Each execution has ended in one way: lost with its consumer, failed, or succeeded."""
        return row.rescues + failures[row.pk] + deaths[row.pk] + (row.state == "succeeded")

    over = {id: executions[id] - expected(row) for id, row in rows.items()}
    verdict = Verdict()
    verdict.promise("lost", [id for id in enqueued | trace.children if id not in rows])
    verdict.promise("stuck", [r.pk for r in rows.values() if r.state not in FINISHED])
    verdict.promise("phantom", [id for id in executions if id not in rows])
    verdict.promise(
        "succeeded unended",
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
        "failed unasked",
        [
            r.pk
            for r in rows.values()
            if r.state != "succeeded" and r.name != "chaos.hopeless" and r.on_crash != "fail"
        ],
    )
    verdict.promise("refused, yet there", unconfirmed[refused:])
    verdict.figures = {
        "jobs": len(rows),
        "executions": executions.total(),
        "rescues": sum(row.rescues for row in rows.values()),
        "failed attempts": failures.total(),
        "died, on_crash=fail": deaths.total(),
        "killed before their first line": -sum(n for n in over.values() if n < 0),
        "refused enqueues": refused,
        "of these there": len(unconfirmed),
    }
    return verdict


def _ends(engine: Engine) -> Counter[UUID]:
    """How often each job's state has changed to a final one or from it: once is right."""
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SELECT job FROM chaos_ends")
        return Counter(UUID(str(id)) for (id,) in cursor.fetchall())
