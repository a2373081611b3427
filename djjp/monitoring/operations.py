"""Operations: one verb for many jobs, which a list of ids or a filter names.

An operation on up to 1,000 jobs is done at once. What matches more becomes a row, on which consumers work beside
their turns: see `djjp.monitoring.operation_steps`. Each is a row of history.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import QuerySet

from djjp import engine
from djjp.bounds import LONGEST_QUEUE, require_priority, require_text, storable
from djjp.durations import to_datetime, to_seconds
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.jsontext import loads
from djjp.models import Consumer, Operation, Progression, Verb
from djjp.monitoring.filters import Filter
from djjp.monitoring.operation_choice import Choice
from djjp.monitoring.operation_steps import STEP, TAKEOVER, UNFINISHED, Worker, with_choice

__all__ = ["OperationInfo", "Preview", "get", "operations", "preview", "start", "stop", "work_off"]

#: The most jobs that a preview counts, and the number of them of which it gives reasons.
MOST_COUNTED, SAMPLE = 10_000, 300
#: Seconds for which matching jobs are counted; where this is too short, they are many.
COUNT_TIME = 0.2
# Seconds after its last heartbeat for which a consumer is taken for alive; between two reads of an operation; and
# for which a caller waits at most for the locks of others.
_ALIVE, _POLL, _LONGEST_WAIT = 15.0, 0.1, 10.0
_LONGEST_NAME = 200
_PLURALS = {"has": "have", "waits": "wait"}
_NUMBER = re.compile("[+-]?[0-9]{1,6}")


class OperationInfo(NamedTuple):
    """An operation as it was when it was read.

    Attributes:
        argument: the queue of "move", the number of "priority"; "" for other verbs.
        filter: the filter as text; None for an operation on a list of ids.
        matched: the number of jobs that were considered so far.
        done: the number of jobs to which it was done.
        skipped: the number of jobs that were left alone, by reason.
        error: why its last step failed; "" after a step that succeeded.
    """

    id: UUID
    verb: Verb
    argument: str
    filter: str | None
    state: Progression
    matched: int
    done: int
    skipped: dict[str, int]
    requested_by: str
    worker: str
    error: str
    created_at: datetime
    started_at: datetime | None
    worked_at: datetime | None
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Return whether nothing is done for it any more."""
        return self.state not in UNFINISHED


class Preview(NamedTuple):
    """The result of a preview: the jobs as they are now. `str()` returns it as a sentence.

    Attributes:
        matched: the number of jobs that match.
        has_more: whether more match than were counted.
        sampled: the number of these that were examined, all or some hundred.
        possible: the number of examined jobs to which the verb can be done.
        skipped: the number of examined jobs that would be left alone, by reason.
    """

    verb: Verb
    matched: int
    has_more: bool
    sampled: int
    possible: int
    skipped: dict[str, int]

    def __str__(self) -> str:
        text = f"{self.matched:,}{'+' if self.has_more else ''} match"
        if not self.skipped:
            return text
        if self.sampled < self.matched:
            text += f"; of {self.sampled:,} of them"
        left = self.sampled - self.possible
        return f"{text}; {left:,} cannot, because {listed(self.skipped)}"


