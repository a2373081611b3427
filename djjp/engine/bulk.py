"""Bulk: one verb for many jobs, with the rules of the single verbs; the jobs left alone are counted by reason.

The rows that a verb can change are locked first, so that the reasons and the change are about the same states.
What a job's state, its unique key or its pipeline does not allow is never forced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from django.db import IntegrityError

from djjp.engine.control import Control
from djjp.engine.database import Database
from djjp.engine.pruning import Pruning
from djjp.engine.rows import TABLE, Key
from djjp.engine.search import Search
from djjp.engine.sources import Wanted
from djjp.engine.unique_keys import UniqueKeys
from djjp.models import FINISHED, Flag, State, Verb

NOT_FOUND = "not found"
RUNNING = "running"
ENDED = "has ended"
NOT_ENDED = "has not ended"
CHANGED = "changed by others meanwhile"
KEY_IS_HELD = "unique key is held by a live job"
NO_FAILURE = "part of a pipeline of which no job has failed"
IS_CANCELLING = "being cancelled already"
IS_READY = "ready already"
HAS_PARENTS = "waits for other jobs of its pipeline"
WAITS_FOR_PERMIT = "waits for a permit of its limit"
WAITS_FOR_RATE = "waits for its rate"
IN_QUEUE = "in this queue already"
HAS_PRIORITY = "has this priority already"


def _number(column: str) -> str:
    return f"CAST(coalesce({column}, 0) AS integer)"


# As text and whole numbers: SQLite keeps other types in rows by hand, which its JSON cannot have.
_COLUMNS = (
    f"id, state || '', {_number('flags')}, queue || '', {_number('priority')}, {_number('waits_for')},"
    f" {_number('attempts')}, cancel_requested, unique_key || '', input IS NULL"
)


class _Row(NamedTuple):
    """The values of a job by which a verb is possible or not."""

    key: Key
    state: str
    flags: int
    queue: str
    priority: int
    waits_for: int
    attempts: int
    cancel_requested: bool
    unique_key: str | None
    has_no_input: bool


class Tally(NamedTuple):
    """The number of jobs for which a verb was done, or is possible, and of the others by reason."""

    done: int
    skipped: Counter[str]


_Obstacle = Callable[[_Row, str], str | None]


def _retry_obstacle(row: _Row, _: str) -> str | None:
    if row.state not in FINISHED:
        return RUNNING if row.state == State.RUNNING else NOT_ENDED
    # An `on_failure` job that no failure has called has no input to run with.
    return NO_FAILURE if row.flags & Flag.ON_FAILURE and row.has_no_input else None


def _cancel_obstacle(row: _Row, _: str) -> str | None:
    if row.state in FINISHED:
        return ENDED
    return IS_CANCELLING if row.state == State.RUNNING and row.cancel_requested else None


def _run_obstacle(row: _Row, _: str) -> str | None:
    if row.state == State.SCHEDULED:
        # The claim would only throttle it anew: its rate decides when it starts.
        is_throttled = row.flags & Flag.THROTTLED and row.attempts == 0
        return WAITS_FOR_RATE if is_throttled else None
    if row.state == State.BLOCKED:
        return HAS_PARENTS if row.waits_for else WAITS_FOR_PERMIT
    return IS_READY if row.state == State.READY else _not_waiting(row)


def _move_obstacle(row: _Row, queue: str) -> str | None:
    return _not_waiting(row) or (IN_QUEUE if row.queue == queue else None)


def _priority_obstacle(row: _Row, priority: str) -> str | None:
    return _not_waiting(row) or (HAS_PRIORITY if row.priority == int(priority) else None)


def _not_waiting(row: _Row) -> str | None:
    if row.state in FINISHED:
        return ENDED
    return RUNNING if row.state == State.RUNNING else None


def _delete_obstacle(row: _Row, _: str) -> str | None:
    return RUNNING if row.state == State.RUNNING else None


_OBSTACLES: Mapping[Verb, _Obstacle] = {
    Verb.RETRY: _retry_obstacle,
    Verb.CANCEL: _cancel_obstacle,
    Verb.RUN: _run_obstacle,
    Verb.MOVE: _move_obstacle,
    Verb.PRIORITY: _priority_obstacle,
    Verb.DELETE: _delete_obstacle,
}
_WAITING = "state IN ('scheduled', 'blocked', 'ready')"
# The jobs that a verb can change, and therefore locks.
_LOCKED: Mapping[Verb, str] = {
    Verb.RETRY: "state IN ('succeeded', 'failed', 'cancelled')",
    Verb.CANCEL: "state IN ('scheduled', 'blocked', 'ready', 'running')",
    # Not the scheduled ones alone: PostgreSQL could look each job up in the index over all of these.
    Verb.RUN: _WAITING,
    Verb.MOVE: _WAITING,
    Verb.PRIORITY: _WAITING,
    Verb.DELETE: "state <> 'running'",
}


class Bulk:
    """Do a verb to many jobs, which consumers can be running at the same time."""

    def __init__(
        self,
        db: Database,
        control: Control,
        unique_keys: UniqueKeys,
        pruning: Pruning,
        search: Search,
    ) -> None:
        self._db = db
        self._control = control
        self._unique_keys = unique_keys
        self._pruning = pruning
        self._search = search

    def do(
        self,
        verb: Verb,
        ids: Collection[UUID],
        argument: str,
        now: float,
        wanted: Wanted | None = None,
    ) -> Tally:
        """Do a verb to these jobs in one transaction, or in the open one; each id counts once.

        Args:
            argument: the queue of "move", the number of "priority"; "" for other verbs.
            wanted: what the jobs must meet also once they are locked: they were found before.
        """
        for last in (False, False, True):
            try:
                with self._db.transaction():
                    given = sorted(set(ids))
                    return self._do(verb, given, argument, now, wanted, drops_keys=last)
            except IntegrityError:  # another job took a key in between
                if last:
                    raise
        raise AssertionError  # not reached: the last round returns or raises

    def preview(self, verb: Verb, ids: Collection[UUID], argument: str) -> Tally:
        """Return what `do` would do now, without a lock."""
        keys = self._db.keys(sorted(set(ids)))
        rows = self._read(keys)
        possible, skipped = self._judge(verb, rows, argument)
        return Tally(len(possible), skipped + Counter({NOT_FOUND: len(keys) - len(rows)}))

    def existing(self, ids: Iterable[UUID]) -> set[UUID]:
        """Return those of these ids that jobs in the queue have."""
        rest = f"FROM {TABLE} WHERE {{ids}}"
        return {self._db.to_uuid(key) for (key,) in self._db.rows("id", rest, self._db.keys(ids))}

    def has_running(self) -> bool:
        """Return whether any consumer runs a job."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {TABLE} WHERE state = 'running')")
            (found,) = cursor.fetchone()
        return bool(found)

    def last_id(self) -> UUID | None:
        """Return the greatest id of a job."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM {TABLE} ORDER BY id DESC LIMIT 1")
            found = cursor.fetchone()
        return None if found is None else self._db.to_id(found[0])

    def _do(
        self,
        verb: Verb,
        ids: Collection[UUID],
        argument: str,
        now: float,
        wanted: Wanted | None,
        *,
        drops_keys: bool,
    ) -> Tally:
        keys = self._db.keys(ids)
        locked = self._rows(self._db.lock_rows(_COLUMNS, _LOCKED[verb], keys)) if keys else []
        there = {row.key for row in locked}
        met = there if wanted is None or not there else self._search.matching([*there], wanted)
        possible, skipped = self._judge(verb, (row for row in locked if row.key in met), argument)
        skipped[CHANGED] += len(there) - len(met)
        others = self._read([key for key in keys if key not in there])
        for row in others:
            # What seems possible now has become so after the lock.
            skipped[self._obstacle(verb, row, argument) or CHANGED] += 1
        skipped[NOT_FOUND] += len(keys) - len(locked) - len(others)
        if possible and verb is Verb.RETRY:
            # The jobs keep their keys, which are free. That of a parent, which is retried too, can be the same.
            self._control.retry_once(self._ids(possible), keeps_keys=not drops_keys)
        elif possible:
            self._change(verb, possible, argument, now)
        return Tally(len(possible), +skipped)

    def _change(self, verb: Verb, rows: Collection[_Row], argument: str, now: float) -> None:
        if verb is Verb.CANCEL:
            self._control.cancel(self._ids(rows), now)
        elif verb is Verb.DELETE:
            self._pruning.delete(self._ids(rows))
        else:
            keys = [row.key for row in rows]
            if verb is Verb.RUN:
                self._db.update("state = 'ready', run_after = NULL", [], keys)
            elif verb is Verb.MOVE:
                self._db.update("queue = %s", [argument], keys)
            else:
                self._db.update("priority = %s", [int(argument)], keys)
            self._db.notify()

    # Reasons

    def _judge(
        self, verb: Verb, rows: Iterable[_Row], argument: str
    ) -> tuple[list[_Row], Counter[str]]:
        """Return the jobs for which a verb is possible, and the number of the others by reason."""
        skipped = Counter[str]()
        possible: list[_Row] = []
        for row in rows:
            if (obstacle := self._obstacle(verb, row, argument)) is None:
                possible.append(row)
            else:
                skipped[obstacle] += 1
        return self._without_kept(verb, possible, skipped), skipped

    def _obstacle(self, verb: Verb, row: _Row, argument: str) -> str | None:
        return NOT_FOUND if row.flags & Flag.UNLISTED else _OBSTACLES[verb](row, argument)

    def _without_kept(self, verb: Verb, rows: list[_Row], skipped: Counter[str]) -> list[_Row]:
        """Leave out the jobs that a key, or another row, keeps as they are."""
        kept: dict[Key, str] = {}
        if verb is Verb.RETRY:
            kept = self._without_key(rows)
        elif verb is Verb.DELETE and rows:
            kept = self._pruning.kept([row.key for row in rows])
        skipped.update(kept.values())
        return [row for row in rows if row.key not in kept]

    def _without_key(self, rows: Iterable[_Row]) -> dict[Key, str]:
        """Return the jobs whose unique key is another job's: of several with one key the first takes it."""
        unique = [row for row in rows if row.unique_key is not None]
        if not unique:
            return {}
        taken = {*self._unique_keys.holders({row.unique_key for row in unique})}
        kept: dict[Key, str] = {}
        for row in sorted(unique, key=lambda row: row.key):
            if row.unique_key in taken:
                kept[row.key] = KEY_IS_HELD
            taken.add(row.unique_key)
        return kept

    def _read(self, keys: Collection[Key]) -> list[_Row]:
        rest = f"FROM {TABLE} WHERE {{ids}}"
        return self._rows(self._db.rows(_COLUMNS, rest, keys)) if keys else []

    def _ids(self, rows: Iterable[_Row]) -> list[UUID]:
        return [self._db.to_uuid(row.key) for row in rows]

    def _rows(self, rows: Iterable[Iterable[Any]]) -> list[_Row]:
        return [_Row._make(row) for row in rows]
