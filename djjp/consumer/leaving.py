"""The end of a consumer's process: what its jobs have left behind keeps it for a bounded time.

At its end the interpreter joins threads that are no daemons and child processes, and calls exit handlers, all
without a bound. A supervised process that never ends would keep its place, and no consumer would work there.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import NoReturn

from djjp import streams

logger = logging.getLogger("djjp.consumer")

# Seconds that the log line and the streams get, where nobody reads them, or a lock of the log is never freed.
_LAST_WORDS = 1.0


def leave(code: int) -> NoReturn:
    """End the process at once, without its exit handlers."""
    logging.shutdown()
    streams.flush()
    os._exit(code)


def leave_within(patience: float, code: int, consumer: str) -> None:
    """Let the process end; after some seconds end it, and log what has kept it.

    Args:
        patience: the seconds.
        code: the exit code.
        consumer: its name.
    """

    def tell_and_leave() -> None:
        time.sleep(patience)
        text = "consumer %s has ended, but after %.1f s its process is kept by %s; it ends now"
        logger.warning(text, consumer, patience, _keepers())
        leave(code)

    def leave_at_last() -> None:
        time.sleep(patience + _LAST_WORDS)
        os._exit(code)

    try:
        # Daemons go on to run while the interpreter waits for others and calls exit handlers.
        for target in (tell_and_leave, leave_at_last):
            threading.Thread(target=target, name="djjp-leaving", daemon=True).start()
    except RuntimeError:  # the system refuses a thread: nothing would bound the end
        leave(code)


def _keepers() -> str:
    """Return in words what keeps the process: threads, child processes, or else an exit handler."""
    main = threading.main_thread()
    # Only of modules that a job has used. The interpreter also joins those threads of executors that are daemons.
    executors = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
    threads = [each for each in threading.enumerate() if not each.daemon or each in list(executors)]
    found = [f"the thread {each.name}" for each in threads if each is not main]
    if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
        children = multiprocessing.active_children()
        found += [f"the process {each.name} ({each.pid})" for each in children if not each.daemon]
    return ", ".join(found[:10]) or "an exit handler" + _handler(main)


def _handler(main: threading.Thread) -> str:
    """Return the name of the exit handler that runs on the main thread; empty if it is none of Python."""
    frame = sys._current_frames().get(main.ident or 0)  # noqa: SLF001  (public, in spite of its name)
    if frame is None:
        return ""
    while frame.f_back is not None:
        frame = frame.f_back
    return f" ({frame.f_globals.get('__name__')}.{frame.f_code.co_qualname})"
