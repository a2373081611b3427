"""Procrastinate.

According to `App.run_worker`, `concurrency` is the number of coroutine jobs at once and has no effect on blocking
jobs. So its jobs are coroutines here, and the pool has a connection for each. `batch_defer` is its bulk enqueue.
Finished jobs are kept, which is the default of most of these queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.peer import Peer, Store, chunks, timed


class Procrastinate(Peer):
    name = "procrastinate"
    distribution = "procrastinate"
    stores = ("postgresql",)
    settings = "PsycopgConnector with {slots} connections, concurrency {slots}, coroutine jobs"
    fastest = 10
    most = 2_000

    def _app(self, store: Store, *, sync: bool, pool: int = 1) -> Any:
        from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

        connector: Any = (
            SyncPsycopgConnector(conninfo=store.place, min_size=pool, max_size=pool)
            if sync
            else PsycopgConnector(conninfo=store.place, min_size=pool, max_size=pool)
        )
        app = App(connector=connector)
        return app, {
            "noop": app.task(name="noop")(work.anoop),
            "nap": app.task(name="nap")(work.anap),
        }

    def prepare(self, store: Store) -> None:
        app, _ = self._app(store, sync=True)
        with app.open():
            app.schema_manager.apply_schema()

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        app, tasks = self._app(store, sync=True)
        task = tasks[job]

        def one_by_one() -> None:
            for value in values:
                task.defer(value=value)

        def in_bulk() -> None:
            for chunk in chunks(values):
                task.batch_defer(*[{"value": value} for value in chunk])

        with app.open():
            return timed(in_bulk if bulk else one_by_one)

    def consume(self, store: Store, slots: int | None) -> None:
        slots = slots or self.fastest
        # One additional connection listens for notifications.
        app, _ = self._app(store, sync=False, pool=slots + 1)

        async def run() -> None:
            async with app.open_async():
                await app.run_worker_async(concurrency=slots)

        asyncio.run(run())

    unfinished_sql = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"


PEER = Procrastinate()
