"""Filters: the jobs that a list, a command or an operation takes, in one language for all interfaces.

As text a filter is a row of terms, as in `state:failed queue:mail since:2h`; as options and query parameters it
has the same keys with the same values. `Filter.of` validates both.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

from django.http import QueryDict

from djjp.bounds import LONGEST_KEY, LONGEST_NAME, LONGEST_QUEUE, require_text, to_time
from djjp.call_options import LONGEST_TAG
from djjp.models import State

#: The characters of a filter as text, and the number of `*` in a name: each multiplies the time of a comparison.
LONGEST_TEXT, MOST_STARS = 4_000, 4
LONGEST_CONSUMER, LONGEST_EXCEPTION = 100, 200
_LONGEST_SPAN = timedelta(days=36_500)
_MOST_ATTEMPTS = 2_147_483_647

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,12})([smhd])")
_ATTEMPTS = re.compile(r"(>=|<=|>|<|)\s*([0-9]{1,12})")
# A "+" that a query string has made a space: "2026-01-31T12:00:00 02:00".
_ZONE_AFTER_SPACE = re.compile(r"(\S+[T ]\S+) ([0-9]{2}:?[0-9]{2})")
# A term: a key, and a value as it is or in quotes, in which a backslash stands before a quote or a backslash.
_TERM = re.compile(
    r"""(?P<key>[^\s:"']+):(?:(?P<quote>["'])(?P<quoted>(?:(?!(?P=quote))[^\\]|\\.)*)(?P=quote)(?=\s|$)"""
    r"""|(?P<bare>[^\s"']\S*))""",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_IS_TIME = "it must be a time such as 2026-01-31T12:00, or a span back such as 90s, 15m, 2h or 7d"
_IS_COUNT = "it must be a number such as 3, >3, >=3, <3 or <=3"


class FilterError(ValueError):
    """A filter that cannot be. `str()` names the key, the value that was given, and those that are allowed.

    Attributes:
        key: the key; "" if the text as a whole is wrong.
        closest: the known word that is closest to the one given; None if none is close.
    """

    def __init__(self, key: str, text: str, closest: str | None = None) -> None:
        super().__init__(text if closest is None else f"{text}; the closest is {closest!r}")
        self.key = key
        self.closest = closest


class Attempts(NamedTuple):
    """A number of attempts, and its relation to a job's: "=", ">", ">=", "<" or "<="."""

    relation: str
    number: int

    def __str__(self) -> str:
        return f"{self.relation.removeprefix('=')}{self.number}"


#: A time, in UTC, or a span back from the present.
Moment = datetime | timedelta


@dataclass(frozen=True)
class Filter:
    """The jobs that meet all its conditions; without any, all jobs.

    `parse` and `of` make one of what a user has given, and validate it. `str()` returns its text, of which `parse`
    makes an equal filter.

    Attributes:
        state: the states, of which a job has one; empty for all.
        queue: the queue.
        name: the name of the job, in which `*` stands for any characters and `?` for one.
        exception: the class of an exception with which an attempt failed: dotted, or its last part.
        tag: one of its tags.
        since: the time from which jobs were enqueued.
        until: the time before which they were enqueued.
        pipeline: the id of the pipeline.
        consumer: the name of the consumer that runs it, or ran it last.
        unique_key: its unique key.
        attempts: the number of its attempts.
    """

    state: tuple[State, ...] = ()
    queue: str | None = None
    name: str | None = None
    exception: str | None = None
    tag: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    pipeline: UUID | None = None
    consumer: str | None = None
    unique_key: str | None = None
    attempts: Attempts | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the filter of a text such as `state:failed name:"shop.*" since:2h`.

        Raises:
            FilterError: it is none.
        """
        given: dict[str, list[str]] = {}
        for key, value in _terms(_short(text)):
            given.setdefault(key, []).append(value)
        return cls.of(given)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the filter of options or query parameters.

        Args:
            given: values by key, each as its text; a sequence has one value, or several for `state`. None, or
                an empty sequence, stands for a key that was not given. A `QueryDict` is taken as it is.

        Raises:
            FilterError: a key or a value is not allowed.
        """
        several = dict(given.lists()) if isinstance(given, QueryDict) else given
        found = {key: _validated(key, value) for key, value in several.items() if _is_given(value)}
        made = cls(**found)
        if _are_reversed(made.since, made.until):
            raise FilterError(
                "until",
                f"until is {_to_text(made.until)}; it must be after since, {_to_text(made.since)}",
            )
        return made

    def __bool__(self) -> bool:
        """Return whether it has any condition."""
        return bool(self.texts())

    def __str__(self) -> str:
        return " ".join(f"{key}:{_quoted(value)}" for key, value in self.texts().items())

    def texts(self) -> dict[str, str]:
        """Return its values by key, each as text, as options and query parameters have them."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {key: _to_text(value) for key, value in values if _is_given(value)}

    def fixed(self, now: float) -> Self:
        """Return the same filter with times in place of spans back, in seconds since the epoch.

        It takes the same jobs whenever it is used.
        """
        return replace(self, since=_fixed(self.since, now), until=_fixed(self.until, now))


KEYS = tuple(field.name for field in fields(Filter))


def search_terms(text: str) -> dict[str, list[str]]:
    """Return the values by key of the text of a search box, for `Filter.of`.

    Besides the terms of a filter it can have plain words: parts of the name of a job, or one word with `*` or `?`
    in place of the whole name.

    Raises:
        FilterError: it is too long, or a term is malformed.
    """
    given: dict[str, list[str]] = {}
    words: list[str] = []
    for key, value in _terms(_short(text), allows_words=True):
        (given.setdefault(key, []) if key else words).append(value)
    if words:
        is_glob = len(words) == 1 and bool({"*", "?"} & {*words[0]})
        given.setdefault("name", []).append(words[0] if is_glob else f"*{'*'.join(words)}*")
    return given


def _short(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise FilterError("", f"the filter has {len(text):,} characters; at most {LONGEST_TEXT:,}")
    return text


def _terms(text: str, *, allows_words: bool = False) -> Iterator[tuple[str, str]]:
    """Return the keys and values of a text; plain words, if they are allowed, with the key ""."""
    at = 0
    while rest := text[at:].lstrip():
        at = len(text) - len(rest)
        word = rest.split(maxsplit=1)[0]
        if (term := _TERM.match(text, at)) is not None:
            bare = term["bare"]
            yield term["key"], _ESCAPED.sub(r"\1", term["quoted"]) if bare is None else bare
            at = term.end()
        elif allows_words and ":" not in word:
            yield "", word
            at += len(word)
        else:
            raise FilterError("", _malformed(rest))


def _malformed(rest: str) -> str:
    word = rest.split(maxsplit=1)[0]
    key, colon, value = word.partition(":")
    if key in KEYS and not value:
        return f"{key} has no value; write {key}:VALUE without a space"
    if colon and value[:1] in ('"', "'"):
        return (
            f"{reprlib.repr(word)} is not closed; a value in quotes ends with one, before a space"
        )
    return f"{reprlib.repr(word)} is no term of a filter; write KEY:VALUE, with a key of {', '.join(KEYS)}"


def _is_given(value: object) -> bool:
    return value is not None and value not in ((), [])


def _validated(key: str, value: Any) -> Any:
    if key not in _VALIDATORS:
        raise FilterError(
            key,
            f"a filter has no key {reprlib.repr(key)}; the keys are {', '.join(KEYS)}",
            closest(str(key), KEYS),
        )
    several = (
        [*value] if isinstance(value, (list, tuple)) and type(value) is not Attempts else [value]
    )
    if key != "state" and len(several) > 1:
        raise FilterError(
            key, f"{key} is given {len(several)} times; only state can have several values"
        )
    return _VALIDATORS[key](key, several if key == "state" else several[0])


def closest(given: str, known: Iterable[str]) -> str | None:
    """Return the known word that is closest to one given; None if none is close."""
    by_lower = {word.lower(): str(word) for word in known}
    found = difflib.get_close_matches(given.lower()[:200], by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def _states(key: str, given: Sequence[Any]) -> tuple[State, ...]:
    words = [word.strip() for value in given for word in str(value).split(",")]
    for word in words:
        if word not in State:
            raise FilterError(
                key,
                f"{key} is {reprlib.repr(word)}; it must be one of {', '.join(State)}",
                closest(word, State),
            )
    return tuple(state for state in State if state in words)  # each once, in one order


def _text(longest: int) -> Callable[[str, Any], str]:
    def validate(key: str, value: Any) -> str:
        try:
            require_text(key, value, longest)
        except ValueError as error:
            raise FilterError(key, str(error)) from None
        return str(value)

    return validate


def _glob(key: str, value: Any) -> str:
    text = re.sub(r"\*+", "*", _text(LONGEST_NAME)(key, value))
    if text.count("*") > MOST_STARS:
        raise FilterError(key, f"{key} is {reprlib.repr(text)}; it can have {MOST_STARS} '*'")
    return text


def _moment(key: str, value: Any) -> Moment:
    if isinstance(value, str):
        value = _read_moment(key, value.strip())
    if isinstance(value, timedelta):
        if not timedelta(0) <= value <= _LONGEST_SPAN:
            raise FilterError(
                key, f"{key} is {value}; a span back has at most {_LONGEST_SPAN.days}d"
            )
        return timedelta(seconds=int(value.total_seconds()))
    if not isinstance(value, datetime):
        raise FilterError(key, f"{key} is {reprlib.repr(value)}; {_IS_TIME}")
    try:
        return datetime.fromtimestamp(to_time(key, value, 0.0), UTC)
    except ValueError as error:
        raise FilterError(key, str(error)) from None


def _read_moment(key: str, text: str) -> Moment:
    if (span := _SPAN.fullmatch(text)) is not None:
        seconds = int(span[1]) * _UNITS[span[2]]
        if seconds > _LONGEST_SPAN.total_seconds():
            raise FilterError(
                key, f"{key} is {text}; a span back has at most {_LONGEST_SPAN.days}d"
            )
        return timedelta(seconds=seconds)
    if (zoned := _ZONE_AFTER_SPACE.fullmatch(text)) is not None:
        text = f"{zoned[1]}+{zoned[2]}"
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise FilterError(key, f"{key} is {reprlib.repr(text)}; {_IS_TIME}") from None


def _id(key: str, value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise FilterError(
            key, f"{key} is {reprlib.repr(value)}; it must be the id of a pipeline, a UUID"
        ) from None


def _attempts(key: str, value: Any) -> Attempts:
    found = _ATTEMPTS.fullmatch(str(value).strip())
    if found is None:
        raise FilterError(key, f"{key} is {reprlib.repr(value)}; {_IS_COUNT}")
    if (number := int(found[2])) > _MOST_ATTEMPTS:
        raise FilterError(key, f"{key} is {reprlib.repr(value)}; at most {_MOST_ATTEMPTS:,}")
    return Attempts(found[1] or "=", number)


_VALIDATORS: dict[str, Callable[[str, Any], Any]] = {
    "state": _states,
    "queue": _text(LONGEST_QUEUE),
    "name": _glob,
    "exception": _text(LONGEST_EXCEPTION),
    "tag": _text(LONGEST_TAG),
    "since": _moment,
    "until": _moment,
    "pipeline": _id,
    "consumer": _text(LONGEST_CONSUMER),
    "unique_key": _text(LONGEST_KEY),
    "attempts": _attempts,
}


def _are_reversed(since: Moment | None, until: Moment | None) -> bool:
    if isinstance(since, datetime) and isinstance(until, datetime):
        return since >= until
    if isinstance(since, timedelta) and isinstance(until, timedelta):
        return since <= until
    return False


def _fixed(moment: Moment | None, now: float) -> Moment | None:
    if not isinstance(moment, timedelta):
        return moment
    return datetime.fromtimestamp(max(now - moment.total_seconds(), 0.0), UTC)


def _to_text(value: Any) -> str:
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case timedelta():
            seconds = int(value.total_seconds())
            unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0)
            return f"{seconds // _UNITS[unit]}{unit}"
        case Attempts() | UUID() | str():
            return str(value)
        case _:
            return ",".join(value)


def _quoted(text: str) -> str:
    """Return a value as a term has it: in quotes where it has a space, or begins like one in quotes."""
    if text and text[0] not in "\"'" and not any(each.isspace() for each in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