def listed(skipped: dict[str, int]) -> str:
    """Return reasons as a text, the commonest first: "2 have not ended, 1 running"."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {_of(number, reason)}" for reason, number in ordered)


def _of(number: int, reason: str) -> str:
    """Return a reason as it is said of a number of jobs."""
    verb, space, rest = reason.partition(" ")
    return f"{_PLURALS.get(verb, verb) if number > 1 else verb}{space}{rest}"


# Ask for operations


def preview(
    verb: Verb | str,
    *,
    filter: Filter | None = None,
    ids: Iterable[UUID] | None = None,
    argument: str | int = "",
) -> Preview:
    """Return what an operation would do, in a bounded time; nothing is changed.

    Args:
        verb, filter, ids, argument: as `start` takes them.

    Raises:
        ValueError: the verb, its argument, or the choice of jobs is invalid.
        QueueUnavailable: the queue's database does not answer.
    """
    verb, text = _validated(verb, argument)
    wanted = Choice.of(filter, ids)

    def read(engine: Engine) -> Preview:
        found, has_more = wanted.first(engine, MOST_COUNTED, COUNT_TIME)
        # From the whole span, not its beginning: what was enqueued at one time often has one state.
        sample = found[:: -(-len(found) // SAMPLE)] if found else []
        tally = engine.bulk.preview(verb, sample, text)
        skipped = dict(tally.skipped)
        return Preview(verb, len(found), has_more, len(sample), tally.done, skipped)

    return engine.run(read)


def start(
    verb: Verb | str,
    *,
    filter: Filter | None = None,
    ids: Iterable[UUID] | None = None,
    argument: str | int = "",
    requested_by: str = "",
) -> OperationInfo:
    """Do a verb to up to 1,000 jobs at once; have consumers do it to more.

    Jobs that are enqueued later are left out. What cannot be done to a job is not done, and counted by its reason.

    Args:
        verb: `retry` (jobs that have ended), `cancel`, `run` (scheduled jobs, now), `move` (to a queue),
            `priority`, or `delete`.
        filter: the jobs, or
        ids: their ids.
        argument: the queue of `move`, the number of `priority`.
        requested_by: who asks for it: "admin:NAME", "cli:NAME" or "api:TOKEN".

    Raises:
        ValueError: the verb, its argument, or the choice of jobs is invalid.
        QueueUnavailable: the queue's database does not answer.
    """
    verb, text = _validated(verb, argument)
    wanted, worker = Choice.of(filter, ids), Worker()
    in_outboxes = 0
    if verb is Verb.CANCEL:
        wanted, in_outboxes = wanted.cancel_in_outboxes()
    operation = Operation(
        id=new_id(),
        verb=verb,
        argument=text,
        filter=str(wanted.filter or ""),
        ids=None if wanted.ids is None else json.dumps([each.hex for each in wanted.ids]),
        matched=in_outboxes,
        done=in_outboxes,
        requested_by=storable(requested_by, _LONGEST_NAME),
        created_at=to_datetime(time.time()),
    )

    def create(engine: Engine) -> bool:
        operation.until = wanted.last(engine)
        _, is_large = wanted.first(engine, STEP, COUNT_TIME)
        if not is_large:  # so that no consumer begins with it meanwhile
            operation.worker = worker.name
            operation.worked_at = to_datetime(engine.db.clock())
        # A call is made twice if its connection was lost.
        Operation.objects.using(engine.db.alias).bulk_create([operation], ignore_conflicts=True)
        return is_large

    is_large, until = engine.run(create), time.monotonic() + _LONGEST_WAIT
    while not is_large and time.monotonic() < until and not _read(operation.pk).has_ended:
        if not engine.run(lambda engine: worker.work(engine, operation.pk)):
            time.sleep(_POLL)
    return _read(operation.pk)


def stop(id: UUID) -> OperationInfo | None:
    """End an operation before its next step, unless it has ended; return it, or None if there is none.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """

    def end(engine: Engine) -> None:
        now = to_datetime(time.time())
        rows = Operation.objects.using(engine.db.alias).filter(pk=id, state__in=UNFINISHED)
        # A step in progress has locked the row, and is counted; the next one finds it stopped.
        with engine.db.transaction():
            rows.update(state=Progression.STOPPED, finished_at=now)

    engine.run(end)
    return get(id)


def work_off(
    id: UUID,
    *,
    timeout: float | None = None,
    on_step: Callable[[OperationInfo], object] = lambda info: None,
) -> OperationInfo | None:
    """Wait until an operation has ended, and work on it here while no consumer does; return it.

    Operations that were asked for earlier come first.

    Args:
        timeout: the longest wait, in seconds; None for no limit. The operation goes on.
        on_step: called with the operation each time it is read.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    worker, until = Worker(), None if timeout is None else time.monotonic() + timeout
    while (info := get(id)) is not None:
        on_step(info)
        left = _POLL if until is None else until - time.monotonic()
        if info.has_ended or left <= 0:
            break
        is_mine = info.worker == worker.name
        due = worker.due_at - time.monotonic()
        if due <= 0 and (is_mine or engine.run(partial(_is_left_alone, info))):
            engine.run(worker.work)
            continue
        time.sleep(min(left, due, _POLL) if due > 0 else min(left, _POLL))
    return info


