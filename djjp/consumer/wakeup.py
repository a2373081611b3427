"""Wake-ups: what a consumer waits for when it has nothing to write.

It waits for whichever comes first: a job that ended or a signal (both by `Bell.ring`), a write of
somebody else to the queue (by the database's `Listener`), or the time that it was told.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress

from djjp.engine import Listener


class Bell:
    """Wakes the coordinator from any thread, and from a signal handler."""

    def __init__(self) -> None:
        # A socket pair rather than a pipe: everywhere one can select on it.
        self._hear, self._pull = socket.socketpair()
        self._hear.setblocking(False)
        self._pull.setblocking(False)
        self.awaited = False

    def ring(self) -> None:
        """Wake the coordinator, if it waits; costs next to nothing if it does not."""
        if self.awaited:
            self.awaited = False
            # It is full of rings; or closed, for the outcome was seen in the last turn without one.
            with suppress(OSError):
                self._pull.send(b"\0")

    def fileno(self) -> int:
        return self._hear.fileno()

    def quiet(self) -> None:
        """Forget the rings heard so far."""
        with suppress(BlockingIOError):
            while self._hear.recv(4096):
                pass

    def close(self) -> None:
        self._hear.close()
        self._pull.close()


def wait(bell: Bell, listener: Listener | None, timeout: float, quiet: float) -> bool:
    """Wait for a wake-up; returns whether somebody wrote to the queue.

    Args:
        listener: what hears the database; None while a write of others is of no interest.
        timeout: seconds to wait at most.
        quiet: for how many seconds the consumer has had nothing to do.
    """
    until = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        selector.register(bell, selectors.EVENT_READ)
        heard: int | None = None
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return False
            if listener is None:
                selector.select(left)
                bell.quiet()
                return False
            if (fd := listener.fileno()) != heard:
                if heard is not None:
                    selector.unregister(heard)
                if fd is not None:
                    selector.register(fd, selectors.EVENT_READ)
                heard = fd
            began = time.monotonic()
            events = selector.select(min(left, listener.interval(quiet)))
            if listener.woken():
                return True
            if any(key.fileobj is bell for key, _ in events):
                bell.quiet()
                return False
            quiet += time.monotonic() - began
