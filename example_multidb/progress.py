"""The consumer that the demo starts as a process of its own, and how far it is.

Imported once Django is ready.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.db.models import Count, QuerySet

from djjp.models import FINISHED, Job

MANAGE = Path(__file__).resolve().parent / "manage.py"


@dataclass
class Process:
    """The consumer: when it was started, in seconds since the epoch, and what it logs."""

    popen: subprocess.Popen[bytes]
    started: float
    log: IO[bytes]

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@contextmanager
def consumer() -> Iterator[Process]:
    """Start `manage.py start_consumer --drain`; whatever happens in the block, it ends with it."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(MANAGE), "start_consumer", "--drain"]
        started = time.time()
        # In a process group of its own: Ctrl-C comes to this process alone, which passes it on once.
        popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
        try:
            yield Process(popen, started, log)
        finally:
            end(popen)


def end(popen: subprocess.Popen[bytes]) -> None:
    """Let a consumer end its running jobs and give the others back; the impatient get it killed."""
    if popen.poll() is not None:
        return
    popen.terminate()
    try:
        popen.wait(timeout=30)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        popen.kill()
        popen.wait()


# How far it is


#: Under which the steps are in the queue, jobs and tasks, and what runs only where one fails.
STEPS = [
    "library.index_library",
    "library.index_module",
    "example_multidb.library.tasks.index_module",
    "library.summarise",
]
ON_FAILURE = "library.note_failure"


def jobs() -> QuerySet[Job]:
    """The demo's jobs, and no others: the queue may be one that is used for more."""
    return Job.objects.filter(name__in=[*STEPS, ON_FAILURE])


def states() -> dict[str, int]:
    """How many steps are in each state."""
    steps = Job.objects.filter(name__in=STEPS)
    return dict(steps.values_list("state").annotate(Count("id")))


def finished(counts: Mapping[str, int]) -> int:
    return sum(counts.get(state, 0) for state in FINISHED)


class Bar:
    """A progress bar on a terminal; anywhere else a line for each quarter."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._quarters = 0

    def show(self, counts: Mapping[str, int], *, last: bool = False) -> None:
        done, total = finished(counts), max(1, sum(counts.values()))
        ended = [
            f"{counts[state]} {state}" for state in ("failed", "cancelled") if counts.get(state)
        ]
        text = ", ".join([f"{done:,} of {total:,} jobs", *ended])
        if self._terminal:
            width = max(10, min(40, shutil.get_terminal_size().columns - len(text) - 16))
            full = width * done // total
            bar = f"[{'#' * full}{'.' * (width - full)}] {100 * done // total:3} %"
            # \033[K clears what a longer line has left behind.
            print(f"\r  {bar}  {text}\033[K", end="\n" if last else "", flush=True)
        elif (quarters := 4 * done // total) > self._quarters:
            self._quarters = quarters
            print(f"  {25 * quarters:3} %  {text}", flush=True)
