"""Timeline: the events in the life of a job, as far as its row and its failed attempts show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from djjp.durations import to_seconds
from djjp.models import FINISHED, Attempt, Job, State


class Event(NamedTuple):
    """An event in the life of a job.

    Attributes:
        kind: "enqueued", "due", "started", "failed" (an attempt), "rescued", "retried" (on request), or
            "ended" (the job).
        at: when; None where it is not recorded.
        attempt: the number of the attempt that started or failed; of "rescued", that of rescues; 0 for others.
        consumer: the consumer of the attempt; "" for others.
        exception_class: the class of the exception of a failed attempt; "" for others.
        row: the id of a failed attempt; 0 for others.
        after: the seconds since the event before; None where one of them has no time.
        is_future: it has not happened yet.
    """

    kind: str
    at: datetime | None
    attempt: int = 0
    consumer: str = ""
    exception_class: str = ""
    row: int = 0
    after: float | None = None
    is_future: bool = False


def timeline(job: Job, attempts: Sequence[Attempt], *, now: float) -> list[Event]:
    """Return the events of a job, the oldest first.

    Args:
        attempts: its latest failed attempts, oldest first. A number that does not grow shows a retry on request.
    """
    events = [Event("enqueued", job.created_at)]
    before = 0
    for each in attempts:
        if each.number <= before:
            events.append(Event("retried", None))
        before = each.number
        events.append(Event("started", each.started_at, each.number, each.consumer))
        events.append(
            Event(
                *("failed", each.finished_at, each.number, each.consumer, each.exception_class),
                row=each.pk or 0,
            )
        )
    if before > (job.attempts or 0):
        events.append(Event("retried", None))
        before = 0
    if job.rescues and job.rescues > 0:
        events.append(Event("rescued", None, job.rescues))
    events += _current(job, before)
    if job.run_after is not None:
        _insert(events, Event("due", job.run_after))
    return _with_spans(events, now)


def _current(job: Job, before: int) -> Iterable[Event]:
    """Return the start of the attempt that has not failed, and the end."""
    started = job.started_at
    if started is not None and (job.attempts or 0) > before and job.state not in _WAITING:
        yield Event("started", started, job.attempts, job.consumer or "")
    if job.state in FINISHED and job.finished_at is not None:
        yield Event("ended", job.finished_at)


# States in which the last start belongs to an attempt that has failed or was rescued.
_WAITING = (State.SCHEDULED, State.BLOCKED, State.READY)


def _insert(events: list[Event], due: Event) -> None:
    """Insert an event behind the last earlier event."""
    assert due.at is not None  # noqa: S101  (the caller has checked it)
    at = to_seconds(due.at)
    place = max(
        (
            number
            for number, event in enumerate(events)
            if event.at is not None and to_seconds(event.at) <= at
        ),
        default=0,
    )
    events.insert(place + 1, due)


def _with_spans(events: Sequence[Event], now: float) -> list[Event]:
    spanned: list[Event] = []
    last: float | None = None
    for event in events:
        at = None if event.at is None else to_seconds(event.at)
        after = None if at is None or last is None else max(0.0, at - last)
        last = at
        spanned.append(event._replace(after=after, is_future=at is not None and at > now))
    return spanned
