"""The destination of an enqueue: the queue, at once or on commit, or the outbox of the open transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from djjp import conf, engine
from djjp.engine import NO_HOLDERS, Engine, KeyHolders, NewGraph, NewJob
from djjp.outbox import relay, table, transactions

logger = logging.getLogger("djjp.outbox")

# After a failed relay, this process leaves relaying to the consumers for ten times as long as the failure
# took, because a queue that does not answer would delay one request after the other. Seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PAUSE_FACTOR = 1.0, 60.0, 10
_paused_until = 0.0

#: Jobs to enqueue together, or a pipeline.
Unit = Sequence[NewJob] | NewGraph

#: Where an enqueue went; "on_commit" stands for jobs that are sent when their transaction has committed.
Destination = Literal["queue", "outbox", "on_commit"]


class Sender:
    """Sends jobs where they belong: to the queue, to an outbox, or to the queue after a commit.

    `djjp.testing` replaces `sender` by one of its own, to record and to run enqueued jobs.
    """

    def send(self, jobs: Unit, database: str | None) -> KeyHolders:
        """Send jobs, of which there is at least one; return the holders of unique keys, as `enqueue` does."""
        return self.route(jobs, self.find_transaction(database))[1]

    def find_transaction(self, database: str | None) -> str | None:
        """Return the alias whose open transaction an enqueue belongs to, if there is one."""
        settings = conf.current()
        if database is not None:
            aliases: Sequence[str] = (database,)
        elif settings.db_name == "default":
            aliases = (*settings.outbox, "default")
        else:
            aliases = settings.outbox
        alias = transactions.innermost(aliases)
        if alias is None or alias == settings.db_name or table.installed():
            return alias
        # A TestCase's transaction never commits: without an outbox, its tests enqueue as if it were not open.
        return None if transactions.is_of_testcase(alias) else alias

    def route(self, jobs: Unit, alias: str | None) -> tuple[Destination, KeyHolders]:
        """Send jobs with the open transaction of this alias, or without one.

        Returns:
            Where they went, and the holders of the unique keys of jobs that were not enqueued.
        """
        if alias is None:
            return "queue", engine.run(partial(_write, jobs=jobs))
        if alias == conf.current().db_name:
            # On this thread and not by a consumer's coordinator, because the transaction is on this thread.
            return "queue", _write(engine.current(), jobs)
        if table.installed():
            units = [jobs] if isinstance(jobs, NewGraph) else jobs
            table.write(alias, units)
            _after_commit(alias, [unit.id for unit in units])
            return "outbox", NO_HOLDERS
        transaction.on_commit(_Pending(jobs).send, using=alias)
        return "on_commit", NO_HOLDERS


#: What `enqueue` sends by.
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
    """
    return sender.send(jobs, database) if jobs else NO_HOLDERS


async def aenqueue(jobs: Unit, database: str | None = None) -> KeyHolders:
    """`enqueue` for coroutines. Inside a job that has used no thread, this uses none either."""
    if jobs and engine.can_skip_thread.get()():
        return await engine.arun(partial(_write, jobs=jobs))
    return await sync_to_async(enqueue)(jobs, database)


def _write(engine: Engine, jobs: Unit) -> KeyHolders:
    if isinstance(jobs, NewGraph):
        engine.pipelines.enqueue(jobs)
        return NO_HOLDERS
    return engine.jobs.enqueue(jobs[0]) if len(jobs) == 1 else engine.jobs.enqueue_many(jobs)


def _write_late(engine: Engine, jobs: Unit) -> None:
    if isinstance(jobs, NewGraph):
        engine.pipelines.enqueue(jobs)
    else:
        engine.jobs.enqueue_late(jobs)


class _Pending:
    """Jobs that are sent after the commit of their transaction, where there is no outbox."""

    def __init__(self, jobs: Unit) -> None:
        self._jobs = jobs
        self._sent = False

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
    back. The first remaining hook relays all ids; rows that were rolled back with a savepoint are not
    found in the outbox.
    """

    def __init__(self, alias: str, hooks: list[Any]) -> None:
        self.alias = alias
        # Django replaces this list when a transaction ends and when a savepoint is rolled back, so its
        # identity distinguishes one transaction from the next.
        self.hooks = hooks
        self.ids: list[UUID] = []
        self.relayed = False

    def relay(self) -> None:
        if not self.relayed:
            self.relayed = True
            _relay(self.alias, self.ids)


def _after_commit(alias: str, ids: list[UUID]) -> None:
    connection: Any = connections[alias]
    batch: _Batch | None = getattr(connection, "djjp_batch", None)
    if batch is None or batch.relayed or batch.hooks is not connection.run_on_commit:
        batch = connection.djjp_batch = _Batch(alias, connection.run_on_commit)
    batch.ids += ids
    transaction.on_commit(batch.relay, using=alias, robust=True)


def _relay(alias: str, ids: list[UUID]) -> None:
    """Relay at once. If that fails, the consumers relay later; the request has done its part."""
    global _paused_until
    started = time.monotonic()
    if started < _paused_until:
        return
    try:
        relay.relay(alias, ids)
    except Exception as error:  # noqa: BLE001  (whatever it is, the transaction is committed)
        now = time.monotonic()
        pause = min(max(_PAUSE_FACTOR * (now - started), _SHORTEST_PAUSE), _LONGEST_PAUSE)
        _paused_until = now + pause
        logger.warning(
            "the relay failed: %d jobs stay in the outbox of %r for a consumer's sweep, and so do all others of "
            "this process for %.0f s: %s",
            len(ids),
            alias,
            pause,
            error,
        )
