"""Raise an exception inside another thread, or drop one that has not arrived."""

from __future__ import annotations

import ctypes
import sys
import threading
from types import FrameType

#: Seconds from a look at a thread to the next one.
LOOK_EVERY = 0.005
#: Looks after which a thread that still takes or releases a lock is given up.
MOST_LOOKS = 200
# Looks during which a thread is left alone in these modules, and in what they call: a handler of the log can have
# locks of its own, an import would be left half done, and an exception before a fork is lost.
_PATIENT = 50
_LEFT_ALONE = ("logging.", "importlib._bootstrap.", "djjp.forks.")
# Modules with locks that all threads need, and the functions there in which such a lock is held, but not yet or no
# longer within the block that releases it.
_LOCKING = ("logging.", "importlib._bootstrap.", "threading.")
_TAKE_OR_RELEASE = {
    *("acquire", "release", "__enter__", "__exit__", "_acquire_restore", "_release_save"),
    *("_acquireLock", "_releaseLock", "_get_module_lock", "_lock_unlock_module"),
}


class _Instead(BaseException):
    """Takes the place of an exception that is dropped."""


def raise_in(thread: int, kind: type[BaseException], looks: int) -> bool:
    """Raise an exception in a thread at its next step in Python, unless a lock would stay locked for good.

    A step is the end of a call of C, a jump back, or the start of a function. So a thread gets the exception in
    the function in which it was seen, or at the start of one that this calls, where it has taken no lock yet.

    Args:
        thread: the id of the thread.
        kind: the class of the exception.
        looks: how often this was tried before.

    Returns:
        whether the exception is raised; else try again after `LOOK_EVERY`.
    """
    frame = sys._current_frames().get(thread)  # noqa: SLF001  (public, in spite of its name)
    at = None if frame is None else frame.f_lasti
    if frame is not None and _must_wait(frame, patient=looks < _PATIENT):
        return False
    # The interpreter can have switched to the thread meanwhile.
    seen = sys._current_frames().get(thread)  # noqa: SLF001
    if seen is not frame or (seen is not None and seen.f_lasti != at):
        return False
    _send(thread, kind)
    return True


def _must_wait(innermost: FrameType, *, patient: bool) -> bool:
    """Return whether a thread could keep a lock if it got an exception now."""
    if _module(innermost).startswith(_LOCKING) and innermost.f_code.co_name in _TAKE_OR_RELEASE:
        return True
    frame: FrameType | None = innermost
    while patient and frame is not None:
        if _module(frame).startswith(_LEFT_ALONE):
            return True
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__')}."


def _send(thread: int, kind: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def drop_sent() -> None:
    """Drop an exception that was sent to this thread and that was not raised yet.

    Another one is raised in its place, and caught. To set none in its place is not enough: up to Python 3.12 the
    interpreter goes on looking for it in every thread, which slows all of them, and in 3.11 a thread that is
    traced or profiled then hangs at its next call of a function.
    """
    try:
        _send(threading.get_ident(), _Instead)
        while True:  # it is raised within a step or two
            pass
    except _Instead:
        pass
