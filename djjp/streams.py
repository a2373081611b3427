"""Standard output and error of a process: characters that they cannot have, and their end."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


def accept_all_characters() -> None:
    """Have the streams write an escape for each character that the encoding of the locale lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(
                OSError, ValueError
            ):  # a closed stream, or a file that a pipe has replaced
                stream.reconfigure(errors="backslashreplace")


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
