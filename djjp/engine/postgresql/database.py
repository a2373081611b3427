"""PostgreSQL beside the hot path: a consumer's session, its lock and LISTEN, and what the server must be."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from djjp import conf
from djjp.engine.database import TABLE
from djjp.engine.records import Problem
from djjp.engine.requirements import Fitness
from djjp.engine.upkeep import Upkeep

if TYPE_CHECKING:
    from djjp.engine.jobs import Listener

logger = logging.getLogger("djjp.consumer")

CHANNEL = "djjp_ready"
#: What a notification says for which its own sender needs none, having seen to it.
SEEN = "seen"

# NOTIFY takes a lock of the whole cluster at commit. One in this many seconds and process is enough …
QUIET = 0.02
# … because a consumer that was woken looks so often within that time for what is kept back meanwhile, and
# once at its end.
_LOOKS = 2

#: Seconds between two notifications of a consumer to itself, and within which it should hear one.
PROBE_EVERY, PROBE_WITHIN = 30.0, 5.0
# Seconds between two looks where nothing is heard: just after work, and at rest.
_OFTEN, _RARELY = 0.02, 0.25

# The statements of a turn have one good plan each, along an index. Without statistics, as on a queue
# that was filled faster than autovacuum looks, the planner would rather read all ready rows and sort
# them, or begin a batch of outcomes at everything that runs.
_SESSION = "; ".join(
    f"{{set}} {plan} = off"
    for plan in (
        "enable_seqscan",
        "enable_bitmapscan",
        "enable_sort",
        "enable_hashjoin",
        "enable_mergejoin",
    )
)

# Behind a lock that somebody holds a consumer would neither heed a signal nor interrupt a job. It tries
# again by itself.
_PATIENCE = "{set} lock_timeout = '2s'"

# So that the server notices within seconds that a consumer's machine is gone, and frees its lock.
_KEEPALIVE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)

_MINE = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = %s"""


# Each job leaves two dead rows behind. By default the server removes them once they are a fifth of the table,
# which where millions of finished jobs are kept would be hundreds of thousands.
_VACUUM = {"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_threshold": "1000"}


class PostgreSQLHouse(Upkeep, Fitness):
    """What a session and the server do for liveness, wake-ups and checks."""

    def listener(self) -> Listener:
        return Notifications(self) if conf.current().listen else Polls()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with super().turn():
            if not conf.current().listen:
                # The session may be anybody's after this transaction.
                with self.connection.cursor() as cursor:
                    cursor.execute(f"{_SESSION}; {_PATIENCE}".format(set="SET LOCAL"))
            yield

    def hold(self, consumer: str) -> bool:
        if not conf.current().listen:
            return False
        connection: Any = self.connection
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_backend_pid(), EXISTS ({_MINE})", [_key(consumer)])
            pid, mine = cursor.fetchone()
            if pid != connection.connection.info.backend_pid:
                # A pooler stands between: the session that would hold the lock is not this process's.
                return False
            if not mine:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [_key(consumer)])
                (mine,) = cursor.fetchone()
            return bool(mine)

    def let_go(self, consumer: str) -> None:
        if not conf.current().listen:
            return
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT pg_advisory_unlock(%s) WHERE EXISTS ({_MINE})",
                [_key(consumer), _key(consumer)],
            )

    def is_held(self, consumer: str) -> bool:
        with self.connection.cursor() as cursor:
            # Shared, so that those who ask at the same moment do not take each other for the holder.
            cursor.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", [_key(consumer)])
            (free,) = cursor.fetchone()
            return not free

    def notes(self) -> Path | None:
        """In this user's own folder for temporary files; consumers on other machines can't see it."""
        if not hasattr(os, "getuid"):
            return None
        folder = Path(tempfile.gettempdir()) / f"djjp-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        its = folder.lstat()
        ours = stat.S_ISDIR(its.st_mode) and its.st_uid == os.getuid()
        return folder if ours else None

    def _place(self, settings: Mapping[str, Any]) -> Any:
        options = settings.get("OPTIONS") or {}
        host = settings.get("HOST") or options.get("host") or options.get("service")
        return [str(part or "") for part in (host, settings.get("PORT"), settings["NAME"])]

    def storage(self) -> Sequence[tuple[str, str]]:
        wanted = ", ".join(f"{name} = {value}" for name, value in _VACUUM.items())
        return [
            (
                f"ALTER TABLE {TABLE} SET ({wanted})",
                f"ALTER TABLE {TABLE} RESET ({', '.join(_VACUUM)})",
            )
        ]

    def server_problems(self) -> Iterable[Problem]:
        version = self.connection.pg_version  # type: ignore[attr-defined]  # only this wrapper has it
        if version < 14_00_00:
            yield Problem(
                "E006",
                f"djjp needs PostgreSQL 14 or newer; the queue's server is {version // 10_000}",
                "Move the queue to a newer server, or to an SQLite file.",
            )


