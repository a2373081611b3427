"""The jobs of the chaos suite: each writes its begin and its end into a pipe.

The pipe outlives the process of a job, and is independent of disks and locks.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from django.conf import settings

from djjp import conf, current_job, job
from djjp.pipelines import expansion

# So that many a kill comes between two pieces of an expansion.
expansion.MEMBERS_AT_ONCE = 5

TRACE = settings.HOME / "trace"
_descriptor: int | None = None


def note(event: str, more: str = "") -> None:
    global _descriptor
    if _descriptor is None:
        _descriptor = os.open(TRACE, os.O_WRONLY)
    current = current_job()
    # Short enough to be written to the pipe in one piece.
    os.write(
        _descriptor, f"{event} {current.id.hex} {current.attempt} {os.getpid()} {more}\n".encode()
    )


@job(name="chaos.quick")
def quick() -> None:
    note("begin")
    note("end")


@job(name="chaos.slow")
def slow(seconds: float) -> None:
    note("begin")
    time.sleep(seconds)
    note("end")


@job(name="chaos.fatal")
def fatal() -> None:
    """Kill the consumer, in each attempt."""
    note("begin")
    os.kill(os.getpid(), signal.SIGKILL)


@job(name="chaos.flaky", max_attempts=4, backoff=0.3)
def flaky(failures: int) -> None:
    """Fail a few times, without a delay, so that the next attempt comes soon."""
    note("begin")
    current = current_job()
    if current.attempt <= failures:
        note("end")
        raise ValueError("not yet")
    note("end")


@job(name="chaos.hopeless", max_attempts=3, backoff=lambda number: random.choice([0, 0.2]))
def hopeless() -> None:
    note("begin")
    note("end")
    raise ValueError("never")


@job(name="chaos.large")
def large() -> str:
    """Return more than a result can have, which fails this job alone."""
    note("begin")
    note("end")
    return "x" * conf.current().max_payload


@job(name="chaos.once", on_crash="fail")
def once(seconds: float) -> None:
    note("begin")
    time.sleep(seconds)
    note("end")


@job(name="chaos.poisoned")
def poisoned() -> None:
    """Succeed, which the queue's database refuses: see `tests.chaos.ledger`."""
    note("begin")
    note("end")


@job(name="chaos.unclaimable")
def unclaimable() -> None:
    """Never run: the queue's database refuses each claim."""
    note("begin")


@job(name="chaos.child")
def child() -> None:
    note("begin")
    note("end")


@job(name="chaos.parent", max_attempts=20, backoff=0.5)
def parent() -> None:
    """Enqueue another job; if the queue is unavailable, the next attempt does."""
    note("begin")
    note("child", child.run_later().id.hex)
    note("end")


@job(name="chaos.listing")
def listing(count: int) -> list[int]:
    note("begin")
    note("end")
    return list(range(count))


@job(name="chaos.piece")
def piece(item: int, seconds: float) -> int:
    """Run as a member of an expansion."""
    note("begin")
    time.sleep(seconds)
    note("end")
    return item


@job(name="chaos.gather")
def gather(items: list[int]) -> list[int]:
    note("begin")
    note("end")
    return items


@job(name="chaos.reader")
def reader() -> None:
    """Read the queue's file, where it is one, as a program that copies it does: SQLite loses its locks."""
    note("begin")
    queue = settings.DATABASES[settings.DJJP["db_name"]]
    if queue["ENGINE"].endswith("sqlite3"):
        Path(queue["NAME"]).read_bytes()
    note("end")
