"""A job that runs until the test lets it end, in consumers of the test's own process."""

from __future__ import annotations

import threading

from djjp import job

_over = threading.Event()


@job(name="tests.stay")
def stay() -> int:
    """Run until `let_end()` is called; return a number for a step after it."""
    _over.wait(120)
    return 1


def let_end() -> None:
    """Have the jobs that run end, and the later ones at once, until the next `start_staying()`."""
    _over.set()


def start_staying() -> None:
    """Have jobs stay from now on."""
    _over.clear()
