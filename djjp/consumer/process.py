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
from djjp.consumer.recycling import Watched, code_changed, memory_over, supervisor_gone, watching
from djjp.models import Job

logger = logging.getLogger("djjp.consumer")

# How a process ends. Only a supervisor gets to see the last one: the child has done its share, there
# may be more to do, and another child is to take its place.
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
    """Run a consumer until a signal, `drain`, `max_jobs` or `max_rss` ends it; returns the exit code.

    A SIGTERM or SIGINT lets the running jobs end; a second one, or SIGQUIT, gives them back and ends
    the process. A consumer that has a supervisor leaves the counting to it: any number of SIGTERMs is
    one, and a SIGINT, which a terminal sends to the whole process group, is not for it.

    Args:
        queues, exclude_queues, drain, max_jobs, concurrency: as `Consumer` takes them.
        max_rss: MB of memory above which it takes no more jobs and ends when the running ones have.
        reload: end likewise when the code changes.
        supervisor: process id of the supervisor that started this process, if one did.

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
    watched = _watched(ending, max_rss=max_rss, supervisor=supervisor, reload=reload)
    where = "all queues" if queues is None else ", ".join(queues)
    if exclude_queues:
        where += f" but {', '.join(exclude_queues)}"
    with ending.by_signals(), watching(consumer.name, watched):
        logger.info("consumer %s serves %s", consumer.name, where)
        # What is loaded by now stays. To walk through it takes a collection 40 ms and more, and the first
        # comes with the first jobs.
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
            # Threads still run jobs that were given back or given up: no exit handler may wait for them.
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _watched(
    ending: _Ending, *, max_rss: int | None, supervisor: int | None, reload: bool
) -> list[Watched]:
    """What else ends the consumer, each with how."""
    watched = []
    if max_rss is not None:
        watched.append(Watched(memory_over(max_rss), ending.retire))
    if supervisor is not None:
        watched.append(Watched(supervisor_gone(supervisor), ending.gracefully))
    if reload:
        watched.append(Watched(code_changed(), ending.retire, logging.INFO))
    return watched


def require() -> None:
    """Look whether a consumer can run at all.

    Raises:
        ImproperlyConfigured: the queue's database has no tables yet.
    """
    alias = conf.current().db_name
    if Job._meta.db_table not in connections[alias].introspection.table_names():
        raise ImproperlyConfigured(
            f"the queue's database has no tables; make them: python manage.py migrate --database={alias}"
        )


class _Ending:
    """Tells one consumer to end, in the way that whoever asks has in mind."""

    def __init__(self, consumer: Consumer, *, supervised: bool) -> None:
        self.retired = False
        self._consumer = consumer
        self._supervised = supervised
        self._signals = 0
        self._first = [True]

    def gracefully(self) -> None:
        """Let the running jobs end within the shutdown timeout; asked again, this does nothing."""
        with suppress(IndexError):  # to take the token is atomic: of several threads one stops it
            self._first.pop()
            self._consumer.stop()

    def at_once(self) -> None:
        """Give the running jobs back."""
        self.gracefully()
        self._consumer.stop()

    def retire(self) -> None:
        """Claim no more and end when the running jobs have, however long they take."""
        self.retired = True
        self._consumer.retire()

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Signals reach the main thread only; a consumer on another one is stopped by `stop()`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = [signal.signal(number, self._signalled) for number in _SIGNALS]
        if self._supervised:
            # Held back by the supervisor, so that none came while this process was starting.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            for number, handler in zip(_SIGNALS, before, strict=True):
                # A child is about to end, and its exit code is to say how its jobs did.
                signal.signal(number, signal.SIG_IGN if self._supervised else handler)

    def _signalled(self, number: int, frame: Any) -> None:
        if number == signal.SIGQUIT:
            self.at_once()
        elif not self._supervised:
            self._signals += 1
            self.gracefully() if self._signals == 1 else self.at_once()
        elif number == signal.SIGTERM:
            self.gracefully()
