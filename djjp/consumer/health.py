"""The health of a consumer, for the programs that restart it: live and ready.

* Live: the coordinator goes round. Only a restart helps a process that is not live. Each round counts, also one
  that did not reach the database, because a restart brings no database back.
* Ready: the last round was lately, it reached the database, and the consumer claims jobs.

The coordinator gives the signs of life itself, at most every half second: it touches a file, notifies systemd, or
writes to its supervisor. No thread gives them in its place. `health_port` answers for it over HTTP.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from types import FrameType
from typing import Protocol

logger = logging.getLogger("djjp.consumer")

#: Seconds within which a live coordinator has done a round. C code of a job can hold the interpreter's lock, and a
#: write to SQLite wait for another one, for half a minute each: neither is a reason to restart.
LIVE_WITHIN = 60.0
#: Seconds within which a ready one has done a round that reached the database.
READY_WITHIN = 10.0
#: What keeps a consumer from being ready before its first round.
STARTING = "it is starting"
#: What does in an outage.
AWAY = "the queue's database does not answer"
#: What does while the system refuses the coordinator something, such as a file descriptor.
REFUSED = "the system refuses this consumer what it needs"
# Seconds between two signs of life.
_SIGN_EVERY = 0.5
# Where a thread waits for the driver of a database: the package of its innermost frame.
_DRIVERS = ("django.db.backends", "psycopg", "psycopg_pool", "sqlite3", "djjp.engine")


class Sign(Protocol):
    """A place where a coordinator shows that it lives."""

    def give(self, is_ready: bool) -> None: ...
    def begin_end(self) -> None: ...
    def close(self) -> None: ...


class Health:
    """The health of one coordinator, by its rounds. `close()` ends it, and can be called again.

    Args:
        signs: given by the coordinator's own thread.

    Attributes:
        obstacle: what keeps the consumer from being ready, in words; None if nothing does.
    """

    def __init__(self, signs: Sequence[Sign] = ()) -> None:
        self.obstacle: str | None = STARTING
        self._signs = list(signs)
        self._round_at = time.monotonic()
        self._sign_at = -inf
        self._given: bool | None = None  # the last sign
        self._is_ending = False
        self._coordinator = threading.get_ident()  # this thread, until another one notes a round

    def add(self, sign: Sign) -> None:
        """Add a place that ends with the others."""
        self._signs.append(sign)

    @property
    def is_shown(self) -> bool:
        """Return whether there is a place where it is shown."""
        return bool(self._signs)

    # Called by the coordinator

    def note(self, obstacle: str | None) -> None:
        """Note a round, and give a sign of life if one is due."""
        now = time.monotonic()
        self._round_at, self.obstacle = now, obstacle
        is_ready = obstacle is None
        if now >= self._sign_at or is_ready is not self._given:
            self._coordinator = threading.get_ident()
            self._sign_at, self._given = now + _SIGN_EVERY, is_ready
            for sign in self._signs:
                sign.give(is_ready)

    def begin_end(self) -> None:
        """Announce that the consumer will claim no more and end; only the first call has an effect."""
        if not self._is_ending:
            self._is_ending = True
            for sign in self._signs:
                sign.begin_end()

    def close(self) -> None:
        """Remove the signs."""
        self.begin_end()
        for sign in self._signs:
            sign.close()
        self._signs = []

    def __enter__(self) -> Health:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Called by any thread

    def age(self) -> float:
        """Return the seconds since the last round."""
        return time.monotonic() - self._round_at

    def why_not_live(self) -> str | None:
        """Return what hangs, in words; None while the coordinator goes round, or waits for its database."""
        if self.age() <= LIVE_WITHIN or self._waits_for_database():
            return None
        return self._hang()

    def why_not_ready(self) -> str | None:
        """Return what keeps the consumer from being ready, in words; None if nothing does."""
        if self.age() <= READY_WITHIN or self.obstacle == STARTING:
            return self.obstacle
        if self._waits_for_database():
            return AWAY
        return self._hang()

    def _hang(self) -> str:
        return f"its coordinator has not gone round for {self.age():.0f} s"

    def _waits_for_database(self) -> bool:
        frame = sys._current_frames().get(self._coordinator)  # noqa: SLF001  (documented)
        return frame is not None and _is_driver(frame)


def _is_driver(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return any(module == name or module.startswith(f"{name}.") for name in _DRIVERS)


class HealthFile:
    """A file that is touched with each sign, and removed at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # a job can change the working directory
        self._has_failed = False

    def give(self, is_ready: bool) -> None:
        try:
            self._path.touch()
        except OSError as error:
            self._report(error)
        else:
            self._has_failed = False

    def begin_end(self) -> None:
        pass

    def close(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        """Log an error, once until a touch has succeeded."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning("the health file cannot be written: %s", error)


class Systemd:
    """The socket on which systemd receives notifications, of a unit with `Type=notify`.

    Args:
        address: of `NOTIFY_SOCKET`.
        has_watchdog: whether systemd restarts a unit that gives no sign for some time.
    """

    def __init__(self, address: str, *, has_watchdog: bool) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._has_watchdog = has_watchdog
        self._is_started = self._has_failed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    @classmethod
    def of_environment(cls) -> Systemd | None:
        """Return the socket that systemd has given to this process, if it has. Call it once only.

        It is removed from the environment, because programs that a job starts must not speak for the consumer.
        """
        address = os.environ.pop("NOTIFY_SOCKET", "")
        seconds = os.environ.pop("WATCHDOG_USEC", "")
        process = os.environ.pop("WATCHDOG_PID", "") or str(os.getpid())
        if not address.startswith(("/", "@")):
            return None
        return cls(address, has_watchdog=bool(seconds) and process == str(os.getpid()))

    def give(self, is_ready: bool) -> None:
        if is_ready and not self._is_started:
            self._is_started = self._send("READY=1")
        if self._has_watchdog:
            self._send("WATCHDOG=1")

    def begin_end(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        self._socket.close()

    def _send(self, text: str) -> bool:
        """Send a notification; return whether systemd gets it. The next sign repeats what counts."""
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                logger.warning("systemd cannot be notified: %s", error)
            return False
        self._has_failed = False
        return True


# What a child writes to its supervisor for each sign.
_READY, _LIVE = b"r", b"l"


class ChildHealth:
    """The health of one child, as its supervisor reads it: the pipe, and the signs that come through it.

    Attributes:
        writing: the descriptor of the end that the child gets.
        is_ready: whether the last sign was that of a consumer that is ready.
    """

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.is_ready = self._has_signed = False
        self._may_start_until = time.monotonic() + LIVE_WITHIN

    def is_live(self) -> bool:
        """Return whether the child has given a sign since `renew`, or can still be starting."""
        with suppress(BlockingIOError):
            while signs := os.read(self._reading, 4096):
                self.is_ready, self._has_signed = signs.endswith(_READY), True
                self._may_start_until = 0.0
        return self._has_signed or time.monotonic() < self._may_start_until

    def renew(self) -> None:
        """Expect another sign."""
        self._has_signed = False

    def close_writing(self) -> None:
        """Close the end that the child has now."""
        os.close(self.writing)

    def close(self) -> None:
        os.close(self._reading)


class SupervisorPipe:
    """The end of the pipe in the child: a byte for each sign.

    Args:
        number: its descriptor.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        # Programs that a job starts must not keep it.
        os.set_inheritable(number, False)
        os.set_blocking(number, False)

    def give(self, is_ready: bool) -> None:
        with suppress(OSError):  # the supervisor is gone, or does not read
            os.write(self._number, _READY if is_ready else _LIVE)

    def begin_end(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._number)
