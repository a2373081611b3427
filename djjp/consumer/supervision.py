"""Supervision: how a supervisor starts a child process, and what the child gets from it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: The environment variable that carries a `Supervision`.
_ENV = "DJJP_SUPERVISOR"


class Supervision(NamedTuple):
    """The values that a supervisor gives to a child.

    Attributes:
        supervisor: its process id.
        token: the end of the name of the child's consumer, by which the supervisor recognizes it.
        pipe: the descriptor on which it gives its signs of life; 0 for none.
    """

    supervisor: int
    token: str
    pipe: int = 0

    def environment(self) -> dict[str, str]:
        """Return the environment variable that carries it to the child."""
        return {_ENV: f"{self.supervisor}:{self.token}:{self.pipe}"}


def own_supervision() -> Supervision | None:
    """Return what the supervisor gave that started this process, if one did. Call it once only.

    It is removed from the environment, because programs that a job starts are no children.
    """
    pid, token, pipe = (*os.environ.pop(_ENV, "").split(":"), "", "", "")[:3]
    if not (pid.isdigit() and token):
        return None
    return Supervision(int(pid), token, int(pipe) if pipe.isdigit() else 0)


def is_program(name: str) -> bool:
    """Return whether this process runs the command of this name, and nothing after it."""
    return sys.argv[1:2] == [name]


def child_command(name: str, options: Mapping[str, Any]) -> list[str]:
    """Return the command line of a child: that of this process, if this process runs the command.

    Args:
        name: of the command.
        options: of the command; used if it was called from Python.
    """
    if is_program(name):
        return [sys.executable, *sys.orig_argv[1:]]
    # With the path written out: PYTHONPATH would reach the programs that jobs start.
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from django.core.management import execute_from_command_line as run; run(sys.argv)"
    )
    return [sys.executable, "-c", program, name, *_spelled(options)]


def _spelled(options: Mapping[str, Any]) -> Iterator[str]:
    for option, value in options.items():
        if value is not None and value is not False:
            yield "--" + option.replace("_", "-")
            if value is not True:
                yield str(value) if isinstance(value, (str, int)) else ",".join(value)
