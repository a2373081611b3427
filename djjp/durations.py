"""Durations: seconds, from the numbers and timedeltas that options take."""

from __future__ import annotations

from datetime import timedelta


def span(option: str, value: object) -> float:
    """A span of time as seconds, 0 or more.

    Raises:
        ValueError: it is none.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        raise ValueError(f"{option} is {value!r}; it must be seconds, 0 or more, or a timedelta")
    return float(seconds)
