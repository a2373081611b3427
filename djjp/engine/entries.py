"""Entries of `DATABASES`: values that Django takes as they are, and that fail somewhere later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

# What drivers raise for a value in OPTIONS, or for an option that they do not know.
_REFUSED = (TypeError, ValueError)


def problem(alias: str) -> str | None:
    """Return the first wrong value in an entry, and what it must be; None if there is none.

    It does not connect. What only a driver can judge is left to it.
    """
    return next(_problems(alias, connections.settings[alias]), None)


def connect(alias: str) -> None:
    """Open this thread's connection, unless it is open.

    Raises:
        ImproperlyConfigured: the driver refuses a value of the entry.
        django.db.Error: the database does not answer.
    """
    try:
        connections[alias].ensure_connection()
    except _REFUSED as error:
        raise ImproperlyConfigured(f"DATABASES[{alias!r}] cannot be used: {error}") from error


def _problems(alias: str, entry: Mapping[str, Any]) -> Iterator[str]:
    options, zone, age = entry["OPTIONS"], entry["TIME_ZONE"], entry["CONN_MAX_AGE"]
    path = f"DATABASES[{alias!r}]"
    if not isinstance(options, Mapping):  # its text could have a password
        yield f"{path}['OPTIONS'] is of type {type(options).__name__}; it must be a dictionary"
        return
    if zone is not None and not _is_zone(zone):
        yield f"{path}['TIME_ZONE'] is {zone!r}; it must be the name of a time zone, as 'Europe/Berlin', or None"
    if age is not None and not _is_number(age):
        yield f"{path}['CONN_MAX_AGE'] is {age!r}; it must be a number of seconds, or None"
    vendor = _vendor(alias)
    if vendor == "sqlite":
        if not isinstance(entry["NAME"], (str, Path)):
            yield f"{path}['NAME'] is {entry['NAME']!r}; it must be the path of a file"
        if not _is_number(timeout := options.get("timeout", 0)):
            yield f"{path}['OPTIONS']['timeout'] is {timeout!r}; it must be a number of seconds"
        if not isinstance(command := options.get("init_command", ""), str):
            yield f"{path}['OPTIONS']['init_command'] is {command!r}; it must be SQL, as a text"
    elif vendor == "postgresql" and not isinstance(entry["NAME"], (str, type(None))):
        yield f"{path}['NAME'] is {entry['NAME']!r}; it must be the name of a database"


def _is_zone(value: Any) -> bool:
    try:
        ZoneInfo(value)
    except (OSError, KeyError, *_REFUSED):
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _vendor(alias: str) -> str:
    try:  # without a wrapper that Django would close in the end, and fail
        return str(connections.create_connection(alias).vendor)
    except ImproperlyConfigured:  # a check of its own reports a missing driver
        return ""
