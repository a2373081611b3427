"""What to claim first on SQLite, of all queues or of some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from djjp.engine.database import TABLE

#: Each queue is an arm of a compound SELECT, of which SQLite takes 500.
ARMS = 400

_HEAD = f"""(SELECT {{column}} FROM {TABLE} INDEXED BY djjp_job_ready_queue
WHERE state = 'ready' AND queue = served.value ORDER BY priority DESC, id LIMIT 1)"""


def foremost(queues: Sequence[str]) -> tuple[str, list[Any]]:
    """A SELECT, as one text, of the queues that the first `ARMS` jobs can be in: those with the foremost heads."""
    statement = f"""SELECT json_group_array(value) FROM (SELECT value FROM (
SELECT value, {_HEAD.format(column="priority")} AS priority, {_HEAD.format(column="id")} AS id
FROM json_each(%s) AS served)
WHERE id IS NOT NULL ORDER BY priority DESC, id LIMIT {ARMS})"""
    return statement, [json.dumps(list(dict.fromkeys(queues)))]


def first_ready(queues: Sequence[str] | None, without: Sequence[str]) -> tuple[str, list[Any]]:
    """A SELECT of the first ready jobs in the order of the claim, and its parameters but for the last, the limit.

    For some queues it is a merge of their orders, each from its own place in the index; so a million
    jobs in a queue that is not served are never met.
    """
    columns = "id, name, arguments, attempts, rescues, flags, priority"
    order = "ORDER BY priority DESC, id LIMIT %s"
    passed, names = "", list(without)
    if names:
        passed = f" AND name NOT IN ({', '.join(['%s'] * len(names))})"
    ready = f"SELECT {columns} FROM {TABLE} INDEXED BY {{}} WHERE state = 'ready'{passed}"
    if queues is None:
        return f"{ready.format('djjp_job_ready')} {order}", names
    # A queue named twice would give its jobs twice.
    queues = list(dict.fromkeys(queues))
    if not queues:
        return f"SELECT {columns} FROM {TABLE} WHERE false {order}", []
    arm = f"{ready.format('djjp_job_ready_queue')} AND queue = %s"
    params = [value for queue in queues for value in (*names, queue)]
    return f"{' UNION ALL '.join([arm] * len(queues))} {order}", params
