"""`python -m tests.support.zygote FD`: start the test project's commands in forks that have Django loaded already.

A command needs 0.4 s of CPU to start, half of it for the modules of Python, Django and psycopg, which are the same
for all. This process loads them once, runs nothing and has one thread. Each fork becomes the process that
`python -m tests.project.manage COMMAND …` starts: the settings, djjp and the project are loaded in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import runpy
import socket
import sys
from collections.abc import Sequence

import django.contrib.messages
import django.core.management.commands.migrate
import django.core.serializers.json
import django.db.backends.postgresql.base
import django.db.backends.sqlite3.base
import django.db.models.functions
import django.forms.models
import django.template.loader
import django.urls
import djclick

__all__ = ["asyncio", "django", "djclick"]

PROGRAM = "tests.project.manage"
#: The longest request, in bytes.
LONGEST = 1_000_000


def main(channel: socket.socket) -> None:
    """Answer requests until the other end is closed; return in a fork, too, when its command has ended."""
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LONGEST, 2)
        if not message:
            return
        request = json.loads(message)
        if "ended" in request:
            answer = os.waitpid(request["ended"], 0)[1]
        elif answer := os.fork():
            for each in streams:
                os.close(each)
        else:
            channel.close()
            _become(streams, **request)
            return
        channel.send(json.dumps(answer).encode())


def _become(streams: Sequence[int], command: list[str], environment: dict[str, str]) -> None:
    os.setpgid(0, 0)
    for number, each in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
        os.dup2(each, number)
        os.close(each)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [PROGRAM, *command]
    sys.orig_argv = [sys.executable, "-m", PROGRAM, *command]
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    gc.freeze()  # no collection in a fork walks through what was loaded
    main(socket.socket(fileno=int(sys.argv[1])))
