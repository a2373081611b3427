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

from django.db import connections, reset_queries

from djjp.outbox import requirements, transactions
from djjp.outbox.lag import Lag
from djjp.outbox.receipts import ReceiptPruner
from djjp.outbox.relay import Call, Sweep

logger = logging.getLogger("djjp.outbox")

# Seconds between two passes, and seconds for which a row is left to the process that enqueued it. Together
# they let a job that was left behind start within a second.
_INTERVAL, _GRACE = 0.5, 0.2
# Seconds between two attempts to start a thread that the system refuses.
_RETRY_AFTER = 1.0


class Sweeper:
    """Sweeps the outboxes until it is stopped. Without outboxes it does nothing.

    Args:
        call: runs a function of the engine, from any thread.
        aliases: the databases whose outboxes are swept: usually `table.outboxes()`.

    Attributes:
        first_pass_done: set once each outbox was swept or did not answer.
        lags: how far each outbox is behind.
    """

    def __init__(self, call: Call, aliases: Sequence[str]) -> None:
        self._stopping = threading.Event()
        self._not_swept_yet = set(aliases)
        self.lags = [Lag(alias) for alias in aliases]
        self.first_pass_done = threading.Event()
        if not aliases:
            self.first_pass_done.set()
        threads = [
            self._thread(f"the outbox of {lag.alias!r}", self._sweep(call, lag))
            for lag in self.lags
        ]
        if aliases:
            prune = self._prune(call, list(aliases))
            threads.append(self._thread("the table of receipts", prune))
        self._unstarted, self._started = threads[::-1], list[threading.Thread]()
        self._retry_at = 0.0

    def start(self) -> None:
        """Start to sweep; a repeated call starts the threads that the system has refused."""
        while self._unstarted and time.monotonic() >= self._retry_at:
            thread = self._unstarted[-1]
            try:
                thread.start()
            except RuntimeError as error:
                if not self._retry_at:
                    text = "the system refuses a thread (%s): outboxes are swept once it gives one"
                    logger.warning(text, error)
                self._retry_at = time.monotonic() + _RETRY_AFTER
            else:
                self._started.append(self._unstarted.pop())

    def stop(self, timeout: float = 5.0) -> None:
        """Stop sweeping and wait for passes in progress; a thread that is stuck in a lock is abandoned.

        A call queue behind `call` must be served or closed meanwhile.
        """
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in self._started:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _sweep(self, call: Call, lag: Lag) -> Callable[[], None]:
        alias, is_checked = lag.alias, False
        outbox = Sweep(alias, call)

        def sweep() -> None:
            nonlocal is_checked
            try:
                transactions.commit_each_statement(alias)
                if not is_checked:
                    for problem in requirements.database_problems(alias):
                        logger.error("djjp.%s: %s. %s", *problem)
                    is_checked = True
                lag.measure()
                outbox.run(grace=_GRACE)
            finally:
                self._not_swept_yet.discard(alias)
                if not self._not_swept_yet:
                    self.first_pass_done.set()

        return sweep

    def _prune(self, call: Call, aliases: Sequence[str]) -> Callable[[], None]:
        pruner = ReceiptPruner(call, aliases)

        def prune() -> None:
            for alias in aliases:
                transactions.commit_each_statement(alias)
            pruner.prune()

        return prune

    def _thread(self, subject: str, work: Callable[[], None]) -> threading.Thread:
        # In an empty context: a call queue in the starting thread's context would stand in for `call`.
        return threading.Thread(
            target=Context().run,
            args=(self._run, subject, work),
            name="djjp-sweeper",
            daemon=True,
        )

    def _run(self, subject: str, work: Callable[[], None]) -> None:
        """Run pass after pass; log an outage once when it begins and once when it is over."""
        failing = False
        try:
            while not self._stopping.is_set():
                reset_queries()  # what DEBUG logs
                try:
                    work()
                except Exception as error:  # noqa: BLE001  (the next pass tries again)
                    if not failing and not self._stopping.is_set():
                        logger.warning("%s cannot be swept for now: %s", subject, error)
                    failing = True
                    for connection in connections.all(initialized_only=True):
                        connection.close_if_unusable_or_obsolete()
                else:
                    if failing:
                        logger.info("%s is swept again", subject)
                    failing = False
                # A random interval, so that consumers do not all sweep at the same moment.
                self._stopping.wait(_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            connections.close_all()
