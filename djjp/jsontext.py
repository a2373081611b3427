"""A value as JSON text, in the one form that djjp writes: ASCII, without spaces, and no NaN; and back."""

from __future__ import annotations

import json
from typing import Any

_encoder = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":"))
# `encode()` creates a compiled encoder for each value, which takes 0.5 µs: 4 % of `run_later()` on SQLite and 6 %
# of a job in `run_many()`. So this module creates one once, by a private function of CPython where it exists.
_make: Any = getattr(json.encoder, "c_make_encoder", None)
_escaped = json.encoder.encode_basestring_ascii
_parts: Any = _encoder.iterencode
if _make is not None:
    _parts = _make(None, _encoder.default, _escaped, None, ":", ",", False, False, False)


def dumps(value: Any) -> str:
    """Return the text of a value without circular references.

    Raises:
        ValueError: the value contains NaN or an infinity.
        TypeError: the value contains a type that JSON does not have.
        RecursionError: the value is nested too deeply.
    """
    return "".join(_parts(value, 0))


def loads(text: str | None) -> Any:
    """Return the value of the JSON text of a row; None without a text, and of a row by hand that has no JSON."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def texts(text: str | None) -> list[str] | None:
    """Return the items of a JSON list as texts; None of a row that has no list."""
    found = loads(text)
    return [str(each) for each in found] if isinstance(found, list) else None
