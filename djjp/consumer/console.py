"""The console: the lines that a consumer or a supervisor writes to stderr.

A project that configures djjp's loggers gets the log alone.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from django.conf import settings
from django.db import connections

import djjp
from djjp import conf, logs
from djjp.bounds import one_line

# Seconds between two lines about what a consumer or supervisor waits for.
_EVERY = 1.0

logger = logging.getLogger("djjp.consumer")
_jobs = logging.getLogger(logs.JOBS)


class Console:
    """Writes lines to stderr.

    Args:
        verbosity: as the option of Django's commands: 0 silences the console and, unless the project has
            handlers for it, djjp's log; 2 and more show the log of jobs.
        process: the id of a child of a supervisor, which greets in its place; None without a supervisor.
    """

    def __init__(self, verbosity: int = 0, *, process: int | None = None) -> None:
        self._verbosity = -1 if _is_configured() else verbosity
        self._process = process
        self._quiet_until = 0.0
        self._waits_for = 0  # the number in the last line

    def greet(
        self, name: str, queues: str, concurrency: str | None, concurrency_limit: int | None
    ) -> None:
        """Introduce a consumer or a supervisor.

        Args:
            queues: as `queues_in_words()` returns them.
            concurrency, concurrency_limit: None for those of the settings.
        """
        given = conf.current()
        slots = _count(concurrency_limit or given.concurrency_limit, "job")
        if self._process is None:
            self._say(
                f"djjp {djjp.__version__}: {name}",
                f"database: {_database()}",
                f"queues: {queues}",
                f"concurrency: {concurrency or given.concurrency}, {slots} at a time",
                "Ctrl-C stops, once the running jobs have ended; a second Ctrl-C releases them",
            )

    def wait_for(self, running: int) -> None:
        """Report the number of jobs that a consumer which is about to end waits for, if it has changed."""
        who = "stopping:" if self._process is None else f"process {self._process}"
        self._wait(running, f"{who} waits for {_count(running, 'running job')}")

    def wait_for_children(self, children: int) -> None:
        """Report the number of children that a supervisor waits for, if it has changed."""
        self._wait(children, f"stopping: waits for {_count(children, 'process', 'es')}")

    def _wait(self, number: int, line: str) -> None:
        now = time.monotonic()
        if number and number != self._waits_for and now >= self._quiet_until:
            self._waits_for, self._quiet_until = number, now + _EVERY
            logger.info(line)
            self._say(line)

    def end(self, executed: int | None = None) -> None:
        """Report the end of a consumer with its number of executions, or that of a supervisor."""
        if self._process is None:
            after = "" if executed is None else f" after {_count(executed, 'job')}"
            self._say(f"stopped{after}")

    @contextmanager
    def shown_log(self) -> Iterator[None]:
        """Show as much of djjp's log as the verbosity asks for, while the block runs."""
        handler: logging.Handler
        if self._verbosity == 0 and not logging.root.handlers:
            # Otherwise Python itself would write what no handler takes.
            logger, handler = logging.getLogger("djjp"), logging.NullHandler()
        elif self._verbosity >= 2:
            logger, handler = _jobs, logging.StreamHandler()
            handler.addFilter(_is_shown_by_none)
        else:
            yield
            return
        level = logger.level
        if self._verbosity and not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    def _say(self, *lines: str) -> None:
        if self._verbosity > 0:
            # Nobody may read it any more; `sys.stderr` is None if it was closed when the process started.
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write("".join(f"{one_line(line)}\n" for line in lines))
                sys.stderr.flush()


def queues_in_words(queues: Sequence[str] | None, excluded: Sequence[str]) -> str:
    """Return the queues that a consumer serves, as text."""
    served = "all queues" if queues is None else ", ".join(queues)
    return f"{served} except {', '.join(excluded)}" if excluded else served


def _database() -> str:
    """Return the queue's alias, and which database that is; its user and password are nobody's business."""
    connection = connections[conf.db_name()]
    given = connection.settings_dict
    name = given["NAME"] or given["OPTIONS"].get("service", "")
    host = ":".join(str(given[key]) for key in ("HOST", "PORT") if given[key])
    return f"{connection.alias}, {connection.display_name} {name}{host and f' on {host}'}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _is_configured() -> bool:
    """Return whether the project configures djjp's loggers, by `LOGGING` or in another way."""
    given = getattr(settings, "LOGGING", None)
    loggers = given.get("loggers", ()) if isinstance(given, dict) else ()
    return any(str(name).split(".")[0] == "djjp" for name in loggers) or any(
        logging.getLogger(name).handlers for name in logs.NAMES
    )


def _is_shown_by_none(record: logging.LogRecord) -> bool:
    """Return whether no handler of the root logger writes a record to the terminal too."""
    streams = (sys.stderr, sys.stdout)
    return not any(
        getattr(handler, "stream", None) in streams and record.levelno >= handler.level
        for handler in logging.root.handlers
    )
