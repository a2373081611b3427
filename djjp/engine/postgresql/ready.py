"""The queries for the first ready jobs on PostgreSQL, from the beginning of the order or after marks.

A consumer of some queues reads the first jobs of each, from the queue's own position in the index. So it never
reads the million jobs of a queue that is not served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djjp.engine.postgresql.watermark import BELOW, Marks
from djjp.engine.rows import READY, TABLE

#: A SELECT and its parameters.
Query = tuple[str, list[Any]]

#: The indexes with the order: of all queues together, and of each queue.
INDEXES = ["djjp_job_ready", "djjp_job_ready_queue"]

_READY = f"SELECT id, priority FROM {TABLE} WHERE {READY}"
_ORDER = "ORDER BY priority DESC, id LIMIT %s"
# `queue = ANY(array)`, not `=`: with `=` the planner ignores the queue in ORDER BY, and may choose an index that
# serves the rest of the order: the primary key, and so read all jobs that have finished since, or the index of all
# queues, and so read queues that are not served.
_QUEUE = "queue = ANY(ARRAY[{0}, {0}])"
_QUEUE_ORDER = "ORDER BY queue, priority DESC, id LIMIT %s"

# One part after the other, until there are enough jobs: the last LIMIT ends the query, and later parts are neither
# read nor locked. An ORDER BY in its place would first read all parts.
_AFTER_MARKS = f"""SELECT head.id, head.priority FROM unnest({{arrays}}) AS part({{columns}}) CROSS JOIN LATERAL (
SELECT * FROM ({_READY} AND {{same_priority}} AND id > part.mark{{excluded}}
{{order}}{{lock}}) AS after_mark
UNION ALL
SELECT * FROM ({_READY}{{same_queue}} AND priority < part.priority AND priority > part.below{{excluded}}
{{order}}{{lock}}) AS lower
) AS head {{last}}"""
_ALL_QUEUES = {
    "arrays": "%s::int[], %s::uuid[], %s::int[]",
    "columns": "priority, mark, below",
    "same_priority": "priority = ANY(ARRAY[part.priority, part.priority])",
    "same_queue": "",
    "order": _ORDER,
}
_SOME_QUEUES = {
    "arrays": "%s::int[], %s::uuid[], %s::int[], %s::text[]",
    "columns": "priority, mark, below, queue",
    "same_priority": f"{_QUEUE.format('part.queue')} AND priority = part.priority",
    "same_queue": f" AND {_QUEUE.format('part.queue')}",
    "order": _QUEUE_ORDER,
}

_SERVED = f"{_READY} AND {_QUEUE.format('served.queue')}"

# The first jobs of several queues. The horizon is the last job that the claim can need; it is searched among the
# first few jobs of each queue. The first jobs are then merged from each queue's jobs up to the horizon (from all
# jobs, where there is no horizon).
_WITHIN_HORIZON = f"""WITH horizon AS MATERIALIZED (
SELECT head.priority, head.id FROM unnest(%s::text[]) AS served(queue) CROSS JOIN LATERAL (
{_SERVED}{{excluded}} {_QUEUE_ORDER}) AS head ORDER BY priority DESC, id LIMIT 1 OFFSET %s)
SELECT head.id, head.priority FROM unnest(%s::text[]) AS served(queue) CROSS JOIN LATERAL (
SELECT * FROM ({_SERVED}
AND priority > coalesce((SELECT priority FROM horizon), {BELOW}){{excluded}} {_QUEUE_ORDER}) AS higher
UNION ALL
SELECT * FROM ({_SERVED}
AND priority = (SELECT priority FROM horizon)
AND id <= (SELECT id FROM horizon){{excluded}} {_QUEUE_ORDER}) AS level
) AS head {_ORDER}"""
# To find the horizon the query reads this multiple of the limit: some queues can have fewer than their share.
_HORIZON_FACTOR = 4


def ready_within_horizon(queues: Sequence[str], exclude_names: Sequence[str], limit: int) -> Query:
    """Return a SELECT of the first ready jobs of several queues that reads few of each, and its parameters."""
    excluded, names = _exclusion(exclude_names)
    queues = list(dict.fromkeys(queues))
    per_queue = min(limit, -(-_HORIZON_FACTOR * limit // len(queues)))
    horizon = [queues, *names, per_queue, limit - 1]
    merge = [queues, *names, limit, *names, limit, limit]
    return _WITHIN_HORIZON.format(excluded=excluded), [*horizon, *merge]


def with_locks(ready: Query) -> Query:
    """Return a SELECT of those of a query's ready jobs that no other transaction locks, and lock only these.

    To claim from several queues, more jobs are read than claimed. A query that locks all that it reads would
    keep other consumers from the jobs that it leaves.
    """
    select, params = ready
    # `state || ''` fits no index of ready jobs: of these one could be kept that was as good as the primary key
    # while few jobs were ready.
    locking = f"""SELECT job.id, job.priority FROM ({select}) AS first CROSS JOIN LATERAL (
SELECT id, priority FROM {TABLE} WHERE id = first.id AND state || '' = 'ready' AND rescues = 0
FOR UPDATE SKIP LOCKED) AS job"""
    return locking, params


def ready_query(
    queues: Sequence[str] | None, exclude_names: Sequence[str], limit: int, *, lock: bool
) -> Query:
    """Return a SELECT of the first ready jobs in claim order, and its parameters."""
    excluded, names = _exclusion(exclude_names)
    if queues is None:
        return f"{_READY}{excluded} {_ORDER}{_locking(lock)}", [*names, limit]
    tail = f"{excluded} {_QUEUE_ORDER}{_locking(lock)}"
    # A queue named twice would give its jobs twice.
    queues = list(dict.fromkeys(queues))
    if len(queues) == 1:
        return f"{_READY} AND {_QUEUE.format('%s')}{tail}", [queues[0], queues[0], *names, limit]
    select = (
        "SELECT head.id, head.priority FROM unnest(%s::text[]) AS served(queue)"
        f" CROSS JOIN LATERAL ({_SERVED}{tail}) AS head {_ORDER}"
    )
    return select, [queues, *names, limit, limit]


def ready_after_marks(
    marks: Marks,
    queues: Sequence[str] | None,
    exclude_names: Sequence[str],
    limit: int,
    *,
    lock: bool,
) -> Query:
    """Return a SELECT of the first ready jobs after the marks in claim order, and its parameters."""
    if queues is not None:
        queues = list(dict.fromkeys(queues))
    excluded, names = _exclusion(exclude_names)
    parts = marks.parts(queues)
    arrays: list[Any] = [
        [part.priority for part in parts],
        [part.mark for part in parts],
        [part.below for part in parts],
    ]
    if queues is not None:
        arrays.append([part.queue for part in parts])
    select = _AFTER_MARKS.format(
        **(_ALL_QUEUES if queues is None else _SOME_QUEUES),
        excluded=excluded,
        lock=_locking(lock),
        # The parts of one queue are already in its order; those of several queues must be merged.
        last="LIMIT %s" if queues is None or len(queues) == 1 else _ORDER,
    )
    return select, [*arrays, *names, limit, *names, limit, limit]


def _exclusion(names: Sequence[str]) -> tuple[str, list[Any]]:
    return (" AND name <> ALL(%s)", [list(names)]) if names else ("", [])


def _locking(lock: bool) -> str:
    return " FOR UPDATE SKIP LOCKED" if lock else ""
