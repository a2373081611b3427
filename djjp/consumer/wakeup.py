"""Wake-ups: the events that end the sleep of a consumer that has nothing to write.

The first of these does: the end of a job or a signal (both call `Wakeup.set`), a write of another process to
the queue (reported by the database's `Listener`), or a time.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress

from djjp.engine import Listener
from djjp.forks import Guard


class Wakeup:
    """Wakes the coordinator from any thread, and from a signal handler.

    Attributes:
        armed: whether the coordinator sleeps or is about to. It arms the wake-up before it checks for
            work, so that every event after the check wakes it.
    """

    def __init__(self) -> None:
        self.guard = Guard()
        # A socket pair, because `select` takes no pipe on some systems.
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        # One for good: a job can take all descriptors, and the coordinator must still be able to wait.
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._receiver, selectors.EVENT_READ)
        self.armed = False

    def set(self) -> None:
        """Wake the coordinator; costs next to nothing if it does not sleep."""
        if self.armed:
            self.armed = False
            # The buffer is full, which wakes it as well; or the pair is closed, because the last turn
            # has already seen the outcome.
            with suppress(OSError):
                self._sender.send(b"\0")

    def drain(self) -> None:
        """Discard the wake-ups received so far."""
        with suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        self.selector.close()
        self._receiver.close()
        self._sender.close()


def wait(wakeup: Wakeup, listener: Listener | None, timeout: float, idle: float) -> bool:
    """Wait for a wake-up; return whether another process wrote to the queue.

    Args:
        listener: reports writes to the database; None while they are of no interest.
        timeout: seconds to wait at most.
        idle: seconds for which the consumer has had nothing to do.

    Raises:
        OSError: the system refuses to wait for the listener's descriptor.
    """
    until = time.monotonic() + timeout
    selector, registered = wakeup.selector, None
    try:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return False
            if listener is None:
                with wakeup.guard.released():
                    selector.select(left)
                wakeup.drain()
                return False
            if (fd := listener.fileno()) != registered:
                if registered is not None:
                    selector.unregister(registered)
                    registered = None
                if fd is not None:
                    selector.register(fd, selectors.EVENT_READ)
                    registered = fd
            began = time.monotonic()
            pause = min(left, listener.interval(idle))
            with wakeup.guard.released():
                events = selector.select(pause)
            if listener.woken():
                return True
            if any(key.fd != registered for key, _ in events):
                wakeup.drain()
                return False
            idle += time.monotonic() - began
    finally:
        # Not kept until the next wait: by then the same number can belong to another connection.
        if registered is not None:
            selector.unregister(registered)
