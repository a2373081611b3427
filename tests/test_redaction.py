from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter

from djjp import codec, redaction
from djjp.jobs import job, registry, shown
from djjp.models import Flag

pytestmark = pytest.mark.one_pair

HIDDEN = SafeExceptionReporterFilter.cleansed_substitute
MARK = "hunter2"


@contextmanager
def redact(patterns: Sequence[str | re.Pattern[str]] | None) -> Iterator[None]:
    with override_settings(DJJP={**settings.DJJP, "redact": patterns}):
        yield


@job(name="redaction.sign_in")
def sign_in(user: str, password: str = "", /, *extra: Any, note: str = "", **more: Any) -> None: ...


@job(name="redaction.tokens")
def tokens(a: int, *tokens: str, b: int = 0, **secrets: str) -> None: ...


def call(name: str, *args: Any, flags: int = 0, **kwargs: Any) -> dict[str, Any]:
    text = codec.encode_arguments(args, kwargs, None)
    found: dict[str, Any] = json.loads(shown.arguments(name, text, flags))
    return found


def result(value: Any) -> Any:
    return json.loads(shown.result(codec.encode_value(value, "the result")))


# Names


def test_a_positional_argument_is_hidden_by_its_parameters_name() -> None:
    assert call("redaction.sign_in", "ada", MARK)["args"] == ["ada", HIDDEN]


def test_a_keyword_argument_is_hidden_by_its_name() -> None:
    found = call("redaction.sign_in", "ada", note="x", api_token=MARK)
    assert found["kwargs"] == {"note": "x", "api_token": HIDDEN}


def test_what_star_args_and_star_kwargs_take_is_hidden_by_their_names() -> None:
    found = call("redaction.tokens", 1, MARK, MARK, b=2, first=MARK)
    assert found == {"args": [1, HIDDEN, HIDDEN], "kwargs": {"b": 2, "first": HIDDEN}}
    assert call("redaction.sign_in", "ada", "", 1, 2)["args"] == ["ada", HIDDEN, 1, 2]


@pytest.mark.parametrize("flag", [Flag.TAKES_INPUT, Flag.COLLECTS])
def test_behind_the_input_of_a_pipeline_positions_are_counted_from_the_second_parameter(
    flag: int,
) -> None:
    assert call("redaction.sign_in", MARK, 3, flags=flag)["args"] == [HIDDEN, 3]


def test_an_input_is_hidden_by_the_name_of_the_first_parameter() -> None:
    @job(name="redaction.first")
    def first(secret: str) -> None: ...

    assert shown.given("redaction.first", f'"{MARK}"') == f'"{HIDDEN}"'
    assert shown.given("redaction.sign_in", '{"x":1}') == '{"x":1}'
    assert MARK not in shown.given("redaction.sign_in", json.dumps([{"password": MARK}]))
    assert shown.given("redaction.gone", "1") == f'"{HIDDEN}"'


def test_an_argument_without_a_parameter_is_hidden_for_the_code_has_changed() -> None:
    @job(name="redaction.fewer")
    def fewer(a: int) -> None: ...

    assert call("redaction.fewer", 1, MARK)["args"] == [1, HIDDEN]


def test_all_arguments_of_a_job_that_is_not_registered_are_hidden() -> None:
    assert registry.find("redaction.gone") is None
    found = call("redaction.gone", MARK, [MARK], a=MARK)
    assert found == {"args": [HIDDEN, HIDDEN], "kwargs": {"a": HIDDEN}}


@pytest.mark.parametrize(
    "value",
    [
        {"password": MARK},
        [{"a": [{"Session_Key": MARK}]}],
        {"secrets": {"a": [MARK]}, "n": Decimal("1.5")},
        ({"token": (MARK,)}, {1, 2}),
        {1: {"password": MARK}},
        {("user", "password"): MARK},
        {b"password": MARK},
        {1: 2, "token": MARK},
        {"$djjp": 1, "token": MARK},
    ],
    ids=repr,
)
def test_a_key_of_a_dictionary_hides_its_value_at_any_depth(value: Any) -> None:
    assert MARK not in json.dumps(result(value))
    assert HIDDEN in json.dumps(result(value))
    found = call("redaction.sign_in", value, note=value)
    assert MARK not in json.dumps(found)
    assert found["args"] == [result(value)]


