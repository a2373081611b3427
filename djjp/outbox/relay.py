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

**Where the queue's commit is not certain, nothing is relayed**: inside a transaction of the queue's database
that somebody else commits or rolls back, step 3 would delete a row whose job may never be written.

**A cancellation is not lost** either. It marks the row; step 3 leaves a row that was marked since step 1, and
such a row is relayed once more, which cancels its job in the queue. Step 3 also leaves a row that an open
transaction has locked, because that may mark it: the next relay reads it again, and finds its receipt.

**One row delays no other.** A row that is no job is set aside at once. When the queue does not take a page,
a sweep tries its halves, and so on. A row that fails alone while both databases answer is tried last from then
on, and is set aside when it has failed in some sweeps that relayed others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar
from uuid import UUID

from django.db.transaction import TransactionManagementError

from djjp import conf, engine
from djjp.bounds import one_line
from djjp.engine import Engine, NewJob, NewPipeline
from djjp.outbox import serialization, table, transactions
from djjp.outbox.stopwatch import Stopwatch
from djjp.outbox.table import Row, Waiting

__all__ = ["sweep"]

logger = logging.getLogger("djjp.outbox")

T = TypeVar("T")

#: Seconds within which rows that were read from an outbox may be written into the queue.
MAX_READ_AGE = 5.0

#: Rows that are relayed in one transaction, and the characters of their texts if there are several.
PAGE, PAGE_SIZE = 500, 8_000_000

# Seconds after which rows that were read are sought again before they are written. Large ones take long to parse.
_SEEK_AGAIN = 1.0
# Sweeps in which a row has failed alone while others were relayed, until it is set aside.
_MAX_FAILURES = 3
_MAX_SUSPECTS = 10_000


class Call(Protocol):
    """Runs a function of the engine: `engine.run`, or a consumer's call queue."""

    def __call__(self, verb: Callable[[Engine], T], /) -> T: ...


class Stale(Exception):
    """Too much time has passed between reading an outbox and writing into the queue."""


def relay(alias: str, ids: Iterable[UUID], call: Call = engine.run) -> int:
    """Relay the rows of an outbox with these ids; return the number of jobs that are now in the queue."""
    remaining, count = iter(ids), 0
    while some := list(islice(remaining, PAGE)):
        count += _relay_page(alias, some, call)
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
        TransactionManagementError: a transaction is open there, so that rows in it may never be committed;
            or in the queue's database, so that what is written there may never be committed.
    """
    chosen = table.outboxes() if aliases is None else aliases
    return sum(Sweep(alias, call).run(grace=grace) for alias in chosen)


def pages(waiting: Iterable[Waiting], rows: int = PAGE) -> Iterator[list[UUID]]:
    """Yield the ids of rows in portions, each small enough for one transaction, or of one large row."""
    page: list[UUID] = []
    size = 0
    for row in waiting:
        if page and (len(page) >= rows or size + row.size > PAGE_SIZE):
            yield page
            page, size = [], 0
        page.append(row.id)
        size += row.size
    if page:
        yield page


class Sweep:
    """Relays all rows of one outbox, again and again, and isolates rows that fail."""

    def __init__(self, alias: str, call: Call = engine.run) -> None:
        self._alias = alias
        self._call = call
        # Rows that failed alone, and the number of sweeps in which they did while others were relayed.
        self._suspects: dict[UUID, int] = {}
        self._reported: set[UUID] = set()
        self._rows = PAGE  # in a page; fewer after a failure that took long
        self._count = 0
        self._failed: dict[UUID, Exception] = {}  # alone, in this sweep

    def run(self, *, grace: float = 0.0) -> int:
        """Relay all rows; return the number of jobs and pipelines that entered the queue.

        Raises:
            Exception: a database does not answer, or no row could be relayed.
            TransactionManagementError: as `sweep`.
        """
        for alias in (self._alias, conf.current().db_name):
            if not transactions.commits_at_once(alias):
                raise TransactionManagementError(
                    f"the outbox of {self._alias!r} cannot be swept inside atomic() of {alias!r}, "
                    "or without its autocommit: its rows may never be committed"
                )
        self._count, self._failed = 0, {}
        suspects: list[Waiting] = []
        try:
            for page in pages(self._others(suspects, grace), self._rows):
                self._relay(page)
            for page in pages(suspects, self._rows):
                self._relay(page)
        finally:
            self._judge()
        self._rows = PAGE
        if self._failed and not self._count:
            raise next(iter(self._failed.values()))
        return self._count

    def _others(self, suspects: list[Waiting], grace: float) -> Iterator[Waiting]:
        """Yield all rows except the suspects, which are added to the list."""
        last: UUID | None = None
        while page := table.waiting(self._alias, last, PAGE, grace=grace):
            last = page[-1].id
            for row in page:
                if row.id in self._suspects:
                    suspects.append(row)
                else:
                    yield row
            if len(page) < PAGE:
                return

    def _relay(self, ids: list[UUID]) -> None:
        """Relay a page; if that fails, its halves."""
        since = time.monotonic()
        try:
            self._count += _relay_page(self._alias, ids, self._call)
        except Stale:
            raise  # no row's fault
        except Exception as error:
            half = len(ids) // 2
            if not half:
                self._require_answers()
                self._failed[ids[0]] = error
            elif time.monotonic() - since > MAX_READ_AGE:
                # Later, because the queue seems to be away, and that must be reported soon.
                self._rows = half
                raise
            else:
                self._relay(ids[:half])
                self._relay(ids[half:])

    def _require_answers(self) -> None:
        """Raise an error if one of the two databases does not answer, which is no row's fault."""
        table.waiting(self._alias, None, 1)
        self._call(lambda engine: engine.jobs.relay([], lambda: None))

    def _judge(self) -> None:
        """Remember the rows that failed alone; set aside those that fail while others are relayed."""
        if not self._failed:
            self._suspects.clear()
            self._reported.clear()
        for id, error in self._failed.items():
            failures = self._suspects.get(id, 0) + (self._count > 0)
            if failures >= _MAX_FAILURES:
                self._suspects.pop(id)
                table.set_aside(self._alias, id, _described(error))
            elif id in self._suspects:
                self._suspects[id] = failures
                self._report_once(id, error)
            elif len(self._suspects) < _MAX_SUSPECTS:
                self._suspects[id] = failures

    def _report_once(self, id: UUID, error: Exception) -> None:
        if id not in self._reported:
            self._reported.add(id)
            logger.warning(
                "job %s in the outbox of %r is not relayed yet, and is tried again: %s",
                id,
                self._alias,
                one_line(_described(error)),
            )


