"""Failures: an exception as text that any database takes."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from djjp.engine import Failure

# What is kept of an exception, in characters: enough to read it, little enough for a row.
_MAX_CLASS, _MAX_MESSAGE, _MAX_TRACEBACK = 200, 10_000, 100_000
# The frames of this package that run a job; its own begin beneath them.
_RUNNER = Path(__file__).parent


def describe(error: BaseException) -> Failure:
    """An exception as text that any database takes: bounded, and without NUL or lone surrogates."""
    kind = type(error)
    try:
        message = str(error)
    except BaseException as broken:  # noqa: BLE001  (a __str__ of the job's own)
        message = f"<its __str__ raised {type(broken).__name__}>"
    try:
        trace = "".join(traceback.format_exception(kind, error, _own_frames(error)))
    except BaseException as broken:  # noqa: BLE001  (a __cause__ or __notes__ of the job's own)
        trace = f"<its traceback could not be printed: {type(broken).__name__}>"
    return Failure(
        exception_class=_clean(f"{kind.__module__}.{kind.__qualname__}", _MAX_CLASS),
        message=_clean(message, _MAX_MESSAGE),
        traceback=_clean(trace, _MAX_TRACEBACK),
    )


def _own_frames(error: BaseException) -> TracebackType | None:
    """The traceback from where the job's own code begins."""
    frames = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).parent == _RUNNER:
        frames = frames.tb_next
    return frames or error.__traceback__


def _clean(text: str, longest: int) -> str:
    if len(text) > longest:
        head, tail = longest // 2, longest // 2 - 40
        text = f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
