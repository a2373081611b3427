"""Lock files: an operating system's lock on a file, which ends with the process that has it.

The locks are those of `fcntl`, as SQLite's own: a forked child does not inherit them, and closing *any*
descriptor of a file ends the locks that this process has on it. So this process opens the file of a lock that
it has only once, and answers questions about that lock from memory.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without locks, only heartbeats report that a consumer lives
    fcntl = None  # type: ignore[assignment]  # the module does not exist there

_descriptors: dict[Path, int] = {}


def acquire(path: Path) -> bool:
    """Acquire the lock, or keep it; return whether this process has it now."""
    if path in _descriptors:
        return True
    if fcntl is None:
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _descriptors[path] = descriptor
    return True


def release(path: Path) -> None:
    """Release this process's lock and remove the file; do nothing to another process's lock."""
    if (descriptor := _descriptors.pop(path, None)) is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether any process has the lock."""
    if path in _descriptors:
        return True
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        # A shared lock, so that two processes that check at the same moment do not block each other.
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        with suppress(OSError):
            os.close(descriptor)
