"""Start the test project's commands by a process that has Django loaded: see `tests.support.zygote`."""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: The variables that Python reads when it starts: a fork cannot have others than its parent.
_READ_AT_START = ("PYTHON", "LANG", "LC_", "TZ")


class Zygote:
    """The process that forks."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asks = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        atexit.register(self._end)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a process with this environment starts as one of its forks would."""
        read = [
            {key: value for key, value in each.items() if key.startswith(_READ_AT_START)}
            for each in (environment, self.environment)
        ]
        return read[0] == read[1]

    def ask(self, request: Mapping[str, Any], *streams: int) -> int:
        """Send a request with file descriptors, and return the answer."""
        with self._asks:
            socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
            answer: int = json.loads(self._channel.recv(100))
            return answer

    def _end(self) -> None:
        self._channel.close()
        self._process.wait()


#: The one of this process.
zygote = cache(Zygote)


class Forked(subprocess.Popen[str]):
    """A command of the test project, as `Popen` would start it; its parent is the zygote."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = command
        self._pidfd = -1
        super().__init__(
            ["manage", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _execute_child(self, *given: Any) -> None:
        names = signature(subprocess.Popen._execute_child).parameters  # type: ignore[attr-defined]  # private
        values = dict(zip(list(names)[1:], given, strict=True))
        request = {"command": self._command, "environment": values["env"]}
        write_ends = values["c2pwrite"], values["errwrite"]
        try:
            self.pid = zygote().ask(request, *write_ends)
        finally:
            for end in write_ends:
                os.close(end)
        self._child_created = True
        self._pidfd = os.pidfd_open(self.pid)

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]  # private
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]  # private
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]  # private
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """Return the pid and the status of the process if it has ended, or (0, 0); without WNOHANG wait for it."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(0 if flags & os.WNOHANG else None):
            return 0, 0
        os.close(self._pidfd)
        return self.pid, zygote().ask({"ended": self.pid})
