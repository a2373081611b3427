"""Tokens of the HTTP interface: create, list, revoke and authenticate.

The text of a token is shown once. The queue's database keeps its SHA-256, which nobody can turn back: the text
has 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from datetime import datetime, timedelta
from functools import lru_cache

from django.db.models import Q

from djjp import bounds, engine
from djjp.durations import END_OF_TIME, to_datetime, to_seconds
from djjp.engine import Engine
from djjp.models import Scope, Token

__all__ = ["TokenNameTaken", "authenticate", "create", "revoke", "tokens"]

#: The beginning of each token, by which scanners of sources find one.
PREFIX = "djjp_"
LONGEST_NAME = 100
LONGEST_GLOB = 200
#: The number of `*` in a glob: each multiplies the time of a comparison.
MOST_STARS = 4
#: Seconds after which a use is noted again.
NOTED_EVERY = 60.0
_TEXT = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")


class TokenNameTaken(ValueError):
    """Another token has the name."""


def create(
    name: str,
    scope: str,
    *,
    jobs: str = "*",
    queues: str = "*",
    arguments: bool = False,
    expires: timedelta | datetime | None = None,
) -> tuple[Token, str]:
    """Create a token; return it, and its text, which nothing shows again.

    Args:
        scope: "read", "enqueue" or "operate"; each includes those before it.
        jobs: the names of the jobs that it is for, in which `*` stands for any characters.
        queues: the queues that it is for, likewise.
        arguments: whether it shows arguments, results and errors.
        expires: when it ends, or the time until then; None for never.

    Raises:
        ValueError: an argument is invalid, or another token has the name (`TokenNameTaken`).
        QueueUnavailable: the queue's database does not answer.
    """
    bounds.require_text("the name of a token", name, LONGEST_NAME)
    if scope not in Scope:
        raise ValueError(f"the scope is {scope!r}; it must be one of {', '.join(Scope)}")
    for option, glob in (("jobs", jobs), ("queues", queues)):
        bounds.require_text(option, glob, LONGEST_GLOB)
        if glob.count("*") > MOST_STARS:
            raise ValueError(f"{option} is {glob!r}; it can have {MOST_STARS} '*'")
    now = time.time()
    text = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=name,
        digest=digest(text),
        scope=str(scope),
        jobs=jobs,
        queues=queues,
        arguments=arguments,
        created_at=to_datetime(now),
        expires_at=None if expires is None else to_datetime(_end(expires, now)),
    )

    def write(engine: Engine) -> bool:
        rows = Token.objects.using(engine.db.alias)
        rows.bulk_create([token], ignore_conflicts=True)  # a call is made twice if it was lost
        return rows.filter(pk=token.pk).exists()

    if not engine.run(write):
        raise TokenNameTaken(f"there is a token {name!r} already; revoke it, or give another name")
    return token, text


def _end(expires: timedelta | datetime, now: float) -> float:
    end = now + expires.total_seconds() if isinstance(expires, timedelta) else to_seconds(expires)
    if not now < end <= END_OF_TIME:
        raise ValueError("the end of a token must be in the future, and before the year 9999")
    return end


def tokens() -> list[Token]:
    """Return all tokens by name, also those that have expired.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(lambda engine: list(Token.objects.using(engine.db.alias).order_by("name")))


def revoke(name: str) -> bool:
    """Delete a token, which ends its rights at once; return whether there was one of this name.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """

    def delete(engine: Engine) -> bool:
        deleted, _ = Token.objects.using(engine.db.alias).filter(name=name).delete()
        return deleted > 0

    return engine.run(delete)


def authenticate(text: str) -> Token | None:
    """Return the token with this text, and note that it is used; None if there is none, or it has expired.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    if not _TEXT.fullmatch(text):
        return None
    wanted, now = digest(text), time.time()

    def read(engine: Engine) -> Token | None:
        rows = Token.objects.using(engine.db.alias)
        found = rows.filter(digest=wanted).first()
        if (
            found is None
            or not hmac.compare_digest(found.digest, wanted)
            or has_expired(found, now)
        ):
            return None
        last = found.last_used_at
        if last is None or abs(now - to_seconds(last)) >= NOTED_EVERY:
            since = Q(last_used_at=None) if last is None else Q(last_used_at=last)
            rows.filter(since, pk=found.pk).update(last_used_at=to_datetime(now))
        return found

    return engine.run(read)


def has_expired(token: Token, now: float | None = None) -> bool:
    """Return whether the time of a token is over."""
    now = time.time() if now is None else now
    return token.expires_at is not None and to_seconds(token.expires_at) <= now


def allows(token: Token, scope: Scope) -> bool:
    """Return whether a token has a scope, its own or one that this includes."""
    order = [str(each) for each in Scope]
    return token.scope in order and order.index(token.scope) >= order.index(scope)


def covers(token: Token, job: str, queue: str) -> bool:
    """Return whether a token is for a job of this name in this queue."""
    return matches(token.jobs, job) and matches(token.queues, queue)


def is_for_all(token: Token) -> bool:
    """Return whether a token is for all jobs in all queues."""
    return token.jobs == token.queues == "*"


def matches(glob: str, name: str) -> bool:
    """Return whether a name matches a glob, in which `*` stands for any characters."""
    return glob == "*" or _pattern(glob).fullmatch(name) is not None


def digest(text: str) -> str:
    """Return the SHA-256 of a token's text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(1000)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, glob.split("*"))), re.DOTALL)
