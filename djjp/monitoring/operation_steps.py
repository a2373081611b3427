"""The steps of operations: one worker at a time does a verb to the next jobs, and records it in one transaction.

A step begins after the id at which the last one has ended, and moves that position on. So a step that a kill
interrupts has changed nothing, and one that is committed is never done again, also after a takeover. Operations
are worked off one after the other, in the order of their ids: two at once would only slow down turns twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import socket
import time
from bisect import bisect_right
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet

from djjp.bounds import one_line, storable
from djjp.durations import to_datetime, to_seconds
from djjp.engine import Engine, Refusal
from djjp.models import Operation, Progression, Verb
from djjp.monitoring.filters import Filter
from djjp.monitoring.jobs import walk
from djjp.monitoring.search import conditions_of

logger = logging.getLogger("djjp.operations")

UNFINISHED = (Progression.WAITING, Progression.RUNNING)

#: The most jobs of one step, the jobs of a worker's first one, and the fewest: on a busy machine most of a step's
#: time does not depend on their number.
STEP, FIRST_STEP, SHORTEST_STEP = 1000, 500, 500
#: Seconds that the transaction of a step should take: on SQLite the turns of all consumers wait for its lock.
STEP_TIME = 0.1
#: The pause after a step, as a multiple of the step's time, so that turns keep most of the time; and that while no
#: consumer runs a job.
PAUSE, SHORT_PAUSE = 5.0, 0.5
#: The longest pause, in seconds.
LONGEST_PAUSE = 2.0
#: Seconds for which a step looks for jobs of a filter that no index has.
SEARCH_TIME = 0.05
#: Seconds between two searches for operations, and after an error.
SEARCH_EVERY = 1.0
#: Seconds after its last step from which on another worker takes an operation over.
TAKEOVER = 5.0
#: Operations that are kept once they have ended: their number, and for how long.
KEPT, KEEP = 1000, timedelta(days=30)
_LONGEST_ERROR = 1000


class Worker:
    """Works operations off, a step at a time.

    Args:
        name: its name, which no other worker has; None for a new one.

    Attributes:
        due_at: the time, by the monotonic clock, of its next step, or of its next search for operations.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(8)}"
        self._rows = FIRST_STEP
        self.due_at = 0.0
        # The ids of the operation in progress: they can be 100,000.
        self._ids: tuple[UUID, list[UUID]] | None = None

    def stop(self) -> None:
        """Do no further step: another worker takes the operation over."""
        self.due_at = math.inf

    def work(self, engine: Engine, id: UUID | None = None) -> bool:
        """Do the next step of the first operation, if no other worker does; return whether a step was done.

        Args:
            id: of this operation instead of the first one.
        """
        self.due_at = time.monotonic() + SEARCH_EVERY
        operation = self._next(engine, id)
        if operation is None:
            return False
        try:
            took = self._step(engine, operation)
        except Exception as error:
            refusal = engine.db.classify(error)
            if refusal.is_outage:
                raise
            if refusal is Refusal.CONTENT:
                self._fail(engine, operation, error)
            return False
        if took is None:
            return False
        pause = PAUSE if engine.bulk.has_running() else SHORT_PAUSE
        self.due_at = time.monotonic() + min(took * pause, LONGEST_PAUSE)
        return True

    def _next(self, engine: Engine, id: UUID | None) -> Operation | None:
        """Return the operation to work on, without its ids; None while another worker has it."""
        unfinished = Operation.objects.using(engine.db.alias).filter(state__in=UNFINISHED)
        if id is not None:
            unfinished = unfinished.filter(pk=id)
        # Asked each second, which is quicker than to look for a whole row.
        if not unfinished.exists():
            return None
        operation = with_choice(unfinished).order_by("pk").first()
        if operation is None or operation.worker in ("", self.name) or operation.worked_at is None:
            return operation
        idle = engine.db.clock() - to_seconds(operation.worked_at)
        # A time of the future was written while a clock was ahead.
        return operation if not 0 <= idle < TAKEOVER else None

    def _step(self, engine: Engine, operation: Operation) -> float | None:
        """Do a step; return the seconds that it took, or None if the operation is no longer this worker's.

        The wait for the locks of others is not among them.
        """
        began = time.monotonic()
        wanted = None
        if operation.has_ids:  # type: ignore[attr-defined]  # see `with_choice`
            ids, at = self._given(operation)
        else:
            wanted = Filter.parse(operation.filter)
            ids, at = walk(
                wanted, operation.at, operation.until, self._rows, time_limit=SEARCH_TIME
            )
        took = time.monotonic() - began
        with engine.db.transaction():
            began = time.monotonic()
            if not self._hold(engine, operation):
                return None
            conditions = None if wanted is None else conditions_of(wanted)
            verb, argument = Verb(operation.verb), operation.argument
            tally = engine.bulk.do(verb, ids, argument, time.time(), conditions)
            is_last = at is None
            self._row(engine, operation).update(
                at=operation.until if at is None else at,
                matched=F("matched") + len(ids),
                done=F("done") + tally.done,
                skipped=json.dumps(Counter(json.loads(operation.skipped)) + tally.skipped),
                state=Progression.DONE if is_last else Progression.RUNNING,
                finished_at=to_datetime(time.time()) if is_last else None,
                error="",
            )
        held = time.monotonic() - began
        self._rows = max(SHORTEST_STEP, min(STEP, int(self._rows * min(2.0, STEP_TIME / held))))
        return took + held

    def _given(self, operation: Operation) -> tuple[list[UUID], UUID | None]:
        """Return the next of the ids that were given, and the last of them; None if no others follow."""
        if self._ids is None or self._ids[0] != operation.pk:
            # Read now, because the column was deferred.
            self._ids = operation.pk, [*map(UUID, json.loads(operation.ids or "[]"))]
        ids = self._ids[1]
        start = 0 if operation.at is None else bisect_right(ids, operation.at)
        found = ids[start : start + self._rows]
        return found, found[-1] if start + len(found) < len(ids) else None

    def _hold(self, engine: Engine, operation: Operation) -> bool:
        """Take the operation for one step; return whether it is as it was read, and can go on.

        The row stays locked until the step is committed.
        """
        unfinished = self._row(engine, operation).filter(state__in=UNFINISHED)
        here = Q(at__isnull=True) if operation.at is None else Q(at=operation.at)
        held = unfinished.filter(here, worker=operation.worker).update(
            state=Progression.RUNNING,
            worker=self.name,
            worked_at=to_datetime(engine.db.clock()),
            started_at=operation.started_at or to_datetime(time.time()),
        )
        return held > 0

    def _fail(self, engine: Engine, operation: Operation, error: Exception) -> None:
        """Record an error, which ends the operation if its last step has failed already."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        changes: dict[str, Any] = {"error": storable(one_line(text), _LONGEST_ERROR)}
        if operation.error:
            changes |= {"state": Progression.FAILED, "finished_at": to_datetime(time.time())}
        with engine.db.transaction():
            if not self._hold(engine, operation):
                return
            self._row(engine, operation).update(**changes)
        if operation.error:
            logger.error("operation %s has failed: %s (%s)", operation.pk, operation.verb, text)

    def _row(self, engine: Engine, operation: Operation) -> QuerySet[Operation]:
        return Operation.objects.using(engine.db.alias).filter(pk=operation.pk)


def with_choice(operations: QuerySet[Operation]) -> QuerySet[Operation]:
    """Return operations without their ids, but with `has_ids`: whether they are on a list of them."""
    has_ids = ExpressionWrapper(Q(ids__isnull=False), BooleanField())
    return operations.annotate(has_ids=has_ids).defer("ids")


def prune(engine: Engine) -> int:
    """Delete operations that have ended and are too old, or too many; return their number."""
    ended = Operation.objects.using(engine.db.alias).exclude(state__in=UNFINISHED)
    # By the earlier of two clocks: one of them can be ahead.
    now = min(time.time(), engine.db.clock())
    old = Q(finished_at__lt=to_datetime(now - KEEP.total_seconds()))
    for last in ended.order_by("-pk").values_list("pk", flat=True)[KEPT : KEPT + 1]:
        old |= Q(pk__lte=last)
    deleted, _ = ended.filter(old).delete()
    return deleted
