"""Call options: what `using()` changes for the execution of one call, and a job's tags, as the text of its row.

Most jobs have neither, and no text. The text is JSON: `{"timeout": 5.0, "max_attempts": 3, "backoff": [1.0, 60.0],
"tags": ["billing"]}`, each key only where it was given.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from djjp import bounds
from djjp.durations import seconds

#: The number of tags of a job, and the characters of each.
MOST_TAGS, LONGEST_TAG = 10, 100
#: The options that change the execution of one call.
OF_EXECUTION = ("timeout", "max_attempts", "backoff")
#: The number of pauses in the backoff of one call.
MOST_PAUSES = 100


def require_tags(option: str, value: object) -> None:
    """Raise TypeError or ValueError for what are not at most 10 tags of 1 to 100 characters."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise TypeError(f"{option} is {value!r}; it must be a list of texts, as in ['billing']")
    for tag in value:
        bounds.require_text(f"a tag in {option}", tag, LONGEST_TAG)
    if len(tags := united(value)) > MOST_TAGS:
        raise ValueError(f"{option} has {len(tags)} tags; a job has at most {MOST_TAGS}")


def united(*tags: Iterable[str]) -> tuple[str, ...]:
    """Return all tags in order, each once."""
    return tuple(dict.fromkeys(tag for some in tags for tag in some))


def to_backoff(value: Any) -> float | list[float]:
    """Return the backoff of one call as JSON can hold it; raise TypeError or ValueError for any other value."""
    if callable(value):
        raise TypeError(
            f"backoff is {value!r}; for one call it must be seconds, a timedelta or a list of them: "
            "a function cannot be stored with the call, and belongs in @job(backoff=...)"
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not 1 <= len(value) <= MOST_PAUSES:
            raise ValueError(
                f"backoff has {len(value)} pauses; for one call it must have 1 to {MOST_PAUSES}"
            )
        return [seconds("backoff", each) for each in value]
    return seconds("backoff", value)


def as_stored(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of one call as its row keeps them; raise TypeError or ValueError for an invalid span."""
    options = dict(given)
    if options.get("timeout") is not None:
        options["timeout"] = seconds("timeout", options["timeout"])
    if "backoff" in options:
        options["backoff"] = to_backoff(options["backoff"])
    return options


def to_text(given: Mapping[str, Any], tags: Sequence[str]) -> str | None:
    """Return the text of a row for options as it keeps them; None if there are none."""
    options = {**given, "tags": [*tags]} if tags else given
    return json.dumps(options, separators=(",", ":")) if options else None


def from_text(text: str | None) -> dict[str, Any]:
    """Return the options that a text describes, without those that this code does not know.

    Raises:
        ValueError, TypeError: it describes none, or one of them has an invalid value.
    """
    if text is None:
        return {}
    options = json.loads(text)
    if type(options) is not dict:
        raise ValueError(f"options is {reprlib.repr(text)}; it must be what using() writes")
    known = {name: value for name, value in options.items() if name in _VALIDATORS}
    for name, value in known.items():
        _VALIDATORS[name](name, value)
    return known


def tags_of(text: str | None) -> list[str]:
    """Return the tags in a row's text; none where it is no such text."""
    return list(_readable(text).get("tags", []))


def of_execution(text: str | None) -> dict[str, Any]:
    """Return the options for the execution in a row's text; none where it is no such text."""
    return {name: value for name, value in _readable(text).items() if name in OF_EXECUTION}


def _readable(text: str | None) -> dict[str, Any]:
    try:
        return from_text(text)
    except (ValueError, TypeError, RecursionError):  # a row by hand
        return {}


def require_text(option: str, text: object) -> None:
    """Raise ValueError for what is no text of options."""
    try:
        if not isinstance(text, str):
            raise TypeError("it is no text")
        from_text(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{option} is {reprlib.repr(text)}: {error}") from None


def require_timeout(option: str, value: object) -> None:
    """Raise ValueError for what is no timeout."""
    if value is not None and not seconds(option, value) > 0:
        raise ValueError(f"{option} is {value!r}; it must be above 0, or None for no limit")


def require_max_attempts(option: str, value: object) -> None:
    """Raise ValueError for what is no number of attempts."""
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{option} is {value!r}; it must be a whole number, 1 or more")


def _require_backoff(option: str, value: object) -> None:
    to_backoff(value)


_VALIDATORS = {
    "timeout": require_timeout,
    "max_attempts": require_max_attempts,
    "backoff": _require_backoff,
    "tags": require_tags,
}
