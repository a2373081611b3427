"""Values through the codec: their round trips and refusals."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from djjp.codec import decode_arguments, decode_value, encode_arguments, encode_value
from djjp.exceptions import EncodeError


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Celsius(float):
    def __float__(self) -> float:
        return 0.0


def trip(value: Any) -> Any:
    """Return a value encoded and decoded, which must be the same for an argument and for a result."""
    text = encode_value(value, "return value")
    assert text.isascii()
    [positional], keyword = decode_arguments(encode_arguments((value,), {"a": value}, None))
    back = decode_value(text)
    assert exact(positional) == exact(keyword["a"]) == exact(back)
    return back


def exact(value: Any) -> Any:
    """Return a form of a value that is equal only if type, fold, zone, sign and digits are equal."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(exact(item)) for item in value)
    if isinstance(value, (datetime, time)):
        zone = value.tzinfo
        zone_or_offset = zone.key if isinstance(zone, ZoneInfo) else value.utcoffset()
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, zone_or_offset
    if isinstance(value, Decimal):
        return kind, value.as_tuple()
    return kind, repr(value)


def refusal(value: Any) -> str:
    """Return the message that refuses a value, which must be the same for an argument and for a result."""
    with pytest.raises(EncodeError) as as_argument:
        encode_arguments((1, value), {}, lambda: ["order_id", "items"])
    with pytest.raises(EncodeError) as as_keyword:
        encode_arguments((), {"order_id": 1, "items": value}, None)
    with pytest.raises(EncodeError) as as_result:
        encode_value(value, "items")
    assert str(as_argument.value) == str(as_keyword.value) == str(as_result.value)
    assert str(as_argument.value).startswith("cannot encode items")
    assert len(str(as_argument.value)) < 400
    return str(as_argument.value)
