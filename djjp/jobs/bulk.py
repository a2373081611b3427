"""`run_many()`: many calls enqueued at once, of any mix of jobs, in chunks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice

from asgiref.sync import sync_to_async

from djjp.engine import NO_HOLDERS, KeyHolders
from djjp.ids import new_ids
from djjp.jobs.bound import BoundJob, handle_of
from djjp.jobs.enqueue import enqueue
from djjp.jobs.handles import JobHandle

#: How many jobs `run_many` sends at once. A chunk is written whole or not at all.
CHUNK = 1000


def run_many(bound: Iterable[BoundJob]) -> list[JobHandle]:
    """Enqueue many calls, of any mix of jobs; returns their handles in order.

    The calls are taken from the iterable and written in chunks of 1,000, each whole or not at all.
    """
    handles: list[JobHandle] = []
    for calls in _chunks(bound):
        now, ids = time.time(), new_ids(len(calls))
        rows = [call.row(id, now) for call, id in zip(calls, ids, strict=True)]
        databases = {call.job.database for call in calls}
        held: KeyHolders = NO_HOLDERS
        if len(databases) == 1:  # as a rule: none in particular
            held = enqueue(rows, *databases)
        else:
            for database in databases:
                pairs = zip(calls, rows, strict=True)
                theirs = [row for call, row in pairs if call.job.database == database]
                held = {**held, **enqueue(theirs, database)}
        if held:
            handles += [handle_of(row, held) for row in rows]
        else:
            handles += [JobHandle(row.id, row.state) for row in rows]
    return handles


async def arun_many(bound: Iterable[BoundJob]) -> list[JobHandle]:
    """`run_many` for coroutines."""
    return await sync_to_async(run_many)(bound)


def _chunks(bound: Iterable[BoundJob]) -> Iterator[list[BoundJob]]:
    calls = iter(bound)
    while chunk := list(islice(calls, CHUNK)):
        yield chunk
