"""PostgreSQL beside the hot path: a consumer's session, its lock and LISTEN, and what the server must be."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from djjp.claims.data import Problem
from djjp.claims.fitness import Fitness
from djjp.claims.upkeep import Upkeep

CHANNEL = "djjp_ready"

# NOTIFY takes a lock of the whole cluster at commit. One in this many seconds and process is enough,
# because a consumer that was woken looks again after longer than this: see `Notifications.interval`.
QUIET = 0.005

# The statements of a turn have one good plan each, along an index. Without statistics, as on a queue
# that was filled faster than autovacuum looks, the planner would rather read all ready rows and sort
# them, or begin a batch of outcomes at everything that runs.
_SESSION = "; ".join(
    f"SET {plan} = off"
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
_PATIENCE = "SET lock_timeout = '2s'"

# So that the server notices within seconds that a consumer's machine is gone, and frees its lock.
_KEEPALIVE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)

_MINE = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = %s"""


class PostgreSQLHouse(Upkeep, Fitness):
    """What a session and the server do for liveness, wake-ups and checks."""

    def listener(self) -> Notifications:
        return Notifications(self)

    def hold(self, consumer: str) -> bool:
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

    def server_problems(self) -> Iterable[Problem]:
        version = self.connection.pg_version  # type: ignore[attr-defined]  # only this wrapper has it
        if version < 14_00_00:
            yield Problem(
                "E006",
                f"djjp needs PostgreSQL 14 or newer; the queue's server is {version // 10_000}",
                "Move the queue to a newer server, or to an SQLite file.",
            )


class Notifications:
    """Makes a connection a consumer's, and hears NOTIFY on it."""

    def __init__(self, claims: PostgreSQLHouse) -> None:
        self._claims = claims
        self._driver: Any = None
        self._heard = False
        self._adopt()

    def fileno(self) -> int | None:
        self._adopt()
        fd: int = self._driver.fileno()
        return fd

    def woken(self) -> bool:
        self._adopt()
        with self._claims.connection.wrap_database_errors:
            self._driver.pgconn.consume_input()
            while self._driver.pgconn.notifies() is not None:
                self._heard = True
        heard, self._heard = self._heard, False
        return heard

    def interval(self, quiet: float) -> float:
        # Just after work, an enqueuer may have kept quiet because its last notification is so young.
        return 2 * QUIET if quiet < 4 * QUIET else 1.0

    def looks(self) -> float:
        return 1.0

    def _adopt(self) -> None:
        connection = self._claims.connection
        connection.ensure_connection()
        if connection.connection is self._driver:
            return
        driver = connection.connection
        # Called for what arrives in the middle of another statement.
        driver.add_notify_handler(self._hear)
        with connection.wrap_database_errors:
            driver.execute(f"{_SESSION}; {_PATIENCE}; {_KEEPALIVE}; LISTEN {CHANNEL}")
        self._driver = driver

    def _hear(self, notification: Any) -> None:
        self._heard = True


def _key(consumer: str) -> int:
    """The number of a consumer's advisory lock."""
    return int.from_bytes(blake2b(consumer.encode(), digest_size=8).digest(), "big", signed=True)
