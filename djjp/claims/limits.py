"""Limits: how many jobs of a key run at once, and who is let in when a place becomes free.

A place is a running row: there is no counter that a crash could leave wrong. A job over its limit is
`blocked`, with nothing else to wait for. The transaction in which one of its key stops running lets the
first ones in; they are `ready` then, and are counted when they are claimed.

Who counts the jobs of a key, or lets some in, holds the key's lock to the end of the transaction; all that
one transaction needs are taken at once, in one order, after every lock of rows that it waits for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.claims.common import TABLE
from djjp.claims.data import Claimed
from djjp.claims.graph import Graph, Key

#: How many ready jobs of a full key are blocked at once: they would only be claimed in vain.
SWEEP = 2000
#: How many keys one look for waiting jobs takes.
KEYS = 500

_BLOCK = "state = 'blocked', consumer = NULL, started_at = NULL, attempts = attempts - 1"
_WAITING = f"FROM {TABLE} WHERE limit_key = %s AND waits_for = 0 AND state = 'blocked'"

# A new deployment may have changed it, and old rows say what they were enqueued with.
_MOST = f"SELECT max(limit_most) FROM (SELECT limit_most {_WAITING} LIMIT 100) AS some"

# From one queue, or key, to the next, each a step into the index.
_QUEUES = f"""WITH RECURSIVE found(queue) AS (SELECT min(queue) {_WAITING}
UNION ALL SELECT (SELECT min(queue) {_WAITING} AND queue > found.queue) FROM found
WHERE found.queue IS NOT NULL) SELECT queue FROM found WHERE queue IS NOT NULL"""
_ALL = f"FROM {TABLE} WHERE limit_key IS NOT NULL AND waits_for = 0 AND state = 'blocked'"
_KEYS = f"""WITH RECURSIVE found(key) AS (SELECT min(limit_key) {_ALL} AND limit_key > %s
UNION ALL SELECT (SELECT min(limit_key) {_ALL} AND limit_key > found.key) FROM found
WHERE found.key IS NOT NULL) SELECT key FROM found WHERE key IS NOT NULL LIMIT {KEYS}"""


class Term(NamedTuple):
    """What a claimed job is counted by."""

    row: Key
    key: str
    most: int
    per: float | None
    put_off: bool


class Limits(Graph):
    """Verbs of limits."""

    def let_in(self, ended: Collection[UUID]) -> bool:
        """Let in whom these jobs, which have stopped running, kept waiting; the last step of a transaction."""
        freed = self._freed(ended)
        if freed:
            self._lock_keys(freed)
        return self._let_in(freed) > 0

    def let_in_left(self, after: str) -> tuple[int, str | None]:
        """Let in those that wait though there is room: one that ran was deleted, say.

        Args:
            after: the key behind which to look.

        Returns:
            How many were let in, and the last key that was looked at, if there may be more behind it.
        """
        with self.turn(), self.connection.cursor() as cursor:
            cursor.execute(_KEYS, [after])
            keys = [key for (key,) in cursor.fetchall()]
            if keys:
                self._lock_keys(keys)
            return self._let_in(keys), keys[-1] if len(keys) == KEYS else None

    @abstractmethod
    def _lock_keys(self, keys: Collection[str]) -> None:
        """Hold these keys to the end of the transaction."""

    def _terms(self, jobs: Sequence[Claimed]) -> list[Term]:
        """The terms of claimed jobs, in their order."""
        if not jobs:
            return []
        keys = self._keys(job.id for job in jobs)
        columns = "id, limit_key, limit_most, limit_per, run_after IS NOT NULL"
        rows = self._rows(columns, f"FROM {TABLE} WHERE {{ids}}", keys)
        found = {
            id: Term(id, key, most, per, bool(put_off)) for id, key, most, per, put_off in rows
        }
        return [found[key] for key in keys]

    def _freed(self, ended: Collection[UUID]) -> set[str]:
        """The keys of jobs that do not run any more."""
        if not ended:
            return set()
        rest = (
            f"FROM {TABLE} WHERE {{ids}} AND limit_key IS NOT NULL AND limit_per IS NULL"
            " AND state <> 'running'"
        )
        return {key for (key,) in self._rows("limit_key", rest, self._keys(ended))}

    def _running(self, keys: Collection[str]) -> dict[str, int]:
        rows = self._rows(
            "limit_key, count",
            f"FROM (SELECT limit_key, count(*) AS count FROM {TABLE} WHERE {{ids}}"
            " AND limit_key IS NOT NULL AND waits_for = 0 AND state = 'running'"
            " GROUP BY limit_key) AS counts",
            keys,
            "limit_key",
        )
        return dict(rows)  # type: ignore[arg-type]  # pairs

    def _over_limit(self, terms: Sequence[Term]) -> set[Key]:
        """Block those of the claimed jobs for which there is no place; returns their rows' keys."""
        if not terms:
            return set()
        mine = Counter(term.key for term in terms)
        running = self._running(mine)
        taken = {key: running.get(key, 0) - count for key, count in mine.items()}
        over: set[Key] = set()
        full: dict[str, None] = {}
        for term in terms:
            if taken[term.key] < term.most:
                taken[term.key] += 1
            else:
                over.add(term.row)
                full[term.key] = None
        if over:
            self._change(_BLOCK, [], over)
            for key in full:
                self._block_ready(key)
        return over

    def _block_ready(self, key: str) -> None:
        rows = self._some(
            f"FROM {TABLE} WHERE limit_key = %s AND waits_for = 0 AND state = 'ready'",
            [key],
            SWEEP,
        )
        if rows:
            self._change("state = 'blocked'", [], rows)

    def _let_in(self, keys: Collection[str]) -> int:
        """Make the first that wait for each key ready, as many as there are places."""
        if not keys:
            return 0
        rest = (
            f"FROM (SELECT key FROM {self._listed('key')} WHERE EXISTS (SELECT 1 FROM {TABLE}"
            " WHERE limit_key = key AND waits_for = 0 AND state = 'blocked')) AS waiting"
        )
        waiting = [key for (key,) in self._rows("key", rest, sorted(keys))]
        if not waiting:
            return 0
        running, ids = self._running(waiting), []
        with self.connection.cursor() as cursor:
            for key in waiting:
                cursor.execute(_MOST, [key])
                free = cursor.fetchone()[0] - running.get(key, 0)
                if free <= 0:
                    continue
                cursor.execute(_QUEUES, [key, key])
                # Of each queue: whoever serves the one may not serve the other.
                for (queue,) in cursor.fetchall():
                    ids += self._some(f"{_WAITING} AND queue = %s", [key, queue], free)
        if ids:
            self._change("state = 'ready'", [], ids)
            self.announce()
        return len(ids)

    def _some(self, rest: str, values: list[Any], limit: int) -> list[Key]:
        """The first of some rows under one key, in the order of the claim; what others hold is passed over."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id {rest} ORDER BY queue, priority DESC, id LIMIT %s{self._skip_locked}",
                [*values, limit],
            )
            return [key for (key,) in cursor.fetchall()]
