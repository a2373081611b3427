"""The relay: what is committed in an outbox comes into the queue, once, whatever dies when.

Its steps, each a transaction of one database:

1. **read** the rows from the outbox;
2. write the jobs **into the queue**, with a `Relayed` row for each, but for those that have one;
3. delete the rows **out of the outbox**;
4. much later **forget** the `Relayed` rows: see `forgetting`.

Who dies before 2 has done nothing. Who dies between 2 and 3 leaves a row that the next relay reads
again; it meets the `Relayed` row and only deletes. That holds too when the job was run and pruned in
between, which is what `Relayed` is for. Two relays that read one row meet in step 2: `Relayed.id` is
unique, so the second waits for the first and then finds its row.

What remains is a relay that is held up between 1 and 2 for so long that others have done 2, 3 and 4.
So step 2 is refused once `FRESH` seconds have passed since step 1, and a `Relayed` row is kept for
longer than that after its outbox row is known to be gone. Both are spans that one process measures
by itself: no two clocks have to agree.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar
from uuid import UUID

from django.db import DataError, IntegrityError, connections
from django.db.transaction import TransactionManagementError

from djjp import engine
from djjp.engine import Engine, NewGraph, NewJob
from djjp.outbox import serialization, table, transactions
from djjp.outbox.table import Row

logger = logging.getLogger("djjp.outbox")

T = TypeVar("T")

#: Seconds within which what was read in an outbox may be written into the queue.
FRESH = 5.0

#: Rows that are relayed at once.
PAGE = 500

# What was complained about once.
_told: set[UUID] = set()


class Call(Protocol):
    """Runs a verb of the queue: `engine.run`, or a consumer's desk."""

    def __call__(self, verb: Callable[[Engine], T], /) -> T: ...


class Stale(Exception):
    """Too much time has passed between the reading of an outbox and the writing into the queue."""


class Watch:
    """Measures a span so that neither a machine asleep nor a clock set back shortens or stretches it."""

    def __init__(self) -> None:
        self._begun = time.time(), time.monotonic()

    def at_most(self) -> float:
        """The seconds that may have passed."""
        return max(self._spans())

    def at_least(self) -> float:
        """The seconds that have passed for certain."""
        return min(self._spans())

    def _spans(self) -> tuple[float, float]:
        return time.time() - self._begun[0], time.monotonic() - self._begun[1]


def relay(alias: str, ids: Iterable[UUID], call: Call = engine.run) -> int:
    """Relay those rows of an outbox that are there; returns how many jobs are in the queue by it."""
    left, count = iter(ids), 0
    while some := list(islice(left, PAGE)):
        watch = Watch()
        count += _carry(alias, table.read(alias, some), watch, call)
    return count


def sweep(
    aliases: Sequence[str] | None = None, call: Call = engine.run, *, grace: float = 0.0
) -> int:
    """Relay all that waits in the outboxes; returns how many jobs are in the queue by it.

    Inside a TestCase it takes what the test has enqueued, though that is never committed.

    Args:
        aliases: whose outboxes; None for all.
        grace: leave alone what was enqueued less than so many seconds ago, for its own process is at it.

    Raises:
        TransactionManagementError: a transaction is open there, so that what waits may never be committed.
    """
    count = 0
    for alias in table.outboxes() if aliases is None else aliases:
        if connections[alias].in_atomic_block and not transactions.is_of_testcase(alias):
            raise TransactionManagementError(
                f"the outbox of {alias!r} cannot be swept inside atomic(): "
                "what waits there may not be committed"
            )
        for watch, page in _pages(alias):
            now = time.time()
            old = [row for row in page if not 0 <= now - row.created_at < grace]
            count += _carry(alias, old, watch, call)
    return count


def _pages(alias: str) -> Iterator[tuple[Watch, list[Row]]]:
    last: UUID | None = None
    while True:
        watch = Watch()
        page = table.page(alias, last, PAGE)
        if page:
            yield watch, page
            last = page[-1].id
        if len(page) < PAGE:
            return


def _carry(alias: str, read: Sequence[Row], watch: Watch, call: Call) -> int:
    """Steps 2 and 3 for rows that were read when the watch was set."""
    arrived = _into_queue(_jobs(alias, read), watch, call)
    if arrived:
        table.delete(alias, arrived)
    return len(arrived)


def _jobs(alias: str, read: Sequence[Row]) -> list[NewJob | NewGraph]:
    jobs: list[NewJob | NewGraph] = []
    for row in read:
        try:
            jobs.append(serialization.from_text(row.text))
        except ValueError as error:
            _complain(row.id, f"job {row.id} stays in the outbox of {alias!r}: {error}")
    return jobs


def _into_queue(jobs: Sequence[NewJob | NewGraph], watch: Watch, call: Call) -> list[UUID]:
    """Step 2; one job that the queue refuses does not hold up the others."""
    if not jobs:
        return []

    def fresh() -> None:
        if (passed := watch.at_most()) > FRESH:
            raise Stale(f"the queue took more than {passed:.0f} s; what was read is read again")

    try:
        call(lambda engine: engine.jobs.relay(jobs, fresh))
    except (IntegrityError, DataError) as error:
        if len(jobs) > 1:
            return [id for job in jobs for id in _into_queue([job], watch, call)]
        _complain(jobs[0].id, f"job {jobs[0].id} is refused by the queue: {error}")
        return []
    return [job.id for job in jobs]


def _complain(id: UUID, text: str) -> None:
    if id not in _told:
        logger.error(text)
        if len(_told) < 10_000:
            _told.add(id)
