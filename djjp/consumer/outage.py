"""An outage: the queue's database refuses, and its consumer tries again after growing pauses."""

from __future__ import annotations

import logging

from django.db import Error as DatabaseError

from djjp.engine.database import Database

logger = logging.getLogger("djjp.consumer")

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0


class Outage:
    """Errors of the queue's database, from the first one to the next step that succeeds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._pause = _FIRST_PAUSE

    def fail(self, error: DatabaseError) -> float:
        """Log an error and drop a broken connection; return the seconds until the next attempt.

        Each pause is twice the one before, up to the last.
        """
        pause = self._pause
        logger.warning(
            "the queue's database refused (%s); again in %.1f s",
            " ".join(str(error).split()),
            pause,
        )
        connection = self._db.connection
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        self._pause = min(2 * pause, _LAST_PAUSE)
        return pause
