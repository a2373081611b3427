"""Outboxes: the calls that wait in one of them for their relay, and those that the queue refuses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.db import Error as DatabaseError

from djjp import call_options
from djjp.durations import to_datetime
from djjp.ids import made_at
from djjp.monitoring.jobs import Count
from djjp.outbox import serialization, table

#: The number at which the rows that wait are counted no further.
MOST_COUNTED = 10_000
#: The characters of the calls that are read at most: longer ones are listed without their names.
MOST_CHARACTERS = 1_000_000


class WaitingCall(NamedTuple):
    """A job, or a pipeline, that waits for its relay.

    Attributes:
        name, queue: those of its first job; "" where the row was not read, or is damaged.
        jobs: the number of its jobs; 0 where that is not known.
        tags: those of its first job.
        arguments: those of its first job, as the codec's JSON text; None where that is not known.
        flags: those of its first job.
        cancelled: whether it was cancelled: it enters the queue as a cancelled job.
        problem: why the row cannot be read; "" if it can.
    """

    id: UUID
    enqueued_at: datetime
    name: str
    queue: str
    jobs: int
    tags: list[str]
    arguments: str | None
    flags: int
    cancelled: bool
    problem: str


class RefusedCall(NamedTuple):
    """A row that is set aside, because the queue refuses it.

    Attributes:
        key: its id, unless that is the problem.
        enqueued_at: None where the row has no time that can be read; `enqueued` is its text.
        name: that of its first job; "" where the row was not read, or is damaged.
        problem: why the queue refuses it.
    """

    key: UUID | str
    enqueued_at: datetime | None
    enqueued: str
    name: str
    problem: str


class Outbox(NamedTuple):
    """An outbox.

    Attributes:
        waiting: the number of calls that wait for their relay.
        oldest_wait: the seconds for which the first of them has waited; None without one.
        calls: the first of them.
        set_aside: the first rows that the queue refuses.
        error: why its database does not answer; "" if it does.
    """

    alias: str
    waiting: Count
    oldest_wait: float | None
    calls: list[WaitingCall]
    set_aside: list[RefusedCall]
    error: str


def outbox(alias: str, *, limit: int = 50) -> Outbox:
    """Return what waits in an outbox.

    Args:
        alias: one of `djjp.outbox.table.outboxes()`.
        limit: the number of calls, and of rows that are set aside, to return at most.
    """
    try:
        waiting = table.count_waiting(alias, MOST_COUNTED + 1)
        oldest = table.oldest(alias)
        calls = _calls(alias, table.waiting(alias, None, limit)) if waiting else []
        set_aside = _refused(alias, table.rows_set_aside(alias, limit))
    except DatabaseError as error:
        return Outbox(alias, Count(0, is_exact=False), None, [], [], str(error))
    return Outbox(
        alias,
        Count(min(waiting, MOST_COUNTED), is_exact=waiting <= MOST_COUNTED),
        None if oldest is None else max(0.0, time.time() - oldest),
        calls,
        set_aside,
        "",
    )


def _calls(alias: str, waiting: Sequence[table.Waiting]) -> list[WaitingCall]:
    wanted, characters = [], 0
    for each in waiting:
        characters += each.size
        if characters > MOST_CHARACTERS:
            break
        wanted.append(each.id)
    rows = {row.id: row for row in table.read(alias, wanted)} if wanted else {}
    return [_call(each, rows.get(each.id)) for each in waiting]


def _refused(alias: str, rows: Sequence[table.SetAside]) -> list[RefusedCall]:
    wanted, characters = [], 0
    for row in rows:
        characters += row.size
        if isinstance(row.key, UUID) and characters <= MOST_CHARACTERS:
            wanted.append(row.key)
    texts: dict[UUID | str, str] = {}
    if wanted:
        texts = {row.id: row.text for row in table.read(alias, wanted)}
    return [
        RefusedCall(
            row.key, _time(row.enqueued), row.enqueued, _name(texts.get(row.key)), row.problem
        )
        for row in rows
    ]


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:  # of a row by hand
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _name(text: str | None) -> str:
    if text is None:
        return ""
    try:
        unit = serialization.from_text(text)
        serialization.validate(unit)
        return serialization.steps_of(unit)[0].name
    except ValueError:
        return ""


def _call(waiting: table.Waiting, row: table.Row | None) -> WaitingCall:
    enqueued_at = to_datetime(min(made_at(waiting.id), time.time()))
    if row is None:
        return WaitingCall(
            waiting.id, enqueued_at, "", "", 0, [], None, 0, cancelled=False, problem=""
        )
    try:
        unit = serialization.from_text(row.text)
        serialization.validate(unit)
        jobs = serialization.steps_of(unit)
    except ValueError as error:
        return WaitingCall(
            waiting.id,
            enqueued_at,
            "",
            "",
            0,
            [],
            None,
            0,
            row.cancelled,
            row.problem or str(error),
        )
    first = jobs[0]
    return WaitingCall(
        waiting.id,
        enqueued_at,
        first.name,
        first.queue,
        len(jobs),
        call_options.tags_of(first.options),
        first.arguments,
        first.flags,
        row.cancelled,
        row.problem or "",
    )
