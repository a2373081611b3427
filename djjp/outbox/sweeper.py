"""The sweeper: threads of each consumer that relay what processes left behind when they died.

They read the application's databases on connections of their own, so that a lock there never holds up
the consumer; and one thread for each database, so that it holds up no other's outbox. Into the queue
they write by the consumer's desk, which has the one connection to it.
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
from djjp.outbox.receipts import Forgetting
from djjp.outbox.relay import Call

logger = logging.getLogger("djjp.outbox")

# Seconds from one pass to the next, and for which a row is left to the process that enqueued it: a job that
# was left behind starts within a second.
_EVERY, _GRACE = 0.5, 0.2


class Sweeper:
    """Sweeps the outboxes until it is stopped. Without any, it does nothing.

    Args:
        call: runs a verb of the queue, from any thread.
        aliases: whose outboxes: as a rule `rows.outboxes()`.
    """

    def __init__(self, call: Call, aliases: Sequence[str]) -> None:
        self._stopping = threading.Event()
        self._unseen = set(aliases)
        #: Set once each outbox was looked into, or did not answer.
        self.looked = threading.Event()
        if not aliases:
            self.looked.set()
        self._threads = [
            self._thread(f"the outbox of {alias!r}", self._sweep(call, alias)) for alias in aliases
        ]
        if aliases:
            forgetting = Forgetting(call, list(aliases))
            self._threads.append(self._thread("what was relayed", forgetting.pass_by))

    def start(self) -> None:
        """Begin to sweep."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop sweeping, and wait for the passes that go on; what is stuck in a lock is left to itself.

        A desk behind `call` has to be served or closed meanwhile.
        """
        self._stopping.set()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _sweep(self, call: Call, alias: str) -> Callable[[], None]:
        def sweep() -> None:
            try:
                relay.sweep([alias], call, grace=_GRACE)
            finally:
                self._unseen.discard(alias)
                if not self._unseen:
                    self.looked.set()

        return sweep

    def _thread(self, what: str, work: Callable[[], None]) -> threading.Thread:
        # With an empty context, whoever starts it: verbs go by `call` and by nothing else.
        return threading.Thread(
            target=Context().run, args=(self._run, what, work), name="djjp-sweeper", daemon=True
        )

    def _run(self, what: str, work: Callable[[], None]) -> None:
        """Pass after pass; an outage is told once, and once more when it is over."""
        out_of_order = False
        try:
            while not self._stopping.is_set():
                try:
                    work()
                except Exception as error:  # noqa: BLE001  (the next pass tries again)
                    if not out_of_order and not self._stopping.is_set():
                        logger.warning("%s cannot be swept for now: %s", what, error)
                    out_of_order = True
                    for connection in connections.all(initialized_only=True):
                        connection.close_if_unusable_or_obsolete()
                else:
                    if out_of_order:
                        logger.info("%s is swept again", what)
                    out_of_order = False
                # Not all consumers at the same moment.
                self._stopping.wait(_EVERY * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            connections.close_all()
