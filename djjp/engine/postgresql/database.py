"""PostgreSQL beside the hot path: a consumer's session, its lock and LISTEN, and what the server must be."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from djjp import conf
from djjp.engine.database import TABLE
from djjp.engine.postgresql.listener import Notifications, Polls, session_settings
from djjp.engine.records import Problem
from djjp.engine.requirements import Fitness
from djjp.engine.upkeep import Upkeep

if TYPE_CHECKING:
    from djjp.engine.jobs import Listener

_MINE = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = %s"""


# Each job leaves two dead rows behind. By default the server removes them once they are a fifth of the table,
# which where millions of finished jobs are kept would be hundreds of thousands.
_VACUUM = {"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_threshold": "1000"}


class PostgreSQLHouse(Upkeep, Fitness):
    """What a session and the server do for liveness, wake-ups and checks."""

    def listener(self) -> Listener:
        return Notifications(self.connection) if conf.current().listen else Polls()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with super().turn():
            if not conf.current().listen:
                # The session may be anybody's after this transaction.
                with self.connection.cursor() as cursor:
                    cursor.execute(session_settings("SET LOCAL"))
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


def _key(consumer: str) -> int:
    """The number of a consumer's advisory lock."""
    return int.from_bytes(blake2b(consumer.encode(), digest_size=8).digest(), "big", signed=True)
