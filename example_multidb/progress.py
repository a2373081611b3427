"""The demo's consumer process, and its progress.

This module can be imported only after Django is set up.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
from django.db.models import Count, QuerySet

from djjp.models import FINISHED, Job

MANAGE = Path(__file__).resolve().parent / "manage.py"


@dataclass
class Process:
    """The consumer process, the time of its start in seconds since the epoch, and its log."""

    popen: subprocess.Popen[bytes]
    started: float
    log: IO[bytes]

    def logged(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@contextmanager
def consumer(*options: str) -> Iterator[Process]:
    """Start `manage.py start_consumer` with options, and stop it at the end of the block."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(MANAGE), "start_consumer", *options]
        started = time.time()
        # In its own process group, so that Ctrl-C reaches only this process, which stops the consumer.
        popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
        try:
            yield Process(popen, started, log)
        finally:
            end(popen)


def end(popen: subprocess.Popen[bytes]) -> None:
    """Stop a consumer gracefully; kill it after 30 seconds or a second Ctrl-C."""
    if popen.poll() is not None:
        return
    popen.terminate()
    try:
        popen.wait(timeout=35)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        popen.kill()
        popen.wait()


# Progress


#: The names of the steps in the queue, jobs and tasks; and of the job that runs only if a step fails.
STEPS = [
    "library.index_library",
    "library.index_module",
    "example_multidb.library.tasks.index_module",
    "library.summarise",
]
ON_FAILURE = "library.note_failure"


def jobs() -> QuerySet[Job]:
    """Return the demo's jobs only, because the queue can contain others."""
    return Job.objects.filter(name__in=[*STEPS, ON_FAILURE])


def states() -> dict[str, int]:
    """Return the number of steps in each state."""
    steps = Job.objects.filter(name__in=STEPS)
    return dict(steps.values_list("state").annotate(Count("id")))


def finished(counts: Mapping[str, int]) -> int:
    return sum(counts.get(state, 0) for state in FINISHED)


def summary(counts: Mapping[str, int] | None) -> str | None:
    """Return the numbers of finished steps, of all steps, and of those without success, as text."""
    if counts is None:
        return None
    unsuccessful = [
        f"{counts[state]} {state}" for state in ("failed", "cancelled") if counts.get(state)
    ]
    steps = f"{finished(counts):,} of {sum(counts.values()):,} jobs"
    return ", ".join([steps, *unsuccessful])


def show_progress(process: Process) -> int:
    """Show a progress bar, on a terminal, until the consumer ends; return its exit code."""
    with click.progressbar(
        length=1, label="  running", show_eta=False, item_show_func=summary
    ) as bar:
        while (code := process.popen.poll()) is None:
            counts = states()
            bar.length = max(
                1, sum(counts.values())
            )  # grows when the first job enqueues the others
            bar.update(finished(counts) - bar.pos, counts)
            time.sleep(0.1)
    return code
