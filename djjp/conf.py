"""The `DJJP` setting: its keys, their types and defaults, validated.

Callers call `current()` at each use, so that `override_settings(DJJP=...)` takes effect at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

_DEFAULT_DB_NAME = "queue"
_DEFAULT_OUTBOX = ("default",)

#: The smallest `max_payload`: shorter arguments are enqueued without a look at the settings.
SMALLEST_PAYLOAD = 100


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_duration(value: Any) -> bool:
    return (_is_number(value) and value > 0) or (
        isinstance(value, timedelta) and value > timedelta(0)
    )


def _is_duration_or_none(value: Any) -> bool:
    return value is None or _is_duration(value)


def _is_release_or_none(value: Any) -> bool:
    return value is None or (
        isinstance(value, str)
        and 1 <= len(value) <= 100
        and value.isascii()
        and value.isprintable()
    )


def _are_aliases(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and all(isinstance(alias, str) and alias for alias in value)
        and len(set(value)) == len(value)
    )


def _are_dotted_paths(value: Any) -> bool:
    return _are_aliases(value) and all(
        "." in path and all(part.isidentifier() for part in path.split(".")) for path in value
    )


def _are_patterns_or_none(value: Any) -> bool:
    return value is None or (
        isinstance(value, (list, tuple)) and not any(map(_problem_of_pattern, value))
    )


def _problem_of_pattern(value: Any) -> str:
    """Return why a value is no regular expression; "" if it is one."""
    if isinstance(value, re.Pattern):
        return "" if isinstance(value.pattern, str) else "it is made for bytes"
    if not isinstance(value, str) or not value:
        return "it is no text with a regular expression"
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return ""


def _wrong_pattern(value: Any) -> str:
    """Return which of the patterns is wrong, and why; "" if none is, as where the value is no list."""
    for each in value if isinstance(value, (list, tuple)) else ():
        if problem := _problem_of_pattern(each):
            return f" ({each!r}: {problem})"
    return ""


def _key(default: Any, allowed: str, accepts: Callable[[Any], bool]) -> Any:
    """Return a dataclass field with the values that it accepts, as text and as a predicate."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "accepts": accepts})


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The values of `DJJP`, each valid. Every key is optional.

    Attributes:
        db_name: alias of the database that holds the queue. "default" keeps it with the application.
        concurrency: how a consumer runs several jobs at once: each on a thread, or coroutines on one
            event loop and functions on threads beside it.
        listen: whether a consumer on PostgreSQL receives NOTIFY and holds a lock of its session. If False, as
            behind a pooler in transaction mode, it polls, and only its heartbeats show that it is alive.
        concurrency_limit: the number of jobs that one consumer process runs at once.
        shutdown_timeout: seconds that running jobs get to end after SIGTERM or SIGINT, before the
            consumer releases them.
        heartbeat_limit: used where liveness cannot be read from a lock: the age of a consumer's last heartbeat at
            which it counts as dead.
        frozen_limit: the age of its last heartbeat at which a consumer counts as dead although it has its
            lock, because its process is stopped or stuck. None for never.
        max_rescues: the number of times that a job runs again after its consumer died, before it fails.
        keep_succeeded: how long a succeeded job is kept; None for ever.
        keep_failed: how long a failed or cancelled job is kept; None for ever.
        outbox: aliases of the application's databases whose transactions an enqueue joins.
        max_payload: the size in bytes of the encoded arguments of one job, and of its encoded result.
        wait_alert: for how long a job can be ready and not start, before that is an incident; None for ever.
        release: the release of this code, such as a version or a commit. It is stored with each call, so that a
            call which a later release cannot run names the release that enqueued it. None stores nothing.
        redact: patterns of the names whose values no page, answer or log shows, as texts (searched for anywhere in
            the name, in upper and lower case) or compiled; None for Django's own pattern of secrets.
        instruments: dotted paths of the classes whose code is around each enqueue and each run: see
            `djjp.instruments`.
        api_max_body: the size in bytes of the body of a request over HTTP.
        api_waits: the number of requests over HTTP that one process lets wait for the end of a job at once.

    Each duration is in seconds, or a timedelta.
    """

    db_name: str = _key(
        _DEFAULT_DB_NAME, "an alias in DATABASES", lambda v: isinstance(v, str) and v != ""
    )
    concurrency: str = _key(
        "threads", "'threads' or 'asyncio'", lambda v: v in ("threads", "asyncio")
    )
    listen: bool = _key(True, "True or False", lambda v: isinstance(v, bool))
    concurrency_limit: int = _key(
        10, "a whole number from 1 to 10,000", lambda v: _is_whole(v) and 1 <= v <= 10_000
    )
    shutdown_timeout: float = _key(25.0, "seconds, 0 or more", lambda v: _is_number(v) and v >= 0)
    heartbeat_limit: float | timedelta = _key(30.0, "seconds or a timedelta, above 0", _is_duration)
    frozen_limit: float | timedelta | None = _key(
        300.0, "seconds or a timedelta, above 0, or None for never", _is_duration_or_none
    )
    max_rescues: int = _key(3, "a whole number, 0 or more", lambda v: _is_whole(v) and v >= 0)
    keep_succeeded: float | timedelta | None = _key(
        timedelta(days=7), "seconds or a timedelta, above 0, or None for ever", _is_duration_or_none
    )
    keep_failed: float | timedelta | None = _key(
        timedelta(days=30),
        "seconds or a timedelta, above 0, or None for ever",
        _is_duration_or_none,
    )
    outbox: Sequence[str] = _key(
        _DEFAULT_OUTBOX, "a list of aliases in DATABASES, each once", _are_aliases
    )
    # A consumer holds the arguments and results of some hundred jobs in memory, all within a gigabyte.
    max_payload: int = _key(
        4_000_000,
        f"a whole number of bytes, {SMALLEST_PAYLOAD} to 500,000,000",
        lambda v: _is_whole(v) and SMALLEST_PAYLOAD <= v <= 500_000_000,
    )
    wait_alert: float | timedelta | None = _key(
        timedelta(minutes=5),
        "seconds or a timedelta, above 0, or None for never",
        _is_duration_or_none,
    )
    release: str | None = _key(
        None, "a text of 1 to 100 printable ASCII characters, or None", _is_release_or_none
    )
    redact: Sequence[str | re.Pattern[str]] | None = _key(
        None, "a list of regular expressions, or None for Django's own", _are_patterns_or_none
    )
    instruments: Sequence[str] = _key(
        (), "a list of dotted paths of classes, each once", _are_dotted_paths
    )
    api_max_body: int = _key(
        1_000_000,
        "a whole number of bytes, 1,000 to 500,000,000",
        lambda v: _is_whole(v) and 1_000 <= v <= 500_000_000,
    )
    api_waits: int = _key(
        20, "a whole number from 0 to 10,000", lambda v: _is_whole(v) and 0 <= v <= 10_000
    )


_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
# Cache: (key, parsed settings, the values). The values are kept alive so that their ids, which are part of the
# key, are not reused.
_last: tuple[tuple[Any, ...], Settings, list[Any]] = ((), Settings(), [])


def current() -> Settings:
    """Return the settings in force now.

    Raises:
        ImproperlyConfigured: `DJJP` holds an unknown key or a value that its key does not accept.
    """
    global _last
    given = getattr(settings, "DJJP", {})
    if type(given) is not dict and not isinstance(
        given, Mapping
    ):  # the first test is the quicker one
        return parse(given)
    # By identity, because each enqueue calls this, and because True equals 1.
    key = (*given, *map(id, given.values()))
    if key != _last[0]:
        _last = (key, parse(given), [*given.values()])
    return _last[1]


def db_name() -> str:
    """Return the queue's alias, even while another key is wrong, because routers run before system checks."""
    given = getattr(settings, "DJJP", {})
    is_mapping = type(given) is dict or isinstance(given, Mapping)
    name = given.get("db_name") if is_mapping else None
    return name if isinstance(name, str) and name else _DEFAULT_DB_NAME


