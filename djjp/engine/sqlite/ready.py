"""The queries for the first ready jobs on SQLite, of all queues or of some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from djjp.engine.rows import READY, TABLE

#: Each queue is one arm of a compound SELECT. SQLite takes at most 500 arms.
MAX_UNION = 400

_HEAD = f"""(SELECT {{column}} FROM {TABLE} INDEXED BY djjp_job_ready_queue
WHERE {READY} AND queue = served.value ORDER BY priority DESC, id LIMIT 1)"""


def leading_queues(queues: Sequence[str]) -> tuple[str, list[Any]]:
    """Return a SELECT, as one text, of the `MAX_UNION` queues whose first ready jobs come first in claim order.

    The next `MAX_UNION` jobs can be in no other queue.
    """
    statement = f"""SELECT json_group_array(value) FROM (SELECT value FROM (
SELECT value, {_HEAD.format(column="priority")} AS priority, {_HEAD.format(column="id")} AS id
FROM json_each(%s) AS served)
WHERE id IS NOT NULL ORDER BY priority DESC, id LIMIT {MAX_UNION})"""
    return statement, [json.dumps(list(dict.fromkeys(queues)))]


def ready_query(
    queues: Sequence[str] | None, exclude_names: Sequence[str]
) -> tuple[str, list[Any]]:
    """Return a SELECT of the first ready jobs in claim order, and its parameters except the last, the limit.

    For some queues it merges their orders, each from its own position in the index. So it never reads the
    million jobs of a queue that is not served.
    """
    columns = """id, name, arguments, attempts, rescues, flags, claim, queue, created_at, run_after,
priority"""
    order = "ORDER BY priority DESC, id LIMIT %s"
    excluded, names = "", list(exclude_names)
    if names:
        excluded = f" AND name NOT IN ({', '.join(['%s'] * len(names))})"
    ready = f"SELECT {columns} FROM {TABLE} INDEXED BY {{}} WHERE {READY}{excluded}"
    if queues is None:
        return f"{ready.format('djjp_job_ready')} {order}", names
    # A queue named twice would give its jobs twice.
    queues = list(dict.fromkeys(queues))
    if not queues:
        return f"SELECT {columns} FROM {TABLE} WHERE false {order}", []
    arm = f"{ready.format('djjp_job_ready_queue')} AND queue = %s"
    params = [value for queue in queues for value in (*names, queue)]
    return f"{' UNION ALL '.join([arm] * len(queues))} {order}", params
