"""Failures: failed attempts, grouped by job, exception and the place in the project's code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple
from uuid import UUID

from djjp import engine
from djjp.durations import to_datetime
from djjp.engine import Engine, FailedAttempt
from djjp.models import Attempt
from djjp.monitoring.filters import Filter
from djjp.monitoring.frames import Frame, innermost
from djjp.monitoring.search import SECONDS, adapted, conditions_of

#: The attempts that are read at most, those of one step at most, and the parts of the time of a group's counts.
MOST, STEP, BUCKETS = 50_000, 2_000, 24
_FIRST_STEP = 100


@dataclass(frozen=True)
class FailureGroup:
    """Failed attempts that are alike.

    Attributes:
        name: the name of the job.
        exception_class: the dotted name of the exception's class.
        frame: the innermost frame of the project's code; None if the traceback has none.
        count: the number of attempts.
        newest: when the last one failed.
        oldest: when the first one failed.
        example: the id of the job that failed last.
        message: the message of its exception.
        counts: the number of attempts in each of 24 equal parts of the time, the oldest first.
    """

    name: str
    exception_class: str
    frame: Frame | None
    count: int
    newest: datetime
    oldest: datetime
    example: UUID
    message: str
    counts: list[int]


class Failures(NamedTuple):
    """Groups of failed attempts within a time, the largest first.

    Attributes:
        looked_back_to: the time to which the search had come when it ended before its end; None if it has not.
    """

    groups: list[FailureGroup]
    since: datetime
    until: datetime
    looked_back_to: datetime | None


def failures(wanted: Filter, *, limit: int = 100, time_limit: float = inf) -> Failures:
    """Return the failed attempts of the jobs of a filter, in groups.

    It reads attempts from the newest back, for at most 200 ms. `since` and `until` are times of failures, and
    `exception` and `consumer` those of the attempt.

    Args:
        limit: the number of groups to return at most.
        time_limit: the seconds after which it begins no further step, if they are fewer than 0.2.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(lambda engine: _Reader(engine, wanted, time.time(), time_limit).read(limit))


async def afailures(wanted: Filter, *, limit: int = 100) -> Failures:
    """Do `failures` in a coroutine."""
    return await engine.arun(lambda engine: _Reader(engine, wanted, time.time()).read(limit))


@dataclass
class _Group:
    """The attempts of a group, the newest first."""

    newest: int  # the id of the attempt
    example: UUID
    times: list[float] = field(default_factory=list)


_Key = tuple[str, str, Frame | None]


class _Reader:
    """Reads failed attempts, and puts them into groups."""

    def __init__(self, engine: Engine, wanted: Filter, now: float, time_limit: float = inf) -> None:
        self._engine = engine
        self._time_limit = min(SECONDS, time_limit)
        wanted = wanted.fixed(now)
        self._since = _seconds(wanted.since)
        self._until = min(_seconds(wanted.until) or now, now)
        self._exception = wanted.exception
        self._consumer = wanted.consumer
        # The other conditions are those of a job.
        others = replace(wanted, since=None, until=None, exception=None, consumer=None)
        self._wanted = conditions_of(others)
        self._groups: dict[_Key, _Group] = {}

    def read(self, limit: int) -> Failures:
        stopped = self._read_all()
        if stopped is not None:
            since = stopped
        else:
            oldest = (group.times[-1] for group in self._groups.values())
            since = self._since if self._since is not None else min(oldest, default=self._until)
        groups = sorted(
            self._groups.items(), key=lambda item: (-len(item[1].times), -item[1].newest)
        )
        return Failures(
            self._described(groups[:limit], since),
            to_datetime(since),
            to_datetime(self._until),
            None if stopped is None else to_datetime(stopped),
        )

    def _read_all(self) -> float | None:
        """Read attempts up to the beginning; return the time that was reached if the search was stopped before."""
        deadline = time.monotonic() + self._time_limit
        rows, left, before = _FIRST_STEP, MOST, None
        while True:
            began = time.monotonic()
            attempts = self._engine.attempts.newest(before, rows)
            # The order of the ids is nearly that of the times.
            if not any(self._since is None or each.finished_at >= self._since for each in attempts):
                return None
            self._add([each for each in attempts if self._is_wanted(each)])
            left -= rows
            last, ended = attempts[-1], time.monotonic()
            if ended >= deadline or left <= 0:
                return last.finished_at
            before = last.id
            rows = min(adapted(rows, ended - began, deadline - ended), STEP, left)

    def _is_wanted(self, attempt: FailedAttempt) -> bool:
        name = attempt.exception_class
        return (
            (self._since or 0.0) <= attempt.finished_at < self._until
            and self._exception in (None, name, name.rpartition(".")[2])
            and self._consumer in (None, attempt.consumer)
        )

    def _add(self, attempts: Sequence[FailedAttempt]) -> None:
        """Put those of the wanted jobs into their groups."""
        names = self._engine.search.names({each.job for each in attempts}, self._wanted)
        known = [each for each in attempts if each.job in names]
        frames = self._frames([each.id for each in known])
        for each in known:
            frame = frames.get(each.id)
            key = names[each.job], each.exception_class, frame
            if (group := self._groups.get(key)) is None:
                group = self._groups[key] = _Group(each.id, each.job)
            group.times.append(each.finished_at)

    def _frames(self, ids: Sequence[int]) -> dict[int, Frame | None]:
        rows = Attempt.objects.using(self._engine.db.alias).filter(pk__in=ids)
        return {
            id: innermost(text or "") for id, text in rows.values_list("pk", "traceback").order_by()
        }

    def _described(self, groups: Sequence[tuple[_Key, _Group]], since: float) -> list[FailureGroup]:
        newest = [group.newest for _, group in groups]
        rows = Attempt.objects.using(self._engine.db.alias).filter(pk__in=newest)
        messages = dict(rows.values_list("pk", "message").order_by())
        return [
            FailureGroup(
                name,
                exception_class,
                frame,
                len(group.times),
                to_datetime(max(group.times)),
                to_datetime(min(group.times)),
                group.example,
                messages.get(group.newest) or "",
                self._counts(group.times, since),
            )
            for (name, exception_class, frame), group in groups
        ]

    def _counts(self, times: Sequence[float], since: float) -> list[int]:
        """Return the number of times in each part of the time from the beginning to the end."""
        counts, width = [0] * BUCKETS, (self._until - since) / BUCKETS
        for at in times:
            number = int((at - since) / width) if width > 0 else BUCKETS - 1
            counts[min(max(number, 0), BUCKETS - 1)] += 1
        return counts


def _seconds(moment: datetime | timedelta | None) -> float | None:
    """Return the time of a filter whose times are fixed."""
    return moment.timestamp() if isinstance(moment, datetime) else None
