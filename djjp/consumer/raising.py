"""Raise an exception inside another thread, or drop one that has not arrived."""

from __future__ import annotations

import ctypes
import threading


class _Instead(BaseException):
    """Takes the place of an exception that is dropped."""


def raise_in(thread: int, kind: type[BaseException]) -> None:
    """Raise an exception in a thread at its next step in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def drop_sent() -> None:
    """Drop an exception that was sent to this thread and that was not raised yet.

    Another one is raised in its place, and caught. To set none in its place is not enough: up to Python 3.12 the
    interpreter goes on looking for it in every thread, which slows all of them, and in 3.11 a thread that is
    traced or profiled then hangs at its next call of a function.
    """
    try:
        raise_in(threading.get_ident(), _Instead)
        while True:  # it is raised within a step or two
            pass
    except _Instead:
        pass
