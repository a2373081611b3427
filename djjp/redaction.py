"""Redaction: which values of arguments and results nobody is shown, and the codec's text without them.

The names of arguments and of the keys of dictionaries decide, by the patterns of `DJJP["redact"]`. Nothing is
decoded. What cannot be read, or is too long to be read in a bounded time, is hidden as a whole: no error and no
damaged row shows a value.

A text of the codec goes in, and a text of the codec comes out. Where the function of the arguments is known by its
job's name, `djjp.jobs.shown` has the shorter way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from inspect import Parameter
from typing import Any

from djjp import conf
from djjp.codec import TAG
from djjp.jsontext import dumps

#: The characters of a text that is read, at most half a second's work. A longer one is hidden as a whole.
LONGEST = 1_000_000
#: The characters of a name that the patterns are tried on. A longer one is no name, and its value is hidden.
LONGEST_NAME = 1000

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_OF_CALL = {"args", "kwargs", "task", "release"}


@cache
def substitute() -> str:
    """Return what is shown in place of a hidden value: Django's own substitute."""
    from django.views.debug import SafeExceptionReporterFilter

    return SafeExceptionReporterFilter.cleansed_substitute


def is_on() -> bool:
    """Return whether any value is hidden: `DJJP["redact"] = []` shows all."""
    return bool(_patterns())


def hides(name: str) -> bool:
    """Return whether the values under a name are hidden."""
    patterns = _patterns()
    return len(name) > LONGEST_NAME or any(pattern.search(name) for pattern in patterns)


def value(text: str) -> str:
    """Return the text of a value, such as a result, without the hidden ones of its dictionaries."""
    if not is_on():
        return text
    try:
        shown, hook = _read(text)
        return dumps(shown) if hook.has_hidden else text
    except Exception:  # noqa: BLE001  (whatever it is that cannot be read is not shown)
        return _hidden()


def call(text: str, parameters: Iterable[Parameter] | None, *, has_input: bool = False) -> str:
    """Return the text of a job's arguments without the hidden ones.

    Args:
        parameters: of the job's function; None if it is not known, which hides all arguments.
        has_input: whether the function gets an argument before these, from a pipeline.
    """
    if not is_on():
        return text
    try:
        whole, hook = _read(text)
        found = hook.outermost
        args, kwargs = found["args"], found["kwargs"]
        if not (
            isinstance(whole, dict)
            and isinstance(args, list)
            and isinstance(kwargs, dict)
            and found.keys() <= _OF_CALL
        ):
            return _hidden()
        known = None if parameters is None else [*parameters]
        positions = _hidden_positions(known, len(args), 1 if has_input else 0)
        names = _hidden_names(known, kwargs)
        found["args"] = [
            substitute() if hidden else each for each, hidden in zip(args, positions, strict=True)
        ]
        found["kwargs"] = {
            name: substitute() if name in names else each for name, each in kwargs.items()
        }
        return dumps(found)
    except Exception:  # noqa: BLE001  (whatever it is that cannot be read is not shown)
        return _hidden()


def first(text: str, parameters: Iterable[Parameter] | None) -> str:
    """Return the text of the first argument, which a pipeline gives, without what is hidden in it."""
    if not is_on():
        return text
    known = None if parameters is None else [*parameters]
    return _hidden() if _hidden_positions(known, 1, 0)[0] else value(text)


def restored(given: Any, shown: Any, original: Any) -> Any:
    """Return an edited value with the hidden values that it was shown with as they were.

    Args:
        given: the value as it was edited, decoded.
        shown: the value as it was shown.
        original: the value without redaction.
    """
    if given == shown == substitute():
        return original
    if isinstance(given, dict) and isinstance(shown, dict) and isinstance(original, dict):
        return {
            key: restored(each, shown[key], original[key])
            if key in shown and key in original
            else each
            for key, each in given.items()
        }
    if isinstance(given, list) and isinstance(shown, list) and isinstance(original, list):
        known = zip(given, shown, original, strict=False)
        return [restored(*each) for each in known] + given[min(len(shown), len(original)) :]
    return given


