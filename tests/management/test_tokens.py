"""`djjp token` creates, lists and revokes the tokens of the HTTP interface."""

from __future__ import annotations

import time

from djjp import tokens
from djjp.durations import to_seconds
from djjp.engine import Engine
from djjp.models import Token
from tests.management.conftest import Djjp


def test_a_new_token_is_printed_alone_and_works(engine: Engine, djjp: Djjp) -> None:
    ran = djjp("token", "create", "shop", "--scope", "enqueue", "--expires", "90d")
    assert ran.code == 0
    found = tokens.authenticate(ran.out.strip())
    assert found is not None
    assert (found.name, found.scope, found.jobs, found.queues) == ("shop", "enqueue", "*", "*")
    assert found.expires_at is not None
    assert abs(to_seconds(found.expires_at) - time.time() - 90 * 86_400) < 60
    assert "only time" in ran.err


def test_json_has_the_new_token_with_what_it_is_for(engine: Engine, djjp: Djjp) -> None:
    words = ["--jobs", "shop.*", "--queues", "mail", "--arguments", "--json"]
    document = djjp("token", "create", "a", "--scope", "read", *words).document("NewToken")
    assert tokens.authenticate(document["token"]) is not None
    assert (document["jobs"], document["queues"]) == ("shop.*", "mail")
    assert document["arguments"] is True


def test_the_list_shows_no_text_of_a_token(engine: Engine, djjp: Djjp) -> None:
    assert djjp("token", "list").out == "0 tokens\n"
    _, text = tokens.create("shop", "read")
    for words in (["token", "list"], ["token"], ["token", "list", "--json"], ["token", "--json"]):
        ran = djjp(*words)
        assert ran.code == 0
        assert "shop" in ran.out
        assert text not in ran.out
        assert Token.objects.get().digest not in ran.out
    assert djjp("token", "list", "--json").document("Tokens")["tokens"][0]["expires_at"] is None


def test_a_revoked_token_is_gone_and_an_unknown_one_gives_3(engine: Engine, djjp: Djjp) -> None:
    _, text = tokens.create("shop", "read")
    ran = djjp("token", "revoke", "shop", "other", "--json")
    document = ran.document("Revoked")
    assert ran.code == 3
    assert document["revoked"] == ["shop"]
    assert document["error"]["slug"] == "token-not-found"
    assert document["error"]["unknown"] == ["other"]
    assert tokens.authenticate(text) is None


def test_a_name_that_is_taken_gives_1(engine: Engine, djjp: Djjp) -> None:
    tokens.create("shop", "read")
    ran = djjp("token", "create", "shop", "--scope", "read", "--json")
    assert ran.code == 1
    assert ran.document("Failure")["error"]["slug"] == "conflict"


def test_wrong_options_give_2_and_create_nothing(engine: Engine, djjp: Djjp) -> None:
    for words in (
        ["a"],
        ["a", "--scope", "admin"],
        ["a", "--scope", "read", "--expires", "soon"],
        ["a", "--scope", "read", "--expires", "2001-01-01"],
        ["a", "--scope", "read", "--expires", "999999999d"],
        ["a", "--scope", "read", "--jobs", ""],
        ["", "--scope", "read"],
    ):
        assert djjp("token", "create", *words).code == 2, words
    assert tokens.tokens() == []
