"""Jobs that are enqueued but not yet visible in the queue: find one by id, or cancel it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.db import Error as DatabaseError

from djjp import conf, engine
from djjp.bounds import one_line
from djjp.durations import to_datetime
from djjp.engine import Engine, NewPipeline
from djjp.exceptions import OutboxUnavailable, QueueUnavailable
from djjp.models import Job, State
from djjp.outbox import relay, serialization, table, transactions
from djjp.outbox.table import Row

_AT_ONCE = 500


class Pending(NamedTuple):
    """A job in an outbox: the alias of its database, the job as the queue will store it, and its row."""

    alias: str
    job: Job
    row: Row


def locate(id: UUID) -> Pending | None:
    """Return a job from an outbox; None if no outbox has it.

    Raises:
        OutboxUnavailable: an outbox does not answer, and no other has it.
    """
    unanswered: list[OutboxUnavailable] = []
    for alias in table.outboxes():
        with _noting(unanswered, alias):
            for row in table.read(alias, [id]):
                return Pending(alias, _unsaved_job(row, id), row)
    if unanswered:
        raise unanswered[0]
    return None


def find(id: UUID) -> Job | None:
    """Return a job from an outbox, as the queue will store it; None if no outbox has it. It raises as `locate`."""
    found = locate(id)
    return None if found is None else found.job


def cancel(id: UUID, in_queue: Callable[[], int]) -> None:
    """Cancel the job or pipeline with this id, in the queue or in an outbox.

    In an outbox the row is marked, inside a transaction of its database with the data: the cancellation
    commits or vanishes as they do. A relay that has read the row before does not miss the mark: see `relay`.

    Args:
        in_queue: cancels it in the queue; returns the number of jobs that this has cancelled.

    Raises:
        OutboxUnavailable: an outbox does not answer, and neither the queue nor another outbox has it.
    """
    if in_queue():
        return
    unanswered: list[OutboxUnavailable] = []
    for alias in table.outboxes():
        with _noting(unanswered, alias):
            if _mark(alias, id):
                return
    # A relay may have taken it from the outbox into the queue meanwhile. If none was cancelled, it may have ended.
    if not in_queue() and unanswered and not engine.run(partial(_has, id)):
        raise unanswered[0]


def has_outboxes() -> bool:
    """Return whether jobs can be in an outbox."""
    return bool(table.outboxes())


def cancel_waiting(ids: Sequence[UUID]) -> set[UUID]:
    """Cancel those of these jobs and pipelines that are in an outbox, as `cancel` does; return their ids.

    Raises:
        OutboxUnavailable: an outbox does not answer; what the others have is cancelled.
    """
    cancelled: set[UUID] = set()
    unanswered: list[OutboxUnavailable] = []
    for alias in table.outboxes():
        with _noting(unanswered, alias):
            for start in range(0, len(ids), _AT_ONCE):
                found = table.existing(alias, ids[start : start + _AT_ONCE])
                cancelled |= {id for id in sorted(found) if _mark(alias, id)}
    if unanswered:
        raise unanswered[0]
    return cancelled


@contextmanager
def _noting(unanswered: list[OutboxUnavailable], alias: str) -> Iterator[None]:
    """Add to a list that an outbox does not answer, in place of its driver's error."""
    try:
        yield
    except DatabaseError as error:
        unavailable = OutboxUnavailable(
            f"the outbox of {alias!r} does not answer, and the job may be there: {one_line(str(error))}"
        )
        unavailable.__cause__ = error
        unanswered.append(unavailable)


def _has(id: UUID, engine: Engine) -> bool:
    jobs = Job.objects.using(engine.db.alias)
    return jobs.filter(pk=id).exists() or jobs.filter(pipeline=id).exists()


def _mark(alias: str, id: UUID) -> bool:
    """Mark a row as cancelled, and relay it at once if the mark is committed; return False if there is none."""
    if not table.cancel(alias, id):
        return False
    if not any(map(transactions.is_open, (alias, conf.current().db_name))):
        with suppress(QueueUnavailable, relay.Stale):  # a sweep relays it then
            relay.relay(alias, [id])
    return True


def _unsaved_job(row: Row, id: UUID) -> Job:
    """Build a `Job` that is not saved: for a pipeline its last job, for a group its first."""
    columns = {field.name for field in Job._meta.concrete_fields}
    try:
        job = serialization.from_text(row.text)
        serialization.validate(job)
    except ValueError as error:
        return Job(id=id, reason=row.problem or str(error))
    if isinstance(job, NewPipeline):
        job = next((each for each in reversed(job.jobs) if each.id == id), job.jobs[0])
    values: dict[str, Any] = {
        name: value for name, value in job._asdict().items() if name in columns
    }
    for name in ("run_after", "created_at"):
        if values[name] is not None:
            values[name] = to_datetime(values[name])
    if row.cancelled:
        values.update(state=State.CANCELLED, reason="cancelled on request")
    return Job(**values if row.problem is None else values | {"reason": row.problem})
