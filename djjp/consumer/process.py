"""One consumer process: from the command's options to an exit code, with its signals."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections

from djjp import conf, engine, instruments, unapplied
from djjp.consumer import signals
from djjp.consumer.console import Console, queues_in_words
from djjp.consumer.consumer import Consumer
from djjp.consumer.health import Health, HealthFile, SupervisorPipe, Systemd
from djjp.consumer.health_port import HealthPort
from djjp.consumer.leaving import leave, leave_within
from djjp.consumer.recycling import (
    ExitCondition,
    check_exit_conditions,
    code_changed,
    memory_over,
    supervisor_gone,
)
from djjp.consumer.supervision import Supervision
from djjp.durations import seconds
from djjp.engine import entries
from djjp.outbox import table
from djjp.routers import APP_LABEL, OUTBOX_LABEL

logger = logging.getLogger("djjp.consumer")

# Exit codes. RECYCLE is for a supervisor only: the child ended as planned, work can be left, and another
# child must replace it.
GRACEFUL, RELEASED, RECYCLE = 0, 1, 3

_SIGNALS = (*signals.ENDING, signal.SIGQUIT)

# Seconds that a process gets at least for its end after that of its consumer.
_LEAST_PATIENCE = 1.0


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
    supervision: Supervision | None = None,
    verbosity: int = 0,
    health: Health | None = None,
    ends_process: bool = False,
) -> int:
    """Run a consumer until a signal, `drain`, `max_jobs` or `max_rss` ends it, and return the exit code.

    A SIGTERM, SIGINT or SIGHUP lets the running jobs end; a second SIGTERM or SIGINT, or SIGQUIT, releases
    them and ends the process. A consumer with a supervisor does not count signals, because its supervisor
    does: it takes any number of SIGTERMs and SIGHUPs as one, and ignores SIGINT, which a terminal sends to
    the whole process group.

    Args:
        queues, exclude_queues, drain, max_jobs, concurrency: as `Consumer` takes them.
        max_rss: MB of memory above which it claims no more jobs and ends after the running ones.
        reload: end in the same way when the code changes.
        supervision: what the supervisor that started this process gave it; None without one.
        verbosity: of the console, as `Console` takes it.
        health: shows what the rounds of the coordinator say; closed at the end. None for nowhere.
        ends_process: whether the process ends with it. Then what jobs have left behind, such as threads, keeps the
            process for the rest of the shutdown timeout, at least for a second, and a signal ends it at once, both
            with the exit code.

    Raises:
        ImproperlyConfigured, QueueUnavailable: as `require()` does.
    """
    settings = conf.current()
    require()
    shutdown_timeout = seconds("shutdown_timeout", settings.shutdown_timeout)
    consumer = Consumer(
        concurrency_limit or settings.concurrency_limit,
        queues=queues,
        exclude_queues=exclude_queues,
        drain=drain,
        max_jobs=max_jobs,
        concurrency=concurrency,
        shutdown_timeout=shutdown_timeout,
        token=supervision and supervision.token,
    )
    ending = _Ending(
        consumer,
        supervised=supervision is not None,
        ends_process=ends_process,
        shutdown_timeout=shutdown_timeout,
    )
    consumer.requests.stop = ending.gracefully
    supervisor = supervision and supervision.supervisor
    conditions = _exit_conditions(ending, max_rss=max_rss, supervisor=supervisor, reload=reload)
    console = Console(verbosity, process=supervision and os.getpid())
    health = health or Health()
    consumer.on_round = health.note

    def on_ending(running: int) -> None:
        console.wait_for(running)
        health.begin_end()

    consumer.on_ending = on_ending
    served = queues_in_words(queues, exclude_queues)
    with (
        ending.by_signals(),
        check_exit_conditions(consumer.name, conditions),
        console.shown_log(),
    ):
        logger.info("consumer %s serves %s", consumer.name, served)
        console.greet(f"consumer {consumer.name}", served, concurrency, concurrency_limit)
        ending.code = code = _run(consumer, ending, max_jobs, console, health)
        if ends_process:
            leave_within(ending.patience(), code, consumer.name)
        return code


def _run(
    consumer: Consumer, ending: _Ending, max_jobs: int | None, console: Console, health: Health
) -> int:
    """Run the consumer to its end and return the exit code, or exit at once if threads still run jobs."""
    # The objects loaded so far stay for good. A garbage collection that walks through them takes 40 ms
    # and more, and the first one would delay the first jobs.
    gc.freeze()
    try:
        ended = consumer.run()
    except ImproperlyConfigured:
        raise
    except Exception:  # noqa: BLE001  (the consumer has logged it)
        ended = False
    finally:
        gc.unfreeze()
        health.close()
    logger.info("consumer %s ends after %d jobs", consumer.name, consumer.executed)
    console.end(consumer.executed)
    lost = consumer.abandoned_threads
    spent = max_jobs is not None and consumer.executed >= max_jobs
    recycle = ending.supervised and (spent or lost or ending.retired)
    code = RELEASED if not ended else RECYCLE if recycle else GRACEFUL
    if not ended or lost:
        # Threads still run jobs that were released or abandoned: no exit handler must wait for them.
        leave(code)
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


def own_health(
    supervision: Supervision | None, *, file: str | None, host: str | None, port: int | None
) -> Health:
    """Return the health of this process, with the places where it is shown.

    A child gives its signs to its supervisor, which shows the health of all its children.

    Args:
        file: touched with each sign.
        host: the address of the port; None for all.
        port: answers over HTTP.

    Raises:
        ImproperlyConfigured: the port is taken, or no address of this machine.
    """
    systemd = Systemd.of_environment()
    if supervision is not None:
        return Health([SupervisorPipe(supervision.pipe)] if supervision.pipe else [])
    health = Health([] if systemd is None else [systemd])
    if file is not None:
        health.add(HealthFile(Path(file)))
    if port is not None:
        try:
            health.add(HealthPort(health, host or "", port))
        except (OSError, RuntimeError) as error:
            health.close()
            where = f"{host}, port {port}" if host else f"port {port}"
            # Without the address that the standard library repeats.
            reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
            text = f"the health port cannot be opened: {where}: {reason}"
            raise ImproperlyConfigured(text) from error
    return health


def require() -> None:
    """Check that a consumer can run.

    It runs without the outbox too: a database whose outbox lacks migrations is logged.

    Raises:
        ImproperlyConfigured: an instrument cannot be loaded, or the entry of an outbox is wrong.
        ImproperlyConfigured, QueueUnavailable: as `require_queue()` does.
    """
    instruments.require()
    require_queue()
    for alias in table.outboxes():
        connection = connections[alias]
        was_open = connection.connection is not None
        try:
            entries.connect(alias)
            if problem := unapplied.problem(alias, OUTBOX_LABEL):
                logger.warning("%s; its outbox may not be swept before", problem)
        except DatabaseError:
            continue  # the sweep waits for it
        finally:
            if not was_open:
                connection.close()


def require_queue() -> None:
    """Check that the queue's database answers and has the tables of this code.

    Raises:
        ImproperlyConfigured: migrations are not applied there.
        QueueUnavailable: it does not answer.
    """
    if problem := engine.run(lambda engine: unapplied.problem(engine.db.alias, APP_LABEL)):
        raise ImproperlyConfigured(problem)


class _Ending:
    """Ends one consumer, at the request of a signal or an exit condition.

    Attributes:
        code: the exit code, once the consumer has ended; None before.
    """

    def __init__(
        self, consumer: Consumer, *, supervised: bool, ends_process: bool, shutdown_timeout: float
    ) -> None:
        self.retired = False
        self.supervised = supervised
        self.code: int | None = None
        self._consumer = consumer
        self._ends_process = ends_process
        self._shutdown_timeout = shutdown_timeout
        self._stopped_at: float | None = None
        self._is_hurried = False
        self._signals = 0
        # Taken by the first stop. `list.pop` is atomic and takes no lock, so a signal handler can stop the
        # consumer even when it interrupts the thread that is just doing so.
        self._stop_token = [True]

    def gracefully(self) -> None:
        """Let the running jobs end within the shutdown timeout; only the first call has an effect."""
        with suppress(IndexError):  # another thread, or an earlier signal, has taken the token
            self._stop_token.pop()
            self._stopped_at = time.monotonic()
            self._consumer.stop()

    def patience(self) -> float:
        """Return the seconds that the process gets for its end: the rest of the shutdown timeout, or a second."""
        if self._is_hurried:
            return _LEAST_PATIENCE
        passed = 0.0 if self._stopped_at is None else time.monotonic() - self._stopped_at
        return max(self._shutdown_timeout - passed, _LEAST_PATIENCE)

    def at_once(self) -> None:
        """Release the running jobs and end."""
        self._is_hurried = True
        self.gracefully()
        self._consumer.stop()

    def retire(self) -> None:
        """Claim no more jobs and end after the running ones, however long they take."""
        self.retired = True
        self._consumer.retire()

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """End the consumer by signals while the block runs; one on another thread is ended by `stop()`."""
        with signals.handled(_SIGNALS, self._signalled, afterwards=self._late_handlers()):
            if self.supervised:
                # The supervisor starts its children with SIGINT blocked, so that none arrives during startup.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            yield

    def _late_handlers(self) -> dict[int, Any]:
        """Return the handlers for the end of the process.

        No late signal must replace the exit code, which reports how the jobs ended.
        """
        if not (self.supervised or self._ends_process):
            return {}
        handlers: dict[int, Any] = dict.fromkeys(signals.ENDING, signal.SIG_IGN)
        if not self.supervised:
            handlers[signal.SIGTERM] = handlers[signal.SIGINT] = self._leave
        return handlers | {signal.SIGQUIT: self._leave}

    def _leave(self, number: int, frame: Any) -> None:
        # Nothing is flushed: this can have interrupted a write.
        os._exit(RELEASED if self.code is None else self.code)

    def _signalled(self, number: int, frame: Any) -> None:
        if self.code is not None and self._late_handlers().get(number) == self._leave:
            self._leave(number, frame)
        if number == signal.SIGQUIT:
            self.at_once()
        elif self.supervised or number == signals.HANGUP:
            # A closing terminal can send several, and systemd sends one after a SIGTERM.
            if number != signal.SIGINT:
                self.gracefully()
        else:
            self._signals += 1
            if self._signals == 1:
                self.gracefully()
            else:
                self.at_once()
