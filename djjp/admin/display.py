"""A job's columns for display: times, durations, and the codec's text as readable JSON.

Nothing here decodes a value or needs the code of a job: it reads JSON and writes text. A row whose job is
gone, or whose text is damaged, is therefore shown like any other.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from djjp.codec import TAG
from djjp.models import Attempt, Job, State

#: Shown instead of an empty value.
NOTHING = SafeString("-")

#: Characters of one text that a page shows; a longer text is cut and keeps its layout.
MAX_TEXT = 120_000

_WIDTH = 80
_INDENT = "  "


def split_arguments(text: str) -> tuple[str, str | None]:
    """Return positional and keyword arguments as indented JSON; for a damaged text that text and None."""
    try:
        call = _load(text)
        if call.keys() == {"args", "kwargs"} and isinstance(call["args"], list):
            return _pretty(call["args"]), _pretty(call["kwargs"])
    except _UNREADABLE:
        pass
    return text, None


def pretty_json(text: str) -> str:
    """Return the codec's text as indented JSON with its tags as `tag(value)`; a damaged text unchanged."""
    try:
        return _pretty(_load(text))
    except _UNREADABLE:
        return text


def block(text: str) -> SafeString:
    """Return a text of any size and content as an HTML block that keeps its lines."""
    shown = text[:MAX_TEXT]
    if len(text) > MAX_TEXT:
        shown += f"\n… and {len(text) - MAX_TEXT:,} more characters"
    # JSON can contain half of a surrogate pair, which cannot be encoded.
    shown = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    return format_html('<pre class="djjp-text">{}</pre>', shown)


def badge(job: Job) -> SafeString:
    """Return a job's state, and for a running job whether its cancellation was requested."""
    shown = format_html(
        '<span class="djjp-state djjp-state-{}">{}</span>', job.state, job.get_state_display()
    )
    return format_html("{} cancelling", shown) if is_cancelling(job) else shown


def is_cancelling(job: Job) -> bool:
    """Return whether the job still runs although its cancellation was requested."""
    return job.state == State.RUNNING and job.cancel_requested


def timestamp(value: datetime | None) -> SafeString | None:
    """Return a time in the current time zone, to the second; its tooltip has the full value."""
    if value is None:
        return None
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return format_html(
        '<time class="djjp-time" datetime="{0}" title="{0}">'
        "<span>{1}</span> <span>{2}</span></time>",
        local.isoformat(),
        f"{local:%Y-%m-%d}",
        f"{local:%H:%M:%S}",
    )


def duration(started: datetime | None, finished: datetime | None) -> str | None:
    """Return how long an execution took, or has taken so far."""
    if started is None:
        return None
    spent = ((finished or timezone.now()) - started).total_seconds()
    if spent < 0:  # the clocks of two hosts differ
        spent = 0.0
    if spent < 0.9995:
        return f"{spent * 1000:.0f} ms"
    if spent < 59.95:
        return f"{spent:.1f} s"
    minutes, seconds = divmod(round(spent), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def progress(done: int | None, total: int | None) -> str | None:
    """Return a job's last reported progress."""
    if done is None:
        return None
    if total is None:
        return f"{done:,}"
    share = f" ({100 * done // total} %)" if total > 0 else ""
    return f"{done:,} of {total:,}{share}"


def limit(key: str | None, most: int | None, per: float | None) -> str | None:
    """Return the number of jobs of a key that can run at once, or start within a period."""
    if key is None or most is None:
        return None
    span = "at once" if per is None else f"in any {per:,.12g} s"
    return f"at most {most:,} {span} with the key {key}"


def error(failed: Attempt) -> str:
    """Return the class of an exception and the first line of its message."""
    first_line = failed.message.partition("\n")[0][:200]
    return f"{failed.exception_class}: {first_line}" if first_line else failed.exception_class


def attempt(failed: Attempt) -> dict[str, Any]:
    """Return a failed attempt for the job's page; its message only if the traceback does not contain it."""
    texts = [failed.traceback] if failed.traceback else []
    if failed.message not in failed.traceback:
        texts.insert(0, failed.message)
    return {
        "number": failed.number,
        "error": error(failed),
        "finished": timestamp(failed.finished_at),
        "duration": duration(failed.started_at, failed.finished_at),
        "consumer": failed.consumer,
        "texts": [block(text) for text in texts],
    }


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where needed."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class _Number(str):
    """A number as it was written: neither rounded nor refused because of its length."""

    __slots__ = ()


_UNREADABLE = (ValueError, RecursionError, AttributeError)


def _load(text: str) -> Any:
    if len(text) > MAX_TEXT:
        raise ValueError("too long for a new layout")
    return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)


def _pretty(value: Any, margin: str = "") -> str:
    match value:
        case _Number():
            return str(value)
        case dict() if _is_tagged(value):
            return f"{value[TAG]}({_pretty(_payload(value), margin)})"
        case dict():
            inner = margin + _INDENT
            items = [f"{_quote(key)}: {_pretty(held, inner)}" for key, held in value.items()]
            return _enclose("{", items, "}", margin)
        case list():
            return _enclose("[", [_pretty(held, margin + _INDENT) for held in value], "]", margin)
    return _quote(value)


def _is_tagged(value: dict[str, Any]) -> bool:
    return value.keys() == {TAG, "value"} and str(value[TAG]).isidentifier()


def _payload(tagged: dict[str, Any]) -> Any:
    """Return the value under a tag; a timedelta's microseconds as days and clock time."""
    payload = tagged["value"]
    if tagged[TAG] == "timedelta" and isinstance(payload, _Number):
        try:
            return str(timedelta(microseconds=int(payload)))
        except (ValueError, OverflowError):
            pass
    return payload


def _enclose(opening: str, items: list[str], closing: str, margin: str) -> str:
    """Join the items on one line if they fit, else on a line each."""
    line = opening + ", ".join(items) + closing
    if len(margin) + len(line) <= _WIDTH and "\n" not in line:
        return line
    inner = "\n" + margin + _INDENT
    return opening + inner + f",{inner}".join(items) + "\n" + margin + closing


def _quote(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
