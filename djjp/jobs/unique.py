"""Unique keys of jobs that wait for the commit of a transaction: whose handle an enqueue gets.

The queue decides about a key when the job enters it, after the commit. An enqueue before that gets the handle of
the job that has the key as far as is known then:

* **An earlier job of the same transaction.** The second one is not written: both would enter the queue together.
* **A job in the queue.** The new one is written nevertheless, as a stand-in: the holder can end, or start, before
  the data is committed that it should see. If the holder still has the key after the commit, the stand-in is
  dropped without a trace; otherwise it enters the queue. No handle of it exists.

If the queue does not answer, nothing is known of its jobs, and the new job is written as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID

from djjp import engine
from djjp.engine import NO_HOLDERS, Holder, KeyHolders, NewJob
from djjp.exceptions import QueueUnavailable
from djjp.models import Flag
from djjp.outbox import transactions


def settle(
    alias: str,
    jobs: Sequence[NewJob],
    waiting: Callable[[Collection[UUID]], Collection[UUID]],
    *,
    queue_answers: bool,
) -> tuple[Sequence[NewJob], KeyHolders]:
    """Return the jobs to write in the open transaction of an alias, and the holders of the others' keys.

    Args:
        waiting: returns which of these jobs wait for the commit, and were not cancelled.
        queue_answers: whether to read the holders in the queue.
    """
    keys = {job.unique_key for job in jobs if job.unique_key is not None}
    if not keys:
        return jobs, NO_HOLDERS
    earlier = transactions.unique_keys(alias)
    known = {key: earlier[key] for key in keys if key in earlier}
    there = set(waiting([row for row, _ in known.values()])) if known else set()
    holders = {key: holder for key, (row, holder) in known.items() if row in there}
    queued = _in_queue(keys - {*holders}) if queue_answers else {}
    written: list[NewJob] = []
    held: dict[UUID, Holder] = {}
    for job in jobs:
        key = job.unique_key
        if key is None:
            written.append(job)
        elif key in holders:
            held[job.id] = holders[key]
        elif key in queued:
            held[job.id] = holders[key] = queued[key]
            written.append(job._replace(flags=job.flags | Flag.STAND_IN))
            earlier[key] = (job.id, queued[key])
        else:
            holders[key] = Holder(job.id, job.state)
            written.append(job)
            earlier[key] = (job.id, holders[key])
    return written, held


def _in_queue(keys: Collection[str]) -> Mapping[str | None, Holder]:
    if not keys:
        return {}
    try:
        return engine.run(lambda engine: engine.unique_keys.holders(keys))
    except (QueueUnavailable, AssertionError):
        # AssertionError: a TestCase that does not name the queue's database refuses to read it.
        return {}
