"""Wake-ups on SQLite: how a consumer notices that another connection has written to the file.

On a connection, `PRAGMA data_version` changes when another connection has committed. A consumer has to poll it,
and to start a job within milliseconds it would have to poll so often that it costs some percent of a core. So it
polls when the system reports a write to the write-ahead log, and seldom otherwise.

A report only says when to poll:

* The system also reports this consumer's own writes, transactions that are rolled back, and pages that a long
  transaction writes before its end. So reports are ignored for some milliseconds after each one: under a flood
  of writes the consumer polls by the clock, as it would without reports.
* The system reports a write before its commit is visible, and in a slow commit long before. So after a report
  the consumer polls soon, and then ever more rarely.
* On network folders the system may report nothing. A commit without a report shows that, and for a while the
  consumer polls by the clock.
"""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from djjp.engine.sqlite.inotify import FileWatch

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("djjp.consumer")

# The longest time that one statement of a consumer waits for a lock, in milliseconds.
_LOCK_TIMEOUT = 2000
# Seconds between two polls by the clock: just after work, and at rest.
_BUSY_POLL, _IDLE_POLL = 0.002, 0.005
# The same where writes are reported: just after a report, and at rest.
_SHORTEST_POLL, _LONGEST_POLL = 0.001, 0.25
# A commit comes at most this many seconds after the last write to the log that belongs to it.
_LONGEST_COMMIT = 1.0
# Seconds between two attempts to have the system report writes, for which it lacks a descriptor.
_WATCH_EVERY = 1.0
# Seconds for which reports are not relied on after the system has missed a write.
_DISTRUST = 60.0


class CommitListener:
    """Make a connection a consumer's own, and notice the commits of other connections."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection: Any = connection
        self._driver: Any = None
        self._log: FileWatch | None = None
        self._written_at = 0.0  # the last write that was reported
        self._ignore_until = 0.0
        self._distrust_until = 0.0
        self._missed_since: float | None = None  # since when commits come without a report
        self._lacks_watch = False  # because the system has no descriptor for one
        self._watch_at = 0.0
        self._pause = _IDLE_POLL  # between two polls by the clock
        self._version = self._read()

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when the log was written to.

        None while reports are ignored, and where the system reports no writes.
        """
        if self._log is None or time.monotonic() < self._ignore_until:
            return None
        return self._log.fileno()

    def woken(self) -> bool:
        # In this order: a commit that is visible was written before.
        version = self._read()
        written = self._log is not None and self._log.written()
        woken, self._version = version != self._version, version
        now = time.monotonic()
        if self._lacks_watch and now >= self._watch_at:
            self._watch_at = now + _WATCH_EVERY
            with self._connection.wrap_database_errors:
                self._follow_log()
        if woken:
            self._ignore_until = now + self._pause
            if not written and now - self._written_at > _LONGEST_COMMIT:
                self._distrust_until = now + _DISTRUST
                self._missed_since = self._missed_since or now
            else:
                self._missed_since = None
        elif written:
            self._ignore_until = max(self._ignore_until, now + _SHORTEST_POLL)
        if written:
            self._written_at = now
        return woken

    def unheard(self) -> str | None:
        """Return the reason once all commits for a while came without a report: one can be a coincidence."""
        now = time.monotonic()
        if self._log is None or self._missed_since is None or now >= self._distrust_until:
            return None
        missed = now - self._missed_since >= _DISTRUST
        return "the system does not report writes to the queue's file" if missed else None

    def interval(self, quiet: float) -> float:
        self._pause = _BUSY_POLL if quiet < 0.1 else _IDLE_POLL
        now = time.monotonic()
        if self._log is None or now < self._distrust_until:
            return self._pause
        return min(
            max(self._ignore_until - now, now - self._written_at, _SHORTEST_POLL), _LONGEST_POLL
        )

    def close(self) -> None:
        """Do nothing: what is watched is the file, and nobody waits for the watcher."""

    def _read(self) -> int:
        connection = self._connection
        connection.ensure_connection()
        is_new = connection.connection is not self._driver
        # On the raw driver connection: where no writes are reported this runs two hundred times a second.
        with connection.wrap_database_errors:
            if is_new:
                self._adopt()
            (version,) = self._driver.execute("PRAGMA data_version").fetchone()
            if is_new:
                self._follow_log()  # only a connection that has read has a log
        return int(version)

    def _adopt(self) -> None:
        """Set up a connection that was just opened.

        A consumer waits less long for a lock than other connections, because it tries again automatically, and
        while it waits inside SQLite it can neither react to a signal nor interrupt a job.
        """
        driver = self._connection.connection
        (timeout,) = driver.execute("PRAGMA busy_timeout").fetchone()
        driver.execute(f"PRAGMA busy_timeout = {min(int(timeout), _LOCK_TIMEOUT)}")
        # A statement keeps copies of pages until it ends, and by default puts more than 64 KB of them into a file:
        # a large turn, or one over many queues, would open and write a file for each statement.
        driver.execute("PRAGMA temp_store = MEMORY")
        self._driver = driver

    def _follow_log(self) -> None:
        """Watch the log of this connection, because the log of the one before may have been removed."""
        self._written_at = time.monotonic()
        # The path of the file itself where the settings name a link to it; empty for a database in memory.
        (_, _, file), *_ = self._driver.execute("PRAGMA database_list")
        try:
            self._log = (self._log or FileWatch()) if file else None
            if self._log is not None:
                self._log.follow(Path(f"{file}-wal"))
        except OSError as error:
            self._log = None
            if error.errno in (errno.EMFILE, errno.ENFILE) and not self._lacks_watch:
                self._lacks_watch = True
                text = "no descriptor is left to watch the queue's file (%s): this consumer polls until one is"
                logger.warning(text, error)
        else:
            self._lacks_watch = False