def _hidden() -> str:
    return dumps(substitute())


def _patterns() -> tuple[re.Pattern[str], ...]:
    given = conf.current().redact
    return _default_patterns() if given is None else _compiled(tuple(given))


@cache
def _default_patterns() -> tuple[re.Pattern[str], ...]:
    from django.views.debug import SafeExceptionReporterFilter

    return (SafeExceptionReporterFilter.hidden_settings,)


@cache
def _compiled(given: tuple[str | re.Pattern[str], ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile(each, re.IGNORECASE) if isinstance(each, str) else each for each in given
    )


def _hidden_positions(parameters: list[Parameter] | None, count: int, start: int) -> list[bool]:
    """Return of each positional argument whether it is hidden. One without a parameter is."""
    if parameters is None:
        return [True] * count
    named = [hides(each.name) for each in parameters if each.kind in _BY_POSITION]
    more = [hides(each.name) for each in parameters if each.kind is each.VAR_POSITIONAL]
    rest = more[0] if more else True
    return [named[n] if n < len(named) else rest for n in range(start, start + count)]


def _hidden_names(parameters: list[Parameter] | None, kwargs: dict[str, Any]) -> set[str]:
    """Return the keyword arguments that are hidden: by their own name, or by that of `**kwargs`."""
    if parameters is None:
        return {*kwargs}
    own = {each.name for each in parameters if each.kind in _BY_NAME}
    rest = any(hides(each.name) for each in parameters if each.kind is each.VAR_KEYWORD)
    return {name for name in kwargs if hides(name) or (rest and name not in own)}


def _read(text: str) -> tuple[Any, _Hook]:
    """Return the value of a text without what is hidden, and the hook that has hidden it.

    Raises:
        ValueError, RecursionError: the text is damaged, or too long.
    """
    if len(text) > LONGEST:
        raise ValueError("too long")
    hook = _Hook()
    return json.loads(text, object_hook=hook), hook


class _Hook:
    """Hides values while JSON is read: called with each object, the inner ones first.

    Attributes:
        outermost: the last object, with all of its own values.
        has_hidden: whether any value is hidden.
    """

    def __init__(self) -> None:
        self.has_hidden = False
        self.outermost: dict[str, Any] = {}
        self._known: dict[str, bool] = {}

    def __call__(self, found: dict[str, Any]) -> dict[str, Any]:
        self.outermost = found
        if TAG in found:
            return self._tagged(found)
        hidden = [key for key in found if self._hides(key)]
        if not hidden:
            return found
        self.has_hidden = True
        return {**found, **dict.fromkeys(hidden, substitute())}

    def _tagged(self, found: dict[str, Any]) -> dict[str, Any]:
        """Hide in a dictionary that JSON does not have, which the codec writes as pairs of key and value."""
        if found.keys() != {TAG, "value"}:
            raise ValueError("malformed")
        if found[TAG] == "dict":
            found["value"] = [self._pair(*pair) for pair in found["value"]]
        return found

    def _pair(self, key: Any, held: Any) -> list[Any]:
        if not any(map(self._hides, _texts(key))):
            return [key, held]
        self.has_hidden = True
        return [key, substitute()]

    def _hides(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = hides(name)
        return self._known[name]


def _texts(key: Any) -> Iterator[str]:
    """Return the texts in a key that is no text: those of a tuple, and that of bytes."""
    if isinstance(key, str):
        yield key
    elif isinstance(key, list):
        for each in key:
            yield from _texts(each)
    elif isinstance(key, dict) and key.get(TAG) == "bytes":
        yield bytes.fromhex(key["value"]).decode("latin-1")
    elif isinstance(key, dict):
        yield from _texts(key.get("value"))
