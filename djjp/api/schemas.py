"""Schemas of what requests have: parameters, filters and operations, as narrow as what is accepted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from djjp.bounds import LONGEST_KEY, LONGEST_NAME, LONGEST_QUEUE
from djjp.call_options import LONGEST_TAG, MOST_TAGS
from djjp.models import State, Verb
from djjp.monitoring.filters import KEYS, LONGEST_CONSUMER, LONGEST_EXCEPTION, MOST_STARS

Schema = dict[str, Any]

#: Every text is without NUL, which no database takes.
_NO_NUL = r"^[^\x00]*$"
#: Seconds from now to a time that every database takes.
_LONGEST_SECONDS = 200_000_000_000


def _whole(value: object) -> object:
    """Return 3 for 3.0, which is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Members of bodies

QueueName = Annotated[str, Field(min_length=1, max_length=LONGEST_QUEUE, pattern=_NO_NUL)]
UniqueKey = Annotated[str, Field(min_length=1, max_length=LONGEST_KEY, pattern=_NO_NUL)]
Tag = Annotated[str, Field(min_length=1, max_length=LONGEST_TAG, pattern=_NO_NUL)]
Tags = Annotated[list[Tag], Field(max_length=MOST_TAGS)]
Whole = Annotated[int, BeforeValidator(_whole)]
# The bounds come first: behind the validator they would be missing from the document.
Priority = Annotated[int, Field(ge=-32768, le=32767), BeforeValidator(_whole)]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Seconds = Annotated[float, Field(le=_LONGEST_SECONDS, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0.001, le=_LONGEST_SECONDS, allow_inf_nan=False)]


# Parameters


def text(longest: int, pattern: str = _NO_NUL) -> Schema:
    """Return the schema of a text of 1 to `longest` characters."""
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern}


def number(most: int, default: int) -> Schema:
    """Return the schema of the number of entries on a page."""
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}


ID: Schema = {"type": "string", "format": "uuid"}
#: The name of one queue: `*` is for patterns.
ONE_QUEUE = text(LONGEST_QUEUE, r"^[^*\x00]*$")
#: The name of a job, in which `*` stands for any characters.
GLOB = text(LONGEST_NAME, rf"^[^*\x00]*(?:\*+[^*\x00]*){{0,{MOST_STARS}}}$")
#: A time in ISO 8601, or a span back.
SINCE: Schema = {
    "type": "string",
    "anyOf": [
        {"format": "date-time"},
        {"pattern": "^(?:[0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$"},
    ],
}
_STATE: Schema = {"enum": [*State.values]}
_OF_KEY: dict[str, Schema] = {
    "state": {"type": "array", "items": _STATE},
    "queue": text(LONGEST_QUEUE),
    "name": GLOB,
    "exception": text(LONGEST_EXCEPTION),
    "tag": text(LONGEST_TAG),
    "since": SINCE,
    "until": SINCE,
    "pipeline": ID,
    "consumer": text(LONGEST_CONSUMER),
    "unique_key": text(LONGEST_KEY),
    "attempts": {"type": "string", "pattern": "^(?:>=|<=|>|<)?[0-9]{1,9}$"},
}
#: The query parameters of a filter.
FILTER: dict[str, Schema] = {key: _OF_KEY[key] for key in KEYS}


#: Headers. A server strips spaces at the ends of one.
HEADERS: dict[str, Schema] = {
    "Idempotency-Key": {
        "type": "string",
        "pattern": r"^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$",
    },
    "Prefer": {"type": "string"},
}


# Operations


def _filter_of_body() -> Schema:
    """Return the schema of a filter in a body; each value can be in a list."""
    found = {key: {"anyOf": [each, _one(each)]} for key, each in FILTER.items() if key != "state"}
    found["state"] = {"anyOf": [_STATE, FILTER["state"]]}
    found["attempts"]["anyOf"].append({"type": "integer", "minimum": 0, "maximum": 2_147_483_647})
    return {"type": "object", "properties": found, "additionalProperties": False}


def _one(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "maxItems": 1}


def _operation(verbs: list[str], argument: Schema, *, is_required: bool) -> Schema:
    return {
        "type": "object",
        "properties": {
            "verb": {"enum": verbs},
            "filter": _filter_of_body(),
            "argument": argument,
            "dry_run": {"type": "boolean", "default": False},
        },
        "required": ["verb", "filter", *(["argument"] if is_required else [])],
        "additionalProperties": False,
    }


#: The body of a new operation: the argument of `move` is a queue, that of `priority` a number.
OPERATION: Schema = {
    "anyOf": [
        _operation(
            [str(each) for each in Verb if each not in (Verb.MOVE, Verb.PRIORITY)],
            {"enum": [""]},
            is_required=False,
        ),
        _operation(["move"], text(LONGEST_QUEUE), is_required=True),
        _operation(
            ["priority"],
            {"type": "integer", "minimum": -32768, "maximum": 32767},
            is_required=True,
        ),
    ]
}
