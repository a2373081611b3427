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

from djjp.models import Job

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


#: Under which the demo's jobs and tasks are in the queue.
NAMES = ["library.index_module", "example_multidb.library.tasks.index_module"]


def jobs() -> QuerySet[Job]:
    """The demo's jobs, and no others: the queue may be one that is used for more."""
    return Job.objects.filter(name__in=NAMES)


def states() -> dict[str, int]:
    """How many jobs are in each state."""
    return dict(jobs().values_list("state").annotate(Count("id")))


def finished(counts: Mapping[str, int]) -> int:
    return counts.get("succeeded", 0) + counts.get("failed", 0)


class Bar:
    """A progress bar on a terminal; anywhere else a line for each quarter."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stdout.isatty()
        self._quarters = 0
        self._began: float | None = None

    def show(self, counts: Mapping[str, int], *, last: bool = False) -> None:
        done, failed = finished(counts), counts.get("failed", 0)
        text = f"{done:,} of {self._total:,} jobs" + (f", {failed} failed" if failed else "")
        if self._terminal:
            width = max(10, min(40, shutil.get_terminal_size().columns - len(text) - 16))
            full = width * done // self._total
            bar = f"[{'#' * full}{'.' * (width - full)}] {100 * done // self._total:3} %"
            # \033[K clears what a longer line has left behind.
            print(f"\r  {bar}  {text}\033[K", end="\n" if last else "", flush=True)
        elif (quarters := 4 * done // self._total) > self._quarters:
            self._quarters = quarters
            print(f"  {25 * quarters:3} %  {text}", flush=True)
