"""The jobs of the chaos suite: each says first that it begins, and last that it has ended.

They say so to a pipe, which outlives their process, and which no full disk and no lock holds up.
"""

from __future__ import annotations

import os
import random
import time

from django.conf import settings

from djjp import current_job, job

TRACE = settings.HOME / "trace"
_descriptor: int | None = None


def note(what: str, more: str = "") -> None:
    global _descriptor
    if _descriptor is None:
        _descriptor = os.open(TRACE, os.O_WRONLY)
    current = current_job()
    assert current is not None
    # Short enough for the pipe to take it whole.
    os.write(
        _descriptor, f"{what} {current.id.hex} {current.attempt} {os.getpid()} {more}\n".encode()
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


@job(name="chaos.flaky", max_attempts=4, backoff=0.3)
def flaky(failures: int) -> None:
    """Fail a few times; at once, so that the next attempt is soon."""
    note("begin")
    current = current_job()
    assert current is not None
    if current.attempt <= failures:
        note("end")
        raise ValueError("not yet")
    note("end")


@job(name="chaos.hopeless", max_attempts=3, backoff=lambda number: random.choice([0, 0.2]))
def hopeless() -> None:
    note("begin")
    note("end")
    raise ValueError("never")


@job(name="chaos.once", on_crash="fail")
def once(seconds: float) -> None:
    note("begin")
    time.sleep(seconds)
    note("end")


@job(name="chaos.child")
def child() -> None:
    note("begin")
    note("end")


@job(name="chaos.parent", max_attempts=20, backoff=0.5)
def parent() -> None:
    """Enqueue another from inside; when the queue is away, try again later."""
    note("begin")
    note("child", child.run_later().id.hex)
    note("end")
