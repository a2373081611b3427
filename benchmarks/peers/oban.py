"""Oban for Python.

Its guide, "Defining queues": a queue's limit is the number of jobs that run at once, higher for jobs that wait.
Each fetch takes jobs for the free slots, and fetches are at least 5 ms apart, so short jobs need a high limit.
`enqueue_many` is its bulk insert.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.peer import Peer, Store, chunks


class Oban(Peer):
    name = "oban"
    distribution = "oban"
    stores = ("postgresql",)
    settings = "queue limit {slots}, coroutine jobs, pool of 10"
    fastest = 200  # of 20 and 200

    def prepare(self, store: Store) -> None:
        async def install() -> None:
            from oban import Oban as Application
            from oban.schema import install as tables

            pool = await Application.create_pool(store.place)
            await tables(pool)
            await pool.close()

        asyncio.run(install())

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        async def enqueue() -> float:
            from oban import Oban as Application

            jobs = _jobs()[job]
            pool = await Application.create_pool(store.place)
            async with Application(pool=pool) as application:
                began = asyncio.get_running_loop().time()
                if bulk:
                    for chunk in chunks(values):
                        await application.enqueue_many([jobs.new(value=value) for value in chunk])
                else:
                    for value in values:
                        await application.enqueue(jobs.new(value=value))
                took = asyncio.get_running_loop().time() - began
            await pool.close()
            return took

        return asyncio.run(enqueue())

    def consume(self, store: Store, slots: int | None) -> None:
        async def run() -> None:
            from oban import Oban as Application

            _jobs()
            pool = await Application.create_pool(store.place, min_size=10, max_size=10)
            async with Application(pool=pool, queues={"default": slots or self.fastest}):
                await asyncio.Event().wait()

        asyncio.run(run())

    unfinished_sql = (
        "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'scheduled', 'executing')"
    )


def _jobs() -> dict[str, Any]:
    from oban import job

    return {"noop": job()(work.anoop), "nap": job()(work.anap)}


PEER = Oban()
