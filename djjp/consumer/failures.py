"""Failures: exceptions as text that any database accepts."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from djjp.bounds import storable
from djjp.engine import Failure

# The most characters that are kept of an exception: enough to read it, and not too many for a row.
_MAX_CLASS, _MAX_MESSAGE, _MAX_TRACEBACK = 200, 10_000, 100_000
# Frames of code in this folder, which runs the jobs, come before the frames of a job's own code.
_RUNNER = Path(__file__).parent


# Of an exception whose class itself raises when it is asked for its name.
_INDESCRIBABLE = Failure("builtins.BaseException", "the exception cannot be described", "")


def describe(error: BaseException) -> Failure:
    """Return an exception as text that any database accepts: bounded, without NUL or lone surrogates."""
    try:
        return _describe(error)
    except BaseException:  # noqa: BLE001  (the job can define any class)
        return _INDESCRIBABLE


def _describe(error: BaseException) -> Failure:
    kind = type(error)
    try:
        message = str(error)
    except BaseException as broken:  # noqa: BLE001  (the job can define any __str__)
        message = f"<its __str__ raised {type(broken).__name__}>"
    try:
        trace = "".join(traceback.format_exception(kind, error, own_frames(error)))
    except BaseException as broken:  # noqa: BLE001  (the job can set any __cause__ or __notes__)
        trace = f"<its traceback could not be printed: {type(broken).__name__}>"
    return Failure(
        exception_class=storable(f"{kind.__module__}.{kind.__qualname__}", _MAX_CLASS),
        message=storable(message, _MAX_MESSAGE),
        traceback=storable(trace, _MAX_TRACEBACK),
    )


def described(error: BaseException) -> Failure:
    """Return an error of djjp or its database, without a traceback, which would lead through djjp only."""
    return replace(describe(error), traceback="")


def own_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback without the frames before the job's own code."""
    frames = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).parent == _RUNNER:
        frames = frames.tb_next
    return frames or error.__traceback__
