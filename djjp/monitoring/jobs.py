"""Lists of jobs that stay fast: pages by key in both directions, walks for operations, and bounded counts.

The jobs of a filter are found along the best index, or, where no index has them, by a walk along the primary key.
A search ends after 200 ms: then a page has the jobs that were found by then, and the time to which the search has
come.
"""

from __future__ import annotations

import re
import reprlib
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from typing import NamedTuple
from uuid import UUID

from djjp import engine
from djjp.durations import to_datetime
from djjp.engine import Engine, Wanted
from djjp.ids import made_at
from djjp.models import LIVE, Job, State
from djjp.monitoring.filters import Filter, FilterError
from djjp.monitoring.search import SECONDS, Ids, conditions_of, ids_of, moved, steps

#: The jobs on a page at most.
MOST = 1_000

_CURSOR = re.compile(r"([0-9])([0-9a-f]{32})")


class Page(NamedTuple):
    """Some jobs of a filter, the newest first, without their arguments and results.

    With `unique_key` the live job comes before those that have ended, and with `consumer` those that it runs
    before those that it ran, unless the filter has a key that decides the order.

    Attributes:
        next: the cursor of the page with older jobs; None if there is none.
        previous: the cursor of the page with newer jobs, for `backwards`; None if there is none.
        looked_back_to: the time to which the search had come when it ended before the page was full; None if
            the page is full or there are no more jobs. The search goes on from the cursor.
    """

    jobs: list[Job]
    next: str | None
    previous: str | None
    looked_back_to: datetime | None


class Walk(NamedTuple):
    """Some jobs of a filter, in ascending order.

    Attributes:
        reached: the id after which the walk goes on; None if it has ended.
    """

    ids: list[UUID]
    reached: UUID | None


class Count(NamedTuple):
    """A number of jobs; there can be more if it is not exact."""

    number: int
    is_exact: bool

    def __str__(self) -> str:
        return f"{self.number:,}" if self.is_exact else f"{self.number:,}+"


def find(
    wanted: Filter,
    *,
    limit: int = 50,
    cursor: str | None = None,
    backwards: bool = False,
    time_limit: float = inf,
) -> Page:
    """Return a page of the jobs of a filter.

    Args:
        limit: the jobs on the page, 1,000 at most.
        cursor: where the page begins, as another page of this filter has it; None for the newest jobs.
        backwards: return the jobs before the cursor, not those after it.
        time_limit: the seconds after which it begins no further step, if they are fewer than 0.2.

    Raises:
        FilterError: the limit or the cursor is invalid.
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(_find(wanted, limit, cursor, backwards=backwards, time_limit=time_limit))


async def afind(
    wanted: Filter,
    *,
    limit: int = 50,
    cursor: str | None = None,
    backwards: bool = False,
    time_limit: float = inf,
) -> Page:
    """Do `find` in a coroutine."""
    return await engine.arun(
        _find(wanted, limit, cursor, backwards=backwards, time_limit=time_limit)
    )


def _find(
    wanted: Filter, limit: int, cursor: str | None, *, backwards: bool, time_limit: float
) -> Callable[[Engine], Page]:
    if not 1 <= limit <= MOST:
        raise FilterError("limit", f"limit is {limit!r}; it must be a number from 1 to {MOST:,}")
    phases, newest_first = _phases(wanted), not backwards
    start = None if cursor is None else _position(cursor, len(phases))

    def verb(engine: Engine) -> Page:
        deadline = time.monotonic() + min(SECONDS, time_limit)
        found, stopped = _positions(
            engine, phases, ids_of(wanted), start, limit + 1, newest_first, deadline
        )
        page = found[:limit] if newest_first else found[:limit][::-1]
        ahead = found[limit - 1] if len(found) > limit else stopped
        behind = _behind(found, start, newest_first=newest_first)
        return Page(
            _rows(engine, [position.id for position in page]),
            next=_text(ahead if newest_first else behind),
            previous=_text(behind if newest_first else ahead),
            looked_back_to=None if len(found) > limit or stopped is None else _time_of(stopped.id),
        )

    return verb


def walk(
    wanted: Filter,
    after: UUID | None = None,
    until: UUID | None = None,
    limit: int = 1_000,
    *,
    time_limit: float = SECONDS,
) -> Walk:
    """Return the next jobs of a filter in ascending order, for an operation that takes them all step by step.

    It can return fewer than `limit` jobs, or none, and the id after which the walk goes on.

    Args:
        after: the id that the last step has reached; None for the first step.
        until: the last id that is wanted; None for all.
        time_limit: the seconds after which it begins no further step.
    """
    first, end = ids_of(wanted)
    first = max((id for id in (first, after) if id is not None), default=None)
    if until is not None:
        behind = moved(until, 1)
        end = min(behind, end or behind)

    def work(engine: Engine) -> Walk:
        found: list[UUID] = []
        for ids, stopped in steps(
            engine,
            conditions_of(wanted),
            (first, end),
            newest_first=False,
            deadline=time.monotonic() + time_limit,
        ):
            found += ids
            if len(found) >= limit:
                return Walk(found[:limit], found[limit - 1])
            if stopped is not None:
                return Walk(found, stopped)
        return Walk(found, None)

    return engine.run(work)


def count(wanted: Filter, *, most: int = 10_000, time_limit: float | None = None) -> Count:
    """Return the number of jobs of a filter, up to `most`, and as far as a search of 200 ms reaches.

    Args:
        time_limit: other seconds after which it searches no further.
    """
    return engine.run(lambda engine: _count(engine, wanted, most, time_limit))


async def acount(wanted: Filter, *, most: int = 10_000) -> Count:
    """Do `count` in a coroutine."""
    return await engine.arun(lambda engine: _count(engine, wanted, most, None))


def _count(engine: Engine, wanted: Filter, most: int, time_limit: float | None) -> Count:
    number = 0
    if not wanted:
        # Rows that no list has are few.
        number, has_more = engine.search.count_newest(2 * most)
        return Count(min(number, most), is_exact=number <= most and not has_more)
    deadline = time.monotonic() + (SECONDS if time_limit is None else time_limit)
    for ids, stopped in steps(
        engine, conditions_of(wanted), ids_of(wanted), newest_first=True, deadline=deadline
    ):
        number += len(ids)
        if number > most or stopped is not None:
            return Count(min(number, most), is_exact=False)
    return Count(number, is_exact=True)


def tagged_jobs(
    tag: str, *, live: bool = False, limit: int = 100, before: UUID | None = None
) -> list[Job]:
    """Return the newest jobs with a tag, without their arguments and results.

    Either list takes a bounded time, whatever the number of jobs in the queue and with the tag.

    Args:
        live: only jobs that have not ended: "what still runs for tenant 42?".
        limit: the number of jobs to return at most.
        before: only jobs older than the one with this id, as the last of a list; None for all.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return _newest(Filter(tag=tag, state=LIVE if live else ()), limit, before)


