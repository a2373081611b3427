"""The watchdog: logs the job that blocks an event loop.

It samples the loop's thread from a thread of its own, and costs the loop nothing: everything that a
loop runs is a `Handle`, and a handle found in successive samples has been running all that time. A
handle's context names its job, also in tasks that the job has started.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from djjp import logs
from djjp.jobs.current import CurrentJob, running

logger = logging.getLogger("djjp.consumer")

#: Seconds for which a job can block the loop before it is logged.
LONGEST = 0.1
#: Seconds between two samples.
TICK = 0.025
#: Seconds for which jobs of one name are not logged again.
QUIET = 60.0
# Seconds without any job after which the watchdog sleeps.
_IDLE = 2.0
# Number of innermost calls that are logged.
_CALLS = 6

_RUN = asyncio.Handle._run.__code__  # noqa: SLF001  (the one frame below all work of a loop)
_HERE = str(Path(__file__).parent)


class Blocked(NamedTuple):
    """A loop that is blocked.

    Attributes:
        name: the name of the job that blocks it; "" for something that belongs to no job.
        seconds: for how long it is blocked by now.
        at: the file and the line of the innermost call.
        again: whether it was reported before, and is still blocked.
    """

    name: str
    seconds: float
    at: str
    again: bool


class LoopWatchdog:
    """Watches one loop's thread.

    Args:
        runs: the jobs that run there; the watchdog sleeps while there are none.
        on_blocked: called on the watchdog's thread with each blocked loop, also those that are not logged again.
    """

    def __init__(
        self,
        thread: threading.Thread,
        runs: Collection[object],
        on_blocked: Callable[[Blocked], object] = lambda blocked: None,
    ) -> None:
        self._thread = thread
        self._runs = runs
        self._on_blocked = on_blocked
        self._awake = threading.Event()
        self._closed = False
        self._quiet_until: dict[str, float] = {}
        watchdog = threading.Thread(target=self._watch, name="djjp-watchdog", daemon=True)
        with suppress(RuntimeError):  # the system refuses a thread: jobs run without a watchdog
            watchdog.start()

    def wake(self) -> None:
        """Start sampling, because the loop has a job."""
        if not self._awake.is_set():
            self._awake.set()

    def close(self) -> None:
        self._closed = True
        self._awake.set()

    def current_job(self) -> CurrentJob | None:
        """Return the job whose code the loop runs at this moment."""
        found = self._sample()
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
                if self._runs:  # a job came just before the clear
                    self._awake.set()
            found = self._sample()
            if found is None or found.handle is not last:
                last = None if found is None else found.handle
                since, report_at = now, LONGEST
            elif now - since >= report_at:
                self._report(found, now - since, again=report_at > LONGEST)
                report_at *= 10
            found = None

    def _sample(self) -> _Found | None:
        top = frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  (documented, as it is)
        while frame is not None and frame.f_code is not _RUN:
            frame = frame.f_back
        return None if top is None or frame is None else _Found(frame.f_locals["self"], top)

    def _report(self, found: _Found, seconds: float, *, again: bool) -> None:
        job = _job(found.handle)
        if job is None:
            subject = name = "something that belongs to no job"
        else:
            name, subject = job.name, f"{job.name} {job.id}"
        blocked = Blocked(name if job else "", seconds, _innermost(found.top), again)
        self._on_blocked(blocked)
        now = time.monotonic()
        if not again and self._quiet_until.get(name, 0.0) > now:
            return
        self._quiet_until[name] = now + QUIET
        logger.warning(
            "%s has blocked the event loop for %.2f s, and no other coroutine runs meanwhile; it is at\n%s",
            subject,
            seconds,
            _where(found.top),
            extra=None if job is None else logs.of_job(job),
        )


class _Found(NamedTuple):
    """The handle that the loop runs, and its innermost frame."""

    handle: asyncio.Handle
    top: FrameType


def _job(handle: asyncio.Handle) -> CurrentJob | None:
    context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001  (no public way to read it)
    job: CurrentJob | None = context.get(running)
    return job


def _innermost(top: FrameType) -> str:
    """Return the file and the line of the innermost call below the loop's and this package's."""
    for frame, line in traceback.walk_stack(top):
        if frame.f_code is _RUN:
            break
        if not frame.f_code.co_filename.startswith(_HERE):
            return f"{frame.f_code.co_filename}:{line}"
    return "an unknown place"


def _where(top: FrameType) -> str:
    """Return the calls below those of the loop and this package, outermost first."""
    calls: list[tuple[FrameType, int]] = []
    for frame, line in traceback.walk_stack(top):
        if frame.f_code is _RUN:
            break
        if not frame.f_code.co_filename.startswith(_HERE):
            calls.append((frame, line))
    stack = traceback.StackSummary.extract(iter(calls[:_CALLS]))
    stack.reverse()
    return "".join(stack.format()).rstrip()
