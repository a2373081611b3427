"""The other threads of a process that forks: a child has none of them, and must not wait for what they hold.

They hold locks: of SQLite's library, of Django's signals, of asgiref. A child would wait for them without end.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

from asgiref.local import Local
from asgiref.sync import AsyncToSync, SyncToAsync
from django.dispatch import Signal
from django.utils.connection import BaseConnectionHandler

# Seconds that a fork waits for the other threads.
_LONGEST_WAIT = 5.0
# Seconds between two looks at them.
_YIELD = 0.0005
# Seconds that the interpreter lets a thread run while others wait, as long as one forks. A machine under load can
# stop the thread between its look and the fork, and the other threads must not go on meanwhile.
_LONG_TURN = 0.05
# Seconds that a look can take, so that the rest of the turn is enough for the fork.
_LONGEST_LOOK = 0.01
# Packages whose functions use a database, and modules in which a thread waits: for another one, or for a server.
_USERS = ("django.db.", "djjp.engine.", "djjp.outbox.")
_WAITING = ("threading", "selectors", "psycopg.", "MySQLdb.", "pymysql.", "oracledb.")

# The interval to return to.
_interval = 0.0


def begin_long_turns() -> None:
    """Let each thread run for longer than otherwise while others wait."""
    global _interval
    _interval = sys.getswitchinterval()
    sys.setswitchinterval(_LONG_TURN)


def end_long_turns() -> None:
    """Return to the interval of before, in the parent and in the child."""
    sys.setswitchinterval(_interval)


def wait_for_sqlite(open_connections: Callable[[], Sequence[tuple[Any, Any]]]) -> bool:
    """Wait, though not for long, for a moment in which no other thread is in a transaction or uses SQLite.

    A thread inside SQLite can have one of the locks of the library, and a child could use SQLite no more. One that
    has not fetched all rows of an INSERT with RETURNING has the lock of the file, though in no transaction.

    A thread that has slept runs for a whole switch interval before another one gets the interpreter lock. So what
    it finds is still true when it forks, between `begin_long_turns` and `end_long_turns`.

    Args:
        open_connections: returns the open connections of all threads, each with its driver's object.

    Returns:
        whether there is such a moment now, so that a child can close what it inherits.
    """
    me, until = threading.get_ident(), time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < until:
        time.sleep(_YIELD)
        began = time.perf_counter()
        others = [d for w, d in open_connections() if is_sqlite(d) and w._thread_ident != me]  # noqa: SLF001
        if not others:
            return True
        in_transaction = any(map(is_in_transaction, others))
        frames = [frame for thread, frame in sys._current_frames().items() if thread != me]  # noqa: SLF001
        if in_transaction or any(map(_uses_sqlite, frames)):
            continue
        if time.perf_counter() - began < _LONGEST_LOOK:
            return True
    return False


def _uses_sqlite(frame: FrameType | None) -> bool:
    """Return whether a thread, of which the innermost frame is given, is inside a function that can use SQLite."""
    if frame is None or _module(frame).startswith(_WAITING):
        return False
    while frame is not None:
        if _module(frame).startswith(_USERS):
            return True
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def is_sqlite(driver: object) -> bool:
    """Return whether a driver's object is a connection to SQLite."""
    module = sys.modules.get("sqlite3")
    return module is not None and isinstance(driver, module.Connection)


def is_in_transaction(driver: Any) -> bool:
    """Return whether a connection to SQLite is in a transaction; False where a thread has just closed it."""
    try:
        return bool(driver.in_transaction)
    except driver.ProgrammingError:
        return False


def forget_executors() -> None:
    """Have asgiref start new threads for what coroutines do with databases: the child has none of the parent's."""
    SyncToAsync.single_thread_executor = ThreadPoolExecutor(max_workers=1)
    SyncToAsync.thread_sensitive_context.set(None)  # type: ignore[arg-type]  # read as if it were not set
    SyncToAsync.deadlock_context.set(False)


def free_locks() -> None:
    """Replace the locks of Django and asgiref that a thread of the parent can have held, and would never release.

    Each signal has one, and each `Local`: those of caches, languages, time zones and of asgiref itself.
    """
    found = [AsyncToSync.executors]
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            kind = type(value)  # not the class that a lazy object pretends to be of
            if issubclass(kind, Signal):
                value.lock = threading.Lock()
            elif issubclass(kind, BaseConnectionHandler):
                found.append(value._connections)  # noqa: SLF001
            elif issubclass(kind, Local):
                found.append(value)
    for local in found:
        for name in ("_lock", "_thread_lock"):  # by versions of asgiref
            if (lock := vars(local).get(name)) is not None:
                lock._at_fork_reinit()  # noqa: SLF001  (as the standard library does)
