"""The first ready jobs on PostgreSQL: what claims and looks select, from the start or behind marks.

A consumer of some queues takes the head of each, from its own place in the index; so a million jobs in
a queue that is not served are never met.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djjp.engine.database import TABLE
from djjp.engine.postgresql.watermark import BELOW, Marks

#: The indexes that give the order: of all queues together, and of each.
INDEXES = ["djjp_job_ready", "djjp_job_ready_queue"]

_READY = f"SELECT id, priority FROM {TABLE} WHERE state = 'ready'"
_ORDER = "ORDER BY priority DESC, id LIMIT %s"
# The first column of an index is compared as one of some, and leads the order. As a plain equality it would
# drop out of the order, and another index would look like a way to have the rest: the primary key, which leads
# through all that has finished since, or the one of all queues, which leads through those that are not served.
_QUEUE = "queue = ANY(ARRAY[{0}, {0}])"
_QUEUE_ORDER = "ORDER BY queue, priority DESC, id LIMIT %s"

# One part after the other, until there are enough: the last LIMIT ends it, and what comes after is neither
# read nor locked. An ORDER BY there would first read all parts.
_IN_PARTS = f"""SELECT head.id, head.priority FROM unnest({{arrays}}) AS part({{columns}}) CROSS JOIN LATERAL (
SELECT * FROM ({_READY} AND {{behind}} AND id > part.mark{{passed}}
{{order}}{{skip}}) AS behind
UNION ALL
SELECT * FROM ({_READY}{{within}} AND priority < part.priority AND priority > part.below{{passed}}
{{order}}{{skip}}) AS after_that
) AS head {{last}}"""
_ALL = {
    "arrays": "%s::int[], %s::uuid[], %s::int[]",
    "columns": "priority, mark, below",
    "behind": "priority = ANY(ARRAY[part.priority, part.priority])",
    "within": "",
    "order": _ORDER,
}
_SOME = {
    "arrays": "%s::int[], %s::uuid[], %s::int[], %s::text[]",
    "columns": "priority, mark, below, queue",
    "behind": f"{_QUEUE.format('part.queue')} AND priority = part.priority",
    "within": f" AND {_QUEUE.format('part.queue')}",
    "order": _QUEUE_ORDER,
}

_SERVED = f"{_READY} AND {_QUEUE.format('served.queue')}"

# The first jobs of several queues, of which no more are locked than are taken. A job that comes after as many
# as are wanted is found among the first few of each queue; then the first ones are merged from what each queue
# has up to it, which is all where there is no such job; and those are locked.
_WITHIN_REACH = f"""WITH reach AS MATERIALIZED (
SELECT head.priority, head.id FROM unnest(%s::text[]) AS served(queue) CROSS JOIN LATERAL (
{_SERVED}{{passed}} {_QUEUE_ORDER}) AS head ORDER BY priority DESC, id LIMIT 1 OFFSET %s)
SELECT job.id, job.priority FROM (
SELECT head.id FROM unnest(%s::text[]) AS served(queue) CROSS JOIN LATERAL (
SELECT * FROM ({_SERVED}
AND priority > coalesce((SELECT priority FROM reach), {BELOW}){{passed}} {_QUEUE_ORDER}) AS higher
UNION ALL
SELECT * FROM ({_SERVED}
AND priority = (SELECT priority FROM reach) AND id <= (SELECT id FROM reach){{passed}} {_QUEUE_ORDER}) AS level
) AS head {_ORDER}) AS first CROSS JOIN LATERAL ({_READY} AND id = first.id FOR UPDATE SKIP LOCKED) AS job"""
# As many times as are wanted are looked at, so that some queues may have fewer than their share.
_SPARE = 4


def within_reach(
    queues: Sequence[str], without: Sequence[str], limit: int
) -> tuple[str, list[Any]]:
    """A SELECT of the first ready jobs of several queues, and its parameters.

    It comes back short where others have locked some of them: then `first_ready` has the rest.
    """
    passed, names = _passed(without)
    queues = list(dict.fromkeys(queues))
    few = min(limit, -(-_SPARE * limit // len(queues)))
    first = [queues, *names, few, limit - 1]
    then = [queues, *names, limit, *names, limit, limit]
    return _WITHIN_REACH.format(passed=passed), [*first, *then]


def first_ready(
    queues: Sequence[str] | None, without: Sequence[str], limit: int, *, lock: bool
) -> tuple[str, list[Any]]:
    """A SELECT of the first ready jobs in the order of the claim, and its parameters."""
    passed, names = _passed(without)
    if queues is None:
        return f"{_READY}{passed} {_ORDER}{_skip(lock)}", [*names, limit]
    tail = f"{passed} {_QUEUE_ORDER}{_skip(lock)}"
    # A queue named twice would give its jobs twice.
    queues = list(dict.fromkeys(queues))
    if len(queues) == 1:
        return f"{_READY} AND {_QUEUE.format('%s')}{tail}", [queues[0], queues[0], *names, limit]
    heads = (
        "SELECT head.id, head.priority FROM unnest(%s::text[]) AS served(queue)"
        f" CROSS JOIN LATERAL ({_SERVED}{tail}) AS head {_ORDER}"
    )
    return heads, [queues, *names, limit, limit]


def first_behind(
    marks: Marks, queues: Sequence[str] | None, without: Sequence[str], limit: int, *, lock: bool
) -> tuple[str, list[Any]]:
    """The same, but for what lies before the marks."""
    if queues is not None:
        queues = list(dict.fromkeys(queues))
    passed, names = _passed(without)
    parts = marks.parts(queues)
    arrays: list[Any] = [
        [part.priority for part in parts],
        [part.mark for part in parts],
        [part.below for part in parts],
    ]
    if queues is not None:
        arrays.append([part.queue for part in parts])
    heads = _IN_PARTS.format(
        **(_ALL if queues is None else _SOME),
        passed=passed,
        skip=_skip(lock),
        # The parts of one queue are in its order; those of several have to be merged.
        last="LIMIT %s" if queues is None or len(queues) == 1 else _ORDER,
    )
    return heads, [*arrays, *names, limit, *names, limit, limit]


def _passed(without: Sequence[str]) -> tuple[str, list[Any]]:
    return (" AND name <> ALL(%s)", [list(without)]) if without else ("", [])


def _skip(lock: bool) -> str:
    return " FOR UPDATE SKIP LOCKED" if lock else ""
