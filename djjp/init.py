"""Process 1: a consumer that is the first process of a container becomes the child of one with an init's duties.

The kernel gives process 1 the orphans of a container: what the programs that jobs run have started and left
behind. If it does not wait for them, they remain as zombies until the container has no process ids left. A
consumer cannot wait for them, because it would take the exit codes of programs that its jobs wait for. The
kernel also discards each signal for which process 1 has no handler, and a project takes a second or more to
load, without any handler. So process 1 forks as soon as djjp is imported, before the project is loaded. It
passes signals on, waits for all children, and ends with the exit code of the consumer.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

from djjp import streams

_GET_SUBREAPER = 37  # of prctl()

_PASSED_ON = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
}


def split_if_reaper() -> None:
    """Return in a new process if orphans come to this one, which waits here for the end of that one, and ends."""
    if not _is_reaper():
        return
    streams.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The kernel keeps a signal that is blocked, also for process 1.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    child = os.fork()
    if child:
        os._exit(_serve(child))
    _take_terminal()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_reaper() -> bool:
    """Return whether the kernel gives orphans to this process: to process 1, and to a subreaper on Linux."""
    if os.getpid() == 1:
        return True
    if sys.platform != "linux":
        return False
    flag = ctypes.c_int()
    ctypes.CDLL(None).prctl(_GET_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return flag.value != 0


def _serve(child: int) -> int:
    """Pass signals on and wait for all children until this one has ended; return the exit code."""
    stopped, status = False, None
    while status is None:
        number = signal.sigwait({*_PASSED_ON, signal.SIGCHLD})
        if number in _PASSED_ON:
            stopped = stopped or number not in {signal.SIGUSR1, signal.SIGUSR2}
            os.kill(child, number)
        else:
            status = _reap(child)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    # Ended by a signal that was passed on before the consumer had a handler for it, it had not begun.
    return 0 if stopped and -code in _PASSED_ON else 128 - code


def _reap(child: int) -> int | None:
    """Wait for all children that have ended; return the status of this one if it is among them."""
    found = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = status
    return found


def _take_terminal() -> None:
    """Be the foreground of the terminal, if there is one, so that its signals do not come by process 1 as well."""
    with suppress(OSError):
        os.setpgid(0, 0)
        if os.isatty(0):
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            try:
                os.tcsetpgrp(0, os.getpgrp())
            finally:
                signal.signal(signal.SIGTTOU, before)
