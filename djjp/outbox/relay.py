"""The relay: each job that is committed in an outbox enters the queue once, whichever process dies when.

Its steps, each a transaction of one database:

1. **read** the rows from the outbox;
2. write the jobs **into the queue**, with a receipt (a `Relayed` row) for each; jobs that have a receipt
   are skipped;
3. delete the rows **from the outbox**;
4. much later **prune** the receipts: see `receipts`.

A process that dies before step 2 has done nothing. One that dies between 2 and 3 leaves a row that the
next relay reads again; that relay finds the receipt and only deletes the row. This holds even if the job
was run and pruned in between: receipts exist for this case. Two relays that read the same row meet in
step 2: `Relayed.id` is unique, so the second waits for the first and then finds its receipt.

One case remains: a relay that is delayed between 1 and 2 for so long that others have done 2, 3 and 4.
Step 2 is therefore refused once `MAX_READ_AGE` seconds have passed since step 1, and a receipt is kept for
longer than that after its outbox row is known to be gone. Both are durations that one process measures
on its own: no two clocks have to agree.
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

#: Seconds within which rows that were read from an outbox may be written into the queue.
MAX_READ_AGE = 5.0

#: Rows that are relayed in one transaction.
PAGE = 500

# Rows with a problem are logged once each; the set is bounded.
_reported: set[UUID] = set()
_MAX_REPORTED = 10_000


class Call(Protocol):
    """Runs a function of the engine: `engine.run`, or a consumer's call queue."""

    def __call__(self, verb: Callable[[Engine], T], /) -> T: ...


class Stale(Exception):
    """Too much time has passed between reading an outbox and writing into the queue."""


class Stopwatch:
    """Measures a duration by two clocks, so that neither a suspended machine nor a changed clock distorts it."""

    def __init__(self) -> None:
        self._started = time.time(), time.monotonic()

    def at_most(self) -> float:
        """Return the seconds that may have passed."""
        return max(self._elapsed())

    def at_least(self) -> float:
        """Return the seconds that have certainly passed."""
        return min(self._elapsed())

    def _elapsed(self) -> tuple[float, float]:
        wall, steady = self._started
        return time.time() - wall, time.monotonic() - steady


def relay(alias: str, ids: Iterable[UUID], call: Call = engine.run) -> int:
    """Relay the rows of an outbox with these ids; return the number of jobs that are now in the queue."""
    remaining, count = iter(ids), 0
    while some := list(islice(remaining, PAGE)):
        since_read = Stopwatch()
        count += _relay_rows(alias, table.read(alias, some), since_read, call)
    return count


def sweep(
    aliases: Sequence[str] | None = None, call: Call = engine.run, *, grace: float = 0.0
) -> int:
    """Relay all rows of the outboxes; return the number of jobs and pipelines that entered the queue.

    Inside a TestCase it relays the jobs that the test has enqueued, although they are never committed.

    Args:
        aliases: the databases whose outboxes are swept; None for all.
        grace: skip rows younger than this many seconds, because their own process is relaying them.

    Raises:
        TransactionManagementError: a transaction is open there, so that rows in it may never be committed.
    """
    count = 0
    for alias in table.outboxes() if aliases is None else aliases:
        if connections[alias].in_atomic_block and not transactions.is_of_testcase(alias):
            raise TransactionManagementError(
                f"the outbox of {alias!r} cannot be swept inside atomic(): "
                "its rows may never be committed"
            )
        for since_read, page in _pages(alias):
            now = time.time()
            old = [row for row in page if not 0 <= now - row.created_at < grace]
            count += _relay_rows(alias, old, since_read, call)
    return count


def _pages(alias: str) -> Iterator[tuple[Stopwatch, list[Row]]]:
    """Yield all rows of an outbox page by page, each with the time since it was read."""
    last: UUID | None = None
    while True:
        since_read = Stopwatch()
        page = table.page(alias, last, PAGE)
        if page:
            yield since_read, page
            last = page[-1].id
        if len(page) < PAGE:
            return


def _relay_rows(alias: str, rows: Sequence[Row], since_read: Stopwatch, call: Call) -> int:
    """Do steps 2 and 3 for rows that were read when the stopwatch was started."""
    relayed = _write_to_queue(_decode(alias, rows), since_read, call)
    if relayed:
        table.delete(alias, relayed)
    return len(relayed)


def _decode(alias: str, rows: Sequence[Row]) -> list[NewJob | NewGraph]:
    """Return the jobs of the rows; a damaged row is reported and stays in the outbox."""
    jobs: list[NewJob | NewGraph] = []
    for row in rows:
        try:
            jobs.append(serialization.from_text(row.text))
        except ValueError as error:
            _report_once(row.id, f"job {row.id} stays in the outbox of {alias!r}: {error}")
    return jobs


def _write_to_queue(
    jobs: Sequence[NewJob | NewGraph], since_read: Stopwatch, call: Call
) -> list[UUID]:
    """Do step 2; return the ids that are in the queue. A job that the queue refuses delays no other."""
    if not jobs:
        return []

    def refuse_stale() -> None:
        if (passed := since_read.at_most()) > MAX_READ_AGE:
            raise Stale(f"the queue took more than {passed:.0f} s; the outbox will be read again")

    try:
        call(lambda engine: engine.jobs.relay(jobs, refuse_stale))
    except (IntegrityError, DataError) as error:
        if len(jobs) > 1:
            return [id for job in jobs for id in _write_to_queue([job], since_read, call)]
        _report_once(jobs[0].id, f"job {jobs[0].id} is refused by the queue: {error}")
        return []
    return [job.id for job in jobs]


def _report_once(id: UUID, message: str) -> None:
    if id in _reported:
        return
    logger.error(message)
    if len(_reported) < _MAX_REPORTED:
        _reported.add(id)
