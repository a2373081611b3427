"""Standard output and error at the end of a process, when nobody can read them any more."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def flush() -> None:
    """Write out what is left in the streams, or discard it.

    Otherwise the interpreter tries again at its end, and a pipe that nobody reads changes the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed when the process started
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
