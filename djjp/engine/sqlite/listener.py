"""How a consumer notices that somebody else has written to the SQLite file.

`PRAGMA data_version` tells, on a connection, whether another one has committed since. It has to be
asked, and who asks often enough to start a job within milliseconds spends some percent of a core on
it. So it is asked when the system says that the write-ahead log was written to, and seldom besides.

What the system says is only when to ask:

* It also tells of this consumer's own writes, of transactions that are rolled back, and of pages that a
  long one writes before its end. For some milliseconds after each it is not listened to: under a flood
  of writes the consumer asks by the clock, as it would without.
* It tells of a write before the commit can be seen, and in a slow commit long before. So after it the
  consumer asks soon, and then ever more rarely.
* It may not tell, on folders that are not this machine's. A commit that comes without a word from it
  shows that, and for a while the consumer asks by the clock.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from djjp.engine.sqlite.inotify import Writes

if TYPE_CHECKING:
    from djjp.engine.sqlite.database import SQLiteHouse

# Milliseconds that a consumer waits for a lock in one go.
_PATIENCE = 2000
# Seconds between two questions by the clock: just after work, and at rest.
_BUSY, _IDLE = 0.002, 0.005
# The same where writes are heard: after one, and at most.
_SOON, _SELDOM = 0.001, 0.25
# A commit comes at most so many seconds after the last write to the log that it belongs to.
_LONGEST_COMMIT = 1.0
# Seconds for which a system that has missed a write is not relied on.
_MISTRUST = 60.0


class DataVersion:
    """Makes a connection a consumer's, and notices writes of others."""

    def __init__(self, claims: SQLiteHouse) -> None:
        self._claims = claims
        self._driver: Any = None
        self._log: Writes | None = None
        self._written_at = 0.0  # as last heard
        self._deaf_until = 0.0
        self._relied_on_from = 0.0
        self._pause = _IDLE  # by the clock
        self._seen = self._read()

    def fileno(self) -> int | None:
        """Readable when the log was written to; None just after that, and where nobody says so."""
        if self._log is None or time.monotonic() < self._deaf_until:
            return None
        return self._log.fileno()

    def woken(self) -> bool:
        # In this order: a commit that is seen was written before.
        version = self._read()
        heard = self._log is not None and self._log.heard()
        woken, self._seen = version != self._seen, version
        now = time.monotonic()
        if woken:
            self._deaf_until = now + self._pause
            if not heard and now - self._written_at > _LONGEST_COMMIT:
                self._relied_on_from = now + _MISTRUST
        elif heard:
            self._deaf_until = max(self._deaf_until, now + _SOON)
        if heard:
            self._written_at = now
        return woken

    def interval(self, quiet: float) -> float:
        self._pause = _BUSY if quiet < 0.1 else _IDLE
        now = time.monotonic()
        if self._log is None or now < self._relied_on_from:
            return self._pause
        return min(max(self._deaf_until - now, now - self._written_at, _SOON), _SELDOM)

    def _read(self) -> int:
        connection: Any = self._claims.connection
        connection.ensure_connection()
        adopted = connection.connection is not self._driver
        if adopted:
            self._adopt(connection)
        # Beneath Django's cursor: where nothing is heard this runs two hundred times a second.
        (version,) = self._driver.execute("PRAGMA data_version").fetchone()
        if adopted:
            self._follow()  # now that this connection has read, and so has a log
        return int(version)

    def _adopt(self, connection: Any) -> None:
        """Wait less long for a lock than others: a consumer tries again by itself.

        While it waits inside SQLite it can neither heed a signal nor interrupt a job.
        """
        driver = connection.connection
        (allowed,) = driver.execute("PRAGMA busy_timeout").fetchone()
        driver.execute(f"PRAGMA busy_timeout = {min(int(allowed), _PATIENCE)}")
        # Pages of which a statement keeps copies, until it is done, go into a file of their own once there are
        # more than 64 KB: a large turn, or one over many queues, would open and write one for each statement.
        driver.execute("PRAGMA temp_store = MEMORY")
        self._driver = driver

    def _follow(self) -> None:
        """Follow the log of this connection: that of one before may have gone with it."""
        self._written_at = time.monotonic()
        # The file itself, where the settings name a link to it; nothing for a database in memory.
        (_, _, file), *_ = self._driver.execute("PRAGMA database_list")
        try:
            self._log = (self._log or Writes()) if file else None
            if self._log is not None:
                self._log.follow(Path(f"{file}-wal"))
        except OSError:
            self._log = None
