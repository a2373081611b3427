"""Wake-ups on PostgreSQL: a consumer's session, its notifications, and polling where none arrive."""

from __future__ import annotations

import logging
import time
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal

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

# The statements of a turn have one good plan each, along an index. Without statistics, as on a queue
# that was filled before autovacuum analyzed it, the planner prefers to read all ready rows and sort
# them, or starts a batch of outcomes at all running jobs.
_PLANNER = tuple(
    f"enable_{plan} = off" for plan in ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin")
)

# A consumer that waits for a row lock can neither react to a signal nor interrupt a job. After this time the
# statement fails, and the consumer tries again automatically.
_LOCK_TIMEOUT = "lock_timeout = '2s'"

# With these the server notices within seconds that a consumer's machine is gone, and frees its lock.
_KEEPALIVE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)


def session_settings(command: Literal["SET", "SET LOCAL"]) -> str:
    """Return the statements that fit a session, or one transaction, to the statements of a turn."""
    return "; ".join(f"{command} {setting}" for setting in (*_PLANNER, _LOCK_TIMEOUT))


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

    def interval(self, quiet: float) -> float:
        self._pause = min(max(quiet / 4, _SHORTEST_POLL), _LONGEST_POLL)
        now = time.monotonic()
        self._due = min(self._due, now + self._pause)
        return self._due - now if self._due > now else 0.0


class Notifications:
    """Make a connection a consumer's own, and receive NOTIFY on it.

    From time to time the listener notifies itself. If that notification does not arrive, something between this
    process and the server (a pooler) separates the two sessions; then the listener polls, until a notification
    to itself arrives again.
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
        self._adopt()

    def fileno(self) -> int | None:
        """Return a descriptor that is readable on a notification.

        None until the last extra poll after one: in a flood of notifications each would wake the consumer.
        """
        self._adopt()
        if self._next_poll is not None:
            return None
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
            if not self._connection.in_atomic_block:
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

    def interval(self, quiet: float) -> float:
        if self._fallback is not None:
            return self._fallback.interval(quiet)
        if self._notified:
            return (
                0.0  # it arrived during another statement, so the descriptor will not be readable
            )
        return 1.0 if self._next_poll is None else max(0.0, self._next_poll - time.monotonic())

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
            driver.execute(session_settings("SET"))
            driver.execute(f"{_KEEPALIVE}; {self._listen()}")
        self._driver, self._probed_at = driver, None

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
