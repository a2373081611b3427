"""Runs one claimed job: from the row's name and arguments to an `Outcome`.

A flat recipe: find the function, decode, call, encode, and say how it ended. It touches no queue
database, and nothing that a job does escapes it: not `SystemExit`, not an exception that cannot
even be printed.
"""

from __future__ import annotations

import time
import traceback
from contextvars import copy_context
from types import TracebackType
from typing import Any

from asgiref.sync import async_to_sync

from djjp import codec, registry
from djjp.claims import Claimed, Failure, Outcome
from djjp.consumer import connections
from djjp.models import State

# What is kept of an exception, in characters: enough to read it, little enough for a row.
_MAX_CLASS, _MAX_MESSAGE, _MAX_TRACEBACK = 200, 10_000, 100_000


def execute(claimed: Claimed) -> Outcome:
    """Run a job here and now, on this thread, and say how it ended."""
    started = time.time()
    connections.tidy()
    try:
        result = copy_context().run(_call, claimed)
    except BaseException as error:  # noqa: BLE001  (the job's own, whatever it is, is its outcome)
        failure = describe(error)
        return Outcome(claimed, State.FAILED, started, time.time(), failure=failure)
    else:
        return Outcome(claimed, State.SUCCEEDED, started, time.time(), result=result)
    finally:
        connections.tidy()


def _call(claimed: Claimed) -> str:
    job = registry.get(claimed.name)
    args, kwargs = codec.decode_arguments(claimed.arguments)
    function: Any = async_to_sync(job.function) if job.is_coroutine else job.function
    return codec.encode_value(function(*args, **kwargs), "return value")


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
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames or error.__traceback__


def _clean(text: str, longest: int) -> str:
    if len(text) > longest:
        head, tail = longest // 2, longest // 2 - 40
        text = f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
