"""The sweeper: threads of each consumer that relay rows which processes left behind when they died.

They read the application's databases on connections of their own, so that a lock there never delays the
consumer; each database has its own thread, so that it delays no other database's outbox. They write into
the queue through the consumer's call queue, because the consumer has the one connection to it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context

from django.db import connections

from djjp.outbox import relay
from djjp.outbox.receipts import ReceiptPruner
from djjp.outbox.relay import Call

logger = logging.getLogger("djjp.outbox")

# Seconds between two passes, and seconds for which a row is left to the process that enqueued it. Together
# they let a job that was left behind start within a second.
_INTERVAL, _GRACE = 0.5, 0.2


class Sweeper:
    """Sweeps the outboxes until it is stopped. Without outboxes it does nothing.

    Args:
        call: runs a function of the engine, from any thread.
        aliases: the databases whose outboxes are swept: usually `table.outboxes()`.

    Attributes:
        looked: set once each outbox was swept or did not answer.
    """

    def __init__(self, call: Call, aliases: Sequence[str]) -> None:
        self._stopping = threading.Event()
        self._not_swept_yet = set(aliases)
        self.looked = threading.Event()
        if not aliases:
            self.looked.set()
        self._threads = [
            self._thread(f"the outbox of {alias!r}", self._sweep(call, alias)) for alias in aliases
        ]
        if aliases:
            pruner = ReceiptPruner(call, list(aliases))
            self._threads.append(self._thread("the table of receipts", pruner.prune))

    def start(self) -> None:
        """Start to sweep."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop sweeping and wait for passes in progress; a thread that is stuck in a lock is abandoned.

        A call queue behind `call` must be served or closed meanwhile.
        """
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _sweep(self, call: Call, alias: str) -> Callable[[], None]:
        def sweep() -> None:
            try:
                relay.sweep([alias], call, grace=_GRACE)
            finally:
                self._not_swept_yet.discard(alias)
                if not self._not_swept_yet:
                    self.looked.set()

        return sweep

    def _thread(self, subject: str, work: Callable[[], None]) -> threading.Thread:
        # In an empty context, whatever the starting thread has in its own: the engine is reached by `call` only.
        return threading.Thread(
            target=Context().run,
            args=(self._run, subject, work),
            name="djjp-sweeper",
            daemon=True,
        )

    def _run(self, subject: str, work: Callable[[], None]) -> None:
        """Run pass after pass; log an outage once when it begins and once when it is over."""
        out_of_order = False
        try:
            while not self._stopping.is_set():
                try:
                    work()
                except Exception as error:  # noqa: BLE001  (the next pass tries again)
                    if not out_of_order and not self._stopping.is_set():
                        logger.warning("%s cannot be swept for now: %s", subject, error)
                    out_of_order = True
                    for connection in connections.all(initialized_only=True):
                        connection.close_if_unusable_or_obsolete()
                else:
                    if out_of_order:
                        logger.info("%s is swept again", subject)
                    out_of_order = False
                # A random interval, so that consumers do not all sweep at the same moment.
                self._stopping.wait(_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            connections.close_all()
