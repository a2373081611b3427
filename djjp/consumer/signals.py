"""Signals: the handlers of a consumer or a supervisor, which no child that a job forks inherits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Handler = Callable[[int, Any], object]

#: The signal of a terminal that closes; None on systems without it.
HANGUP: int | None = getattr(signal, "SIGHUP", None)
#: The signals that let a consumer end after its running jobs.
ENDING: list[int] = [signal.SIGTERM, signal.SIGINT, *([] if HANGUP is None else [HANGUP])]

# The handlers that `handled()` has replaced in this process.
_replaced: dict[int, Any] = {}


class _Mask(threading.local):
    before: set[int] | None = None  # the mask of a thread before it forked


_mask = _Mask()


@contextmanager
def handled(
    numbers: Sequence[int], handler: Handler, *, afterwards: Mapping[int, Any] | None = None
) -> Iterator[None]:
    """Have signals call a function while the block runs.

    Signals reach the main thread only; on another thread the block runs without them.

    Args:
        afterwards: handlers of some of the signals after the block; the others get back what they had before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in numbers:
        # Under `nohup` a closing terminal must not end the process.
        if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:
            _replaced[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in _replaced.items():
            signal.signal(number, (afterwards or {}).get(number, before))
        _replaced.clear()


def _block() -> None:
    """Block the signals in a thread that forks: its child must have its own handlers before it gets one."""
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _replaced) if _replaced else None


def _unblock() -> None:
    if _mask.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _restore() -> None:
    """Have signals do to a child what they do to any process: the consumer is its parent."""
    if _replaced:
        signal.set_wakeup_fd(-1)
    for number, before in _replaced.items():
        signal.signal(number, before)
    _replaced.clear()
    _unblock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_restore)
