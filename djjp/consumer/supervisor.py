"""The supervisor: keeps N consumer processes running, and runs no job itself.

* A child that ended is replaced: at once where it ended well, after a growing pause where it keeps
  dying soon after its start.
* The supervisor speaks for its children. They are in its process group, so what is sent to the whole
  group reaches them too; they take any number of SIGTERMs as one, and none that comes before or while
  they start is lost, for each child is told of it when it is there.
* It never waits for a database: what a dead child held is released on a thread beside.
* When the supervisor itself is killed, its children notice and end (see `watch`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from djjp.consumer.process import GRACEFUL, RECYCLE
from djjp.consumer.rescue import rescue_process
from djjp.consumer.wakeup import Wakeup, wait

logger = logging.getLogger("djjp.supervisor")

#: Tells a process that it is a child, and whose.
_ENV = "DJJP_SUPERVISOR"

# A child that dies within so many seconds died soon: seconds until the next, doubled up to the last.
_SOON = 5.0
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
# While somebody is editing, a child that cannot start is about to be mended.
_LAST_PAUSE_RELOADING = 4.0
# Seconds that children get to give their jobs back before they are killed, and that what they held
# then gets to be released.
_GIVE_BACK, _RELEASE = 4.0, 0.7
# Seconds after which the supervisor looks at its children though no signal woke it.
_LOOK_EVERY = 0.5

_GRACEFULLY, _AT_ONCE = 1, 2
_PASSED_ON = {_GRACEFULLY: signal.SIGTERM, _AT_ONCE: signal.SIGQUIT}


def own_supervisor() -> int | None:
    """The process id of the supervisor that started this process, if one did; to be asked once.

    What says so is taken out of the environment: programs that a job starts are no children.
    """
    pid = os.environ.pop(_ENV, "")
    return int(pid) if pid.isdigit() else None


def child_command(name: str, options: Mapping[str, Any]) -> list[str]:
    """The command line of a child: the one that this process was started with, if that is the command's.

    Args:
        name: of the command.
        options: what it was called with, for where it was called from Python.
    """
    if sys.argv[1:2] == [name]:
        return [sys.executable, *sys.orig_argv[1:]]
    # With the path written out: PYTHONPATH would reach the programs that jobs start.
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from django.core.management import execute_from_command_line as run; run(sys.argv)"
    )
    return [sys.executable, "-c", program, name, *_spelled(options)]


def _spelled(options: Mapping[str, Any]) -> Iterator[str]:
    for option, value in options.items():
        if value is not None and value is not False:
            yield "--" + option.replace("_", "-")
            if value is not True:
                yield str(value) if isinstance(value, (str, int)) else ",".join(value)


def _rescue(pid: int) -> None:
    """Release what a dead child held; if that fails, other consumers will, a little later."""
    try:
        rescue_process(pid)
    except Exception as error:  # noqa: BLE001  (children are to be looked after whatever the database says)
        logger.warning("what process %d held is left to other consumers: %r", pid, error)


class Supervisor:
    """Runs N children until it is told to stop.

    Args:
        command: the command line of a child.
        processes: how many of them.
        drain: end when each child has found nothing left to run.
        reload: the children end when their code changes.
    """

    def __init__(
        self, command: Sequence[str], processes: int, *, drain: bool = False, reload: bool = False
    ) -> None:
        self._command = command
        self._places = [_Place() for _ in range(processes)]
        self._drain = drain
        self._last_pause = _LAST_PAUSE_RELOADING if reload else _LAST_PAUSE
        self._wakeup = Wakeup()
        self._asked = 0
        self._kill_at = float("inf")
        self._rescues: list[threading.Thread] = []

    def run(self) -> int:
        """Work until stopped; returns the exit code: 0 if the last child in each place ended well."""
        logger.info("supervisor %d starts %d children", os.getpid(), len(self._places))
        with self._signals():
            while True:
                # Awaited before anything is looked at: whatever comes from here on rings.
                self._wakeup.armed = True
                for place in self._places:
                    self._reap(place)
                    self._start(place)
                self._pass_on()
                if all(place.over(self._asked > 0) for place in self._places):
                    break
                wait(self._wakeup, None, self._timeout(), 0.0)
                self._wakeup.armed = False
            until = time.monotonic() + _RELEASE
            for rescue in self._rescues:
                rescue.join(max(0.0, until - time.monotonic()))
        self._wakeup.close()
        logger.info("supervisor %d ends", os.getpid())
        return 0 if all(place.well for place in self._places) else 1

    # Children

    def _start(self, place: _Place) -> None:
        now = time.monotonic()
        if place.child or place.done or self._asked or now < place.start_at:
            return
        # A SIGINT from the terminal is not for a child, neither while it is starting.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            place.child = subprocess.Popen(  # noqa: S603  (this process's own command line)
                self._command, env=os.environ | {_ENV: str(os.getpid())}
            )
            place.started, place.told = now, 0
            logger.info("child %d is started", place.child.pid)
        except OSError as error:
            place.well = False
            logger.warning(
                "no child could be started (%s); again in %g s", error, self._later(place, 0.0)
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _reap(self, place: _Place) -> None:
        child = place.child
        if child is None or (code := child.poll()) is None:
            return
        place.child = None
        place.well = code in {GRACEFUL, RECYCLE} or (self._asked > 0 and _never_began(code))
        if place.well:
            logger.info("child %d has ended", child.pid)
            place.failures, place.start_at = 0, 0.0
            place.done = self._drain and code == GRACEFUL
            return
        self._rescue(child.pid)
        lived = time.monotonic() - place.started
        pause = self._later(place, lived, killed=code == -signal.SIGKILL)
        then = "" if self._asked else f"; another starts in {pause:g} s"
        logger.warning("child %d %s after %.1f s%s", child.pid, _in_words(code), lived, then)

    def _later(self, place: _Place, lived: float, *, killed: bool = False) -> float:
        """Set when the next child starts in a place where one failed; returns in how many seconds.

        One that somebody killed says nothing about how the next will do: the pause does not grow.
        """
        if lived >= _SOON:
            place.failures, pause = 0, 0.0
        elif killed:
            pause = _FIRST_PAUSE
        else:
            pause = min(_FIRST_PAUSE * 2**place.failures, self._last_pause)
            place.failures = min(place.failures + 1, 10)
        place.start_at = time.monotonic() + pause
        return pause

    def _rescue(self, pid: int) -> None:
        self._rescues = [thread for thread in self._rescues if thread.is_alive()]
        rescue = threading.Thread(target=_rescue, args=[pid], daemon=True)
        self._rescues.append(rescue)
        rescue.start()

    # Signals

    def _pass_on(self) -> None:
        asked, now = self._asked, time.monotonic()
        if asked == _AT_ONCE:
            self._kill_at = min(self._kill_at, now + _GIVE_BACK)
        for place in self._places:
            if place.child is None:
                continue
            if now >= self._kill_at:
                place.child.kill()
            elif place.told < asked:
                place.told = asked
                place.child.send_signal(_PASSED_ON[asked])

    def _timeout(self) -> float:
        """Seconds until there is something to do that no signal announces."""
        now = time.monotonic()
        times = [place.start_at for place in self._places if place.waits(self._asked > 0)]
        if self._kill_at > now:
            times.append(self._kill_at)
        return max(0.0, min([_LOOK_EVERY, *(at - now for at in times)]))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals reach the main thread only; on another one, children are looked at now and then."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD)
        before = [signal.signal(number, self._signalled) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: Any) -> None:
        if number == signal.SIGQUIT:
            self._asked = _AT_ONCE
        elif number != signal.SIGCHLD:
            self._asked = min(self._asked + 1, _AT_ONCE)
        self._wakeup.set()


class _Place:
    """One of the N places: the child in it, or when the next one starts."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.start_at = 0.0
        self.failures = 0  # deaths soon after the start, one after the other
        self.told = 0  # which of the signals the child has been sent
        self.well = True  # whether the last child ended well
        self.done = False  # whether there is to be no next one

    def over(self, stopping: bool) -> bool:
        return self.child is None and (self.done or stopping)

    def waits(self, stopping: bool) -> bool:
        return self.child is None and not self.done and not stopping


def _never_began(code: int) -> bool:
    """Whether a child that was told to stop was still starting: from then on it handles these itself."""
    return -code in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def _in_words(code: int) -> str:
    if code >= 0:
        return f"has failed with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
