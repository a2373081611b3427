"""PgQueuer.

Its guide, "Performance tuning", advises a larger `batch_size` for short jobs, `pgq autovac` after installation and
one direct connection for the consumer; "Benchmarks" prefers asyncpg to psycopg. The tables stay durable, as those
of all queues here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.peer import Peer, Store, chunks


class PgQueuer(Peer):
    name = "pgqueuer"
    distribution = "pgqueuer"
    stores = ("postgresql",)
    settings = "asyncpg, uvloop, batch_size {slots}, coroutine jobs, `pgq autovac`, durable"
    fastest = 500  # of 10, 50, 200 and 500

    def prepare(self, store: Store) -> None:
        async def install() -> None:
            queries = await _queries(store)
            await queries.install()
            await queries.optimize_autovacuum()

        _run(install())

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        async def enqueue() -> float:
            queries = await _queries(store)
            began = asyncio.get_running_loop().time()
            if bulk:
                for chunk in chunks(values):
                    await queries.enqueue(
                        [job] * len(chunk), [_payload(v) for v in chunk], [0] * len(chunk)
                    )
            else:
                for value in values:
                    await queries.enqueue(job, _payload(value))
            return asyncio.get_running_loop().time() - began

        return float(_run(enqueue()))

    def consume(self, store: Store, slots: int | None) -> None:
        async def run() -> None:
            import asyncpg
            from pgqueuer import PgQueuer as Application

            application = Application.from_asyncpg_connection(await asyncpg.connect(store.place))

            async def noop(job: Any) -> None:
                await work.anoop(float(job.payload))

            async def nap(job: Any) -> None:
                await work.anap(float(job.payload))

            application.entrypoint("noop")(noop)
            application.entrypoint("nap")(nap)
            if slots is None:
                await application.run(batch_size=self.fastest)
            else:
                # PgQueuer requires at least twice the batch size.
                await application.run(batch_size=max(slots // 2, 1), max_concurrent_tasks=slots)

        _run(run())

    unfinished_sql = "SELECT count(*) FROM pgqueuer WHERE status IN ('queued', 'picked')"


def _payload(value: float) -> bytes:
    return repr(value).encode()


async def _queries(store: Store) -> Any:
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    return Queries(AsyncpgDriver(await asyncpg.connect(store.place)))


def _run(work: Any) -> Any:
    import uvloop

    return uvloop.run(work)


PEER = PgQueuer()