def _relay_page(alias: str, ids: Sequence[UUID], call: Call) -> int:
    """Do steps 1 to 3 for the rows with these ids; return the number of jobs that are now in the queue."""
    since_read = Stopwatch()
    found = _decode(alias, [row for row in table.read(alias, ids) if row.problem is None])
    if since_read.at_most() > _SEEK_AGAIN:
        since_read = Stopwatch()
        still = table.existing(alias, [row.id for row, _ in found])
        found = [(row, unit) for row, unit in found if row.id in still]
    if not found:
        return 0
    rows = [row for row, _ in found]
    _write_to_queue(found, since_read, call)
    if table.delete(alias, rows) < len(rows):
        # Another relay was first, or somebody has locked a row, which the next relay deletes, or has cancelled it.
        before = {row.id for row in rows if row.cancelled}
        after = table.read(alias, [row.id for row in rows])
        if left := [row.id for row in after if row.cancelled and row.id not in before]:
            _relay_page(alias, left, call)
    return len(rows)


def _decode(alias: str, rows: Sequence[Row]) -> list[tuple[Row, NewJob | NewPipeline]]:
    """Return the rows with their jobs, without rows that the queue could not take, which are set aside."""
    found: list[tuple[Row, NewJob | NewPipeline]] = []
    for row in rows:
        try:
            unit = serialization.from_text(row.text)
            if unit.id != row.id:
                raise ValueError(f"its text is that of job {unit.id}")
            serialization.validate(unit)
        except MemoryError:
            raise  # no row's fault, as a rule
        except Exception as error:  # noqa: BLE001  (whatever it is, it is this row's)
            table.set_aside(alias, row.id, _described(error))
        else:
            found.append((row, serialization.cancelled(unit) if row.cancelled else unit))
    return found


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _write_to_queue(
    found: Sequence[tuple[Row, NewJob | NewPipeline]], since_read: Stopwatch, call: Call
) -> None:
    """Do step 2: all of them enter the queue, or none."""
    units = [unit for _, unit in found]
    cancelled = [
        job.id for row, unit in found if row.cancelled for job in serialization.steps_of(unit)
    ]

    def refuse_stale() -> None:
        if (passed := since_read.at_most()) > MAX_READ_AGE:
            raise Stale(f"the queue took more than {passed:.0f} s; the outbox will be read again")

    def enter(engine: Engine) -> None:
        engine.jobs.relay(units, refuse_stale)

    def enter_and_cancel(engine: Engine) -> None:
        with engine.db.transaction():
            enter(engine)
            # Some may be there already: another relay wrote them before they were cancelled.
            engine.control.cancel(cancelled, time.time())

    call(enter_and_cancel if cancelled else enter)
