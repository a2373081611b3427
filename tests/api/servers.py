"""Real servers with the HTTP interface, and a client of theirs over sockets."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection, HTTPMessage
from typing import Any

import pytest

from djjp import tokens
from tests.support.processes import Processes, eventually

#: How each server is started. It takes a port itself: a free port that the test chose could be another's by then.
COMMANDS = {
    "gunicorn": (
        *("gunicorn", "tests.api.server:wsgi()", "--bind=127.0.0.1:0"),
        *("--worker-class=gthread", "--threads=8", "--no-control-socket"),
    ),
    "uvicorn": ("uvicorn", "--factory", "tests.api.server:asgi", "--port=0"),
}
#: The line in which a server tells its port.
_ADDRESS = re.compile(r"(?:Listening at:|Uvicorn running on) http://127\.0\.0\.1:(\d+)")


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
        given = {"DJANGO_SETTINGS_MODULE": "tests.api.settings", **environment}
        self.process = processes.module(*COMMANDS[kind], *options, **given)
        _, self._token = tokens.create("client", scope, arguments=True)
        self._port = self._told_port()
        eventually(self._is_there)

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

    def _told_port(self) -> int:
        """Return the port that the server names in its log, once it listens."""
        assert self.process.stderr is not None
        log = ""
        for line in self.process.stderr:
            if (found := _ADDRESS.search(line)) is not None:
                return int(found[1])
            log += line
        raise AssertionError(f"the server has ended:\n{log}")

    def _is_there(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self("GET", "/v1/health/live")[0] == 200
        except (ConnectionError, http.client.RemoteDisconnected):
            return False
