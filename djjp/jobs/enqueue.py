"""The destination of an enqueue: the queue, at once or on commit, or the outbox of the open transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from djjp import conf, engine
from djjp.engine import NO_HOLDERS, Engine, KeyHolders, NewJob, NewPipeline
from djjp.exceptions import OutcomeUnknown
from djjp.jobs import hooks, unique
from djjp.outbox import relay, table, transactions
from djjp.signals import job_enqueued

logger = logging.getLogger("djjp.outbox")

# After a failed relay, this process leaves relaying to the consumers for ten times as long as the failure
# took, because a queue that does not answer would delay one request after the other. Seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PAUSE_FACTOR = 1.0, 60.0, 10
_paused_until = 0.0

#: Jobs to enqueue together, or a pipeline.
Unit = Sequence[NewJob] | NewPipeline

#: Where an enqueue went; "on_commit" stands for jobs that are sent when their transaction has committed.
Destination = Literal["queue", "outbox", "on_commit"]


class Sender:
    """Sends jobs where they belong: to the queue, to an outbox, or to the queue after a commit.

    `djjp.testing` replaces `sender` by one of its own, to record and to run enqueued jobs.
    """

    def send(self, jobs: Unit, database: str | None) -> KeyHolders:
        """Send jobs, of which there is at least one; return the holders of unique keys, as `enqueue` does."""
        settings = conf.current()
        alias = self.find_transaction(database, settings)
        if settings.instruments or job_enqueued.receivers:
            return self.route_hooked(jobs, alias, settings.db_name)[1]
        return self.route(jobs, alias, settings.db_name)[1]

    @contextmanager
    def held_back(self) -> Iterator[bool]:
        """Keep jobs that this thread sends from running before the block has ended, where they run at once.

        Gives whether they do, as under `djjp.testing.inline()`.
        """
        yield False

    def find_transaction(self, database: str | None, settings: conf.Settings) -> str | None:
        """Return the alias whose open transaction an enqueue belongs to, if there is one."""
        if database is not None:
            aliases: Sequence[str] = (database,)
        elif settings.db_name == "default":
            aliases = (*settings.outbox, "default")
        else:
            aliases = settings.outbox
        alias = transactions.innermost(aliases)
        if alias is None or alias == settings.db_name or table.installed():
            return alias
        # Without an outbox these enqueue as if it were not open: a TestCase's transaction never commits, and
        # Django has no hook for the commit of a transaction that is committed by hand.
        hookless = transactions.is_of_testcase(alias) or transactions.is_manual(alias)
        return None if hookless else alias

    def route_hooked(
        self, jobs: Unit, alias: str | None, queue: str
    ) -> tuple[Destination, KeyHolders]:
        """Do `route` inside the instruments, and send the signal."""
        with hooks.around(jobs) as jobs:
            destination, held = self.route(jobs, alias, queue)
        hooks.announce(jobs, held, alias or queue)
        return destination, held

    def route(self, jobs: Unit, alias: str | None, queue: str) -> tuple[Destination, KeyHolders]:
        """Send jobs with the open transaction of this alias, or without one.

        Args:
            queue: the alias of the queue.

        Returns:
            Where they went, and the holders of the unique keys of jobs that were not enqueued.
        """
        connection = connections[alias or queue]
        if connection.in_atomic_block:
            transactions.record(connection, _all_ids(jobs))
        if alias is None:
            try:
                return "queue", engine.run(partial(_write, jobs=jobs), connection)
            except OutcomeUnknown as error:
                error.job_ids = tuple(_ids(jobs))
                raise
        if alias == queue:
            # On this thread and not by a consumer's coordinator, because the transaction is on this thread.
            with engine.sessions.translated(engine.current().db):
                return "queue", _write(engine.current(), jobs)
        held = NO_HOLDERS
        if table.installed():
            if not isinstance(jobs, NewPipeline):
                jobs, held = _settled(alias, jobs, partial(table.uncancelled, alias))
            units = [jobs] if isinstance(jobs, NewPipeline) else jobs
            if units:
                _after_commit(alias, table.write(alias, units))
            return "outbox", held
        if not isinstance(jobs, NewPipeline):
            jobs, held = _settled(alias, jobs, partial(_pending, alias))
        if jobs:
            transaction.on_commit(_Pending(jobs).send, using=alias)
        return "on_commit", held


#: The sender that `enqueue` uses.
sender = Sender()


def enqueue(jobs: Unit, database: str | None = None) -> KeyHolders:
    """Enqueue jobs, or a pipeline, all or none of them.

    Inside `atomic()` of a database in `DJJP["outbox"]` they are committed or rolled back with its
    transaction; of several open ones, with the innermost.

    Args:
        database: the alias whose transaction they belong to, if it has one open; None for the innermost.

    Returns:
        The live jobs that have the unique keys of some of these, which were therefore not enqueued.

    Raises:
        QueueUnavailable: the queue's database does not answer, and no outbox takes the jobs.
        OutcomeUnknown: it has broken off, and may have taken them.
    """
    return sender.send(jobs, database) if jobs else NO_HOLDERS


async def aenqueue(jobs: Unit, database: str | None = None) -> KeyHolders:
    """`enqueue` for coroutines. Inside a job that has used no thread, this uses none either."""
    if jobs and engine.can_skip_thread.get()():
        if not (conf.current().instruments or job_enqueued.receivers):
            return await _awrite(jobs)
        with hooks.around(jobs) as jobs:
            held = await _awrite(jobs)
        await hooks.asend_enqueued(jobs, held)
        return held
    return await sync_to_async(enqueue)(jobs, database)


def enqueue_apart(
    jobs: Sequence[NewJob], write: Callable[[Engine, Sequence[NewJob]], KeyHolders | None]
) -> KeyHolders | None:
    """Enqueue jobs into the queue at once, whatever transaction of the application is open.

    Args:
        write: writes the jobs, and returns the holders of unique keys; None if it has written none.
    """

    def call(jobs: Unit) -> KeyHolders | None:
        rows = jobs.jobs if isinstance(jobs, NewPipeline) else jobs
        try:
            return engine.run(lambda engine: write(engine, rows))
        except OutcomeUnknown as error:
            error.job_ids = tuple(_ids(rows))
            raise

    if not (conf.current().instruments or job_enqueued.receivers):
        return call(jobs)
    with hooks.around(jobs) as hooked:
        held = call(hooked)
    if held is not None:
        hooks.announce(hooked, held, conf.db_name())
    return held


async def _awrite(jobs: Unit) -> KeyHolders:
    try:
        return await engine.arun(partial(_write, jobs=jobs))
    except OutcomeUnknown as error:
        error.job_ids = tuple(_ids(jobs))
        raise


def _ids(jobs: Unit) -> list[UUID]:
    return [jobs.id] if isinstance(jobs, NewPipeline) else [job.id for job in jobs]


def _all_ids(jobs: Unit) -> Iterator[UUID]:
    """Return the ids of jobs, or of a pipeline and all of its steps."""
    if isinstance(jobs, NewPipeline):
        yield jobs.id
        jobs = jobs.jobs
    yield from (job.id for job in jobs)


def _write(engine: Engine, jobs: Unit) -> KeyHolders:
    if isinstance(jobs, NewPipeline):
        engine.pipelines.enqueue(jobs)
        return NO_HOLDERS
    return engine.jobs.enqueue(jobs[0]) if len(jobs) == 1 else engine.jobs.enqueue_many(jobs)


def _settled(
    alias: str, jobs: Sequence[NewJob], waiting: Callable[[Collection[UUID]], Collection[UUID]]
) -> tuple[Sequence[NewJob], KeyHolders]:
    """Return the jobs to write in the transaction of this alias: see `djjp.jobs.unique`."""
    answers = time.monotonic() >= _paused_until
    return unique.settle(alias, jobs, waiting, queue_answers=answers)


def _pending(alias: str, ids: Collection[UUID]) -> set[UUID]:
    """Return which of these jobs wait for the commit of this alias."""
    found: set[UUID] = set()
    for _, function, *_ in connections[alias].run_on_commit:
        pending = getattr(function, "__self__", None)
        if isinstance(pending, _Pending):
            found.update(pending.waiting(ids))
    return found


def _write_late(engine: Engine, jobs: Unit) -> None:
    if isinstance(jobs, NewPipeline):
        engine.pipelines.enqueue(jobs)
    else:
        engine.jobs.enqueue_late(jobs)


class _Pending:
    """Jobs that are sent after the commit of their transaction, where there is no outbox."""

    def __init__(self, jobs: Unit) -> None:
        self._jobs = jobs
        self._sent = False

    def waiting(self, ids: Collection[UUID]) -> set[UUID]:
        """Return which of these jobs it has yet to send."""
        return set() if self._sent else {*ids} & {*_ids(self._jobs)}

    def send(self) -> None:
        if not self._sent:
            engine.run(partial(_write_late, jobs=self._jobs))
            self._sent = True


def send_pending() -> None:
    """Enqueue the jobs that wait for the commit of a TestCase's transaction, which never comes; for tests."""
    for alias in conf.current().outbox:
        if transactions.is_of_testcase(alias):
            for _, function, *_ in tuple(connections[alias].run_on_commit):
                pending = getattr(function, "__self__", None)
                if isinstance(pending, _Pending):
                    pending.send()


