"""One consumer process: from the command's options to an exit code, with its signals."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from djjp import conf
from djjp.consumer.consumer import Consumer
from djjp.consumer.recycling import (
    ExitCondition,
    check_exit_conditions,
    code_changed,
    memory_over,
    supervisor_gone,
)
from djjp.models import Job

logger = logging.getLogger("djjp.consumer")

# Exit codes. RECYCLE is for a supervisor only: the child ended as planned, work can be left, and another
# child must replace it.
GRACEFUL, GAVE_BACK, RECYCLE = 0, 1, 3

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def consume(
    *,
    queues: Sequence[str] | None = None,
    exclude_queues: Sequence[str] = (),
    concurrency: str | None = None,
    concurrency_limit: int | None = None,
    drain: bool = False,
    max_jobs: int | None = None,
    max_rss: int | None = None,
    reload: bool = False,
    supervisor: int | None = None,
) -> int:
    """Run a consumer until a signal, `drain`, `max_jobs` or `max_rss` ends it, and return the exit code.

    A SIGTERM or SIGINT lets the running jobs end; a second one, or SIGQUIT, releases them and ends the
    process. A consumer with a supervisor does not count signals, because its supervisor does: it takes
    any number of SIGTERMs as one, and ignores SIGINT, which a terminal sends to the whole process group.

    Args:
        queues, exclude_queues, drain, max_jobs, concurrency: as `Consumer` takes them.
        max_rss: MB of memory above which it claims no more jobs and ends after the running ones.
        reload: end in the same way when the code changes.
        supervisor: process id of the supervisor that started this process; None without one.

    Raises:
        ImproperlyConfigured: as `require()` does.
    """
    settings = conf.current()
    require()
    consumer = Consumer(
        concurrency_limit or settings.concurrency_limit,
        queues=queues,
        exclude_queues=exclude_queues,
        drain=drain,
        max_jobs=max_jobs,
        concurrency=concurrency,
        shutdown_timeout=settings.shutdown_timeout,
    )
    ending = _Ending(consumer, supervised=supervisor is not None)
    conditions = _exit_conditions(ending, max_rss=max_rss, supervisor=supervisor, reload=reload)
    where = "all queues" if queues is None else ", ".join(queues)
    if exclude_queues:
        where += f" except {', '.join(exclude_queues)}"
    with ending.by_signals(), check_exit_conditions(consumer.name, conditions):
        logger.info("consumer %s serves %s", consumer.name, where)
        # The objects loaded so far stay for good. A garbage collection that walks through them takes 40 ms
        # and more, and the first one would delay the first jobs.
        gc.freeze()
        try:
            ended = consumer.run()
        finally:
            gc.unfreeze()
        logger.info("consumer %s ends after %d jobs", consumer.name, consumer.executed)
        lost = consumer.abandoned_threads
        full = max_jobs is not None and consumer.executed >= max_jobs
        again = supervisor is not None and (full or lost or ending.retired)
        code = GAVE_BACK if not ended else RECYCLE if again else GRACEFUL
        if not ended or lost:
            # Threads still run jobs that were released or abandoned: no exit handler must wait for them.
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _exit_conditions(
    ending: _Ending, *, max_rss: int | None, supervisor: int | None, reload: bool
) -> list[ExitCondition]:
    """Return the exit conditions that the options ask for."""
    conditions = []
    if max_rss is not None:
        conditions.append(ExitCondition(memory_over(max_rss), ending.retire))
    if supervisor is not None:
        conditions.append(ExitCondition(supervisor_gone(supervisor), ending.gracefully))
    if reload:
        conditions.append(ExitCondition(code_changed(), ending.retire, logging.INFO))
    return conditions


def require() -> None:
    """Check that a consumer can run.

    Raises:
        ImproperlyConfigured: the queue's database has no tables yet.
    """
    alias = conf.current().db_name
    if Job._meta.db_table not in connections[alias].introspection.table_names():
        raise ImproperlyConfigured(
            f"the queue's database has no tables; make them: python manage.py migrate --database={alias}"
        )


class _Ending:
    """Ends one consumer, at the request of a signal or an exit condition."""

    def __init__(self, consumer: Consumer, *, supervised: bool) -> None:
        self.retired = False
        self._consumer = consumer
        self._supervised = supervised
        self._signals = 0
        # Taken by the first stop. `list.pop` is atomic and takes no lock, so a signal handler can stop the
        # consumer even when it interrupts the thread that is just doing so.
        self._stop_token = [True]

    def gracefully(self) -> None:
        """Let the running jobs end within the shutdown timeout; only the first call has an effect."""
        with suppress(IndexError):  # another thread, or an earlier signal, has taken the token
            self._stop_token.pop()
            self._consumer.stop()

    def at_once(self) -> None:
        """Release the running jobs and end."""
        self.gracefully()
        self._consumer.stop()

    def retire(self) -> None:
        """Claim no more jobs and end after the running ones, however long they take."""
        self.retired = True
        self._consumer.retire()

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """End the consumer by signals while the block runs.

        Signals reach the main thread only; a consumer on another thread is stopped by `stop()`.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = [signal.signal(number, self._signalled) for number in _SIGNALS]
        if self._supervised:
            # The supervisor starts its children with SIGINT blocked, so that none arrives during startup.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            for number, handler in zip(_SIGNALS, before, strict=True):
                # A child is about to end: a late signal must not replace its exit code, which reports
                # how its jobs ended.
                signal.signal(number, signal.SIG_IGN if self._supervised else handler)

    def _signalled(self, number: int, frame: Any) -> None:
        if number == signal.SIGQUIT:
            self.at_once()
        elif not self._supervised:
            self._signals += 1
            if self._signals == 1:
                self.gracefully()
            else:
                self.at_once()
        elif number == signal.SIGTERM:
            self.gracefully()
