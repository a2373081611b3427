"""The heartbeat: how a consumer shows that it lives, by a row, a lock and a heartbeat."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Consumer

logger = logging.getLogger("djjp.consumer")


@dataclass(frozen=True, slots=True)
class ConsumerName:
    """A consumer's name: `host:pid:random`."""

    text: str

    @classmethod
    def new(cls) -> ConsumerName:
        """Return a name for a consumer of this process that no other one has."""
        return cls(f"{cls.prefix(os.getpid())}{secrets.token_hex(4)}")

    @staticmethod
    def prefix(pid: int) -> str:
        """Return how the names of all consumers of one process of this machine begin."""
        return f"{socket.gethostname()[:60]}:{pid}:"

    @property
    def host(self) -> str:
        return self.text.rsplit(":", 2)[0]

    @property
    def pid(self) -> int:
        return int(self.text.rsplit(":", 2)[1])

    @property
    def filename(self) -> str:
        """The name as that of a file, without its suffix."""
        return self.text.replace(":", "-")


class Heartbeat:
    """One consumer's row, lock and heartbeat."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        queues: Sequence[str] | None,
        limit: int,
        concurrency: str = "threads",
    ) -> None:
        self.name = name
        self._engine = engine
        self._queues = queues
        self._limit = limit
        self._concurrency = concurrency

    def register(self) -> None:
        """Take the lock, then write the row: a consumer that sees the row can try the lock."""
        locked = self._engine.consumers.acquire_lock(self.name)
        if not locked:
            logger.info("this consumer has no lock; others see by its heartbeats that it lives")
        now, name = to_datetime(time.time()), ConsumerName(self.name)
        self._engine.consumers.register(
            Consumer(
                name=self.name,
                host=name.host,
                pid=name.pid,
                queues=None if self._queues is None else json.dumps(list(self._queues)),
                concurrency=self._concurrency,
                concurrency_limit=self._limit,
                started_at=now,
                heartbeat_at=now,
                locked=locked,
            )
        )

    def beat(self) -> bool:
        """Send a heartbeat; return False if others have declared this consumer dead."""
        locked = self._engine.consumers.acquire_lock(self.name)
        return self._engine.consumers.heartbeat(self.name, time.time(), locked)

    def deregister(self) -> None:
        """Remove the row and give up the lock, with nothing left to do."""
        self._engine.consumers.deregister(self.name)
        self._engine.consumers.release_lock(self.name)
