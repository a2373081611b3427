"""Wake-ups on PostgreSQL: a consumer's session, its notifications, and polling where none arrive."""

from __future__ import annotations

import logging
import time
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from djjp.engine.postgresql import session

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("djjp.consumer")

CHANNEL = "djjp_ready"
#: The payload of a notification that its own sender ignores, because it has already done what it announces.
SEEN = "seen"

# NOTIFY takes a lock of the whole cluster at commit. A process notifies at most once in this many seconds …
QUIET = 0.02
# … so a consumer that was woken polls this often within that time, the last time at its end, for jobs whose
# notification was suppressed.
_EXTRA_POLLS = 2

#: Seconds between two notifications that a consumer sends to itself, and within which one must arrive.
PROBE_EVERY, PROBE_WITHIN = 30.0, 5.0
# Seconds between two polls where no notifications arrive: just after work, and at rest.
_SHORTEST_POLL, _LONGEST_POLL = 0.02, 0.25


class Polls:
    """A listener that polls: every 20 ms after work, backing off to 250 ms when idle."""

    def __init__(self) -> None:
        self._due = 0.0
        self._pause = _SHORTEST_POLL

    def fileno(self) -> int | None:
        return None

    def woken(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self._pause
        return True

    def unheard(self) -> str | None:
        return None  # the settings ask for polls

    def interval(self, quiet: float) -> float:
        self._pause = min(max(quiet / 4, _SHORTEST_POLL), _LONGEST_POLL)
        now = time.monotonic()
        self._due = min(self._due, now + self._pause)
        return self._due - now if self._due > now else 0.0

    def close(self) -> None:
        pass  # nothing is sent to it


class Notifications:
    """Make a connection a consumer's own, and receive NOTIFY on it.

    From time to time the listener notifies itself. If that notification does not arrive, something between this
    process and the server (a pooler) separates the two sessions; then the listener polls, until a notification
    to itself arrives again.

    Behind a pooler, which shows in the number of the session, it listens and polls. There a notification to itself
    proves nothing: a pooler in transaction mode forwards it, or not, by chance.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._driver: Any = None
        self._notified = False
        self._next_poll: float | None = None  # the next extra poll after a notification …
        self._polls_left = 0  # … and the number of those that follow it
        self._own_channel = f"djjp_{token_hex(8)}"
        self._probed_at: float | None = None  # None once the probe has arrived
        self._next_probe = 0.0
        self._fallback: Polls | None = None
        self._is_pooled = False
        self._adopt()

    def fileno(self) -> int | None:
        """Return a descriptor that is readable on a notification.

        None until the last extra poll after one: in a flood of notifications each would wake the consumer.
        """
        self._adopt()
        if self._next_poll is not None:
            return None
        with self._connection.wrap_database_errors:
            fd: int = self._driver.fileno()
        return fd

    def woken(self) -> bool:
        self._adopt()
        with self._connection.wrap_database_errors:
            self._driver.pgconn.consume_input()
            while (notification := self._driver.pgconn.notifies()) is not None:
                self._receive(
                    notification.relname.decode(), notification.extra, notification.be_pid
                )
            if not self._is_pooled and not self._connection.in_atomic_block:
                self._probe()
        woken, self._notified = self._notified, False
        now = time.monotonic()
        if woken:
            self._polls_left = _EXTRA_POLLS
        elif self._next_poll is not None and now >= self._next_poll:
            self._polls_left, woken = self._polls_left - 1, True
        if woken:
            # For jobs whose notification their sender has suppressed since.
            self._next_poll = now + QUIET / _EXTRA_POLLS if self._polls_left else None
        if self._fallback is not None:
            return self._fallback.woken() or woken
        return woken

    def unheard(self) -> str | None:
        if self._is_pooled:
            return "a pooler between consumers and PostgreSQL can lose notifications and locks"
        return None if self._fallback is None else "no notifications of PostgreSQL arrive"

    def interval(self, quiet: float) -> float:
        if self._fallback is not None:
            return self._fallback.interval(quiet)
        if self._notified:
            return (
                0.0  # it arrived during another statement, so the descriptor will not be readable
            )
        return 1.0 if self._next_poll is None else max(0.0, self._next_poll - time.monotonic())

    def close(self) -> None:
        # Notifications that nobody reads fill the socket. The server's process then waits for its client, and the
        # whole cluster for that process: with DROP DATABASE, and with the end of its queue of notifications.
        if self._connection.connection is self._driver:
            with self._connection.wrap_database_errors:
                self._driver.execute("UNLISTEN *")
            self._driver.remove_notify_handler(self._handle)

    def _adopt(self) -> None:
        """Set up the session, if the connection has been opened since the last call."""
        connection = self._connection
        connection.ensure_connection()
        if connection.connection is self._driver:
            return
        driver = connection.connection
        # psycopg calls the handler for a notification that arrives during another statement.
        driver.add_notify_handler(self._handle)
        with connection.wrap_database_errors:
            session.prepare_consumer(driver)
            driver.execute(self._listen())
            (pid,) = driver.execute("SELECT pg_backend_pid()").fetchone()
        self._driver, self._probed_at = driver, None
        self._is_pooled = pid != driver.info.backend_pid
        if self._is_pooled and self._fallback is None:
            self._fallback = Polls()
            logger.warning(
                "this consumer reaches PostgreSQL through a pooler, which can lose notifications and locks: "
                "it polls, and only its heartbeats show that it is alive. Connect it to the server itself, "
                "or set DJJP['listen'] to False"
            )

    def _listen(self) -> str:
        return f"LISTEN {CHANNEL}; LISTEN {self._own_channel}"

    def _handle(self, notification: Any) -> None:
        self._receive(notification.channel, notification.payload.encode(), notification.pid)

    def _receive(self, channel: str, payload: bytes, pid: int) -> None:
        if payload == SEEN.encode() and pid == self._driver.pgconn.backend_pid:
            return
        if channel != self._own_channel:
            self._notified = True
            return
        self._probed_at = None
        if self._fallback is not None:
            self._fallback = None
            logger.info("this consumer receives PostgreSQL's notifications again; it stops polling")

    def _probe(self) -> None:
        """Notify this listener itself when due, and poll from now on if the last probe has not arrived."""
        now = time.monotonic()
        if self._probed_at is not None and now - self._probed_at > PROBE_WITHIN:
            self._probed_at = None
            if self._fallback is None:
                self._fallback = Polls()
                logger.warning(
                    "this consumer receives no PostgreSQL notifications, as behind a pooler; it polls. "
                    "Connect it to the server itself, or set DJJP['listen'] to False"
                )
            self._driver.execute(self._listen())
        if now >= self._next_probe:
            self._next_probe, self._probed_at = now + PROBE_EVERY, now
            self._driver.execute(f"NOTIFY {self._own_channel}")
