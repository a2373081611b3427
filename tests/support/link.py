"""A link to a PostgreSQL server that breaks at a chosen moment."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any


class Link:
    """Forwards connections to a server.

    Args:
        info: the driver's information on a connection to that server.

    Attributes:
        port: the port on this machine to connect to.
        breaks_before: break the connection as soon as the client sends this, and do not forward it.
        breaks_after: forward this, wait until the server has done it, and break without its answer.
        refuses: whether later connections are refused.
    """

    def __init__(self, info: Any) -> None:
        self._host, self._server_port = info.host, info.port
        self.breaks_before: bytes | None = None
        self.breaks_after: bytes | None = None
        self.refuses = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuses:
                    client.close()
                    continue
                server = self._connect()
                broken = threading.Event()
                for work in (self._forward, self._answer):
                    threading.Thread(
                        target=work, args=(client, server, broken), daemon=True
                    ).start()

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._server_port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._server_port}")
        return server

    def _forward(
        self, client: socket.socket, server: socket.socket, broken: threading.Event
    ) -> None:
        with suppress(OSError), client, server:
            while data := client.recv(65536):
                if self.breaks_before is not None and self.breaks_before in data:
                    self.breaks_before = None
                    break
                if self.breaks_after is not None and self.breaks_after in data:
                    self.breaks_after = None
                    broken.set()
                server.sendall(data)
            _shut(client, server)

    def _answer(
        self, client: socket.socket, server: socket.socket, broken: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if broken.is_set():
                    if data[-6:-1] == b"Z\x00\x00\x00\x05":  # ready for the next query
                        break
                    continue
                client.sendall(data)
            _shut(client, server)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
