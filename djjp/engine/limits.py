"""Limits: how many jobs of a key run at once, and who is let in when a place becomes free.

A place is a running row: there is no counter that a crash could leave wrong. A job over its limit is
`blocked`, with nothing else to wait for. The transaction in which one of its key stops running lets the
first ones in; they are `ready` then, and are counted when they are claimed. One that is claimed while
others have waited for longer is blocked in its turn, and they are let in.

Who counts the jobs of a key, or lets some in, holds the key's lock to the end of the transaction; all that
one transaction needs are taken at once, in one order, after every lock of rows that it waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import TABLE, Database, Key
from djjp.engine.records import Claimed
from djjp.models import Flag

#: How many ready jobs of a full key are blocked at once: they would only be claimed in vain.
BLOCK_BATCH = 2000
#: How many keys one look for waiting jobs takes.
KEYS = 500

_BLOCK = "state = 'blocked', consumer = NULL, started_at = NULL, attempts = attempts - 1"
_BLOCKED = f"FROM {TABLE} WHERE limit_key = {{}} AND waits_for = 0 AND state = 'blocked'"
_WAITING = _BLOCKED.format("%s")

# A new deployment may have changed it, and old rows say what they were enqueued with.
_MOST = (
    f"(SELECT max(limit_max) FROM (SELECT limit_max {_BLOCKED.format('key')} LIMIT 100) AS waiting)"
)

# From one queue, or key, to the next, each a step into the index.
_QUEUES = f"""WITH RECURSIVE found(queue) AS (SELECT min(queue) {_WAITING}
UNION ALL SELECT (SELECT min(queue) {_WAITING} AND queue > found.queue) FROM found
WHERE found.queue IS NOT NULL) SELECT queue FROM found WHERE queue IS NOT NULL"""
_ALL = f"FROM {TABLE} WHERE limit_key IS NOT NULL AND waits_for = 0 AND state = 'blocked'"
_KEYS = f"""WITH RECURSIVE found(key) AS (SELECT min(limit_key) {_ALL} AND limit_key > %s
UNION ALL SELECT (SELECT min(limit_key) {_ALL} AND limit_key > found.key) FROM found
WHERE found.key IS NOT NULL) SELECT key FROM found WHERE key IS NOT NULL LIMIT {KEYS}"""

# In the order of the claim, queue by queue.
_IN_ORDER = "ORDER BY queue, priority DESC, id LIMIT %s"

# Jobs of a key, which is given twice, in a state that other indexes are for too. As one value the key would drop
# out of the order, and an index that leads through all that is ready, or runs, would look like a way to have them.
_OF_KEY = f"FROM {TABLE} WHERE limit_key >= {{key}} AND limit_key <= {{key}} AND waits_for = 0"
_ORDER_OF_KEY = "ORDER BY limit_key, queue, priority DESC, id"
READY = f"{_OF_KEY.format(key='%s')} AND state = 'ready'"
READY_IN_ORDER = f"{_ORDER_OF_KEY} LIMIT %s"
# A rate may have the same key, and is another matter.
_RUNNING = f"""(SELECT count(*) FROM (SELECT id {_OF_KEY.format(key="key")} AND state = 'running'
AND limit_per IS NULL {_ORDER_OF_KEY}) AS running)"""


class Candidate(NamedTuple):
    """What a claimed job is counted by, and where it stands among others of its key."""

    row: Key
    key: str
    most: int
    per: float | None
    queue: str
    priority: int
    waited: bool  # whether it was put off before, or has run before

    @property
    def place(self) -> tuple[int, Key]:
        """Its place in its queue."""
        return -self.priority, self.row


class Limits:
    """Block jobs over their limit, and unblock them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def unblock(self, ended: Collection[UUID]) -> bool:
        """Let in whom these jobs, which have stopped running, kept waiting; the last step of a transaction."""
        freed = self.keys_released(ended)
        if freed:
            self._db.lock_keys(freed)
        return self.unblock_keys(freed) > 0

    def unblock_stranded(self, after: str) -> tuple[int, str | None]:
        """Let in those that wait though there is room: one that ran was deleted, say.

        It looks before it takes any lock, and there is hardly ever something to do.

        Args:
            after: the key behind which to look.

        Returns:
            How many were let in, and the last key that was looked at, if there may be more behind it.
        """
        with self._db.connection.cursor() as cursor:
            cursor.execute(_KEYS, [after])
            keys = [key for (key,) in cursor.fetchall()]
        last = keys[-1] if len(keys) == KEYS else None
        open_keys = self._free_permits(keys)
        if not open_keys:
            return 0, last
        with self._db.transaction():
            self._db.lock_keys(open_keys)
            return self.unblock_keys(open_keys), last

    def candidates(self, jobs: Sequence[Claimed]) -> list[Candidate]:
        """The terms of claimed jobs, in their order."""
        if not jobs:
            return []
        keys = self._db.keys(job.id for job in jobs)
        columns = "id, limit_key, limit_max, limit_per, queue, priority"
        rows = self._db.rows(columns, f"FROM {TABLE} WHERE {{ids}}", keys)
        found = {row[0]: row for row in rows}
        return [
            Candidate._make([*found[key], job.attempt > 1 or job.flags & Flag.THROTTLED > 0])
            for key, job in zip(keys, jobs, strict=True)
        ]

    def keys_released(self, ended: Collection[UUID]) -> set[str]:
        """The keys of jobs that do not run any more."""
        if not ended:
            return set()
        rest = (
            f"FROM {TABLE} WHERE {{ids}} AND limit_key IS NOT NULL AND limit_per IS NULL"
            " AND state <> 'running'"
        )
        return {key for (key,) in self._db.rows("limit_key", rest, self._db.keys(ended))}

    def _running(self, keys: Collection[str]) -> dict[str, int]:
        rows = self._db.rows(
            "key, count",
            f"FROM (SELECT key, {_RUNNING} AS count FROM {self._db.listed('key')}) AS each",
            sorted(keys),
        )
        return dict(rows)  # type: ignore[arg-type]  # pairs

    def block_over_limit(self, terms: Sequence[Candidate]) -> tuple[set[Key], set[str]]:
        """Block those of the claimed jobs for which there is no place.

        Returns:
            Their rows' keys, and the keys of which others, that have waited for longer, are to be let in.
        """
        if not terms:
            return set(), set()
        mine = Counter(term.key for term in terms)
        running = self._running(mine)
        taken = {key: running[key] - count for key, count in mine.items()}
        waiting = self._waiting_before([term for term in terms if taken[term.key] < term.most])
        over: set[Key] = set()
        full: dict[str, None] = {}
        passed: set[str] = set()
        for term in terms:
            ahead = sum(place < term.place for place in waiting.get((term.key, term.queue), ()))
            if taken[term.key] + ahead < term.most:
                taken[term.key] += 1
                continue
            over.add(term.row)
            if taken[term.key] < term.most:
                passed.add(term.key)
            else:
                full[term.key] = None
        if over:
            self._db.update(_BLOCK, [], over)
            for key in full:
                self._block_ready(key)
        return over, passed

    def _waiting_before(
        self, terms: Sequence[Candidate]
    ) -> dict[tuple[str, str], list[tuple[int, Key]]]:
        """The places of the first that wait in the keys and queues of these jobs."""
        places: dict[tuple[str, str], list[tuple[int, Key]]] = {}
        if not terms:
            return places
        waiting = {key for key, most in self._most({term.key for term in terms}) if most}
        for term in terms:
            if term.key in waiting and (term.key, term.queue) not in places:
                with self._db.connection.cursor() as cursor:
                    cursor.execute(
                        f"SELECT priority, id {_WAITING} AND queue = %s {_IN_ORDER}",
                        [term.key, term.queue, term.most],
                    )
                    found = [(-priority, id) for priority, id in cursor.fetchall()]
                places[term.key, term.queue] = found
        return places

    def _block_ready(self, key: str) -> None:
        rows = self._some(
            f"{READY} AND limit_per IS NULL {READY_IN_ORDER}", [key, key, BLOCK_BATCH]
        )
        if rows:
            self._db.update("state = 'blocked'", [], rows)

    def _most(self, keys: Iterable[str]) -> Sequence[Sequence[Any]]:
        """Each key with how many of it may run, by the first that wait; None where none waits."""
        return self._db.rows(
            "key, most",
            f"FROM (SELECT key, {_MOST} AS most FROM {self._db.listed('key')}) AS each",
            sorted(keys),
        )

    def _free_permits(self, keys: Collection[str]) -> dict[str, int]:
        """How many places are free for those that wait, by key."""
        waiting = {key: most for key, most in self._most(keys) if most} if keys else {}
        if not waiting:
            return {}
        running = self._running(waiting)
        left = {key: most - running[key] for key, most in waiting.items()}
        return {key: count for key, count in left.items() if count > 0}

    def unblock_keys(self, keys: Collection[str]) -> int:
        """Make the first that wait for each key ready, as many as there are places."""
        ids: list[Key] = []
        for key, count in self._free_permits(keys).items():
            with self._db.connection.cursor() as cursor:
                cursor.execute(_QUEUES, [key, key])
                queues = cursor.fetchall()
            # Of each queue: whoever serves the one may not serve the other.
            for (queue,) in queues:
                ids += self._some(f"{_WAITING} AND queue = %s {_IN_ORDER}", [key, queue, count])
        if ids:
            self._db.update("state = 'ready'", [], ids)
            self._db.notify()
        return len(ids)

    def _some(self, rest: str, values: list[Any]) -> list[Key]:
        """The first of some rows under one key; what others hold is passed over."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT id {rest}{self._db.skip_locked}", values)
            return [key for (key,) in cursor.fetchall()]
