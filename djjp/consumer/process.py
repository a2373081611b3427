"""One consumer process: from the command's options to an exit code, with its signals."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from djjp import conf
from djjp.claims import queue
from djjp.consumer.consumer import Consumer
from djjp.models import Job

logger = logging.getLogger("djjp.consumer")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def consume(
    *,
    queues: Sequence[str] | None = None,
    concurrency_limit: int | None = None,
    drain: bool = False,
    max_jobs: int | None = None,
) -> int:
    """Run a consumer until a signal, `drain` or `max_jobs` ends it; returns how many jobs it executed.

    A SIGTERM or SIGINT lets the running jobs end; a second one gives them back and ends the process.

    Raises:
        ImproperlyConfigured: the queue's database has no tables yet, or there are more queues than a
            consumer on it can serve by name.
    """
    settings = conf.current()
    _require_tables(settings.db_name)
    _require_queues(queues)
    consumer = Consumer(
        concurrency_limit or settings.concurrency_limit,
        queues=queues,
        drain=drain,
        max_jobs=max_jobs,
        shutdown_timeout=settings.shutdown_timeout,
    )
    where = "all queues" if queues is None else ", ".join(queues)
    with _stopped_by_signals(consumer):
        logger.info("consumer %s serves %s", consumer.name, where)
        ended = consumer.run()
        logger.info("consumer %s ends after %d jobs", consumer.name, consumer.executed)
        if not ended:
            # Threads still run jobs that were given back: no exit handler may wait for them.
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    return consumer.executed


def _require_tables(alias: str) -> None:
    if Job._meta.db_table not in connections[alias].introspection.table_names():
        raise ImproperlyConfigured(
            f"the queue's database has no tables; make them: python manage.py migrate --database={alias}"
        )


def _require_queues(queues: Sequence[str] | None) -> None:
    most = queue().max_queues
    if queues is not None and len(queues) > most:
        raise ImproperlyConfigured(
            f"{len(queues)} queues are named; a consumer on this database serves up to {most} by name, "
            "or all of them without --queues"
        )


@contextmanager
def _stopped_by_signals(consumer: Consumer) -> Iterator[None]:
    """Signals reach the main thread only; a consumer on another one is stopped by `stop()`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        consumer.stop()

    before = [signal.signal(number, stop) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
