"""The store for one round of one queue: a new SQLite file, PostgreSQL database or Redis server."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environment import another
from benchmarks.peers.peer import Store

_numbers = itertools.count(1)


@contextmanager
def made(kind: str, server: str | None) -> Iterator[Store]:
    """Create a store; `server` is the URL of a database on the PostgreSQL server."""
    with tempfile.TemporaryDirectory(prefix="djjp-peers-", ignore_cleanup_errors=True) as home:
        folder = Path(home)
        if kind == "sqlite":
            yield Store(kind, str(folder / "store.sqlite3"), folder)
        elif kind == "redis":
            with _redis(folder) as place:
                yield Store(kind, place, folder)
        else:
            with another(str(server), str(next(_numbers))) as place:
                yield Store(kind, place, folder)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(
        ["redis-server", *options],  # noqa: S607  (the user's PATH determines which one)
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 10
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        yield f"redis+socket://{socket}"
    finally:
        server.terminate()
        server.wait()
