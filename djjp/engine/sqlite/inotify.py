"""Hears at once, from Linux, that somebody has written to a file; elsewhere there is nothing to hear by.

The kernel reports each write to a file, and puts equal reports that nobody has read yet into one: they
never pile up. Python has no call for it; the three of the system's own library that it takes are called
as they are.
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


class Writes:
    """The writes to one file at a time, by whomever, this process included.

    Raises:
        OSError: this system tells nobody, or has told as many as it may.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._file: int | None = None
        self._fd: int = self._checked(self._library.inotify_init1(_FLAGS))
        weakref.finalize(self, os.close, self._fd)

    def fileno(self) -> int:
        """A descriptor that is readable once there was a write; the same for good."""
        return self._fd

    def follow(self, path: Path) -> None:
        """Hear of this file from now on, and no more of the one before.

        Raises:
            OSError: there is no such file, or it cannot be followed; then nothing is heard.
        """
        if self._file is not None:
            # It is no error that it is gone.
            self._library.inotify_rm_watch(self._fd, self._file)
            self._file = None
        added = self._library.inotify_add_watch(self._fd, os.fsencode(path), _MODIFY)
        self._file = self._checked(added)

    def heard(self) -> bool:
        """Whether the file was written to since the last call."""
        heard = False
        with suppress(BlockingIOError):
            while os.read(self._fd, 4096):
                heard = True
        return heard

    def _checked(self, result: int) -> int:
        if result < 0:
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def _library() -> Any:
    """The system's library.

    Raises:
        OSError: it is another system's, or this Python cannot call it.
    """
    if sys.platform == "linux":
        with suppress(ImportError):  # of a Python that was built without
            import ctypes

            library = ctypes.CDLL(None, use_errno=True)
            if hasattr(library, "inotify_init1"):
                return library
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
