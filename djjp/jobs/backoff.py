"""Backoff: the pause between a failed attempt and the next one, and the validation of what sets it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta

from djjp.durations import seconds

#: A pause: seconds, or a timedelta.
Span = float | timedelta
#: One pause, one for each retry (the last one is repeated), or a function of the failed attempt's number, from 1.
Backoff = Span | Sequence[Span] | Callable[[int], Span]

#: The longest pause of the default backoff before its jitter, in seconds.
LONGEST = 3600.0


def exponential(attempt: int) -> float:
    """Return the default backoff: 1, 2, 4, 8 … seconds, give or take a quarter, up to an hour.

    The jitter keeps jobs that failed together, as in an outage, from coming back together.
    """
    base = min(LONGEST, 2.0 ** min(attempt - 1, 20))
    return base * random.uniform(0.75, 1.25)  # noqa: S311  (to spread retries, not to keep a secret)


def pause(backoff: Backoff, attempt: int) -> float:
    """Return the seconds to wait after the failure of an attempt, counted from 1.

    Raises:
        ValueError: the function's value is neither seconds, 0 or more, nor a timedelta.
    """
    if callable(backoff):
        return seconds("the backoff's value", backoff(attempt))
    if isinstance(backoff, Sequence):
        return seconds("backoff", backoff[min(attempt, len(backoff)) - 1])
    return seconds("backoff", backoff)


def validate_backoff(backoff: Backoff) -> None:
    """Raise ValueError for a value that is no backoff."""
    if callable(backoff):
        return
    if isinstance(backoff, Sequence) and not isinstance(backoff, str):
        if not backoff:
            raise ValueError("backoff is an empty list; it must hold a pause for each retry")
        for value in backoff:
            seconds("backoff", value)
        return
    seconds("backoff", backoff)


def validate_retry_on(classes: tuple[object, ...]) -> None:
    """Raise TypeError for values that are no exception classes."""
    for kind in classes:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise TypeError(f"retry_on holds {kind!r}; it must be one or more exception classes")
