"""Real servers with the HTTP interface, and a client of theirs over sockets."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection, HTTPMessage
from typing import Any

import pytest

from djjp import tokens
from tests.support.processes import Processes, eventually

#: How each server is started.
COMMANDS = {
    "gunicorn": (
        *("gunicorn", "tests.api.server:wsgi()", "--bind=127.0.0.1:{port}"),
        *("--worker-class=gthread", "--threads=8", "--no-control-socket"),
    ),
    "uvicorn": ("uvicorn", "--factory", "tests.api.server:asgi", "--port={port}"),
}


class WebServer:
    """A server of its own process, and a client of it with a token."""

    def __init__(
        self,
        processes: Processes,
        kind: str,
        *options: str,
        scope: str = "operate",
        **environment: str,
    ) -> None:
        pytest.importorskip(kind)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self._port = int(taken.getsockname()[1])
        command = [part.format(port=self._port) for part in COMMANDS[kind]]
        given = {"DJANGO_SETTINGS_MODULE": "tests.api.settings", **environment}
        self.process = processes.module(*command, *options, **given)
        _, self._token = tokens.create("client", scope, arguments=True)
        eventually(self._is_there, within=60)

    def send(
        self, method: str, path: str, body: bytes | Iterable[bytes] = b"", **headers: str
    ) -> HTTPConnection:
        """Send a request; return its connection, on which the answer comes. Parts are sent in chunks."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        given = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if not isinstance(body, bytes):
            given["Transfer-Encoding"] = "chunked"
        try:
            connection.request(
                method, f"/djjp{path}", body, given, encode_chunked=not isinstance(body, bytes)
            )
        except OSError:
            connection.close()
            raise
        return connection

    def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, HTTPMessage]:
        """Send a request; return the status, the document and the headers of its answer."""
        is_ready = body is not None and not isinstance(body, dict)
        data = body if is_ready else b"" if body is None else json.dumps(body).encode()
        with closing(self.send(method, path, data, **headers)) as connection:
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers

    def _is_there(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self("GET", "/v1/health/live")[0] == 200
        except (ConnectionError, http.client.RemoteDisconnected):
            return False