class _Batch:
    """The jobs that one transaction has enqueued, for one relay after its commit.

    Each enqueue registers `relay` again, because Django drops the hooks of a savepoint that is rolled
    back. The first remaining hook relays all rows; rows that were rolled back with a savepoint are not
    found in the outbox.
    """

    def __init__(self, alias: str, hooks: list[Any]) -> None:
        self.alias = alias
        # Django replaces this list when a transaction ends and when a savepoint is rolled back, so its
        # identity distinguishes one transaction from the next.
        self.hooks = hooks
        self.waiting: list[table.Waiting] = []
        self.relayed = False

    def relay(self) -> None:
        """Relay, or wait for the end of a transaction in which the relay's own writes are not certain.

        Where that transaction is rolled back, or has no hook, a consumer's sweep relays.
        """
        if self.relayed:
            return
        for alias in (self.alias, conf.current().db_name):
            if not transactions.commits_at_once(alias):
                if not transactions.is_manual(alias):
                    transaction.on_commit(self.relay, using=alias, robust=True)
                return
        self.relayed = True
        _relay(self.alias, self.waiting)


def _after_commit(alias: str, waiting: list[table.Waiting]) -> None:
    if transactions.is_manual(alias):
        return  # a consumer's sweep relays: Django runs no hook at a commit by hand, and would keep all of them
    connection: Any = connections[alias]
    batch: _Batch | None = getattr(connection, "djjp_batch", None)
    if batch is None or batch.relayed or batch.hooks is not connection.run_on_commit:
        batch = connection.djjp_batch = _Batch(alias, connection.run_on_commit)
    batch.waiting += waiting
    transaction.on_commit(batch.relay, using=alias, robust=True)


def _relay(alias: str, waiting: list[table.Waiting]) -> None:
    """Relay at once. If that fails, the consumers relay later, and the request goes on."""
    global _paused_until
    started = time.monotonic()
    if started < _paused_until:
        return
    try:
        for ids in relay.pages(waiting):
            relay.relay(alias, ids)
    except Exception as error:  # noqa: BLE001  (the transaction is committed, whatever the error)
        now = time.monotonic()
        pause = min(max(_PAUSE_FACTOR * (now - started), _SHORTEST_PAUSE), _LONGEST_PAUSE)
        _paused_until = now + pause
        logger.warning(
            "the relay failed: %d jobs stay in the outbox of %r for a consumer's sweep, and so do all others of "
            "this process for %.0f s: %s",
            len(waiting),
            alias,
            pause,
            error,
        )