class Polls:
    """Hears nothing: the consumer looks by the clock, often after work and ever more rarely at rest."""

    def __init__(self) -> None:
        self._due = 0.0
        self._pause = _OFTEN

    def fileno(self) -> int | None:
        return None

    def woken(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self._pause
        return True

    def interval(self, quiet: float) -> float:
        self._pause = min(max(quiet / 4, _OFTEN), _RARELY)
        now = time.monotonic()
        self._due = min(self._due, now + self._pause)
        return self._due - now if self._due > now else 0.0


class Notifications:
    """Makes a connection a consumer's, and hears NOTIFY on it.

    Now and then it notifies itself. When it does not hear that, what stands between here and the server
    keeps the session from this consumer; then it looks by the clock, until it hears itself again.
    """

    def __init__(self, claims: PostgreSQLHouse) -> None:
        self._claims = claims
        self._driver: Any = None
        self._heard = False
        self._again_at: float | None = None  # when to look once more after a notification …
        self._looks = 0  # … and how often
        self._own = f"djjp_{token_hex(8)}"
        self._asked_at: float | None = None
        self._ask_at = 0.0
        self._instead: Polls | None = None
        self._adopt()

    def fileno(self) -> int | None:
        """Readable on a notification; None until the last look after one: in a flood each would cost one."""
        self._adopt()
        if self._again_at is not None:
            return None
        fd: int = self._driver.fileno()
        return fd

    def woken(self) -> bool:
        self._adopt()
        with self._claims.connection.wrap_database_errors:
            self._driver.pgconn.consume_input()
            while (notification := self._driver.pgconn.notifies()) is not None:
                self._hears(notification.relname.decode(), notification.extra, notification.be_pid)
            if not self._claims.connection.in_atomic_block:
                self._probe()
        heard, self._heard = self._heard, False
        now = time.monotonic()
        if heard:
            self._looks = _LOOKS
        elif self._again_at is not None and now >= self._again_at:
            self._looks, heard = self._looks - 1, True
        if heard:
            # For what its sender has kept back since.
            self._again_at = now + QUIET / _LOOKS if self._looks else None
        if self._instead is not None:
            return self._instead.woken() or heard
        return heard

    def interval(self, quiet: float) -> float:
        if self._instead is not None:
            return self._instead.interval(quiet)
        if self._heard:
            return 0.0  # in the middle of other work, after which there is nothing to read any more
        return 1.0 if self._again_at is None else max(0.0, self._again_at - time.monotonic())

    def _adopt(self) -> None:
        connection = self._claims.connection
        connection.ensure_connection()
        if connection.connection is self._driver:
            return
        driver = connection.connection
        # Called for what arrives in the middle of another statement.
        driver.add_notify_handler(self._hear)
        with connection.wrap_database_errors:
            driver.execute(f"{_SESSION}; {_PATIENCE}".format(set="SET"))
            driver.execute(f"{_KEEPALIVE}; {self._listen()}")
        self._driver, self._asked_at = driver, None

    def _listen(self) -> str:
        return f"LISTEN {CHANNEL}; LISTEN {self._own}"

    def _hear(self, notification: Any) -> None:
        self._hears(notification.channel, notification.payload.encode(), notification.pid)

    def _hears(self, channel: str, payload: bytes, pid: int) -> None:
        if payload == SEEN.encode() and pid == self._driver.pgconn.backend_pid:
            return
        if channel != self._own:
            self._heard = True
            return
        self._asked_at = None
        if self._instead is not None:
            self._instead = None
            logger.info("this consumer hears notifications again")

    def _probe(self) -> None:
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at > PROBE_WITHIN:
            self._asked_at = None
            if self._instead is None:
                self._instead = Polls()
                logger.warning(
                    "this consumer does not hear PostgreSQL's notifications, as behind a pooler; it polls. "
                    "Connect it to the server itself, or set DJJP['listen'] to False"
                )
            self._driver.execute(self._listen())
        if now >= self._ask_at:
            self._ask_at, self._asked_at = now + PROBE_EVERY, now
            self._driver.execute(f"NOTIFY {self._own}")


def _key(consumer: str) -> int:
    """The number of a consumer's advisory lock."""
    return int.from_bytes(blake2b(consumer.encode(), digest_size=8).digest(), "big", signed=True)