def test_what_has_no_secret_name_is_shown_as_it_was_written() -> None:
    text = '{"a":[1.10,{"b":1e400}],"when":{"$djjp":"date","value":"2026-05-04"}}'
    assert shown.result(text) is text
    assert call("redaction.sign_in", "ada", note={"a": [1]}) == {
        "args": ["ada"],
        "kwargs": {"note": {"a": [1]}},
    }


# Patterns


def test_a_list_replaces_the_default_and_its_texts_ignore_case() -> None:
    with redact(["iban", re.compile("^PIN$")]):
        found = result({"IBAN": 1, "customer_iban": 2, "PIN": 3, "pin": 4, "password": 5})
    assert found == {
        "IBAN": HIDDEN,
        "customer_iban": HIDDEN,
        "PIN": HIDDEN,
        "pin": 4,
        "password": 5,
    }


def test_djangos_pattern_can_be_listed_with_others() -> None:
    with redact([SafeExceptionReporterFilter.hidden_settings, "iban"]):
        assert result({"iban": 1, "password": 2, "a": 3}) == {
            "iban": HIDDEN,
            "password": HIDDEN,
            "a": 3,
        }


def test_an_empty_list_hides_nothing() -> None:
    with redact([]):
        assert call("redaction.gone", MARK, password=MARK) == {
            "args": [MARK],
            "kwargs": {"password": MARK},
        }
        assert shown.result("not json") == "not json"
        assert shown.given("redaction.gone", f'"{MARK}"') == f'"{MARK}"'


def test_a_pattern_that_fits_everything_keeps_the_form_of_a_call() -> None:
    with redact(["."]):
        found = call("redaction.sign_in", 1, note=2)
        assert result({"$": Decimal(1), "b": {1: {"c": MARK}}}) == {"$": HIDDEN, "b": HIDDEN}
        assert result(Decimal(1)) == {"$djjp": "decimal", "value": "1"}
    assert found == {"args": [HIDDEN], "kwargs": {"note": HIDDEN}}


# Damage and bounds


@pytest.mark.parametrize(
    "text",
    [
        "",
        MARK,
        f'"{MARK}',
        f'["{MARK}"',
        f'{{"args":["{MARK}"],"kwargs":{{}}',
        f'{{"args":"{MARK}","kwargs":{{}}}}',
        f'{{"args":["{MARK}"]}}',
        f'[{{"args":["{MARK}"],"kwargs":{{}}}}]',
        f'{{"args":["{MARK}"],"args":[],"kwargs":{{}}}}',
        f'{{"args":[],"kwargs":{{}},"more":"{MARK}"}}',
        f'{{"args":[],"kwargs":{{"a":{{"$djjp":"dict","value":"{MARK}"}}}}}}',
        f'{{"args":[],"kwargs":{{"a":{{"$djjp":"dict","value":[["token","{MARK}",1]]}}}}}}',
        f'{{"args":[],"kwargs":{{"a":{{"$djjp":"uuid","value":1,"token":"{MARK}"}}}}}}',
        "[" * 100_000 + f'"{MARK}"' + "]" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        "NaN",
    ],
    ids=lambda text: text[:50],
)
def test_damaged_text_is_hidden_as_a_whole_and_raises_nothing(text: str) -> None:
    for name in ("redaction.tokens", "redaction.gone"):
        assert MARK not in shown.arguments(name, text)
        json.loads(shown.arguments(name, text))
    assert MARK not in shown.given("redaction.gone", text)
    if text != "NaN" and not text.startswith(('{"args"', '[{"args"')):
        assert shown.result(text) == f'"{HIDDEN}"'


def test_a_text_that_is_too_long_is_hidden_as_a_whole() -> None:
    text = json.dumps("x" * redaction.LONGEST)
    assert shown.result(text) == f'"{HIDDEN}"'
    assert (
        shown.arguments("redaction.tokens", f'{{"args":[{text}],"kwargs":{{}}}}') == f'"{HIDDEN}"'
    )


def test_a_name_that_is_too_long_for_the_patterns_hides_its_value() -> None:
    assert HIDDEN in result({"x" * 1001: MARK}).values()


# What a developer sees


def test_the_repr_of_a_call_shows_no_secret() -> None:
    bound = sign_in.bind("ada", MARK, api_key=MARK)
    assert repr(bound) == f"<call redaction.sign_in('ada', '{HIDDEN}', api_key='{HIDDEN}')>"


def test_the_repr_of_a_call_that_is_too_long_to_read_shows_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redaction, "LONGEST", 10)
    assert repr(sign_in.bind("ada" * 10)) == f"<call redaction.sign_in({HIDDEN})>"
