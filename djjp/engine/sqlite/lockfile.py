"""Lock files: an operating system's lock on a file, which ends with the process that holds it.

The locks are those of `fcntl`, as SQLite's own: a forked child does not inherit them, and closing *any*
descriptor of a file ends the locks that this process has on it. So a file that this process holds is
opened once, and asked about from memory.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock tells, heartbeats do
    fcntl = None  # type: ignore[assignment]  # there is no such module there

_held: dict[Path, int] = {}


def hold(path: Path) -> bool:
    """Take the lock, or keep it; whether this process has it now."""
    if path in _held:
        return True
    if fcntl is None:
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _held[path] = descriptor
    return True


def let_go(path: Path) -> None:
    """Let go of the lock and remove the file."""
    if (descriptor := _held.pop(path, None)) is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether any process has the lock."""
    if path in _held:
        return True
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        # Shared, so that those who ask at the same moment do not take each other for the holder.
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        with suppress(OSError):
            os.close(descriptor)
