"""Limits: how many jobs of a key run at once, and which jobs are unblocked when a permit becomes free.

A permit is a running row: there is no counter that a crash could leave wrong. A job over its limit is
`blocked`, with nothing else to wait for. The transaction in which a job of its key stops running unblocks the
first blocked jobs; they are `ready` then, and are counted when they are claimed. If a claimed job finds
longer-waiting jobs of its key, it becomes blocked and they become ready.

A transaction that counts or unblocks the jobs of a key holds the key's lock until its end. It takes all such
locks at once, in one order, after every row lock that it waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.records import Claimed
from djjp.engine.rows import TABLE, Key, stepping
from djjp.models import Flag

#: The number of ready jobs of a full key that are blocked at once: to claim them would have no effect.
BLOCK_BATCH = 2000
#: The number of keys that one query for blocked jobs reads.
KEY_BATCH = 500

_BLOCK = "state = 'blocked', consumer = NULL, started_at = NULL, attempts = attempts - 1"
_BLOCKED = f"FROM {TABLE} WHERE limit_key = {{}} AND waits_for = 0 AND state = 'blocked'"
_WAITING = _BLOCKED.format("%s")

# A new deployment can have changed the limit; rows keep the limit with which they were enqueued.
_MAX_RUNNING = f"(SELECT max(limit_max + 0) FROM (SELECT limit_max {_BLOCKED.format('key')} LIMIT 100) AS waiting)"

# From one queue, or key, to the next, each a step into the index.
_QUEUES = f"{stepping('queue', _WAITING)} SELECT queue FROM found WHERE queue IS NOT NULL"
_ALL = f"FROM {TABLE} WHERE limit_key IS NOT NULL AND waits_for = 0 AND state = 'blocked'"
_KEYS = f"""{stepping("limit_key", _ALL, " AND limit_key > %s")}
SELECT limit_key FROM found WHERE limit_key IS NOT NULL LIMIT {KEY_BATCH}"""

# In the order of the claim, queue by queue.
_IN_ORDER = "ORDER BY queue, priority DESC, id LIMIT %s"

# Jobs of a key, in a state that other indexes cover too. `>= key AND <= key`, not `=`: with `=` the planner
# ignores limit_key in ORDER BY, and may choose an index over all ready, or all running, jobs.
_OF_KEY = f"FROM {TABLE} WHERE limit_key >= {{key}} AND limit_key <= {{key}} AND waits_for = 0"
_ORDER_OF_KEY = "ORDER BY limit_key, queue, priority DESC, id"
READY = f"{_OF_KEY.format(key='%s')} AND state = 'ready'"
READY_IN_ORDER = f"{_ORDER_OF_KEY} LIMIT %s"
# A rate can have the same key; the jobs under it are not counted here.
_RUNNING = f"""(SELECT count(*) FROM (SELECT id {_OF_KEY.format(key="key")} AND state = 'running'
AND limit_per IS NULL {_ORDER_OF_KEY}) AS running)"""


class Candidate(NamedTuple):
    """A claimed job under a limit or rate: its key, and its position among the jobs of that key."""

    row: Key
    key: str
    limit_max: int  # the number of running jobs, or of starts under a rate
    per: float | None
    queue: str
    priority: int
    has_waited: bool  # whether it was throttled before, or has run before

    @property
    def position(self) -> tuple[int, Key]:
        """Return its position in its queue."""
        return -self.priority, self.row


class Limits:
    """Block jobs over their limit, and unblock them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def unblock(self, ended: Collection[UUID]) -> bool:
        """Unblock jobs that waited for these, which no longer run; this is the last step of a transaction."""
        freed = self.keys_released(ended)
        if freed:
            self._db.lock_keys(freed)
        return self.unblock_keys(freed) > 0

    def unblock_stranded(self, after: str) -> tuple[int, str | None]:
        """Unblock jobs that are blocked although a permit is free, for example because a running job was deleted.

        The query comes before any lock, because there is hardly ever such a job.

        Args:
            after: the key after which to start.

        Returns:
            The number of unblocked jobs, and the last key read, or None if no more keys can follow it.
        """
        with self._db.connection.cursor() as cursor:
            cursor.execute(_KEYS, [after])
            # SQLite keeps a key of another type as it is: a row by hand.
            keys = [key for (key,) in cursor.fetchall() if isinstance(key, str)]
        last = keys[-1] if len(keys) == KEY_BATCH else None
        open_keys = self._free_permits(keys)
        if not open_keys:
            return 0, last
        with self._db.transaction():
            self._db.lock_keys(open_keys)
            return self.unblock_keys(open_keys), last

    def candidates(self, jobs: Sequence[Claimed]) -> list[Candidate]:
        """Return the candidates for claimed jobs, in their order."""
        if not jobs:
            return []
        keys = self._db.keys(job.id for job in jobs)
        columns = "id, limit_key, limit_max, limit_per, queue, priority"
        rows = self._db.rows(columns, f"FROM {TABLE} WHERE {{ids}}", keys)
        found = {row[0]: row for row in rows if _is_limited(*row[1:4])}
        return [
            Candidate._make([*found[key], job.attempt > 1 or job.flags & Flag.THROTTLED > 0])
            for key, job in zip(keys, jobs, strict=True)
        ]

    def keys_released(self, ended: Collection[UUID]) -> set[str]:
        """Return the keys of those of these jobs that no longer run."""
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

    def block_over_limit(self, candidates: Sequence[Candidate]) -> tuple[set[Key], set[str]]:
        """Block those of the claimed jobs for which there is no permit.

        Returns:
            Their rows, and the limit keys whose longer waiting jobs must be unblocked.
        """
        if not candidates:
            return set(), set()
        mine = Counter(each.key for each in candidates)
        running = self._running(mine)
        in_use = {key: running[key] - count for key, count in mine.items()}
        waiting = self._waiting_before(
            [each for each in candidates if in_use[each.key] < each.limit_max]
        )
        over: set[Key] = set()
        full: dict[str, None] = {}
        passed: set[str] = set()
        for each in candidates:
            ahead = sum(
                position < each.position for position in waiting.get((each.key, each.queue), ())
            )
            if in_use[each.key] + ahead < each.limit_max:
                in_use[each.key] += 1
                continue
            over.add(each.row)
            if in_use[each.key] < each.limit_max:
                passed.add(each.key)
            else:
                full[each.key] = None
        if over:
            self._db.update(_BLOCK, [], over)
            for key in full:
                self._block_ready(key)
        return over, passed

    def _waiting_before(
        self, candidates: Sequence[Candidate]
    ) -> dict[tuple[str, str], list[tuple[int, Key]]]:
        """Return the positions of the first blocked jobs in the keys and queues of these jobs."""
        positions: dict[tuple[str, str], list[tuple[int, Key]]] = {}
        if not candidates:
            return positions
        waiting = {
            key
            for key, max_running in self._max_running({each.key for each in candidates})
            if max_running
        }
        for each in candidates:
            if each.key in waiting and (each.key, each.queue) not in positions:
                with self._db.connection.cursor() as cursor:
                    cursor.execute(
                        f"SELECT priority + 0, id {_WAITING} AND queue = %s {_IN_ORDER}",
                        [each.key, each.queue, each.limit_max],
                    )
                    found = [(-priority, id) for priority, id in cursor.fetchall()]
                positions[each.key, each.queue] = found
        return positions

    def _block_ready(self, key: str) -> None:
        rows = self._some(
            f"{READY} AND limit_per IS NULL {READY_IN_ORDER}", [key, key, BLOCK_BATCH]
        )
        if rows:
            self._db.update("state = 'blocked'", [], rows)

    def _max_running(self, keys: Iterable[str]) -> Sequence[Sequence[Any]]:
        """Return each key with its limit, by its first blocked jobs; None where no job is blocked."""
        return self._db.rows(
            "key, max_running",
            f"FROM (SELECT key, {_MAX_RUNNING} AS max_running FROM {self._db.listed('key')}) AS each",
            sorted(keys),
        )

    def _free_permits(self, keys: Collection[str]) -> dict[str, int]:
        """Return the number of permits that are free for blocked jobs, by key."""
        limits = self._max_running(keys) if keys else ()
        waiting = {key: max_running for key, max_running in limits if max_running}
        if not waiting:
            return {}
        running = self._running(waiting)
        left = {key: max_running - running[key] for key, max_running in waiting.items()}
        return {key: count for key, count in left.items() if count > 0}

    def unblock_keys(self, keys: Collection[str]) -> int:
        """Make the first blocked jobs of each key ready, one for each free permit; return their number."""
        ids: list[Key] = []
        for key, count in self._free_permits(keys).items():
            with self._db.connection.cursor() as cursor:
                cursor.execute(_QUEUES, [key, key])
                queues = cursor.fetchall()
            # Of each queue, because a consumer of one queue need not serve the other.
            for (queue,) in queues:
                ids += self._some(f"{_WAITING} AND queue = %s {_IN_ORDER}", [key, queue, count])
        if ids:
            self._db.update("state = 'ready'", [], ids)
            self._db.notify()
        return len(ids)

    def _some(self, rest: str, values: list[Any]) -> list[Key]:
        """Return the first of some rows under one key; skip rows that other transactions have locked."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT id {rest}{self._db.skip_locked}", values)
            return [key for (key,) in cursor.fetchall()]


def _is_limited(key: object, number: object, per: object) -> bool:
    """Return True, unless this is no limit and no rate, as in a row by hand."""
    span = per is None or (isinstance(per, (int, float)) and 0 < per < inf)
    if isinstance(key, str) and isinstance(number, int) and number > 0 and span:
        return True
    raise ValueError(
        f"its limit is none: limit_key {key!r}, limit_max {number!r}, limit_per {per!r}"
    )
