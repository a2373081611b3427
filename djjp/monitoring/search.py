"""Searches: the jobs of a filter in the order of their ids, step by step, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from djjp.engine import Engine, Range, Wanted
from djjp.ids import first_id
from djjp.monitoring.filters import Filter

#: The seconds after which a search begins no further step.
SECONDS = 0.2

# The rows that a step reads: few at first, because most pages need few; then those of about 20 ms.
_FIRST_ROWS, _FEWEST_ROWS, _MOST_ROWS = 500, 100, 32_000
_STEP, _GROWTH = 0.02, 4

#: The ids of a search, without its two ends; None for no end.
Ids = tuple[UUID | None, UUID | None]


def conditions_of(wanted: Filter) -> Wanted:
    """Return the conditions of a filter besides its times, which bound the ids."""
    return Wanted(
        states=wanted.state,
        queue=wanted.queue,
        name=wanted.name,
        exception=wanted.exception,
        tag=wanted.tag,
        pipeline=wanted.pipeline,
        consumer=wanted.consumer,
        unique_key=wanted.unique_key,
        attempts=wanted.attempts,
    )


def ids_of(wanted: Filter) -> Ids:
    """Return the ids of the times of a filter, without its two ends."""
    fixed = wanted.fixed(time.time())
    first, end = (
        first_id(moment.timestamp()) if isinstance(moment, datetime) else None
        for moment in (fixed.since, fixed.until)
    )
    return None if first is None else moved(first, -1), end


def moved(id: UUID, by: int) -> UUID:
    """Return the id that is a number of ids later."""
    return UUID(int=min(max(id.int + by, 0), 2**128 - 1))


def steps(
    engine: Engine,
    wanted: Wanted,
    ids: Ids,
    *,
    newest_first: bool,
    deadline: float | None = None,
) -> Iterator[tuple[list[UUID], UUID | None]]:
    """Yield the jobs of each step of a search; with those of the last one, if time has ended it, its last id."""
    deadline = deadline or time.monotonic() + SECONDS
    db, search = engine.db, engine.search
    within = Range(*(None if id is None else db.keys([id])[0] for id in ids))
    source = search.sources.best(wanted, within)
    rows = _FIRST_ROWS
    while True:
        began = time.monotonic()
        step = search.step(source, wanted, within, rows, newest_first=newest_first)
        if step.reached is None:
            return
        ended = time.monotonic()
        yield step.found, None if ended < deadline else db.to_id(step.reached)
        within = within.behind(step.reached, newest_first=newest_first)
        rows = adapted(rows, ended - began, deadline - ended)


def adapted(rows: int, seconds: float, left: float) -> int:
    """Return the rows of the next step after one that took some time, with some time left for the search."""
    fitting = int(rows * min(_STEP, left) / max(seconds, 1e-6))
    return max(_FEWEST_ROWS, min(fitting, rows * _GROWTH, _MOST_ROWS))
