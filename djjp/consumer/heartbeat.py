"""The heartbeat: a consumer shows that it lives by a row, a lock and regular heartbeats."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

from djjp import conf
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.models import Consumer

logger = logging.getLogger("djjp.consumer")


@dataclass(frozen=True, slots=True)
class ConsumerName:
    """A consumer's name: `host:pid:token`.

    Host and pid are for display. Two containers can share both, so only the whole name identifies a consumer.
    """

    text: str

    @classmethod
    def new(cls, token: str | None = None) -> ConsumerName:
        """Return a name for a consumer of this process, with a random token unless its supervisor gave one."""
        host = socket.gethostname()[:60]
        return cls(f"{host}:{os.getpid()}:{token or cls.new_token()}")

    @staticmethod
    def new_token() -> str:
        """Return a token that no other consumer has, on any machine."""
        return secrets.token_hex(8)

    @property
    def host(self) -> str:
        return self.text.rsplit(":", 2)[0]

    @property
    def pid(self) -> int:
        return int(self.text.rsplit(":", 2)[1])


class Heartbeat:
    """One consumer's row, lock and heartbeat.

    Args:
        quiet: returns whether the consumer was asked to claim no further jobs.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        queues: Sequence[str] | None,
        slots: int,
        concurrency: str = "threads",
        quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self._engine = engine
        self._queues = queues
        self._slots = slots
        self._concurrency = concurrency
        self._quiet = quiet

    def register(self) -> None:
        """Take the lock, then write the row: a consumer that reads the row can test the lock.

        To register twice under one name does no harm: the lock is kept, and the row is overwritten.

        Raises:
            ImproperlyConfigured: the queue is on its way to another database.
        """
        locked = self._engine.consumers.acquire_lock(self.name)
        if not locked:
            logger.info(
                "consumer %s has no lock; its heartbeats alone show that it lives", self.name
            )
        now, name = to_datetime(time.time()), ConsumerName(self.name)
        self._engine.consumers.register(
            Consumer(
                name=self.name,
                host=name.host,
                pid=name.pid,
                queues=None if self._queues is None else json.dumps(list(self._queues)),
                concurrency=self._concurrency,
                concurrency_limit=self._slots,
                started_at=now,
                heartbeat_at=now,
                locked=locked,
                names=json.dumps(registry.names()),
                release=conf.current().release or "",
                quiet=self._quiet(),
            )
        )
        # Read after the row is written: a transfer reads the rows of consumers after it has written its mark.
        if (found := self._engine.consumers.transfer()) is not None:
            self.deregister()
            raise ImproperlyConfigured(
                f"the {found} is not finished; run manage.py djjp transfer again"
            )

    def beat(self) -> bool:
        """Send a heartbeat; return False if others have declared this consumer dead."""
        locked = self._engine.consumers.acquire_lock(self.name)
        return self._engine.consumers.heartbeat(self.name, time.time(), locked)

    def deregister(self) -> None:
        """Delete the row and release the lock, because the consumer ends and holds no jobs."""
        self._engine.consumers.deregister(self.name)
        self._engine.consumers.release_lock(self.name)
