"""Limits, rates and unique keys of jobs, as their authors write them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from djjp.bounds import LONGEST_KEY, require_text
from djjp.durations import seconds

__all__ = ["Limit", "Rate"]

#: A text in which `{parameter}` stands for that argument of the call, or a function that is called with
#: the arguments and returns such a text.
Key = str | Callable[..., str]

#: Stands for the first argument of a step of a pipeline that gets its input only when it runs.
NOT_YET = object()

_LONGEST_SPAN = timedelta(days=36_500)
_MOST = 2**31 - 1  # the largest integer column of every database
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Limit:
    """At most `most` jobs of one key run at the same time, over all consumers.

    A job over the limit waits in the state `blocked`, without a thread or a slot, until a running job of
    its key ends.

    Attributes:
        key: the text that is counted by; jobs of different names can share it.
        most: the number of jobs that run at once.
    """

    key: Key
    most: int = 1

    def __post_init__(self) -> None:
        _validate_key("the key of a Limit", self.key)
        _validate_most("Limit", self.most)


@dataclass(frozen=True)
class Rate:
    """At most `most` jobs of one key start within any span of the length `per`, over all consumers.

    A job over the rate waits in the state `scheduled` until its turn to start.

    Attributes:
        key: the text that is counted by; jobs of different names can share it.
        most: the number of jobs that start within `per`.
        per: the length of the span, in seconds or as a timedelta.
    """

    key: Key
    most: int
    per: float | timedelta = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        _validate_key("the key of a Rate", self.key)
        _validate_most("Rate", self.most)
        _validate_span("per", self.per)


# Validation of the options of a job; TypeError and ValueError name the option and its value


def validate_limit(option: str, value: object) -> None:
    if value is not None and not isinstance(value, (Limit, Rate)):
        raise TypeError(
            f"{option} is {value!r}; it must be a Limit or a Rate, as in Limit('tenant-{{tenant_id}}', 2)"
        )


def validate_unique_key(option: str, value: object) -> None:
    if value is not None:
        _validate_key(option, value)


def validate_unique_until(option: str, value: object) -> None:
    if value not in ("finish", "start"):
        raise ValueError(f"{option} is {value!r}; it must be 'finish' or 'start'")


def validate_expires_after(option: str, value: Any) -> None:
    if value is not None:
        _validate_span(option, value)


def validate_placeholders(option: str, key: Key, signature: inspect.Signature) -> None:
    """Raise ValueError for a key with a placeholder that names no parameter of the function."""
    if callable(key):
        return
    if set(_PLACEHOLDER.sub("", key)) & {"{", "}"}:
        raise ValueError(
            f"{option} is {key!r}; braces are for parameters alone, as in '{{tenant_id}}'; for a key that is "
            "computed from an argument, or has braces of its own, give a function that returns it"
        )
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for name in _PLACEHOLDER.findall(key):
        if name not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            known = ", ".join(signature.parameters) or "none"
            raise ValueError(
                f"{option} {key!r} names {name!r}, which is no parameter of the job; it has {known}"
            )


def key_of_call(
    option: str, key: Key, signature: inspect.Signature, args: list[Any], kwargs: dict[str, Any]
) -> str:
    """Return the key of one call.

    Args:
        args, kwargs: as `codec.decode_arguments` returns them.

    Raises:
        TypeError: the call lacks an argument that the key needs, or its function returns no text.
        ValueError: the key is empty, or longer than 200 characters.
    """
    if callable(key) and args and args[0] is NOT_YET:
        raise TypeError(
            f"{option} is a function of the arguments, but this step of a pipeline gets the first of them only "
            "when it runs; use bind_alone(), or a text that names other arguments"
        )
    text = key(*args, **kwargs) if callable(key) else _filled(option, key, signature, args, kwargs)
    if not isinstance(text, str):
        raise TypeError(f"{option} is {text!r}, which its function returned; it must be a text")
    require_text(option, text, LONGEST_KEY)
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

    def fill(placeholder: re.Match[str]) -> str:
        name = placeholder[1]
        value = values.get(name, NOT_YET)
        if value is NOT_YET or (type(value) is tuple and any(each is NOT_YET for each in value)):
            raise TypeError(f"{option} {key!r} needs {name!r}, which is not among the arguments")
        if isinstance(value, (set, frozenset)):
            raise TypeError(
                f"{option} {key!r} needs {name!r}, which is a set: it has no order, and so no single text"
            )
        return str(value)

    return _PLACEHOLDER.sub(fill, key)


def _validate_key(option: str, key: object) -> None:
    if callable(key):
        return
    if not isinstance(key, str):
        raise TypeError(
            f"{option} is {key!r}; it must be a text of 1 to {LONGEST_KEY} characters, in which "
            "{parameter} stands for an argument, or a function of the arguments"
        )
    require_text(option, key, LONGEST_KEY)


def _validate_most(kind: str, most: object) -> None:
    if type(most) is not int or not 1 <= most <= _MOST:
        raise ValueError(
            f"the number of a {kind} is {most!r}; it must be a whole number, 1 or more, up to {_MOST}"
        )


def _validate_span(option: str, value: float | timedelta) -> None:
    if not 0 < seconds(option, value) <= _LONGEST_SPAN.total_seconds():
        raise ValueError(
            f"{option} is {value!r}; it must be above 0, and no more than {_LONGEST_SPAN.days:,} days"
        )
