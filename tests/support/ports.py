"""Ports for servers that must be told which one they get: no other program of this machine gets it meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """Hold a port during the block, without listening on it.

    A program that binds it by its number can listen on it, as long as it sets SO_REUSEADDR, as servers do. The
    system gives it to no program that takes any free port.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
