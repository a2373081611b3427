"""Line: what comes before a job that does not run. Each verb reads a bounded number of rows, by an index."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES
from djjp.engine.rows import READY, SUSPECT, TABLE
from djjp.models import Job

#: The number up to which jobs are counted, and up to which they are listed.
MOST_COUNTED, MOST_LISTED = 20_000, 20
#: The number of rows among which jobs that have ended are found, and of steps up a pipeline.
ENDS_AMONG, MOST_STEPS = 5_000, 1_000

_LIVE = "state IN ('scheduled', 'blocked', 'ready', 'running')"

# In the order of the claim, which is that of the index.
_BEFORE = f"""SELECT (SELECT count(*) FROM (SELECT queue FROM {TABLE} {{index}}
WHERE {READY} AND {{queue}} AND priority > %s ORDER BY {{order}} LIMIT {MOST_COUNTED}) AS higher WHERE {{served}})
+ (SELECT count(*) FROM (SELECT queue FROM {TABLE} {{index}}
WHERE {READY} AND {{queue}} AND priority = %s AND id < %s ORDER BY {{order}} LIMIT {MOST_COUNTED}) AS level
WHERE {{served}})"""
_ORDER, _QUEUE_ORDER = "priority DESC, id", "queue, priority DESC, id"
_SUSPECTS_BEFORE = f"""SELECT count(*) FROM (SELECT priority, rescues, id FROM {TABLE}
WHERE {SUSPECT} AND queue = %s ORDER BY queue, priority DESC, rescues, id LIMIT {MOST_COUNTED}) AS suspects
WHERE priority > %s OR (priority = %s AND (rescues < %s OR (rescues = %s AND id < %s)))"""
# The rows that are a little older than the first ready job: where jobs run in order, they have just ended. Those
# that consumers have claimed ahead, up to a thousand each, are between them.
_ENDS = f"""SELECT queue, {{started}}, {{finished}} FROM (
SELECT queue, state, started_at, finished_at FROM {TABLE} WHERE id < (SELECT coalesce(
(SELECT id FROM {TABLE} {{index}} WHERE {READY} AND {{queue}} ORDER BY {{order}} LIMIT 1), %s))
ORDER BY id DESC LIMIT {ENDS_AMONG}) AS older
WHERE state IN ('succeeded', 'failed') AND {{wanted}}"""

# `>= key AND <= key`: see `limits`.
_OF_KEY = f"""FROM {TABLE} WHERE limit_key >= %s AND limit_key <= %s AND waits_for = 0 AND state = '{{state}}'"""
_HOLDERS = f"""SELECT id, name, consumer {_OF_KEY.format(state="running")} AND limit_per IS NULL
ORDER BY limit_key, queue, priority DESC, id LIMIT %s"""
_BLOCKED_BEFORE = f"""SELECT count(*) FROM (SELECT priority, id {_OF_KEY.format(state="blocked")}
AND queue = %s ORDER BY limit_key, queue, priority DESC, id LIMIT {MOST_COUNTED}) AS blocked
WHERE priority > %s OR (priority = %s AND id < %s)"""
_CLAIMED_BEFORE = f"""SELECT count(*) FROM {TABLE} WHERE state = 'running' AND consumer = %s
AND (started_at < %s OR (started_at = %s AND (priority > %s OR (priority = %s AND id < %s))))"""

# Each parent by its id: of a join a planner without statistics may read the whole table.
_OF_PARENT = f"(SELECT {{}} FROM {TABLE} AS job WHERE job.id = edge.parent)"
_PARENTS = f"""FROM (SELECT * FROM (SELECT edge.parent AS id, {_OF_PARENT.format("name")} AS name,
{_OF_PARENT.format("state")} AS state FROM {EDGES} AS edge WHERE {{ids}}) AS parents
WHERE {_LIVE} LIMIT {MOST_LISTED + 1}) AS first"""
# Up the pipeline, from each job to the one of its parents that seems to be the furthest from its end.
_UP = f"""WITH RECURSIVE above(id, steps) AS (SELECT id, 0 FROM {TABLE} WHERE {{ids}}
UNION ALL SELECT (SELECT job.id FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent
WHERE edge.child = above.id AND job.{_LIVE}
ORDER BY CASE job.state WHEN 'blocked' THEN 0 WHEN 'scheduled' THEN 1 WHEN 'ready' THEN 2 ELSE 3 END, job.id
LIMIT 1), steps + 1 FROM above WHERE above.id IS NOT NULL AND steps < {MOST_STEPS})"""
_DEEPEST = (
    """FROM (SELECT id FROM above WHERE id IS NOT NULL ORDER BY steps DESC LIMIT 1) AS deepest"""
)


class Listed(NamedTuple):
    """A job that another one waits for; of a holder of a permit, with its consumer, else with its state."""

    id: UUID
    name: str
    place: str


class End(NamedTuple):
    """An execution that has ended, in seconds since the epoch."""

    queue: str
    started: float
    finished: float


class Line:
    """Find what comes before a job."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def before(self, job: Job, paused: Collection[str], *, in_queue: bool) -> int:
        """Return the number of ready jobs that are claimed before a ready one, up to twice `MOST_COUNTED`.

        Args:
            paused: the queues whose jobs are not claimed.
            in_queue: count those of its queue only, as for consumers that serve it by name.
        """
        queue, values = self._queue(job, in_queue)
        listed = self._db.key_list(sorted(paused))
        statement = _BEFORE.format(
            **queue, served=f"queue NOT IN (SELECT paused FROM {self._db.listed('paused')})"
        )
        priority = job.priority
        return self._count(
            statement,
            [*values, priority, listed, *values, priority, *self._db.keys([job.pk]), listed],
        )

    def suspects_before(self, job: Job) -> int:
        """Return the number of suspects that are claimed before this one in its queue."""
        rank = [job.queue, job.priority, job.priority, job.rescues, job.rescues]
        return self._count(_SUSPECTS_BEFORE, [*rank, *self._db.keys([job.pk])])

    def recent_ends(self, job: Job, *, in_queue: bool) -> list[End]:
        """Return executions that have ended lately, from the rows before the first ready job."""
        queue, values = self._queue(job, in_queue)
        statement = _ENDS.format(
            **queue,
            # As expressions, because a driver would convert the columns to their type.
            started="coalesce(started_at, NULL)",
            finished="coalesce(finished_at, NULL)",
            wanted="queue = %s" if in_queue else "true",
        )
        values = [*values, *self._db.keys([job.pk]), *([job.queue] if in_queue else [])]
        ends = []
        for name, started, finished in self._rows(statement, values):
            with suppress(AttributeError, TypeError, ValueError):  # a row by hand
                times = self._db.to_seconds(started), self._db.to_seconds(finished)
                ends.append(End(str(name), *times))
        return ends

    def holders(self, job: Job) -> list[Listed]:
        """Return the jobs that hold the permits of a job's limit: its limit, or `MOST_LISTED`, at most."""
        most = max(MOST_LISTED, min(job.limit_max or 0, MOST_COUNTED))
        return self._listed(_HOLDERS, [job.limit_key, job.limit_key, most])

    def blocked_before(self, job: Job) -> int:
        """Return the number of jobs in its queue that get a permit of its limit before a blocked job."""
        values = [job.limit_key, job.limit_key, job.queue, job.priority, job.priority]
        return self._count(_BLOCKED_BEFORE, [*values, *self._db.keys([job.pk])])

    def claimed_before(self, job: Job, started: float) -> int:
        """Return the number of jobs that a job's consumer holds and has claimed before it."""
        at = self._db.to_param(started)
        values = [job.consumer, at, at, job.priority, job.priority]
        return self._count(_CLAIMED_BEFORE, [*values, *self._db.keys([job.pk])])

    def parents(self, id: UUID) -> list[Listed]:
        """Return the parents of a job that have not ended, one more than `MOST_LISTED` at most."""
        rows = self._db.rows("id, name, state", _PARENTS, self._db.keys([id]), "edge.child")
        return [Listed(self._db.to_uuid(key), str(n), str(s)) for key, n, s in rows]

    def deepest(self, id: UUID) -> UUID:
        """Return the job up its pipeline that waits for no other one of it, or the one after most steps."""
        [(key,)] = self._db.rows("id", _DEEPEST, self._db.keys([id]), before=_UP)
        return self._db.to_uuid(key)

    def _queue(self, job: Job, in_queue: bool) -> tuple[dict[str, str], list[Any]]:
        if in_queue:
            index, queue = self._db.by_index("djjp_job_ready_queue"), self._db.of_queue.format("%s")
            values = [job.queue] * queue.count("%s")
            return {"index": index, "queue": queue, "order": _QUEUE_ORDER}, values
        index = self._db.by_index("djjp_job_ready")
        return {"index": index, "queue": "true", "order": _ORDER}, []

    def _listed(self, statement: str, values: list[Any]) -> list[Listed]:
        rows = self._rows(statement, values)
        return [Listed(self._db.to_uuid(key), str(name), str(place)) for key, name, place in rows]

    def _count(self, statement: str, values: list[Any]) -> int:
        return int(self._rows(statement, values)[0][0])

    def _rows(self, statement: str, values: list[Any]) -> list[Any]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())
