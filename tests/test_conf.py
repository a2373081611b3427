from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from djjp import conf


def complaint(given: Any) -> str:
    with override_settings(DJJP=given), pytest.raises(ImproperlyConfigured) as caught:
        conf.current()
    return str(caught.value)


def test_without_any_setting_there_are_defaults() -> None:
    with override_settings():
        del settings.DJJP
        assert conf.current() == conf.Settings(
            db_name="queue",
            concurrency="threads",
            concurrency_limit=10,
            shutdown_timeout=25.0,
            heartbeat_limit=30.0,
            frozen_limit=300.0,
            max_rescues=3,
            keep_succeeded=timedelta(days=7),
            keep_failed=timedelta(days=30),
        )


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("db_name", "", "an alias in DATABASES"),
        ("db_name", None, "an alias in DATABASES"),
        ("db_name", 7, "an alias in DATABASES"),
        ("concurrency", "processes", "'threads' or 'asyncio'"),
        ("concurrency", None, "'threads'"),
        ("concurrency", ["threads"], "'threads'"),
        ("concurrency_limit", 0, "a whole number from 1 to 10,000"),
        ("concurrency_limit", 10_001, "a whole number from 1 to 10,000"),
        ("concurrency_limit", -1, "a whole number from 1 to 10,000"),
        ("concurrency_limit", 2.0, "a whole number from 1 to 10,000"),
        ("concurrency_limit", "2", "a whole number from 1 to 10,000"),
        ("concurrency_limit", True, "a whole number from 1 to 10,000"),
        ("concurrency_limit", None, "a whole number from 1 to 10,000"),
        ("shutdown_timeout", -0.1, "seconds, 0 or more"),
        ("shutdown_timeout", "25", "seconds, 0 or more"),
        ("shutdown_timeout", False, "seconds, 0 or more"),
        ("shutdown_timeout", None, "seconds, 0 or more"),
        ("shutdown_timeout", math.nan, "seconds, 0 or more"),
        ("max_rescues", -1, "a whole number, 0 or more"),
        ("max_rescues", 1.0, "a whole number, 0 or more"),
        ("max_rescues", True, "a whole number, 0 or more"),
        ("max_rescues", None, "a whole number, 0 or more"),
        *(
            (key, value, "seconds or a timedelta, above 0")
            for key in (
                *("heartbeat_limit", "frozen_limit", "keep_succeeded", "keep_failed"),
                "wait_alert",
            )
            for value in (0, -1, 0.0, True, "30", math.nan, timedelta(0), -timedelta(seconds=1))
        ),
        ("heartbeat_limit", None, "seconds or a timedelta, above 0"),
        *(
            ("redact", value, "a list of regular expressions, or None for Django's own")
            for value in ("iban", 3, re.compile("pin"), [""], [3], [b"iban"], {"iban": 1})
        ),
    ],
)
def test_an_invalid_value_is_refused_with_its_key_and_what_is_allowed(
    key: str, value: Any, allowed: str
) -> None:
    message = complaint({key: value})
    assert message.startswith(f"DJJP[{key!r}] is {value!r}; it must be ")
    assert allowed in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("db_name", "default"),
        ("concurrency", "threads"),
        ("concurrency_limit", 1),
        ("concurrency_limit", 10_000),
        ("shutdown_timeout", 0),
        ("shutdown_timeout", 0.5),
        ("shutdown_timeout", 3600),
        ("max_rescues", 0),
        ("max_rescues", 1000),
        ("frozen_limit", None),
        ("keep_succeeded", None),
        ("keep_failed", None),
        ("redact", None),
        ("redact", []),
        ("redact", ("iban", re.compile("^pin$"))),
        *(
            (key, value)
            for key in (
                *("heartbeat_limit", "frozen_limit", "keep_succeeded", "keep_failed"),
                "wait_alert",
            )
            for value in (1, 0.001, math.inf, timedelta(microseconds=1), timedelta.max)
        ),
    ],
)
def test_a_value_at_the_edge_of_the_allowed_range_is_accepted(key: str, value: Any) -> None:
    with override_settings(DJJP={key: value}):
        assert getattr(conf.current(), key) == value


def test_a_wrong_pattern_is_refused_with_its_reason() -> None:
    message = complaint({"redact": ["iban", "("]})
    assert message.endswith("('(': missing ), unterminated subpattern at position 0)")
    assert "made for bytes" in complaint({"redact": [re.compile(b"iban")]})
    assert "('': it is no text with a regular expression)" in complaint({"redact": [""]})


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("db", "db_name"),
        ("DB_NAME", "db_name"),
        ("concurency", "concurrency"),
        ("concurrency_limt", "concurrency_limit"),
        ("shutdown", "shutdown_timeout"),
        (3, ""),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_known_one(key: Any, closest: str) -> None:
    message = complaint({key: 1})
    assert message.startswith(f"DJJP has no key {key!r}; did you mean '{closest}")
    for known in ("db_name", "concurrency", "concurrency_limit", "shutdown_timeout"):
        assert known in message.partition("Its keys: ")[2]


@pytest.mark.parametrize("given", [None, "queue", ["db_name"], [], 5])
def test_a_setting_that_is_no_dictionary_is_refused(given: Any) -> None:
    assert complaint(given) == f"DJJP is {given!r}; it must be a dictionary of settings"


def test_overridden_settings_are_followed_there_and_back() -> None:
    before = conf.current().concurrency_limit
    with override_settings(DJJP={"concurrency_limit": 3}):
        assert conf.current().concurrency_limit == 3
        with override_settings(DJJP={"concurrency_limit": 4}):
            assert conf.current().concurrency_limit == 4
        assert conf.current().concurrency_limit == 3
    assert conf.current().concurrency_limit == before


def test_a_change_inside_the_dictionary_is_followed() -> None:
    with override_settings(DJJP={"concurrency_limit": 3}):
        assert conf.current().concurrency_limit == 3
        settings.DJJP["concurrency_limit"] = 4
        assert conf.current().concurrency_limit == 4
        settings.DJJP["concurrency_limit"] = 0
        with pytest.raises(ImproperlyConfigured):
            conf.current()
        del settings.DJJP["concurrency_limit"]
        assert conf.current().concurrency_limit == 10


def test_an_invalid_value_that_equals_the_valid_one_before_is_refused() -> None:
    """In Python 1 == True, which must not let True pass because 1 did."""
    for right, wrong in [(1, True), (10, 10.0)]:
        with override_settings(DJJP={"concurrency_limit": right}):
            assert conf.current().concurrency_limit == right
        assert repr(wrong) in complaint({"concurrency_limit": wrong})


def test_parsed_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        conf.current().concurrency_limit = 5  # type: ignore[misc]


def test_settings_can_be_any_mapping_as_one_read_from_a_file() -> None:
    with override_settings(DJJP=json.loads('{"concurrency_limit": 7}')):
        assert conf.current().concurrency_limit == 7
