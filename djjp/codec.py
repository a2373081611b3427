"""Arguments and results of jobs as JSON text: exact on the way back, or refused.

Values that JSON has are written as they are; other values become an object with a tag, such as
`{"$djjp": "decimal", "value": "9.90"}`.

A value comes back equal and of the same type: None, bool, int, float, str, list and dict, and by a tag bytes,
tuple, set, frozenset, Decimal, UUID, datetime, date, time, timedelta, JobFailed, JobCancelled and each dict with
a key that is not text. Datetimes and times keep `fold` and their `ZoneInfo`; a tzinfo of another class comes back
as the offset that it gave. A value of a subclass (SafeString, TextChoices, IntEnum, OrderedDict, a namedtuple, a
frozen clock's datetime) arrives as the base class named here.

All other values are refused with `EncodeError`: objects, models, plain Enums, functions, files, NaN and infinite
floats. The text is ASCII, so that NUL and lone surrogates fit any database's text column. Decoding creates values
of these types only, whatever the text contains: it looks up no class by name.
"""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from djjp.exceptions import EncodeError, JobCancelled, JobFailed
from djjp.jsontext import dumps

TAG = "$djjp"
DEEPEST = 200
# Types whose values go to JSON as they are; for the second set no value needs a check.
_SCALARS = frozenset({type(None), bool, int, float, str})
_CERTAIN = frozenset({type(None), bool})


def encode_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: Callable[[], Sequence[str]] | None
) -> str:
    """Return the text of `{"args": [...], "kwargs": {...}}`.

    `names` returns the parameter names of `args` in order; it is called for an error message only.

    Raises:
        EncodeError: an argument is or contains a value that the codec cannot encode, or is nested deeper than
            200 levels. The message names the parameter, the path in it, the value and what to pass.
    """
    try:
        if _SCALARS.issuperset(map(type, args)) and (  # the common call: nothing to walk
            not kwargs or (_SCALARS.issuperset(map(type, kwargs.values())) and TAG not in kwargs)
        ):
            text = f'{{"args":{dumps(args)},"kwargs":{dumps(kwargs) if kwargs else "{}"}}}'
            if "\\ud" not in text:
                return text
        return _encode({"args": [*args], "kwargs": kwargs}, -2)
    except (_Refusal, ValueError, RecursionError) as error:
        called = [*_argument_names(args, names), *kwargs]
        raise _explained([*zip(called, [*args, *kwargs.values()], strict=True)], error) from None


def encode_value(value: Any, name: str) -> str:
    """Return the text of a value such as a job's result; raise EncodeError, which calls the value `name`."""
    if value is None:  # what most jobs return
        return "null"
    try:
        return str(value) if type(value) is int else _encode(value, 0)
    except (_Refusal, ValueError, RecursionError) as error:
        raise _explained([(name, value)], error) from None


