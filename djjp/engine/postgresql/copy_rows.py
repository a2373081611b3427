"""New jobs as lines of text for COPY, with the values of `PLAIN_COLUMNS`.

The driver can make such lines too, value by value, but that takes longer than the rest of an enqueue in Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache

from djjp.engine.records import NewJob

_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NULL = r"\N"


def lines(jobs: Iterable[NewJob]) -> str:
    """Return one line for each job, each with its line end."""
    time = cache(_time)  # most jobs of a batch have the same time
    return "".join([_line(job, time(job.created_at)) for job in jobs])


def _line(job: NewJob, created: str) -> str:
    due = _NULL if job.run_after is None else _time(job.run_after)
    return (
        f"{job.id.hex}\t{_text(job.name)}\t{_text(job.queue)}\t{job.priority}\t{job.state._value_}"
        f"\t{due}\t{created}\t{_text(job.arguments)}"
        f"\t{job.on_crash._value_}\t{job.flags}\t0\t0\n"
    )


def _text(text: str | None) -> str:
    if text is None:
        return _NULL  # the table refuses it, as it would in an INSERT
    # Of the printable characters only the backslash must be escaped.
    return text if text.isprintable() and "\\" not in text else text.translate(_ESCAPES)


def _time(seconds: float) -> str:
    return str(datetime.fromtimestamp(seconds, UTC))
