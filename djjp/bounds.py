"""Bounds: what the queue's columns can hold, and how large arguments and results can be.

What the queue would refuse is refused here, where it is given, by a message that names it: the options of a job,
the times and arguments of a call, its result, and what comes out of an outbox.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from math import inf
from typing import Any

from django.conf import settings
from django.utils import timezone

from djjp import codec, conf
from djjp.conf import SMALLEST_PAYLOAD
from djjp.durations import END_OF_TIME
from djjp.exceptions import PayloadTooLarge

# The most bytes that the release adds to arguments: see `conf.release_stamp`.
_STAMP_SIZE = 320

#: Characters of the columns.
LONGEST_NAME, LONGEST_QUEUE, LONGEST_KEY = 200, 100, 200

_PRIORITIES = range(-32768, 32768)

_ADVICE = "keep the data in a file or a table, and pass its key"

#: Bytes of a pipeline as text, for it is enqueued, and relayed, as a whole; and about those of a job besides its
#: arguments, and of an edge.
LARGEST_PIPELINE = 100_000_000
_JOB_SIZE, _EDGE_SIZE = 400, 80


#: Decodes a text from a database. SQLite keeps one that is no UTF-8, in a row by hand, and its driver would refuse
#: each statement that returns it.
READ_TEXT = partial(str, encoding="utf-8", errors="replace")


def require_text(option: str, value: object, longest: int) -> None:
    """Raise ValueError for what is no text of 1 to `longest` characters that every database takes."""
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004  (as for any other value that the option does not take)
            f"{option} is {value!r}; it must be a text of 1 to {longest} characters"
        )
    if not 1 <= len(value) <= longest:
        raise ValueError(
            f"{option} is {reprlib.repr(value)}, of {len(value)} characters; it must have 1 to {longest}"
        )
    if "\0" in value or not is_encodable(value):
        raise ValueError(
            f"{option} is {reprlib.repr(value)}; no database takes NUL characters or lone surrogates in a text"
        )


def is_encodable(text: str) -> bool:
    """Return whether a text has no lone surrogates, which no encoding has."""
    return text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text)


def require_priority(option: str, value: object) -> None:
    """Raise ValueError for what is no priority."""
    if type(value) is not int or value not in _PRIORITIES:
        raise ValueError(
            f"{option} is {value!r}; it must be a whole number from "
            f"{_PRIORITIES[0]} to {_PRIORITIES[-1]}"
        )


def require_time(option: str, value: object) -> None:
    """Raise ValueError for what are no seconds since the epoch, up to the end of time."""
    if type(value) not in (int, float) or not 0 <= value <= END_OF_TIME:  # type: ignore[operator]  # it is a number
        raise ValueError(
            f"{option} is {value!r}; it must be seconds since 1970, before the year 9999"
        )


def to_time(option: str, value: float | timedelta | datetime, now: float) -> float:
    """Return a time in seconds since the epoch; one before 1970 becomes 1970.

    Args:
        value: seconds or a timedelta from now, or a datetime; a naive one is in Django's current time zone
            with `USE_TZ`, else in `TIME_ZONE`.

    Raises:
        ValueError: it is after the year 9998, or no time at all.
    """
    try:
        if isinstance(value, timedelta):
            seconds = now + value.total_seconds()
        elif isinstance(value, (int, float)):
            seconds = now + value
        else:
            if timezone.is_naive(value):
                zone = (
                    timezone.get_current_timezone
                    if settings.USE_TZ
                    else timezone.get_default_timezone
                )
                value = value.replace(tzinfo=zone())
            seconds = value.timestamp()
    except (ValueError, OverflowError, OSError):  # the year 0 or 10000, by the clocks of its zone
        seconds = 0.0 if isinstance(value, datetime) and value.year < 1970 else inf
    if not seconds <= END_OF_TIME:  # also for NaN
        raise ValueError(f"{option} is {value!r}; it must be before the year 9999")
    return max(seconds, 0.0)


def require_arguments(
    text: str, args: Sequence[Any], kwargs: Mapping[str, Any], names: Callable[[], Sequence[str]]
) -> None:
    """Raise PayloadTooLarge for arguments whose text is longer than `DJJP["max_payload"]`.

    Args:
        text: the arguments, encoded: it is ASCII, so that its length is its size in bytes.
        names: returns the parameter names of `args` in order.
    """
    limit = conf.current().max_payload
    if len(text) > limit:
        named = [*zip(names(), args, strict=False), *kwargs.items()]
        sizes = [(len(codec.encode_value(value, name)), name) for name, value in named]
        size, largest = max(sizes, default=(0, "all of them"))
        raise PayloadTooLarge(
            f"the arguments have {len(text):,} bytes, of which {largest} has {size:,}; "
            f"DJJP['max_payload'] allows {limit:,}: {_ADVICE}"
        )


def require_payload(text: object) -> None:
    """Raise an error for what are no encoded arguments, or longer ones than `DJJP["max_payload"]`."""
    if not isinstance(text, str) or not text.isascii() or "\0" in text:
        raise ValueError(f"arguments is {reprlib.repr(text)}; it must be what the codec writes")
    if len(text) > (limit := conf.current().max_payload) + _STAMP_SIZE:
        raise PayloadTooLarge(
            f"the arguments have {len(text):,} bytes; DJJP['max_payload'] allows {limit:,}: {_ADVICE}"
        )


def require_pipeline(arguments: Sequence[str], edges: int) -> None:
    """Raise PayloadTooLarge for a pipeline that is too large to be enqueued and relayed as a whole."""
    size = sum(map(len, arguments)) + _JOB_SIZE * len(arguments) + _EDGE_SIZE * edges
    if size > LARGEST_PIPELINE:
        raise PayloadTooLarge(
            f"the pipeline of {len(arguments):,} jobs has {size:,} bytes; it can have {LARGEST_PIPELINE:,}: "
            "have its jobs enqueue parts of it, or pass keys of their data"
        )


def encoded_result(value: object) -> str:
    """Return the text of a job's return value.

    Raises:
        EncodeError: the codec cannot encode it.
        PayloadTooLarge: it is longer than `DJJP["max_payload"]`.
    """
    text = codec.encode_value(value, "return value")
    if len(text) > SMALLEST_PAYLOAD and len(text) > (limit := conf.current().max_payload):
        raise PayloadTooLarge(
            f"the return value has {len(text):,} bytes; DJJP['max_payload'] allows {limit:,}: {_ADVICE}"
        )
    return text


def storable(text: str, longest: int) -> str:
    """Return a text as any database takes it: bounded, and without NUL or lone surrogates."""
    if len(text) > longest:
        text = _cut(text, longest)
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= longest else _cut(text, longest)


def one_line(text: str) -> str:
    """Return a text with escapes for its line ends and other characters that are not printed."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _cut(text: str, longest: int) -> str:
    head, tail = longest // 2, longest // 2 - 40
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"