def latest_jobs(
    *, state: str | None = None, queue: str | None = None, name: str | None = None, limit: int
) -> list[Job]:
    """Return the newest matching jobs, without their arguments and results."""
    states = () if state is None else (State(state),)
    return _newest(Filter(state=states, queue=queue, name=name), limit, None)


def _newest(wanted: Filter, limit: int, before: UUID | None) -> list[Job]:
    """Return the newest jobs of a filter, however long the search takes."""
    found: list[Job] = []
    cursor = None if before is None else str(_Position(0, before))
    while len(found) < limit:
        page = find(wanted, limit=min(limit - len(found), MOST), cursor=cursor)
        found += page.jobs
        if (cursor := page.next) is None:
            break
    return found


def _phases(wanted: Filter) -> list[Wanted]:
    """Return the searches of a page, one after the other.

    There are two where an index has only the live jobs: these are on the first page, although their ids can be
    far behind those of jobs that have ended.
    """
    conditions = conditions_of(wanted)
    if wanted.state or wanted.pipeline or wanted.exception or wanted.tag:
        return [conditions]
    if wanted.unique_key is not None:
        first: tuple[State, ...] = LIVE
    elif wanted.consumer is not None:
        first = (State.RUNNING,)
    else:
        return [conditions]
    rest = tuple(state for state in State if state not in first)
    return [conditions._replace(states=states) for states in (first, rest)]


# Positions


class _Position(NamedTuple):
    """A place in the order of a list: the number of a phase, and an id, which is not behind it."""

    phase: int
    id: UUID

    def __str__(self) -> str:
        return f"{self.phase}{self.id.hex}"


def _text(position: _Position | None) -> str | None:
    return None if position is None else str(position)


def _position(cursor: str, phases: int) -> _Position:
    found = _CURSOR.fullmatch(cursor)
    if found is None or int(found[1]) >= phases:
        raise FilterError(
            "cursor", f"cursor is {reprlib.repr(cursor)}; it must be one from a page of this filter"
        )
    return _Position(int(found[1]), UUID(found[2]))


def _behind(
    found: Sequence[_Position], start: _Position | None, *, newest_first: bool
) -> _Position | None:
    """Return the position from which a page in the other direction ends before this one begins."""
    if start is None:
        return None
    if found:
        return found[0]
    # The job at the start is not on this page, and so on the other one.
    return start._replace(id=moved(start.id, -1 if newest_first else 1))


def _time_of(id: UUID) -> datetime:
    """Return when a job was enqueued by its id, which by hand can be of any version."""
    return to_datetime(min(made_at(id), time.time()))


def _positions(
    engine: Engine,
    phases: Sequence[Wanted],
    ids: Ids,
    start: _Position | None,
    limit: int,
    newest_first: bool,
    deadline: float,
) -> tuple[list[_Position], _Position | None]:
    """Return the first jobs from a position, at least `limit` if there are any, and where the time has ended."""
    found: list[_Position] = []
    numbers = range(len(phases)) if newest_first else range(len(phases) - 1, -1, -1)
    if start is not None:
        numbers = numbers[numbers.index(start.phase) :]
    for number in numbers:
        first, end = ids
        if start is not None and number == start.phase:
            if newest_first:
                end = min(start.id, end or start.id)
            else:
                first = max(start.id, first or start.id)
        for more, stopped in steps(
            engine, phases[number], (first, end), newest_first=newest_first, deadline=deadline
        ):
            found += [_Position(number, id) for id in more]
            if len(found) >= limit or stopped is not None:
                return found, None if stopped is None else _Position(number, stopped)
    return found, None


def _rows(engine: Engine, ids: Sequence[UUID]) -> list[Job]:
    """Return the rows of jobs in the order of these ids."""
    jobs = Job.objects.using(engine.db.alias).filter(pk__in=ids).defer("arguments", "result")
    by_id = {job.pk: job for job in jobs.order_by()}
    return [by_id[id] for id in ids if id in by_id]
