"""Tokens: their text is shown once, its hash is kept; scopes, globs, expiry and last use."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta

import pytest

from djjp import tokens
from djjp.durations import to_datetime, to_seconds
from djjp.engine import Engine
from djjp.models import Scope, Token


def test_a_token_authenticates_by_its_text_only(engine: Engine) -> None:
    made, text = tokens.create("shop", "read")
    found = tokens.authenticate(text)
    assert found is not None
    assert found.pk == made.pk
    for wrong in ("", "djjp_", text[:-1], text + "a", text.upper(), made.digest, f" {text}", "é"):
        assert tokens.authenticate(wrong) is None


def test_the_database_keeps_the_hash_of_a_token_and_not_its_text(engine: Engine) -> None:
    made, text = tokens.create("shop", "read")
    row = Token.objects.values().get()
    assert row["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert text.removeprefix("djjp_") not in str(row)
    assert str(made) == "shop"


def test_a_token_ends_at_its_time(engine: Engine) -> None:
    made, text = tokens.create("shop", "read", expires=timedelta(days=1))
    assert tokens.authenticate(text) is not None
    Token.objects.filter(pk=made.pk).update(expires_at=to_datetime(time.time() - 1))
    assert tokens.authenticate(text) is None
    assert tokens.has_expired(tokens.tokens()[0])


def test_a_revoked_token_allows_nothing(engine: Engine) -> None:
    _, text = tokens.create("shop", "read")
    assert tokens.revoke("shop")
    assert tokens.authenticate(text) is None
    assert not tokens.revoke("shop")


def test_the_last_use_is_noted_at_most_once_a_minute(engine: Engine) -> None:
    made, text = tokens.create("shop", "read")

    def last() -> float:
        at = Token.objects.get(pk=made.pk).last_used_at
        return 0.0 if at is None else to_seconds(at)

    assert last() == 0
    tokens.authenticate(text)
    first = last()
    assert first > 0
    tokens.authenticate(text)
    assert last() == first
    Token.objects.filter(pk=made.pk).update(last_used_at=to_datetime(first - 61))
    tokens.authenticate(text)
    assert last() >= first


def test_a_scope_includes_those_before_it() -> None:
    allowed = {
        scope: [str(each) for each in Scope if tokens.allows(Token(scope=scope), each)]
        for scope in ("read", "enqueue", "operate", "other")
    }
    assert allowed == {
        "read": ["read"],
        "enqueue": ["read", "enqueue"],
        "operate": ["read", "enqueue", "operate"],
        "other": [],
    }


@pytest.mark.parametrize(
    ("glob", "name", "is_met"),
    [
        ("*", "anything", True),
        ("shop.*", "shop.jobs.add", True),
        ("shop.*", "workshop.jobs.add", False),
        ("shop.*", "shopXjobs", False),
        ("*.add", "shop.jobs.add", True),
        ("shop", "shop", True),
        ("shop", "shop2", False),
        ("[a-z]", "a", False),
    ],
)
def test_a_glob_is_for_the_names_that_it_matches_as_a_whole(
    glob: str, name: str, is_met: bool
) -> None:
    token = Token(jobs=glob, queues=glob)
    assert tokens.covers(token, name, name) is is_met
    assert tokens.is_for_all(token) is (glob == "*")


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("", {}, "the name of a token"),
        ("n" * 101, {}, "100"),
        ("n", {"scope": "admin"}, "read, enqueue, operate"),
        ("n", {"jobs": ""}, "jobs"),
        ("n", {"queues": "*a*b*c*d*"}, "4 '*'"),
        ("n", {"expires": timedelta(0)}, "future"),
        ("n", {"expires": timedelta(days=3_000_000)}, "9999"),
    ],
)
def test_what_no_token_can_have_is_refused(
    engine: Engine, name: str, given: dict[str, object], text: str
) -> None:
    options: dict[str, object] = {"scope": "read", **given}
    with pytest.raises(ValueError, match=r"must be|can have|must have") as caught:
        tokens.create(name, **options)  # type: ignore[arg-type]  # wrong values are the point
    assert text in str(caught.value)
    assert tokens.tokens() == []


def test_two_tokens_cannot_have_one_name(engine: Engine) -> None:
    _, text = tokens.create("shop", "read")
    with pytest.raises(tokens.TokenNameTaken, match="'shop'"):
        tokens.create("shop", "operate")
    found = tokens.authenticate(text)
    assert found is not None
    assert found.scope == "read"
