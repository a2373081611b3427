"""The health port: `/live` and `/ready` over HTTP, answered by threads of the consumer's process."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from djjp import forks
from djjp.consumer.health import Health
from djjp.weak_groups import WeakGroup

# Seconds that a client gets to send its request.
_PATIENCE = 5.0
# Requests at a time; more are not answered.
_MOST = 50
# Seconds that an answer waits for a round of the coordinator if the last one is older than this: the process was
# stopped, or a job held the interpreter, and its threads go on in any order. Seconds between two looks at it.
_GRACE, _OLD, _LOOK_EVERY = 0.5, 1.5, 0.02
# Seconds within which the end of the consumer ends the server.
_POLL_EVERY = 0.25
# Errors of a system whose IPv6 is turned off.
_WITHOUT_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}

_open: WeakGroup[HealthPort] = WeakGroup()


class HealthPort:
    """Answers on a port until it is closed.

    Args:
        host: the address to listen on; an empty one for all, of IPv4 and IPv6.
        port: 0 for one that is free.

    Raises:
        OSError: it cannot listen there.
        RuntimeError: the system refuses a thread.
    """

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._server = _Server(health, _listen(host, port))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[_POLL_EVERY], name="djjp-health", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._server.server_close()
            raise
        _open.add(self)

    def give(self, is_ready: bool) -> None:
        """Do nothing: it answers from the rounds themselves."""

    def begin_end(self) -> None:
        """Go on to answer, until the end."""

    def close(self) -> None:
        """Free the port; threads that still read a request end."""
        self._server.shutdown()
        self._thread.join()
        self._server.abort()
        self._server.server_close()

    def forget(self) -> None:
        """Close the sockets in a forked child: the port would stay taken when the consumer ends."""
        self._server.close_sockets()


@forks.in_child
def _forget() -> None:
    for port in _open:
        port.forget()
    _open.clear()


def _listen(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _WITHOUT_IPV6:
                raise
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        host.encode("idna")  # for such a name `create_server` leaves a socket open
    except UnicodeError as error:
        raise OSError(str(error)) from error
    return socket.create_server((host, port), family=family)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # those of requests are joined at the end
    block_on_close = True

    def __init__(self, health: Health, listening: socket.socket) -> None:
        self.health = health
        self._requests: set[Any] = set()
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_address = listening.getsockname()[:2]

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            # Without a descriptor for it the connection stays in the backlog: the server would retry at once.
            time.sleep(_POLL_EVERY)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self._requests) < _MOST

    def process_request(self, request: Any, client_address: Any) -> None:
        self._requests.add(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system refuses a thread
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        self._requests.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: a client that went away is no news."""

    def abort(self) -> None:
        """End the requests that are not read to their end."""
        for request in list(self._requests):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def close_sockets(self) -> None:
        for each in (self.socket, *list(self._requests)):
            each.close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request: 200 or 503, with the reason."""

    server: _Server
    timeout = _PATIENCE

    def version_string(self) -> str:
        return "djjp"

    def log_message(self, *arguments: Any) -> None:
        """Log nothing: probes come every few seconds."""

    def do_GET(self) -> None:
        # Also under the paths of the HTTP interface, `/v1/health/…`.
        path = self.path.partition("?")[0].removeprefix("/v1/health").rstrip("/")
        check = {"/live": Health.why_not_live, "/ready": Health.why_not_ready}.get(path)
        if check is None:
            self._answer(
                HTTPStatus.NOT_FOUND, {"status": "no such page; there are /live and /ready"}
            )
            return
        obstacle = _after_grace(self.server.health, check)
        if obstacle is None:
            self._answer(HTTPStatus.OK, {"status": path[1:]})
        else:
            status = {"status": f"not {path[1:]}", "reason": obstacle}
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, status)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none, or has another method."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._answer(
                HTTPStatus.METHOD_NOT_ALLOWED, {"status": "GET or HEAD"}, Allow="GET, HEAD"
            )
        else:
            self._answer(HTTPStatus(code), {"status": message or HTTPStatus(code).phrase})

    def _answer(self, status: HTTPStatus, body: dict[str, str], **headers: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _after_grace(health: Health, check: Callable[[Health], str | None]) -> str | None:
    """Return what a check finds, once the coordinator had the time for a round if the last one is long ago."""
    until = time.monotonic() + _GRACE
    while (obstacle := check(health)) is not None:
        if health.age() < _OLD or time.monotonic() >= until:
            break
        time.sleep(_LOOK_EVERY)
    return obstacle
