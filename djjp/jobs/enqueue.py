"""Where an enqueue goes: straight to the queue, or with the transaction that it is made in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from djjp import conf, engine
from djjp.engine import NO_HOLDERS, Engine, KeyHolders, NewGraph, NewJob
from djjp.outbox import relay, table, transactions

logger = logging.getLogger("djjp.outbox")

# After a relay that failed, this process leaves relaying to the consumers for ten times as long as the
# failure took: a queue that does not answer would hold up one request after the other.
_SHORTEST_REST, _LONGEST_REST = 1.0, 60.0
_rest_until = 0.0

#: For users' tests, in all threads: who is told of jobs once they are enqueued, and where they went:
#: "queue", "outbox", or "on_commit" for those that wait for it.
observers: list[Callable[[Sequence[NewJob], str], None]] = []
#: For users' tests, in all threads: enqueue past open transactions, and then call this.
inline: Callable[[], None] | None = None


def enqueue(jobs: Sequence[NewJob] | NewGraph, database: str | None = None) -> KeyHolders:
    """Enqueue jobs, or a pipeline, all or none of them; returns who has the unique keys of some instead.

    Inside `atomic()` of a database in `DJJP["outbox"]` they commit or vanish with its transaction; of
    several open ones, with the innermost.

    Args:
        database: the alias whose transaction they belong to, if it has one open; None for the innermost.
    """
    if not jobs:
        return NO_HOLDERS
    place, held = _send_off(jobs, database)
    for tell in tuple(observers):
        all_of_them = jobs.jobs if isinstance(jobs, NewGraph) else jobs
        tell([job for job in all_of_them if job.id not in held], place)
    if inline is not None:
        inline()
    return held


def _send_off(jobs: Sequence[NewJob] | NewGraph, database: str | None) -> tuple[str, KeyHolders]:
    """Send jobs where they belong; returns where that is, as `observers` are told it, and what was held."""
    settings = conf.current()
    alias = _transaction(settings, database) if inline is None else None
    if alias is None:
        return "queue", engine.run(partial(_write, jobs=jobs))
    if alias == settings.db_name:
        # Here and not by a consumer's coordinator, for the transaction is here.
        return "queue", _write(engine.current(), jobs)
    if table.installed():
        units = [jobs] if isinstance(jobs, NewGraph) else jobs
        table.write(alias, units)
        _after_commit(alias, [unit.id for unit in units])
        return "outbox", NO_HOLDERS
    transaction.on_commit(_Waiting(jobs).send, using=alias)
    return "on_commit", NO_HOLDERS


async def aenqueue(jobs: Sequence[NewJob] | NewGraph, database: str | None = None) -> KeyHolders:
    """`enqueue` for coroutines: a job that has used no thread needs none for this either."""
    if jobs and engine.can_skip_thread.get()():
        return await engine.arun(partial(_write, jobs=jobs))
    return await sync_to_async(enqueue)(jobs, database)


def _transaction(settings: conf.Settings, database: str | None) -> str | None:
    """The alias whose open transaction an enqueue belongs to; None for none."""
    if database is not None:
        aliases: Sequence[str] = (database,)
    elif settings.db_name == "default":
        aliases = (*settings.outbox, "default")
    else:
        aliases = settings.outbox
    alias = transactions.innermost(aliases)
    if alias is None or alias == settings.db_name or table.installed():
        return alias
    # A TestCase's transaction never commits: without an outbox, its tests enqueue as if there were none.
    return None if transactions.is_of_testcase(alias) else alias


def _write(engine: Engine, jobs: Sequence[NewJob] | NewGraph) -> KeyHolders:
    if isinstance(jobs, NewGraph):
        engine.pipelines.enqueue(jobs)
        return NO_HOLDERS
    return engine.jobs.enqueue(jobs[0]) if len(jobs) == 1 else engine.jobs.enqueue_many(jobs)


def _write_late(engine: Engine, jobs: Sequence[NewJob] | NewGraph) -> None:
    if isinstance(jobs, NewGraph):
        engine.pipelines.enqueue(jobs)
    else:
        engine.jobs.enqueue_late(jobs)


class _Waiting:
    """Jobs that wait for the commit of their transaction, where there is no outbox."""

    def __init__(self, jobs: Sequence[NewJob] | NewGraph) -> None:
        self._jobs = jobs
        self._sent = False

    def send(self) -> None:
        if not self._sent:
            engine.run(partial(_write_late, jobs=self._jobs))
            self._sent = True


def send_waiting() -> None:
    """For users' tests: enqueue what waits for the commit of a TestCase's transaction, which never comes."""
    for alias in conf.current().outbox:
        if transactions.is_of_testcase(alias):
            for _, function, *_ in tuple(connections[alias].run_on_commit):
                waiting = getattr(function, "__self__", None)
                if isinstance(waiting, _Waiting):
                    waiting.send()


class _Batch:
    """What one transaction has enqueued, for one relay after its commit.

    Each enqueue registers `relay` anew, because Django drops what was registered inside a savepoint that
    is rolled back. The first that is left takes the ids of all; those whose rows went with a savepoint
    are not found in the outbox.
    """

    def __init__(self, alias: str, hooks: list[Any]) -> None:
        self.alias = alias
        # Django replaces this list when a transaction ends and when a savepoint is rolled back, so it
        # tells one transaction from the next.
        self.hooks = hooks
        self.ids: list[UUID] = []
        self.taken = False

    def relay(self) -> None:
        if not self.taken:
            self.taken = True
            _relay(self.alias, self.ids)


def _after_commit(alias: str, ids: list[UUID]) -> None:
    connection: Any = connections[alias]
    batch: _Batch | None = getattr(connection, "djjp_batch", None)
    if batch is None or batch.taken or batch.hooks is not connection.run_on_commit:
        batch = connection.djjp_batch = _Batch(alias, connection.run_on_commit)
    batch.ids += ids
    transaction.on_commit(batch.relay, using=alias, robust=True)


def _relay(alias: str, ids: list[UUID]) -> None:
    """Relay at once; what goes wrong is left to the consumers, for the request has done its part."""
    global _rest_until
    began = time.monotonic()
    if began < _rest_until:
        return
    try:
        relay.relay(alias, ids)
    except Exception as error:  # noqa: BLE001  (whatever it is, the data is committed)
        now = time.monotonic()
        rest = min(max(10 * (now - began), _SHORTEST_REST), _LONGEST_REST)
        _rest_until = now + rest
        logger.warning(
            "%d jobs wait in the outbox of %r for a consumer's sweep, as do others for %.0f s: %s",
            len(ids),
            alias,
            rest,
            error,
        )
