"""Huey on an SQLite file.

WAL is the default of its storage, and `fsync=False` the storage's option for speed. The consumer's options for
speed are its workers and its polling delay. It stores no result of a task that returns None, and deletes a task
when a worker takes it: one write for each job, which runs at most once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.peer import Peer, Store, timed


class Huey(Peer):
    name = "huey"
    distribution = "huey"
    stores = ("sqlite",)
    settings = (
        "SqliteHuey, WAL, fsync=False; threads: {slots}; polls every 10 ms, no periodic tasks"
    )
    # Of 1, 2, 4 and 10 workers none was clearly faster, because they share the lock of the file.
    fastest = 2
    bulk = False

    def _app(self, store: Store) -> Any:
        from huey import SqliteHuey

        app = SqliteHuey("bench", filename=store.place, fsync=False, timeout=30)
        return app, {
            "noop": app.task(name="noop")(work.noop),
            "nap": app.task(name="nap")(work.nap),
        }

    def prepare(self, store: Store) -> None:
        self._app(store)

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        function = self._app(store)[1][job]

        def one_by_one() -> None:
            for value in values:
                function(value)

        return timed(one_by_one)

    def consume(self, store: Store, slots: int | None) -> None:
        app, _ = self._app(store)
        app.create_consumer(
            workers=slots or self.fastest, periodic=False, initial_delay=0.01, max_delay=0.01
        ).run()

    unfinished_sql = "SELECT count(*) FROM task"


PEER = Huey()