def go_on(id: UUID, worker: str, *, time_limit: float) -> OperationInfo | None:
    """Work on an operation for a short time, if no consumer does; return it, or None if there is none.

    A caller that comes again goes on where it stopped. Operations that were asked for earlier come first.

    Args:
        worker: the name of the caller as a worker, the same each time.
        time_limit: the seconds after which it begins no further step.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    mine, until = Worker(worker), time.monotonic() + time_limit
    while (info := get(id)) is not None and not info.has_ended and mine.due_at < until:
        time.sleep(max(0.0, mine.due_at - time.monotonic()))
        if not engine.run(partial(_is_left_alone, info)) or not engine.run(mine.work):
            break
    return info


def _is_left_alone(info: OperationInfo, engine: Engine) -> bool:
    """Return whether no consumer lives, or none has worked on an operation for a while."""
    now = time.time()
    if now - to_seconds(info.worked_at or info.created_at) >= TAKEOVER:
        return True
    alive = to_datetime(now - _ALIVE)
    return not Consumer.objects.using(engine.db.alias).filter(heartbeat_at__gte=alive).exists()


def get(id: UUID) -> OperationInfo | None:
    """Return an operation; None if there is none.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    found = engine.run(lambda engine: list(_rows(engine).filter(pk=id)))
    return _info(found[0]) if found and _is_known(found[0]) else None


def operations(*, limit: int = 50, before: UUID | None = None) -> list[OperationInfo]:
    """Return the newest operations. They are kept for 30 days after their end, the newest 1,000 of them.

    Args:
        limit: the number of operations to return at most.
        before: only operations older than the one with this id, as the last of a list; None for all.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """

    def read(engine: Engine) -> list[Operation]:
        rows = _rows(engine) if before is None else _rows(engine).filter(pk__lt=before)
        return list(rows.order_by("-pk")[:limit])

    return [_info(row) for row in engine.run(read) if _is_known(row)]


def _read(id: UUID) -> OperationInfo:
    """Return an operation that was just written: one that has not ended is kept."""
    info = get(id)
    if info is None:
        raise LookupError(f"there is no operation {id}")
    return info


def _rows(engine: Engine) -> QuerySet[Operation]:
    """Return the operations without their ids, of which one can have 100,000."""
    return with_choice(Operation.objects.using(engine.db.alias))


def _is_known(row: Operation) -> bool:
    """Return whether this version has the verb and the state of a row; of one by hand neither can be shown."""
    return row.verb in Verb and row.state in Progression


# What a row has in place of NULL, which only the table of another version can have.
_EMPTY: dict[str, Any] = {
    **dict.fromkeys(("argument", "filter", "requested_by", "worker", "error"), ""),
    **dict.fromkeys(("matched", "done"), 0),
}


def _info(row: Operation) -> OperationInfo:
    given: dict[str, Any] = {name: getattr(row, name) for name in OperationInfo._fields}
    given |= {name: empty for name, empty in _EMPTY.items() if given[name] is None}
    given["filter"] = None if row.has_ids else row.filter  # type: ignore[attr-defined]  # see `_rows`
    given |= {"verb": Verb(row.verb), "state": Progression(row.state)}
    return OperationInfo(**given | {"skipped": _skipped(row)})


def _skipped(row: Operation) -> dict[str, int]:
    """Return the numbers of jobs that were left alone; none of a row by hand that has none."""
    found = loads(row.skipped)
    given = found if isinstance(found, dict) else {}
    return {reason: number for reason, number in given.items() if isinstance(number, int)}


def _validated(verb: Verb | str, argument: str | int) -> tuple[Verb, str]:
    """Return the verb, and its argument as text."""
    if verb not in Verb:
        raise ValueError(f"the verb is {verb!r}; it must be one of {', '.join(Verb)}")
    verb = Verb(verb)
    if verb is Verb.MOVE:
        require_text("the queue", argument, LONGEST_QUEUE)
    elif verb is Verb.PRIORITY:
        is_number = isinstance(argument, str) and _NUMBER.fullmatch(argument) is not None
        require_priority("the priority", int(argument) if is_number else argument)
        argument = int(argument)
    elif argument != "":
        raise ValueError(f"the argument is {argument!r}; {verb} takes none")
    return verb, str(argument)