def decode_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that `encode_arguments()` encoded; raise ValueError as `decode_value()` does."""
    call = decode_value(text)
    if type(call) is dict:
        args, kwargs = call.get("args"), call.get("kwargs")
        if type(args) is list and type(kwargs) is dict:
            return args, kwargs
    raise ValueError(f"these are not the arguments of a job: {reprlib.repr(text)}")


def decode_value(text: str) -> Any:
    """Return the value that `encode_value()` encoded.

    Raises:
        ValueError: the text is not JSON, or has a tag that is unknown or does not fit its value.
    """
    try:
        value, end = _loads_tagged(text) if _MARK in text else _scan(text, 0)
        if end != len(text):
            raise ValueError(f"it goes on after the value, at character {end}")
        return value
    except StopIteration as stop:  # of `_scan`
        raise ValueError(
            f"cannot decode {reprlib.repr(text)}: Expecting value at character {stop.value}"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"cannot decode {reprlib.repr(text)}: {error}") from error


class _Refusal(Exception):
    """A refused value, the reason or advice, and the path to the value, innermost step first."""

    def __init__(self, value: object, why: str) -> None:
        self.value, self.why = value, why
        self.path: list[tuple[str, object]] = []


def _encode(value: Any, depth: int) -> str:
    text = dumps(tree := _walk(value, depth, _SCALARS))
    if "\\ud" in text and _loads(text)[0] != tree:  # an emoji has two as well, and comes back
        raise ValueError("JSON makes one character of two surrogates")
    return text


def _walk(value: Any, depth: int, passing: frozenset[type]) -> Any:
    """Return what JSON must write for a value inside `depth` containers; `passing` types need no check."""
    kind = type(value)
    if kind in passing:
        return value
    rule = _RULES.get(kind) or next((_RULES[k] for k in kind.__mro__ if k in _RULES), None)
    if rule is None:
        advice = next(_ADVICE[k.__name__] for k in kind.__mro__ if k.__name__ in _ADVICE)
        raise _Refusal(value, advice)
    if not rule.step:
        try:
            payload = rule.take(value)
        except Exception as error:  # noqa: BLE001  (a tzinfo of another class can raise anything)
            raise _Refusal(value, str(error)) from None
    elif depth >= DEEPEST:
        raise _Refusal(value, f"it is nested deeper than {DEEPEST} levels, or contains itself")
    elif rule.make is dict:
        labels = [*rule.take(value)]
        keys = _walk_each(labels, depth + 1, passing, " (a key)", labels)
        items = _walk_each(dict.values(value), depth + 1, passing, rule.step, labels)
        if {str}.issuperset(map(type, keys)) and TAG not in keys:
            return dict(zip(keys, items, strict=True))
        payload = [*map(list, zip(keys, items, strict=True))]
    else:
        payload = _walk_each(rule.take(value), depth + 1, passing, rule.step, _INDEXES)
    return {TAG: rule.tag, "value": payload} if rule.tag else payload


def _walk_each(
    values: Iterable[Any], depth: int, passing: frozenset[type], step: str, labels: Sequence[object]
) -> list[Any]:
    """Apply `_walk()` to the items of one container; add the step to the item to the path of a refusal."""
    walked: list[Any] = []
    try:
        for value in values:  # a plain loop: the length of `walked` is the index of a refusal
            walked.append(value if type(value) in passing else _walk(value, depth, passing))  # noqa: PERF401
    except _Refusal as refusal:
        refusal.path.append((step, labels[len(walked)]))
        raise
    return walked


class _Rule(NamedTuple):
    """How one type is encoded and decoded."""

    tag: str
    take: Callable[[Any], Any]  # from a value its payload; from a container its items
    make: Callable[[Any], Any]  # from a payload the value
    written: type | tuple[type, ...] = str  # what a payload is in JSON
    step: str = ""  # containers only: how a path shows one of the items


def _text(value: str) -> str:
    if _loads(dumps(value))[0] != value:
        raise ValueError("JSON makes one character of the two surrogates in it; pass bytes")
    return str.__str__(value)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("JSON has no such number; pass None or a Decimal")
    return float.__float__(value)


def _clock(tag: str, base: Any) -> _Rule:
    """Return the rule of datetime or time: ISO text, or where that is not enough [text, fold, zone or offset].

    The methods are bound here, because a frozen clock later puts its own class into this module's globals.
    """
    isoformat, utcoffset, fromisoformat = base.isoformat, base.utcoffset, base.fromisoformat

    def take(value: Any) -> Any:
        zone = value.tzinfo
        place = zone.key if isinstance(zone, ZoneInfo) else None
        if place is None and zone is not None:
            if (offset := utcoffset(value)) is None:
                raise ValueError("its tzinfo gives no offset; use a ZoneInfo or datetime.timezone")
            if offset.microseconds:  # fromisoformat() ignores an offset below a second
                place = offset // _TICK
        text = isoformat(value)
        return text if place is None and not value.fold else [text, value.fold, place]

    def make(payload: Any) -> Any:
        text, fold, place = (payload, 0, None) if isinstance(payload, str) else payload
        value = fromisoformat(text).replace(fold=fold)
        if place is None:
            return value
        zone = ZoneInfo(place) if isinstance(place, str) else timezone(_TICK * place)
        return value.replace(tzinfo=zone)

    return _Rule(tag, take, make, (str, list))


_INDEXES = range(sys.maxsize)
_TICK = timedelta(microseconds=1)
_RULES: dict[type, _Rule] = {
    str: _Rule("", _text, str),
    int: _Rule("", lambda v: int(int.__repr__(v)), int),  # respects the limit on digits
    float: _Rule("", _finite, float),
    list: _Rule("", list.__iter__, list, list, "[{}]"),
    dict: _Rule("dict", dict.keys, dict, list, "[{}]"),
    tuple: _Rule("tuple", tuple.__iter__, tuple, list, "[{}]"),
    set: _Rule("set", set.__iter__, set, list, " (a member)"),
    frozenset: _Rule("frozenset", frozenset.__iter__, frozenset, list, " (a member)"),
    bytes: _Rule("bytes", bytes.hex, bytes.fromhex),
    Decimal: _Rule("decimal", Decimal.__str__, Decimal),
    UUID: _Rule("uuid", UUID.__str__, UUID),
    datetime: _clock("datetime", datetime),
    date: _Rule("date", date.isoformat, date.fromisoformat),
    time: _clock("time", time),
    timedelta: _Rule("timedelta", lambda v: timedelta.__floordiv__(v, _TICK), _TICK.__mul__, int),
    JobFailed: _Rule("failed", JobFailed.facts, JobFailed.of, list),
    JobCancelled: _Rule("cancelled", JobCancelled.facts, JobCancelled.of, list),
}
_BY_TAG = {rule.tag: rule for rule in _RULES.values() if rule.tag}


def _untag(found: dict[str, Any]) -> Any:
    """Return the value that a JSON object stands for; its items were passed to this function before."""
    if TAG not in found:
        return found
    tag, payload = found[TAG], found.get("value")
    if not isinstance(tag, str) or tag not in _BY_TAG:
        raise ValueError(f"{reprlib.repr(tag)} is no tag of this version of djjp")
    rule = _BY_TAG[tag]
    try:
        if len(found) != 2 or not isinstance(payload, rule.written):
            raise ValueError("malformed")
        return rule.make(payload)
    except Exception as error:
        raise ValueError(f"{reprlib.repr(payload)} does not fit {tag!r}: {error}") from error


# int() refuses the names of NaN and the infinities.
_decoder = json.JSONDecoder(parse_constant=int)
_loads = _decoder.raw_decode
# `raw_decode` without its call in Python, which each start of a job would make.
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]  # it has it
_loads_tagged = json.JSONDecoder(parse_constant=int, object_hook=_untag).raw_decode
_MARK = f'"{TAG}"'
# What to pass in place of a refused value, by the name of its type or of a base class.
_ADVICE = {
    "Model": "pass its primary key, and load it in the job",
    "QuerySet": "pass a list of primary keys",
    "Enum": "pass its value",
    "PurePath": "pass str() of it",
    "Promise": "pass str() of it",  # a lazy translation
    "generator": "pass a list of what it yields",
    "object": "pass None, bool, int, float, str, bytes, Decimal, UUID, datetime, date, time, "
    "timedelta, or lists, tuples, sets and dicts of these",
}


def _explained(named: list[tuple[str, Any]], error: Exception) -> EncodeError:
    """Return the error that names the first refused value; `error` is what the encoding raised."""
    for name, value in named:
        try:
            problem = _problem(value)
        except RecursionError:
            problem = ": it is nested too deeply for what is left of the interpreter's stack"
        if problem:
            return EncodeError(f"cannot encode {name}{problem}")
    return EncodeError(f"cannot encode {', '.join(name for name, _ in named)}: {error}")


def _problem(value: Any) -> str:
    """Return the path in `value` to the refused value, and the reason; "" if all of it can be encoded."""
    try:
        dumps(_walk([[value]], -2, _CERTAIN))  # as deep as it was among the arguments
    except _Refusal as refusal:
        steps = [step.format(_brief(label)) for step, label in reversed(refusal.path[:-2])]
        path = "".join(steps[:8]) + ("..." if len(steps) > 8 else "")
        kind = type(refusal.value)
        named = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        return f"{path}, which is {_brief(refusal.value)} of type {named}: {refusal.why}"
    return ""


def _argument_names(args: tuple[Any, ...], names: Callable[[], Sequence[str]] | None) -> list[str]:
    """Return a name for each positional argument. A failure to find names must not hide the actual error."""
    known: list[str] = []
    with suppress(Exception):  # it reads the signature of any callable
        known = [*names()][: len(args)] if names else []
    return known + [f"argument {index}" for index in range(len(known), len(args))]


def _brief(value: object) -> str:
    """Return a short `repr()`, even where the value's own raises. A queryset's would run the query."""
    with suppress(Exception):  # a number with too many digits raises too
        return "a query" if hasattr(type(value), "as_manager") else reprlib.repr(value)
    return "a value"
