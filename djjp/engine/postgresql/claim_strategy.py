"""The claim on PostgreSQL: lock the first ready jobs, skip rows that other consumers lock, update them at once.

A consumer first claims behind its session's marks, so that it does not read the dead index entries of jobs that
were claimed before: see `djjp.engine.postgresql.watermark`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard
from uuid import UUID

from djjp.engine.database import ClaimStrategy
from djjp.engine.payloads import LARGE
from djjp.engine.postgresql.ready import (
    INDEXES,
    Query,
    ready_after_marks,
    ready_query,
    ready_within_horizon,
    with_locks,
)
from djjp.engine.postgresql.watermark import Marks, marks_of
from djjp.engine.records import Claimed, new_record, require_counts
from djjp.engine.rows import TABLE, Key

# MATERIALIZED: a plain sub-select may be evaluated again and claim more than its limit. `priority - priority = 0`
# is always true; it makes the planner expect one row, and so look jobs up by id. Planned while the table had a
# handful of rows, the statement would else read the whole primary key, also while the table grows.
_CLAIM = f"""WITH picked AS MATERIALIZED ({{ready}})
UPDATE {TABLE} AS job SET state = 'running', consumer = %s, started_at = %s,
attempts = job.attempts + 1, claim = job.claim + 1
FROM picked WHERE job.id = picked.id AND picked.priority - picked.priority = 0
RETURNING job.id, job.name,
CASE WHEN octet_length(job.arguments) <= {LARGE} THEN job.arguments ELSE '' END,
job.attempts, job.rescues, job.flags, job.claim, job.queue,
job.created_at, job.run_after, job.priority"""

# The number of entries, dead ones too, that this session's scans have read in the indexes of ready jobs.
_ENTRIES_READ = (
    "SELECT sum(pg_stat_get_xact_tuples_returned(name::regclass)) FROM unnest(%s::text[]) AS name"
)

# The driver's number for results that are not text: ids, numbers and times need no formatting and parsing. Times
# are read as numbers, because few jobs need them.
_BINARY = 1

_READY_OF = f"""SELECT id, priority FROM {TABLE} WHERE id = ANY(%s) AND state || '' = 'ready'
FOR UPDATE SKIP LOCKED"""


class _Taken(NamedTuple):
    """A claimed job with its place in the order of claims; the number of its id is compared faster than the id."""

    order: int
    number: int
    job: Claimed


class PostgreSQLClaimStrategy(ClaimStrategy):
    """The claim on a PostgreSQL queue."""

    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[Claimed]:
        marks = self._marks(queues, exclude_names)
        taken: list[_Taken] = []
        if marks.valid:
            taken = self._take_after(marks, consumer, limit, now, queues, exclude_names)
            marks.advance(_positions(taken, queues), may_go_back=False)
        if (rest := limit - len(taken)) > 0:
            if marks.due:
                started, before = time.monotonic(), self._entries_read()
                first = self._take_first(consumer, rest, now, queues, exclude_names)
                marks.observe(
                    self._entries_read() - before - len(first), time.monotonic() - started
                )
                # Fewer than `rest`: no ready job remains, so marks never need to move back.
                marks.advance(_positions(first, queues), may_go_back=len(first) == rest)
            else:
                first = self._take_first(consumer, rest, now, queues, exclude_names)
            taken += first
        taken.sort()  # RETURNING keeps no order
        return [job for _, _, job in taken]

    def claim_keys(self, consumer: str, keys: Sequence[Key], now: float) -> list[Claimed]:
        return [job for _, _, job in self._take((_READY_OF, [list(keys)]), consumer, now)]

    def ready_keys(
        self, limit: int, queues: Sequence[str] | None, exclude_names: Sequence[str]
    ) -> list[Key]:
        select, params = ready_query(queues, exclude_names, limit, lock=False)
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM ({select}) AS ready", params)
            return [key for (key,) in cursor.fetchall()]

    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        marks = self._marks(queues, exclude_names)
        if marks.valid and self._finds(
            ready_after_marks(marks, queues, exclude_names, 1, lock=False)
        ):
            return True
        return self._finds(ready_query(queues, exclude_names, 1, lock=False))

    def _marks(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> Marks:
        self._db.connection.ensure_connection()
        return marks_of(self._db.connection.connection, queues, exclude_names)

    def _take_after(
        self,
        marks: Marks,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[_Taken]:
        """Claim from behind the marks."""
        after_marks = partial(ready_after_marks, marks, queues, exclude_names)
        few = after_marks(limit, lock=False) if _are_several(queues) else None
        return self._take_up_to(limit, few, partial(after_marks, lock=True), consumer, now)

    def _take_first(
        self,
        consumer: str,
        limit: int,
        now: float,
        queues: Sequence[str] | None,
        exclude_names: Sequence[str],
    ) -> list[_Taken]:
        """Claim from the start of the order, not behind the marks."""
        few = ready_within_horizon(queues, exclude_names, limit) if _are_several(queues) else None
        ready = partial(ready_query, queues, exclude_names, lock=True)
        return self._take_up_to(limit, few, ready, consumer, now)

    def _take_up_to(
        self,
        limit: int,
        few: Query | None,
        ready: Callable[[int], Query],
        consumer: str,
        now: float,
    ) -> list[_Taken]:
        """Claim what `few` finds, and lock no other jobs; claim the rest by the locking query of that limit."""
        rows = [] if few is None else self._take(with_locks(few), consumer, now)
        if (rest := limit - len(rows)) > 0:
            rows += self._take(ready(rest), consumer, now)
        return rows

    def _take(self, ready: Query, consumer: str, now: float) -> list[_Taken]:
        select, params = ready
        with self._db.connection.cursor() as cursor:
            cursor.cursor.format = _BINARY
            adapters = cursor.cursor.adapters
            to_number = adapters.get_loader(adapters.types["bigint"].oid, _BINARY)
            adapters.register_loader("timestamptz", to_number)
            cursor.execute(_CLAIM.format(ready=select), [*params, consumer, self._db.to_param(now)])
            return _taken(cursor.fetchall())

    def _finds(self, ready: Query) -> bool:
        select, params = ready
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM ({select}) AS ready LIMIT 1", params)
            return cursor.fetchone() is not None

    def _entries_read(self) -> int:
        with self._db.connection.cursor() as cursor:
            cursor.execute(_ENTRIES_READ, [INDEXES])
            (count,) = cursor.fetchone()
            return int(count)


def _are_several(queues: Sequence[str] | None) -> TypeGuard[Sequence[str]]:
    return queues is not None and len(queues) > 1


def _taken(rows: Sequence[Any]) -> list[_Taken]:
    taken, counts = [], 0
    for id, name, args, tries, rescues, flags, claim, queue, made, due, priority in rows:
        counts |= tries | rescues | flags | claim
        values = (id, name, args, tries, rescues, flags, claim, queue, made, due, None, None, None)
        taken.append(new_record(_Taken, (-priority, id.int, new_record(Claimed, values))))
    require_counts(counts)
    return taken


def _positions(
    taken: Sequence[_Taken], queues: Sequence[str] | None
) -> list[tuple[str | None, int, UUID]]:
    """Return the positions of claimed jobs: in the order of their queue, or of all queues together."""
    return [(None if queues is None else job.queue, -order, job.id) for order, _, job in taken]
