"""A real PgBouncer in front of a PostgreSQL server, where it is installed: `apt-get install pgbouncer`."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.ports import reserved_port

_CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
server_lifetime = 3600
{more}
"""


@contextmanager
def pooler(url: str, mode: str, size: int = 3) -> Iterator[str]:
    """Run a PgBouncer in front of the server of a URL; return the URL of the same database behind it.

    Args:
        mode: its pool_mode, "session" or "transaction".
        size: the number of sessions that its clients share.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    parts = urlsplit(url)
    host = parts.hostname or parse_qs(parts.query)["host"][0]
    folder = Path(tempfile.mkdtemp(prefix="djjp-pgbouncer-"))
    more = ""
    if os.geteuid() == 0:  # as which it does not run
        more = f"user = {pwd.getpwuid(Path(host).stat().st_uid).pw_name}" if "/" in host else ""
        folder.chmod(0o755)
    config = folder / "pgbouncer.ini"
    # The port stays reserved until it is over: PgBouncer sets SO_REUSEADDR.
    with reserved_port() as listen:
        config.write_text(
            _CONFIG.format(
                host=host,
                port=parts.port or 5432,
                user=parts.username or "postgres",
                listen=listen,
                mode=mode,
                size=size,
                more=more or ("user = nobody" if os.geteuid() == 0 else ""),
            )
        )
        process = subprocess.Popen(
            [program, "-q", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _await(process, listen)
            yield f"postgres://{parts.username or 'postgres'}@127.0.0.1:{listen}{parts.path}"
        finally:
            process.kill()
            process.communicate()
            shutil.rmtree(folder, ignore_errors=True)


def _await(process: subprocess.Popen[str], port: int) -> None:
    """Wait until a pooler accepts connections."""
    from tests.support.processes import eventually

    def accepts() -> bool:
        assert process.poll() is None, process.communicate()[1]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    eventually(accepts)
