"""Texts that the codec did not write: a value, or a ValueError."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from djjp.codec import decode_arguments, decode_value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1,]", ""),
        ("nul", "Expecting value"),
        ("1 2", "goes on after the value, at character 1"),
        ("NaN", "'NaN'"),
        ("[Infinity]", "'Infinity'"),
        ("-Infinity", "'-Infinity'"),
        ('[NaN,{"$djjp":"set","value":[]}]', "'NaN'"),
        (None, "cannot decode None"),
        (b"1", "cannot decode b'1'"),
        ("1" * 5000, "Exceeds the limit"),
    ],
)
def test_text_that_is_no_json_is_a_value_error(text: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"^cannot decode ") as caught:
        decode_value(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "tag", ['"complex"', '"builtins.eval"', '""', "null", "[]", "{}", "1", '"str"', '"list"']
)
def test_a_tag_that_is_unknown_is_a_value_error(tag: str) -> None:
    with pytest.raises(ValueError, match="is no tag of this version of djjp"):
        decode_value(f'[{{"$djjp":{tag},"value":[]}}]')


@pytest.mark.parametrize(
    ("tag", "payload"),
    [
        ("uuid", '"x"'),
        ("uuid", "null"),
        ("uuid", "[]"),
        ("decimal", '"x"'),
        ("decimal", "1"),
        ("decimal", "[0,[1],0]"),
        ("bytes", '"0"'),
        ("bytes", "3"),
        ("tuple", '"ab"'),
        ("set", '"ab"'),
        ("set", "[[]]"),
        ("set", '{"a":1}'),
        ("set", '[{"$djjp":"decimal","value":"sNaN"}]'),
        ("frozenset", "[{}]"),
        ("dict", '["abc"]'),
        ("dict", "[[1]]"),
        ("dict", "[[[],1]]"),
        ("dict", '{"a":1}'),
        ("date", '"2024-02-30"'),
        ("date", "1"),
        ("datetime", '"2024-13-01"'),
        ("datetime", "[]"),
        ("datetime", '["2024-01-01T00:00:00",2,null]'),
        ("datetime", '["2024-01-01T00:00:00",0,"No/Where"]'),
        ("datetime", '["2024-01-01T00:00:00",0,"../../etc/passwd"]'),
        ("datetime", '["2024-01-01T00:00:00",0,"Europe"]'),
        ("datetime", '["2024-01-01T00:00:00",0,86400000000]'),
        ("datetime", '["2024-01-01T00:00:00",0,{}]'),
        ("time", '"25:00"'),
        ("time", '["12:00",0,"No/Where"]'),
        ("timedelta", "1e3"),
        ("timedelta", "null"),
        ("timedelta", "9" * 30),
    ],
)
def test_a_tag_that_does_not_fit_its_value_is_a_value_error(tag: str, payload: str) -> None:
    with pytest.raises(ValueError, match=f"does not fit '{tag}'"):
        decode_value(f'[{{"$djjp":"{tag}","value":{payload}}}]')


@pytest.mark.parametrize("more", ["", ',"value":[],"more":1', ',"more":[]'])
def test_a_tag_without_just_its_value_is_a_value_error(more: str) -> None:
    with pytest.raises(ValueError, match="does not fit 'set': malformed"):
        decode_value(f'{{"$djjp":"set"{more}}}')


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "{}",
        '{"args":[]}',
        '{"kwargs":{}}',
        '{"args":{},"kwargs":{}}',
        '{"args":[],"kwargs":[]}',
        '{"args":{"$djjp":"tuple","value":[]},"kwargs":{}}',
    ],
)
def test_a_value_that_is_no_call_is_a_value_error(text: str) -> None:
    decode_value(text)
    with pytest.raises(ValueError, match=r"^these are not the arguments of a job"):
        decode_arguments(text)


def test_arguments_that_cannot_be_decoded_are_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^cannot decode"):
        decode_arguments('{"args":')


@pytest.mark.parametrize("name", ["antigravity", "this", "djjp.no_such_module.Thing"])
def test_a_module_that_a_text_names_is_not_imported(name: str) -> None:
    for text in (f'{{"$djjp":"{name}","value":[]}}', f'{{"$djjp":["{name}"],"value":"{name}"}}'):
        with pytest.raises(ValueError, match="is no tag"):
            decode_value(text)
    assert name not in sys.modules
