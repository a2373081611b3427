"""The watchdog: names the job that keeps an event loop from its other coroutines.

It looks from a thread of its own at what the loop's thread does, and costs the loop nothing: what the loop
runs is a `Handle`, and one that is met again and again has been running all that time. A handle's
context tells whose it is, also where a job has started tasks of its own.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from djjp.jobs.current import CurrentJob, running

logger = logging.getLogger("djjp.consumer")

#: Seconds for which a job may keep the loop to itself.
LONGEST = 0.1
#: Seconds between two looks.
TICK = 0.025
#: Seconds for which jobs of one name are not named again.
QUIET = 60.0
# Seconds without any job after which the watchdog sleeps.
_IDLE = 2.0
# How many of the innermost calls are shown.
_CALLS = 6

_RUN = asyncio.Handle._run.__code__  # noqa: SLF001  (the one frame that all of a loop's work has)
_HERE = str(Path(__file__).parent)


class LoopWatchdog:
    """Watches one loop's thread.

    Args:
        runs: what runs there; nobody looks while it is empty.
    """

    def __init__(self, thread: threading.Thread, runs: Collection[object]) -> None:
        self._thread = thread
        self._runs = runs
        self._awake = threading.Event()
        self._closed = False
        self._quiet_until: dict[str, float] = {}
        threading.Thread(target=self._watch, name="djjp-watchdog", daemon=True).start()

    def wake(self) -> None:
        """There is a job on the loop."""
        if not self._awake.is_set():
            self._awake.set()

    def close(self) -> None:
        self._closed = True
        self._awake.set()

    def current_job(self) -> CurrentJob | None:
        """The job whose code the loop runs at this moment."""
        found = self._look()
        return None if found is None else _job(found.handle)

    def _watch(self) -> None:
        last: asyncio.Handle | None = None
        since, report_at, busy_at = 0.0, LONGEST, 0.0
        while not self._closed:
            self._awake.wait()
            time.sleep(TICK)
            now = time.monotonic()
            if self._runs:
                busy_at = now
            elif now - busy_at > _IDLE:
                self._awake.clear()
                if self._runs:  # it came just before
                    self._awake.set()
            found = self._look()
            if found is None or found.handle is not last:
                last = None if found is None else found.handle
                since, report_at = now, LONGEST
            elif now - since >= report_at:
                self._report(found, now - since, again=report_at > LONGEST)
                report_at *= 10
            found = None

    def _look(self) -> _Found | None:
        top = frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  (documented, as it is)
        while frame is not None and frame.f_code is not _RUN:
            frame = frame.f_back
        return None if top is None or frame is None else _Found(frame.f_locals["self"], top)

    def _report(self, found: _Found, seconds: float, *, again: bool) -> None:
        job = _job(found.handle)
        if job is None:
            who = name = "something that belongs to no job"
        else:
            name, who = job.name, f"{job.name} {job.id}"
        now = time.monotonic()
        if not again and self._quiet_until.get(name, 0.0) > now:
            return
        self._quiet_until[name] = now + QUIET
        logger.warning(
            "%s has blocked the event loop for %.2f s, and no other coroutine goes on; it is at\n%s",
            who,
            seconds,
            _where(found.top),
        )


class _Found(NamedTuple):
    """What the loop runs, and the innermost frame of it."""

    handle: asyncio.Handle
    top: FrameType


def _job(handle: asyncio.Handle) -> CurrentJob | None:
    context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001  (no other way tells)
    job: CurrentJob | None = context.get(running)
    return job


def _where(top: FrameType) -> str:
    """The calls beneath the loop and this package, outermost first."""
    calls: list[tuple[FrameType, int]] = []
    for frame, line in traceback.walk_stack(top):
        if frame.f_code is _RUN:
            break
        if not frame.f_code.co_filename.startswith(_HERE):
            calls.append((frame, line))
    stack = traceback.StackSummary.extract(iter(calls[:_CALLS]))
    stack.reverse()
    return "".join(stack.format()).rstrip()
