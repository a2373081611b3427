"""The supervisor: keeps N consumer processes running, and runs no job itself.

* A child that ended is replaced: at once if it ended well, after a growing pause if children keep dying
  soon after their start.
* The supervisor passes signals on to its children. They are in its process group, so a signal to the whole
  group reaches them too: they take any number of SIGTERMs as one. No signal is lost that comes before or
  while a child starts, because the supervisor sends it to each child that has not received it.
* It never waits for a database: the jobs of a dead child are rescued on a thread.
* If health is shown, each child gives its signs of life to the supervisor, through a pipe. A round of the
  supervisor counts once each child has given one, so that a frozen child shows.
* When the supervisor itself is killed, its children notice and end (see `recycling`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from math import inf
from typing import Any

from djjp.consumer.console import Console
from djjp.consumer.health import ChildHealth, Health
from djjp.consumer.heartbeat import ConsumerName
from djjp.consumer.process import GRACEFUL, RECYCLE
from djjp.consumer.rescue import rescue_child
from djjp.consumer.signals import ENDING, HANGUP, handled
from djjp.consumer.supervision import Supervision
from djjp.consumer.wakeup import Wakeup, wait

logger = logging.getLogger("djjp.supervisor")

# A child that lived shorter than this number of seconds died soon.
_SOON = 5.0
# Seconds until the next child starts; each pause is twice the one before, up to the last.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
# Shorter with --reload: the code that keeps a child from starting is being edited.
_LAST_PAUSE_RELOADING = 4.0
# Seconds that children get to give their jobs back before they are killed.
_GIVE_BACK = 4.0
# Seconds that the rescues of dead children get before the supervisor ends.
_RESCUE = 0.7
# Seconds after which the supervisor checks its children, in case a wake-up was missed.
_CHECK_EVERY = 0.5

# How the children must end, as the number of signals that asks for it.
_GRACEFULLY, _AT_ONCE = 1, 2
_SIGNAL_FOR = {_GRACEFULLY: signal.SIGTERM, _AT_ONCE: signal.SIGQUIT}


def _rescue(child: Child, pid: int, token: str) -> None:
    """Rescue the jobs of a dead child; if that fails, other consumers rescue them a little later."""
    try:
        if rescue_child(token):
            # It had started well. What killed it was probably a job, and the others must not wait for long.
            child.failures = 0
    except Exception as error:  # noqa: BLE001  (no error of the database may end the supervisor)
        logger.warning(
            "could not rescue the jobs of process %d (%r); other consumers will rescue them",
            pid,
            error,
        )


class Supervisor:
    """Runs N children until it is stopped.

    Args:
        command: the command line of a child.
        processes: the number of children.
        drain: end when each child has found no more jobs to run.
        reload: the children end when their code changes.
        console: reports its start and its end; None for silence.
        health: shows what the children's signs say; None for nowhere.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        drain: bool = False,
        reload: bool = False,
        console: Console | None = None,
        health: Health | None = None,
    ) -> None:
        self._console = console or Console()
        self._health = health or Health()
        self._command = command
        self._children = [Child() for _ in range(processes)]
        self._drain = drain
        self._last_pause = _LAST_PAUSE_RELOADING if reload else _LAST_PAUSE
        self._wakeup = Wakeup()
        self._stops = (
            0  # the number of signals that asked the supervisor to end, at most `_AT_ONCE`
        )
        self._kill_at = inf
        self._rescues: list[threading.Thread] = []

    def run(self) -> int:
        """Work until stopped; return the exit code: 0 if each child's last process ended well."""
        logger.info("supervisor %d starts %d children", os.getpid(), len(self._children))
        with handled((*ENDING, signal.SIGQUIT, signal.SIGCHLD), self._signalled):
            while not self._step():
                wait(self._wakeup, None, self._timeout(), 0.0)
                self._wakeup.armed = False
            self._finish_rescues()
        self._wakeup.close()
        logger.info("supervisor %d ends", os.getpid())
        self._console.end()
        return 0 if all(child.ended_well for child in self._children) else 1

    def _step(self) -> bool:
        """Replace ended processes and pass signals on; return whether all is over."""
        # Armed before the checks: every signal from here on wakes this thread.
        self._wakeup.armed = True
        for child in self._children:
            self._reap(child)
            self._start(child)
        self._pass_on()
        self._show_health()
        return all(child.is_over(self._stops > 0) for child in self._children)

    # Children

    def _start(self, child: Child) -> None:
        now = time.monotonic()
        if not child.is_awaited(self._stops > 0) or now < child.start_at:
            return
        # SIGINT is blocked while the child starts: a terminal sends it to the children too, and it must not
        # end them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        child.token = ConsumerName.new_token()
        try:
            health = ChildHealth() if self._health.is_shown else None
            try:
                child.process = self._spawn(child.token, health.writing if health else 0)
            except OSError:
                if health:
                    health.close()
                raise
            finally:
                if health:
                    health.close_writing()
            child.health = health
            child.started, child.stops = now, 0
            logger.info("child %d is started", child.process.pid)
        except OSError as error:
            child.ended_well = False
            logger.warning(
                "no child could be started (%s); again in %g s", error, self._delay(child, 0.0)
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _spawn(self, token: str, pipe: int) -> subprocess.Popen[bytes]:
        supervision = Supervision(os.getpid(), token, pipe)
        return subprocess.Popen(  # noqa: S603  (this process's own command line)
            self._command,
            env=os.environ | supervision.environment(),
            pass_fds=[pipe] if pipe else [],
        )

    def _reap(self, child: Child) -> None:
        process = child.process
        if process is None or (code := process.poll()) is None:
            return
        child.process = None
        if child.health:
            child.health.close()
            child.health = None
        child.ended_well = code in {GRACEFUL, RECYCLE} or (
            self._stops > 0 and _ended_while_starting(code)
        )
        if child.ended_well:
            logger.info("child %d has ended", process.pid)
            child.failures, child.start_at = 0, 0.0
            child.drained = self._drain and code == GRACEFUL
            return
        self._rescue(child, process.pid)
        lived = time.monotonic() - child.started
        pause = self._delay(child, lived, killed=code == -signal.SIGKILL)
        then = "" if self._stops else f"; another starts in {pause:g} s"
        logger.warning("child %d %s after %.1f s%s", process.pid, _in_words(code), lived, then)

    def _delay(self, child: Child, lived: float, *, killed: bool = False) -> float:
        """Set when the next process starts after one that failed; return the seconds until then.

        Args:
            lived: seconds that the failed process lived.
            killed: it was killed from outside. The next one is as likely to live as any: the pause does
                not grow.
        """
        if lived >= _SOON:
            child.failures, pause = 0, 0.0
        elif killed:
            pause = _FIRST_PAUSE
        else:
            pause = min(_FIRST_PAUSE * 2**child.failures, self._last_pause)
            child.failures = min(child.failures + 1, 10)
        child.start_at = time.monotonic() + pause
        return pause

    def _rescue(self, child: Child, pid: int) -> None:
        self._rescues = [thread for thread in self._rescues if thread.is_alive()]
        rescue = threading.Thread(target=_rescue, args=[child, pid, child.token], daemon=True)
        try:
            rescue.start()
        except RuntimeError as error:  # the system refuses a thread
            logger.warning(
                "could not rescue the jobs of process %d (%r); other consumers will rescue them",
                pid,
                error,
            )
        else:
            self._rescues.append(rescue)

    def _finish_rescues(self) -> None:
        until = time.monotonic() + _RESCUE
        for rescue in self._rescues:
            rescue.join(max(0.0, until - time.monotonic()))

    # Health

    def _show_health(self) -> None:
        """Count a round if each child has given a sign since the last one."""
        found = [child.health for child in self._children if child.health]
        # Not in `all()`, which would leave the pipes after the first silent child unread.
        if False in [health.is_live() for health in found]:
            return
        ready = any(health.is_ready for health in found)
        self._health.note(None if ready else "none of its processes is ready")
        for health in found:
            health.renew()

    # Signals

    def _pass_on(self) -> None:
        stops, now = self._stops, time.monotonic()
        if stops:
            self._health.begin_end()
            self._console.wait_for_children(sum(1 for c in self._children if c.process))
        if stops == _AT_ONCE:
            self._kill_at = min(self._kill_at, now + _GIVE_BACK)
        for child in self._children:
            if child.process is None:
                continue
            if now >= self._kill_at:
                child.process.kill()
            elif child.stops < stops:
                child.stops = stops
                child.process.send_signal(_SIGNAL_FOR[stops])

    def _timeout(self) -> float:
        """Return the seconds until there is something to do that no signal announces."""
        now = time.monotonic()
        times = [c.start_at for c in self._children if c.is_awaited(self._stops > 0)]
        if self._kill_at > now:
            times.append(self._kill_at)
        return max(0.0, min([_CHECK_EVERY, *(at - now for at in times)]))

    def _signalled(self, number: int, frame: Any) -> None:
        if number == signal.SIGQUIT:
            self._stops = _AT_ONCE
        elif number == HANGUP:  # it never counts as a second one
            self._stops = max(self._stops, _GRACEFULLY)
        elif number != signal.SIGCHLD:
            self._stops = min(self._stops + 1, _AT_ONCE)
        self._wakeup.set()


class Child:
    """One of the N children: its process, or when the next one starts."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.health: ChildHealth | None = None  # of the process, if it is shown
        self.token = ""  # the end of the name of the process's consumer
        self.started = 0.0
        self.start_at = 0.0
        self.failures = 0  # processes that died soon after their start, one after the other
        self.stops = 0  # signals to end that the process has received, as `Supervisor` counts them
        self.ended_well = True  # the last process did
        self.drained = False  # the last process found no more jobs, and no next one starts

    def is_over(self, stopping: bool) -> bool:
        """Return whether no process runs and none will."""
        return self.process is None and (self.drained or stopping)

    def is_awaited(self, stopping: bool) -> bool:
        """Return whether no process runs and one will be started."""
        return self.process is None and not (self.drained or stopping)


def _ended_while_starting(code: int) -> bool:
    """Return whether a signal ended a child that was still starting: later it handles these signals."""
    return -code in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def _in_words(code: int) -> str:
    if code >= 0:
        return f"has failed with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
