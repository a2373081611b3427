"""An outage of the queue's database or of the system: the pause before the next attempt of `Consumer._attempt`."""

from __future__ import annotations

import logging
import time

from django.db import Error as DatabaseError

from djjp.consumer.health import AWAY, REFUSED
from djjp.engine import sessions
from djjp.engine.database import Database

logger = logging.getLogger("djjp.consumer")

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0

# Seconds from which on the end of an outage is logged too: a lock of a moment needs no second line.
_LONG = 1.0


def longest_reconnect(db: Database) -> float:
    """Return the seconds within which a consumer is back after an outage: a pause and a connection."""
    return _LAST_PAUSE + (db.connect_timeout() or 0.0)


class Outage:
    """Errors of the queue's database or of the system, from the first one to the next round that succeeds.

    Attributes:
        obstacle: what keeps the consumer from being ready, in words.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._pause = _FIRST_PAUSE
        self._began = time.monotonic()
        self._error: DatabaseError | OSError | None = None
        self.obstacle = AWAY

    def fail(self, error: DatabaseError | OSError) -> float:
        """Log an error and return the seconds until the next attempt: each time twice as many, up to the last."""
        pause, reason = self._pause, " ".join(str(error).split())
        if isinstance(error, OSError):
            self.obstacle = REFUSED
            logger.warning("the system refused this consumer (%s); again in %.1f s", reason, pause)
        else:
            self.obstacle = AWAY
            logger.warning("the queue's database refused (%s); again in %.1f s", reason, pause)
        self._error = error
        self._pause = min(2 * pause, _LAST_PAUSE)
        return pause

    def end(self) -> None:
        """Log that the consumer works again, if the outage was long."""
        lasted = time.monotonic() - self._began
        if lasted >= _LONG and self.obstacle == REFUSED:
            logger.warning("this consumer works again, after %.1f s", lasted)
        elif lasted >= _LONG:
            logger.warning("the queue's database answers again, after %.1f s", lasted)

    def renew_session(self) -> None:
        """Drop a session that is broken or useless.

        Only after the pause: if it is alive, it holds the lock by which others see that this consumer lives.
        """
        if self._error is not None:
            sessions.drop(self._db, self._error)
            self._error = None
