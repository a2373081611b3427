"""Validate a document against the part of JSON Schema that djjp's schema uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
_FORMATS: dict[str, Callable[[str], object]] = {"uuid": UUID, "date-time": datetime.fromisoformat}
_KNOWN = {
    *("$ref", "additionalProperties", "anyOf", "enum", "format", "items", "minimum", "pattern"),
    *("properties", "required", "type", "description", "title", "default"),
    *("const", "maximum", "minLength", "maxLength", "minItems", "maxItems", "prefixItems"),
}


def problems(document: Any, schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    """Return what is wrong with a document, each with its place in it."""
    return list(_problems(document, schema, root, "$"))


def _problems(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    assert not schema.keys() - _KNOWN, f"not validated: {schema.keys() - _KNOWN}"
    if (ref := schema.get("$ref")) is not None:
        name = ref.removeprefix("#/$defs/")
        yield from _problems(value, root["$defs"][name], root, at)
    if "anyOf" in schema:
        each = [list(_problems(value, option, root, at)) for option in schema["anyOf"]]
        if all(each):
            yield from min(each, key=len)
    if (kind := schema.get("type")) is not None and not _is(value, kind):
        yield f"{at} is {value!r}, no {kind}"
        return
    allowed = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    if value not in allowed:
        yield f"{at} is {value!r}, none of {allowed}"
    yield from _of_size(value, schema, at)
    yield from _of_text(value, schema, at) if isinstance(value, str) else ()
    for number, item in enumerate(value if isinstance(value, list) else ()):
        first = schema.get("prefixItems", [])
        each = first[number] if number < len(first) else schema.get("items", {})
        yield from _problems(item, each, root, f"{at}[{number}]")
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, at)


def _of_size(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    """Return what is wrong with a number, or with the length of a text or a list."""
    size = value
    least, most = schema.get("minimum"), schema.get("maximum")
    if isinstance(value, (str, list)):
        kind = "Length" if isinstance(value, str) else "Items"
        size, least, most = len(value), schema.get(f"min{kind}"), schema.get(f"max{kind}")
    if least is not None and size < least:
        yield f"{at} is {value!r}, below {least}"
    if most is not None and size > most:
        yield f"{at} is {value!r}, above {most}"


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _of_text(value: str, schema: dict[str, Any], at: str) -> Iterator[str]:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at} is {value!r}, which does not match {schema['pattern']}"
    if "format" in schema:
        try:
            _FORMATS[schema["format"]](value)
        except ValueError:
            yield f"{at} is {value!r}, no {schema['format']}"


def _of_object(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str
) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at} has no {name}"
    others = schema.get("additionalProperties", True)
    for name, member in value.items():
        if name in known:
            yield from _problems(member, known[name], root, f"{at}.{name}")
        elif others is False:
            yield f"{at} has {name}"
        elif others is not True:
            yield from _problems(member, others, root, f"{at}.{name}")
