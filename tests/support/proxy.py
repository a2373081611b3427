"""A proxy before a PostgreSQL server that loses answers to commits: these take place, and no client learns it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_CHUNK = 65_536


class Proxy:
    """Passes the connections of clients on to a server, and cuts some of them between a commit and its answer.

    Attributes:
        url: the URL of the server's database through the proxy.
        lost: the number of answers that were lost.
    """

    def __init__(self, server: str) -> None:
        from psycopg.conninfo import conninfo_to_dict

        target = conninfo_to_dict(server)
        self._target = str(Path(str(target["host"])) / f".s.PGSQL.{target.get('port', 5432)}")
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://{target['user']}@127.0.0.1:{port}/{target['dbname']}"
        self.lost = 0
        self._to_lose = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, answers: int = 1) -> None:
        """Lose the answers to the next commits, with their connections."""
        with self._lock:
            self._to_lose = answers

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:  # it is stopped
                    client.close()
                    server.close()
                    continue
                threading.Thread(target=self._serve, args=[client, server], daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Pass both directions on until one of them ends."""
        cut = threading.Event()
        with client, server:
            back = threading.Thread(
                target=_pass_on, args=[server, client, lambda data: not cut.is_set()], daemon=True
            )
            back.start()
            _pass_on(client, server, lambda data: self._sees(data, cut))
            back.join()

    def _sees(self, data: bytes, cut: threading.Event) -> bool:
        """Take the answer away from a commit; return True, because the commit itself must arrive."""
        if b"COMMIT" in data:
            with self._lock:
                if self._to_lose:
                    self._to_lose -= 1
                    self.lost += 1
                    cut.set()
        return True


def _pass_on(source: socket.socket, target: socket.socket, passes: Callable[[bytes], bool]) -> None:
    with suppress(OSError):
        while (data := source.recv(_CHUNK)) and passes(data):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