def release_stamp() -> str:
    """Return what the release adds to the text of a call's arguments: nothing, where it is not set."""
    given = getattr(settings, "DJJP", {})
    # The first test is the quicker one: each enqueue calls this.
    is_mapping = type(given) is dict or isinstance(given, Mapping)
    release = given.get("release") if is_mapping else None
    return f',"release":{json.dumps(release)}' if release else ""


def outbox() -> Sequence[str]:
    """Return the aliases that can hold an outbox, like `db_name()` even while another key is wrong."""
    given = getattr(settings, "DJJP", {})
    aliases: Any = given.get("outbox") if isinstance(given, Mapping) else None
    return tuple(aliases) if _are_aliases(aliases) else _DEFAULT_OUTBOX


def parse(given: Any) -> Settings:
    """Check a `DJJP` dictionary and fill in the defaults; raises ImproperlyConfigured as `current()` does."""
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"DJJP is {given!r}; it must be a dictionary of settings")
    for key, value in given.items():
        field = _FIELDS.get(key)
        if field is None:
            raise ImproperlyConfigured(_unknown(key))
        if not field.metadata["accepts"](value):
            wrong = _wrong_pattern(value) if key == "redact" else ""
            raise ImproperlyConfigured(
                f"DJJP[{key!r}] is {value!r}; it must be {field.metadata['allowed']}{wrong}"
            )
    return Settings(**given)


def _unknown(key: object) -> str:
    close = difflib.get_close_matches(str(key), _FIELDS, n=1, cutoff=0.0)
    return f"DJJP has no key {key!r}; did you mean {close[0]!r}? Its keys: {', '.join(_FIELDS)}"
