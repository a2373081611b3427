"""Session state: which statements can change what a database's session keeps beyond its transaction.

Such are settings, variables, temporary tables and locks of the session; the next job must not find them. A
statement counts as harmless only if its first word is known. One that is wrongly taken for a change costs its slot
one connect.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

# The first words of harmless statements, after spaces, brackets and comments; MySQL executes a comment with "!".
_HARMLESS = re.compile(
    r"(?:\s|\(|/\*(?!!)(?:[^*]|\*(?!/))*\*/|--[^\n]*\n)*"
    r"(?:SELECT|INSERT|UPDATE|DELETE|WITH|VALUES|MERGE|REPLACE|NOTIFY|SET\s+CONSTRAINTS"
    r"|EXPLAIN\s+(?:QUERY\s+PLAN\s+)?SELECT|BEGIN|START|COMMIT|END|SAVEPOINT|RELEASE|ROLLBACK)\b",
    re.IGNORECASE,
)
# What changes the session even there, in small letters: locks, settings, variables, tables made by SELECT, names
# with escapes, a second statement. A name alone is enough, because a quote or a comment can stand before its
# bracket. Each alternative begins with a plain character, which makes the search several times faster.
_CHANGING = re.compile(
    r"_lock(?<!xact_lock)(?:_shared)?\s*\(|advisory_lock|get_lock\b(?<!\wget_lock)|set_config|setseed|dblink|:="
    r"|pg_settings|pg_temp|replication_(?:origin|slot)|u&[\"']|;\s*\S"
    r"|into\b(?<!\winto)(?<!insert into)(?<!ignore into)(?<!merge into)(?<!replace into)"
)
# Longer texts, as of bulk inserts, would fill the cache.
_CACHED_LENGTH = 10_000


def is_unchanged_by(sql: Any) -> bool:
    """Return whether a statement certainly leaves the session as it was, once its transaction has ended."""
    if not isinstance(sql, str):
        return False
    return _cached(sql) if len(sql) < _CACHED_LENGTH else _is_harmless(sql)


def _is_harmless(sql: str) -> bool:
    return _HARMLESS.match(sql) is not None and _CHANGING.search(sql.lower()) is None


_cached = lru_cache(maxsize=500)(_is_harmless)
