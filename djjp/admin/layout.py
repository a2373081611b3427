"""The layout of the codec's JSON on a page: indented where it is long, with its tags as `tag(value)`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from djjp.codec import TAG

#: Characters of one text that is laid out anew.
MAX_TEXT = 120_000

_WIDTH = 80
_INDENT = "  "


class _Number(str):
    """A number as it was written: neither rounded nor refused because of its length."""

    __slots__ = ()


#: The errors of a damaged text.
UNREADABLE = (ValueError, RecursionError, AttributeError)


def load(text: str) -> Any:
    """Return the value of a JSON text, with its numbers as they were written."""
    if len(text) > MAX_TEXT:
        raise ValueError("too long for a new layout")
    return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)


class _TooLong(Exception):
    """A text has no room."""


def pretty(value: Any) -> str:
    """Return a value as indented JSON, or on one line where its indentation would make it too long."""
    try:
        return _Writer(MAX_TEXT).laid_out(value)
    except (_TooLong, RecursionError):
        return _Writer(math.inf).on_one_line(value)


def one_line(value: Any) -> str:
    """Return a value as JSON on one line."""
    return _Writer(math.inf).on_one_line(value)


class _Writer:
    """Writes a value into a limited number of characters, in a time that grows only with its size.

    Raises:
        _TooLong: the value needs more characters. What does not fit is not written first.
    """

    def __init__(self, room: float) -> None:
        self._room = room
        self._parts: list[str] = []

    def laid_out(self, value: Any) -> str:
        """Return the value with containers on one line if they fit, else with each item on a line."""
        self._lay_out(value, "")
        return "".join(self._parts)

    def on_one_line(self, value: Any) -> str:
        self._one_line(value)
        return "".join(self._parts)

    def _put(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise _TooLong
        self._parts.append(text)

    def _lay_out(self, value: Any, margin: str) -> None:
        if not isinstance(value, (dict, list)) or _is_tagged(value):
            self._write(value, lambda payload: self._lay_out(payload, margin))
            return
        try:
            self._put(_Writer(_WIDTH - len(margin)).on_one_line(value))
        except _TooLong:
            self._put_items(value, margin)

    def _put_items(self, value: Any, margin: str) -> None:
        inner = margin + _INDENT
        is_object = isinstance(value, dict)
        self._put("{" if is_object else "[")
        for number, (key, held) in enumerate(value.items() if is_object else enumerate(value)):
            self._put(f",\n{inner}" if number else f"\n{inner}")
            if is_object:
                self._put(f"{quote(key)}: ")
            self._lay_out(held, inner)
        self._put(f"\n{margin}{'}' if is_object else ']'}")

    def _write(self, value: Any, write_payload: Callable[[Any], None]) -> None:
        """Write a value on one line, except the payload of a tag, which `write_payload` writes."""
        match value:
            case _Number():
                self._put(str(value))
            case dict() if _is_tagged(value):
                self._put(f"{value[TAG]}(")
                write_payload(_payload(value))
                self._put(")")
            case dict():
                self._put("{")
                for number, (key, held) in enumerate(value.items()):
                    self._put(f"{', ' if number else ''}{quote(key)}: ")
                    self._write(held, self._one_line)
                self._put("}")
            case list():
                self._put("[")
                for number, held in enumerate(value):
                    self._put(", " if number else "")
                    self._write(held, self._one_line)
                self._put("]")
            case str() if len(value) > self._room:  # before it is quoted
                raise _TooLong
            case _:
                self._put(quote(value))

    def _one_line(self, value: Any) -> None:
        self._write(value, self._one_line)


def _is_tagged(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {TAG, "value"}
        and str(value[TAG]).isidentifier()
    )


def _payload(tagged: dict[str, Any]) -> Any:
    """Return the value under a tag; a timedelta's microseconds as days and clock time."""
    payload = tagged["value"]
    if tagged[TAG] == "timedelta" and isinstance(payload, _Number):
        try:
            return str(timedelta(microseconds=int(payload)))
        except (ValueError, OverflowError):
            pass
    return payload


def quote(value: Any) -> str:
    """Return a plain value as JSON."""
    return json.dumps(value, ensure_ascii=False)
