"""Celery with Redis, where a `redis-server` is installed.

Its guide, "Optimizing", advises a large prefetch multiplier for many short tasks, "64, or 128 for example".
Results are ignored. It uses threads, because single consumer processes are compared. Redis writes nothing to disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.peer import Peer, Store, timed


class Celery(Peer):
    name = "celery"
    distribution = "celery"
    stores = ("redis",)
    settings = (
        "{slots} threads in one process, prefetch multiplier 128, results ignored, no rate limits, "
        "no gossip, mingle or heartbeat; Redis without persistence"
    )
    bulk = False

    def missing(self) -> str | None:
        if (why := super().missing()) is not None:
            return why
        return None if shutil.which("redis-server") else "there is no redis-server on PATH"

    def _app(self, store: Store) -> Any:
        from celery import Celery as App

        app = App("bench", broker=store.place, set_as_current=True)
        app.conf.update(
            task_ignore_result=True,
            worker_prefetch_multiplier=128,
            worker_disable_rate_limits=True,
            worker_hijack_root_logger=False,
            broker_connection_retry_on_startup=True,
        )
        return app, {
            "noop": app.task(name="noop")(work.noop),
            "nap": app.task(name="nap")(work.nap),
        }

    def prepare(self, store: Store) -> None:
        """Do nothing: Celery has no tables."""

    def enqueue(self, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
        task = self._app(store)[1][job]

        def one_by_one() -> None:
            for value in values:
                task.delay(value)

        return timed(one_by_one)

    def consume(self, store: Store, slots: int | None) -> None:
        app, _ = self._app(store)
        app.worker_main(
            [
                "worker",
                "--pool=threads",
                f"--concurrency={slots or self.fastest}",
                "--loglevel=ERROR",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]
        )

    def unfinished(self, store: Store) -> int:
        from redis import Redis

        with Redis(unix_socket_path=store.place.partition("://")[2]) as server:
            return int(server.llen("celery")) + int(server.hlen("unacked"))


PEER = Celery()
