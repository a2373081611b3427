"""Arguments and results of jobs as JSON text: exact on the way back, or refused.

What JSON can say is written as it is; what it cannot say becomes an object with a tag:

    {"$djjp": "decimal", "value": "9.90"}

A value comes back equal and of the same type: None, bool, int, float, str, list and dict, and by a
tag bytes, tuple, set, frozenset, Decimal, UUID, datetime, date, time, timedelta and each dict with
a key that is not text. Datetimes and times keep `fold` and their `ZoneInfo`; a tzinfo of another
make comes back as the offset that it gave.

A value of a subclass (SafeString, TextChoices, IntEnum, OrderedDict, a namedtuple, the datetime of
a frozen clock) arrives as the base named above; what the subclass adds stays behind.

All else is refused with `EncodeError`: objects, models, plain Enums, functions, files, NaN and
infinite floats. The text is ASCII, so that NUL and lone surrogates pass any database's text column.

Decoding makes values of these types only, whatever the text says: it looks up no class by name.
"""

from __future__ import annotations

import binascii
import enum
import io
import json
import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

from djjp.exceptions import EncodeError

TAG = "$djjp"
DEEPEST = 200

# Types whose values go to JSON as they are, and the few of them that need no look at the value.
_SCALARS = frozenset({type(None), bool, int, float, str})
_CERTAIN = frozenset({type(None), bool})
_TEXT = frozenset({str})


def encode_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: Callable[[], Sequence[str]] | None
) -> str:
    """The text of `{"args": [...], "kwargs": {...}}`.

    Args:
        args: the positional arguments.
        kwargs: the keyword arguments.
        names: gives the parameter names of `args` in order. Only an error message needs them;
            without them it says "argument 0".

    Raises:
        EncodeError: an argument is, or holds, what the codec cannot carry, or is nested deeper than
            200 levels. The message names the parameter, the path in it, the value and what to pass.
    """
    try:
        if (
            _SCALARS.issuperset(map(type, args))
            and _SCALARS.issuperset(map(type, kwargs.values()))
            and TAG not in kwargs
        ):
            text = _dumps({"args": args, "kwargs": kwargs})
            if "\\ud" not in text:
                return text
        return _encode({"args": [*args], "kwargs": kwargs}, -2)
    except (_Refusal, ValueError, RecursionError) as error:
        named = zip(_called(args, names) + list(kwargs), [*args, *kwargs.values()], strict=True)
        raise _explained(named, error) from None


def encode_value(value: Any, name: str) -> str:
    """The text of one value, such as a job's result; `name` is what an error message calls it.

    Raises:
        EncodeError: as in `encode_arguments()`.
    """
    try:
        return _encode(value, 0)
    except (_Refusal, ValueError, RecursionError) as error:
        raise _explained([(name, value)], error) from None


def decode_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments in a text that `encode_arguments()` made.

    Raises:
        ValueError: the text is not of that form.
    """
    call = decode_value(text)
    if type(call) is dict and call.keys() == _CALL:
        args, kwargs = call["args"], call["kwargs"]
        if type(args) is list and type(kwargs) is dict:
            return args, kwargs
    raise ValueError(f"not the arguments of a job: {reprlib.repr(text)}")


def decode_value(text: str) -> Any:
    """The value in a text that `encode_value()` made.

    Raises:
        ValueError: the text is not JSON, or has a tag that is unknown or does not fit its value.
    """
    try:
        return _loads_tagged(text) if _MARK in text else _loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"cannot decode {reprlib.repr(text)}: {error}") from error


# Encoding


class _Refusal(Exception):
    """A value that cannot be encoded, why (None: its type), and the way to it, innermost step first."""

    def __init__(self, value: object, why: str | None) -> None:
        super().__init__(why)
        self.value = value
        self.why = why
        self.path: list[tuple[str, object]] = []


def _encode(value: Any, depth: int) -> str:
    text = _dumps(_walk(value, depth, _SCALARS))
    if "\\ud" in text:  # a surrogate, or half of an emoji: look at each text before it may go
        _walk(value, depth, _CERTAIN)
    return text


def _walk(value: Any, depth: int, passing: frozenset[type]) -> Any:
    """What JSON is to write for `value`, which lies inside `depth` containers.

    Values of the `passing` types are taken unseen. One frame per level: the stack is the caller's.
    """
    kind = type(value)
    if kind in passing:
        return value
    rule = _RULES.get(kind) or _inherited(kind)
    if rule is None:
        raise _Refusal(value, None)
    if not rule.step:
        try:
            payload = rule.take(value)
        except Exception as error:  # a foreign tzinfo may raise anything
            raise _Refusal(value, str(error)) from None
        return {TAG: rule.tag, "value": payload} if rule.tag else payload
    if depth >= DEEPEST:
        raise _Refusal(value, f"it is nested deeper than {DEEPEST} levels, or contains itself")
    depth += 1
    keys: list[Any] = []
    items: list[Any] = []
    at: object = None
    try:
        if rule.tag != "dict":
            for item in rule.take(value):
                items.append(item if type(item) in passing else _walk(item, depth, passing))
            return {TAG: rule.tag, "value": items} if rule.tag else items
        for at, item in rule.take(value):
            keys.append(at if type(at) in passing else _walk(at, depth, passing))
            items.append(item if type(item) in passing else _walk(item, depth, passing))
    except _Refusal as refusal:
        if rule.tag != "dict":
            at = len(items)
        refusal.path.append((rule.step if len(keys) != len(items) or at is not None else "", at))
        raise
    return keys
