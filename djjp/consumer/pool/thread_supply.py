"""ThreadSupply: starts threads, and remembers when the system refused one.

A system limits its threads: by `ulimit -u`, by the pids of a container, by its memory. A consumer that gets fewer
than it wants works with those, releases the jobs that it cannot run, and tries again after a while.
"""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger("djjp.consumer")

#: Seconds after a refusal until the next attempt to start a thread.
RETRY_AFTER = 10.0


class ThreadSupply:
    """Starts the threads of one pool.

    Attributes:
        refused: set when the system has refused a thread; the consumer resets it.
    """

    def __init__(self) -> None:
        self.refused = False
        self._retry_at = 0.0
        self._logged = False

    @property
    def is_short(self) -> bool:
        """Return whether a thread was refused just now, and the next attempt must wait."""
        return time.monotonic() < self._retry_at

    def start(self, thread: threading.Thread, running: int, wanted: int) -> bool:
        """Start a thread; return False if the system refuses it.

        Args:
            running, wanted: the number of jobs that run at the same time without it, and that could; for the log.
        """
        if self.is_short:
            return False
        try:
            thread.start()
        except RuntimeError as error:
            self.refuse(error, running, wanted)
            return False
        return True

    def refuse(self, error: Exception, running: int, wanted: int) -> None:
        """Wait before the next attempt, because the system refused a thread, or what its work needs."""
        self.refused, self._retry_at = True, time.monotonic() + RETRY_AFTER
        if not self._logged:
            self._logged = True
            logger.warning(
                "the system refuses a thread (%s): %d jobs at a time run here instead of %d",
                error,
                running,
                wanted,
            )
