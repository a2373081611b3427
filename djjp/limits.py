"""Limits, rates and unique keys of jobs, as their authors write them."""

from __future__ import annotations

import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from djjp.durations import seconds

#: A text in which `{parameter}` stands for that argument of the call, or a function that is called with
#: the arguments and returns the text.
Key = str | Callable[..., str]

#: Stands for an argument that a step of a pipeline is handed when it runs.
NOT_YET = object()

_LONGEST = 200
_LONGEST_SPAN = timedelta(days=36_500)
_MOST = 2**31 - 1  # what every database can count to
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Limit:
    """At most so many jobs of one key run at the same time, over all consumers.

    Attributes:
        key: what is counted; jobs of different names may share it.
        most: how many run at once.
    """

    key: Key
    most: int = 1

    def __post_init__(self) -> None:
        _check_key("the key of a Limit", self.key)
        _check_most("Limit", self.most)


@dataclass(frozen=True)
class Rate:
    """At most so many jobs of one key start within any span of this length, over all consumers.

    Attributes:
        key: what is counted; jobs of different names may share it.
        most: how many start …
        per: … within so many seconds, or a timedelta.
    """

    key: Key
    most: int
    per: float | timedelta = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_key("the key of a Rate", self.key)
        _check_most("Rate", self.most)
        _check_span("per", self.per)


def check(limit: object, unique_key: object, unique_until: object, expires_after: Any) -> None:
    """Check these options of a job.

    Raises:
        TypeError, ValueError: one is not what it must be; the message names it and its value.
    """
    if limit is not None and not isinstance(limit, (Limit, Rate)):
        raise TypeError(
            f"limit is {limit!r}; it must be a Limit or a Rate, as in Limit('tenant-{{tenant_id}}', 2)"
        )
    if unique_key is not None:
        _check_key("unique_key", unique_key)
    if unique_until not in ("finish", "start"):
        raise ValueError(f"unique_until is {unique_until!r}; it must be 'finish' or 'start'")
    if expires_after is not None:
        _check_span("expires_after", expires_after)


def check_places(option: str, key: Key, signature: inspect.Signature) -> None:
    """Raise ValueError where a key names what is no parameter of the function."""
    if callable(key):
        return
    if set(_PLACE.sub("", key)) & {"{", "}"}:
        raise ValueError(
            f"{option} is {key!r}; braces are for parameters alone, as in '{{tenant_id}}'; what is to be made "
            "of an argument, or to have braces of its own, is for a function to return"
        )
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for name in _PLACE.findall(key):
        if name not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            known = ", ".join(signature.parameters) or "none"
            raise ValueError(
                f"{option} {key!r} names {name!r}, which is no parameter of the job; it has {known}"
            )


def text_of(
    option: str, key: Key, signature: inspect.Signature, args: list[Any], kwargs: dict[str, Any]
) -> str:
    """The key of one call.

    Args:
        args, kwargs: as `codec.decode_arguments` gives them.

    Raises:
        TypeError: the call lacks an argument that the key needs, or a function returns no text.
        ValueError: the key is empty, or longer than 200 characters.
    """
    if callable(key) and args and args[0] is NOT_YET:
        raise TypeError(
            f"{option} is a function of the arguments, of which this step of a pipeline receives the first "
            "only when it runs; use bind_alone(), or a text that names other arguments"
        )
    text = key(*args, **kwargs) if callable(key) else _filled(option, key, signature, args, kwargs)
    if not isinstance(text, str):
        raise TypeError(f"{option} is {text!r}, which its function returned; it must be a text")
    _check_text(option, text)
    return text


def _filled(
    option: str, key: str, signature: inspect.Signature, args: list[Any], kwargs: dict[str, Any]
) -> str:
    if "{" not in key:
        return key
    given = signature.bind_partial(*args, **kwargs)
    given.apply_defaults()
    values: Mapping[str, Any] = {
        **given.arguments,
        **next(
            (
                given.arguments.get(name, {})
                for name, parameter in signature.parameters.items()
                if parameter.kind is parameter.VAR_KEYWORD
            ),
            {},
        ),
    }

    def fill(place: re.Match[str]) -> str:
        name = place[1]
        value = values.get(name, NOT_YET)
        if value is NOT_YET or (type(value) is tuple and any(each is NOT_YET for each in value)):
            raise TypeError(f"{option} {key!r} needs {name!r}, which is not among the arguments")
        if isinstance(value, (set, frozenset)):
            raise TypeError(
                f"{option} {key!r} needs {name!r}, which is a set: it has no order, so no text of its own"
            )
        return str(value)

    return _PLACE.sub(fill, key)


def _check_key(option: str, key: object) -> None:
    if callable(key):
        return
    if not isinstance(key, str):
        raise TypeError(
            f"{option} is {key!r}; it must be a text of 1 to {_LONGEST} characters, in which "
            "{parameter} stands for an argument, or a function of the arguments"
        )
    _check_text(option, key)


def _check_text(option: str, text: str) -> None:
    if not 1 <= len(text) <= _LONGEST:
        raise ValueError(
            f"{option} is {reprlib.repr(text)}, of {len(text)} characters; it must have 1 to {_LONGEST}"
        )
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError(
            f"{option} is {text!r}; no database takes NUL characters or lone surrogates in a text"
        )


def _check_most(kind: str, most: object) -> None:
    if type(most) is not int or not 1 <= most <= _MOST:
        raise ValueError(
            f"the number of a {kind} is {most!r}; it must be a whole number, 1 or more, up to {_MOST}"
        )


def _check_span(option: str, value: float | timedelta) -> None:
    if not 0 < seconds(option, value) <= _LONGEST_SPAN.total_seconds():
        raise ValueError(
            f"{option} is {value!r}; it must be above 0, and no more than {_LONGEST_SPAN.days:,} days"
        )
