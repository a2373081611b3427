"""What a consumer process watches beside its jobs: its memory, its supervisor, its code.

Each is looked at about once a second, on a thread that ends with the consumer. None of them cuts a
job off: what they ask for is that the consumer ends in its own time.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from django.utils import autoreload

logger = logging.getLogger("djjp.consumer")

_LOOK_EVERY = 1.0
_MB = 1024 * 1024
_STATM = Path("/proc/self/statm")


class Watched(NamedTuple):
    """One thing to look at: `found` says in words what has come about, and `then` is called once."""

    found: Callable[[], str | None]
    then: Callable[[], None]
    level: int = logging.WARNING


def memory_over(limit: int) -> Callable[[], str | None]:
    """Whether this process holds more than so many MB of memory."""

    def found() -> str | None:
        held = resident_memory() / _MB
        return f"holds {held:.0f} MB of memory, more than the {limit} allowed" * (held > limit)

    return found


def supervisor_gone(pid: int) -> Callable[[], str | None]:
    """Whether the process that started this one has ended: then somebody else is the parent."""

    def found() -> str | None:
        return f"has lost its supervisor, process {pid}" * (os.getppid() != pid)

    return found


def code_changed() -> Callable[[], str | None]:
    """Whether a file has changed, from this call on, for which Django's own server would start anew."""
    reloader = autoreload.StatReloader()
    autoreload.autoreload_started.send(sender=reloader)
    seen = dict(reloader.snapshot_files())

    def found() -> str | None:
        for path, mtime in reloader.snapshot_files():
            if seen.setdefault(path, mtime) < mtime:
                seen[path] = mtime
                try:
                    # Asks who else can deal with it, as the template engine can; if nobody does, this is
                    # how Django says that the process has to end.
                    reloader.notify_file_changed(path)
                except SystemExit:
                    return f"runs code that has changed ({path})"
        return None

    return found


def resident_memory() -> int:
    """Bytes of memory that this process holds; where the system does not tell, the most it ever held."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


@contextmanager
def watching(name: str, watched: Sequence[Watched]) -> Iterator[None]:
    """Look at what is watched for as long as the block runs.

    Args:
        name: who this is, for the log.
    """
    over = threading.Event()

    def look() -> None:
        left = list(watched)
        while left and not over.wait(_LOOK_EVERY):
            for each in list(left):
                try:
                    if what := each.found():
                        left.remove(each)
                        each.then()
                        logger.log(each.level, "consumer %s %s; ends after its jobs", name, what)
                except Exception:
                    logger.exception("consumer %s cannot look at what it watches", name)

    if watched:
        threading.Thread(target=look, name="djjp-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()
