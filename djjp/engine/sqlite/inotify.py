"""File-write notifications by Linux's inotify; not available on other systems.

The kernel reports each write to a file, and merges equal reports that nobody has read yet into one: they
never pile up. Python has no call for inotify, so this module calls three functions of the C library.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

# From <sys/inotify.h>; the same on all of Linux's architectures.
_MODIFY = 0x00000002
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC if sys.platform == "linux" else 0


class FileWatch:
    """The writes to one file at a time, by any process, including this one.

    Raises:
        OSError: inotify is unavailable, or the user's instance limit is reached.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._watch: int | None = None
        self._fd: int = self._checked(self._library.inotify_init1(_FLAGS))
        weakref.finalize(self, os.close, self._fd)

    def fileno(self) -> int:
        """Return a descriptor that is readable after a write; it stays the same."""
        return self._fd

    def follow(self, path: Path) -> None:
        """Watch this file from now on, in place of the one before.

        Raises:
            OSError: the file does not exist or cannot be watched; then no file is watched.
        """
        if self._watch is not None:
            # This fails where the file is gone, which is no error.
            self._library.inotify_rm_watch(self._fd, self._watch)
            self._watch = None
        added = self._library.inotify_add_watch(self._fd, os.fsencode(path), _MODIFY)
        self._watch = self._checked(added)

    def written(self) -> bool:
        """Return whether the file was written to since the last call."""
        written = False
        with suppress(BlockingIOError):
            while os.read(self._fd, 4096):
                written = True
        return written

    def _checked(self, result: int) -> int:
        if result < 0:
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def _library() -> Any:
    """Return the C library.

    Raises:
        OSError: the system is not Linux, or this Python cannot call C functions.
    """
    if sys.platform == "linux":
        with suppress(ImportError):  # this Python was built without ctypes
            import ctypes

            library = ctypes.CDLL(None, use_errno=True)
            if hasattr(library, "inotify_init1"):
                return library
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
