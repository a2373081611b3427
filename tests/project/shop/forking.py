"""Jobs of the test project that fork."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from djjp import current_job_or_none, job
from tests.project.shop.models import Execution

fork = multiprocessing.get_context("fork")


def waited(child: int) -> int:
    """Return the exit code of a child, or the number of the signal that ended it, below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@job
def leave_child(seconds: float) -> int:
    """Fork a child that goes on for a while, and wait for nothing."""
    if (child := os.fork()) == 0:
        time.sleep(seconds)
        os._exit(0)
    return child


@job
def leave_child_and_wait(seconds: float, key: str) -> None:
    leave_child(seconds)
    Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    time.sleep(seconds)


@job
def enqueue_in_child(count: int) -> tuple[int, list[str], float]:
    """Have a child enqueue jobs, half of them by an outbox; return its exit code, their ids and its seconds."""
    from tests.project.shop.jobs import add

    connection.ensure_connection()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.close(read)
        began, ids = time.monotonic(), []
        for number in range(0, count, 2):
            ids.append(add.run_later(number).id)
            with transaction.atomic():
                ids.append(add.run_later(number + 1).id)
        ids.append(asyncio.run(add.arun_later(count)).id)
        assert current_job_or_none() is None
        os.write(write, f"{time.monotonic() - began} {' '.join(map(str, ids))}".encode())
        os._exit(0)
    os.close(write)
    text = b""
    while part := os.read(read, 65536):
        text += part
    os.close(read)
    seconds, *texts = text.decode().split() or ["0"]
    Execution.objects.create(key="parent", process=os.getpid(), at=time.time())
    return waited(child), texts, float(seconds)


@job
async def enqueue_in_child_of_coroutine(count: int) -> tuple[int, list[str], float]:
    result: tuple[int, list[str], float] = await sync_to_async(enqueue_in_child)(count)
    return result


@job
def terminate_child() -> int | None:
    """Start a child that sleeps, and terminate it."""
    child = fork.Process(target=time.sleep, args=[60])
    child.start()
    child.terminate()
    child.join(30)
    code = child.exitcode
    child.kill()
    return code


@job
def signals_of_child() -> list[bool]:
    """Return whether each signal that a consumer handles does in a child what it does by default."""
    with fork.Pool(1) as pool:
        return pool.map(handles_by_default, HANDLED)


#: The signals that a consumer handles.
HANDLED = ["SIGTERM", "SIGQUIT", "SIGHUP"]


def handles_by_default(name: str) -> bool:
    return signal.getsignal(getattr(signal, name)) is signal.SIG_DFL


@job
def square_in_pool(count: int) -> list[int]:
    with fork.Pool(2) as pool:
        return pool.map(square, range(count))


def square(number: int) -> int:
    return number**2


@job
def leave_daemon() -> int | None:
    """Start a child that sleeps, and that multiprocessing terminates when this process ends."""
    child = fork.Process(target=time.sleep, args=[600], daemon=True)
    child.start()
    return child.pid


@job
def return_in_child(how: str) -> int:
    """Fork, and leave the function in the child as well; return the exit code of the child."""
    if (child := os.fork()) == 0:
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            raise ValueError("in the child")
        return 0
    return waited(child)


@job
async def return_in_child_of_coroutine(how: str) -> int:
    return return_in_child(how)


@job
def fork_in_transaction(key: str) -> int:
    """Fork inside a transaction, and leave it in the child; then write and commit."""
    with transaction.atomic():
        Execution.objects.create(key=key, process=os.getpid(), at=time.time())
        if (child := os.fork()) == 0:
            return 0
        code = waited(child)
        Execution.objects.create(key=key, process=os.getpid(), at=time.time())
    return code


@job
def leave_orphans(count: int) -> list[int]:
    """Run programs that leave a child behind, and return their exit codes; each is asked for after its end."""
    programs = [subprocess.Popen(["sh", "-c", "sleep 0.05 & exit 3"]) for _ in range(count)]
    time.sleep(0.5)
    return [program.wait() for program in programs]


@job
def zombies() -> int:
    """Return how many processes have ended that nobody has waited for."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            states.append(path.read_text().rpartition(")")[2].split()[0])
    return states.count("Z")


@job
def shout(text: str) -> None:
    """Print, without any flush."""
    print(text)
