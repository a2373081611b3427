"""Values that the codec refuses: what the message names, and how deep a value can be."""

from __future__ import annotations

import enum
import io
import threading
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy

from djjp.codec import decode_arguments, decode_value, encode_arguments, encode_value
from djjp.exceptions import EncodeError
from tests.support.codec import Celsius, Loud, refusal

BERLIN = ZoneInfo("Europe/Berlin")


class Fruit(enum.Enum):
    APPLE = "apple"


class Thing:
    def __repr__(self) -> str:
        return "<a thing>"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "of type object: pass None, bool, int,"),
        (Thing(), "which is <a thing> of type tests.test_codec_refusals.Thing: pass None"),
        (Unprintable(), "of type tests.test_codec_refusals.Unprintable: pass None"),
        (Thing, "of type type: pass None"),
        (ContentType(pk=5), "models.ContentType: pass its primary key, and load it in the job"),
        (ContentType.objects.all(), "QuerySet: pass a list of primary keys"),
        (Fruit.APPLE, "Fruit.APPLE"),
        (Fruit.APPLE, "Fruit: pass its value"),
        (enum.Flag("F", "A B").A, "pass its value"),  # type: ignore[attr-defined]
        (print, "<built-in function print>"),
        (lambda: None, "of type function"),
        ((n for n in [1]), "of type generator: pass a list of what it yields"),
        (iter([1]), "list_iterator"),
        ({}.keys(), "dict_keys"),
        (range(3), "of type range"),
        (io.StringIO("x"), "_io.StringIO"),
        (Path("x.csv"), "pass str() of it"),
        (gettext_lazy("Hello"), "pass str() of it"),
        (SimpleLazyObject(lambda: "x"), "SimpleLazyObject"),
        (1 + 2j, "(1+2j) of type complex"),
        (bytearray(b"x"), "of type bytearray"),
        (memoryview(b"x"), "of type memoryview"),
        (float("nan"), "nan of type float: JSON has no such number; pass None or a Decimal"),
        (float("inf"), "inf of type float"),
        (Celsius("-inf"), "Celsius: JSON has no such number"),
        (10**5000, "of type int: Exceeds the limit"),
        ("\ud83d\ude00", "of type str: JSON makes one character of the two surrogates in it"),
        (Loud("\ud83d\ude00"), "Loud: JSON makes one character"),
        (UTC, "of type datetime.timezone"),
        (BERLIN, "of type zoneinfo.ZoneInfo"),
        (Ellipsis, "of type ellipsis"),
        (ValueError("x"), "of type ValueError"),
        (threading.Lock(), "lock"),
    ],
    ids=lambda value: value[:40] if type(value) is str else type(value).__name__,
)
def test_other_types_are_refused_with_what_to_pass_instead(value: Any, words: str) -> None:
    assert words in refusal(value)
    assert words in refusal([value])


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, 2, 3, {"price": 1j}], "items[3]['price'], which is 1j of"),
        ({"a": (1, [1j])}, "items['a'][1][0], which is 1j of"),
        ({5: {"a": 1j}}, "items[5]['a'], which"),
        ({(1, 2): 1j}, "items[(1, 2)], which"),
        ({"a": {1j: 1}}, "items['a'] (a key), which is 1j"),
        ({(0, 1j): 1}, "items (a key)[1], which is 1j"),
        ([{1j}], "items[0] (a member), which is 1j"),
        (frozenset({(1, 1j)}), "items (a member)[1], which is 1j"),
        ([0, float("nan")], "items[1], which is nan"),
        ({"a": [0, 10**5000]}, "items['a'][1], which is a value of type int"),
        ({"a": ["", "\ud83d\ude00"]}, "items['a'][1], which"),
        ({"\ud83d\ude00": 1}, "items (a key), which"),
        ({"k" * 100: 1j}, "items['kkkkkkkkkkkk...kkkkkkkkkkkkk'], which"),
        ({"{}": 1j}, "items['{}'], which"),
    ],
    ids=lambda value: value if type(value) is str else "",
)
def test_a_refusal_names_the_path_in_the_argument(value: Any, path: str) -> None:
    assert path in refusal(value)


def test_the_first_refused_argument_is_named() -> None:
    with pytest.raises(EncodeError, match=r"^cannot encode b\[0\], "):
        encode_arguments((1, [1j], 2j), {"c": 3j}, lambda: ["a", "b", "c"])
    with pytest.raises(EncodeError, match=r"^cannot encode copy_to, "):
        encode_arguments((1, [2], "x"), {"silent": True, "copy_to": 3j}, lambda: ["a", "b", "c"])


def failing() -> list[str]:
    raise ValueError("no signature found")


@pytest.mark.parametrize(
    "names",
    [None, list, failing, lambda: ["a"], lambda: ["a", "b"]],
    ids=["not given", "none", "not found", "one", "two"],
)
def test_an_argument_without_a_name_is_named_by_its_position(
    names: Callable[[], list[str]] | None,
) -> None:
    with pytest.raises(EncodeError, match=r"^cannot encode argument 2, which is 1j"):
        encode_arguments((0, 0, 1j), {}, names)


def test_more_names_than_arguments_do_no_harm() -> None:
    with pytest.raises(EncodeError, match=r"^cannot encode copy_to, which is 1j"):
        encode_arguments((0,), {"copy_to": 1j}, lambda: ["order_id", "copy_to", "other"])


def test_names_are_computed_only_for_a_refusal() -> None:
    asked: list[str] = []

    def names() -> list[str]:
        asked.append("asked")
        return ["number", "letter", "items"]

    encode_arguments((1, "x", [UUID(int=1), "😀"]), {"a": "😀"}, names)
    assert asked == []
    with pytest.raises(EncodeError, match="cannot encode letter"):
        encode_arguments((1, 1j, []), {}, names)
    assert asked


def test_an_argument_whose_own_name_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(EncodeError, match="JSON makes one character of two surrogates"):
        encode_arguments((), {"\ud83d\ude00": 1}, None)


def test_a_refusal_is_a_type_error_without_the_codecs_own_errors_behind_it() -> None:
    with pytest.raises(TypeError) as caught:
        encode_arguments((object(),), {}, None)
    assert caught.value.__suppress_context__


def test_a_refused_query_is_not_run() -> None:
    class Shop(models.QuerySet[ContentType]):
        def __repr__(self) -> str:
            pytest.fail("the query would be run")

    assert "which is a query of type" in refusal(Shop(ContentType))


# Depth


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS = [
    lambda value: [value],
    lambda value: (value,),
    lambda value: {"a": value},
    lambda value: {1: value},
    lambda value: frozenset({value}),
    lambda value: {(value,): 1} if value == 1 else {"$djjp": value},
]
wraps = pytest.mark.parametrize(
    "wrap", WRAPS, ids=["list", "tuple", "dict", "pairs", "set", "tag-like"]
)


@wraps
def test_two_hundred_levels_come_back(wrap: Callable[[Any], Any]) -> None:
    levels = 199 if wrap is WRAPS[-1] else 200  # its first wrap is of two levels
    value = nested(levels, wrap)
    assert decode_arguments(encode_arguments((value,), {"a": value}, None)) == (
        [value],
        {"a": value},
    )
    assert decode_value(encode_value(value, "return value")) == value


@wraps
def test_one_level_more_is_refused_by_the_arguments_name(wrap: Callable[[Any], Any]) -> None:
    assert "nested deeper than 200 levels, or contains itself" in refusal(nested(201, wrap))


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_any_greater_depth_is_refused_alike(levels: int) -> None:
    value = nested(levels, lambda value: [value])
    try:
        assert "nested deeper than 200 levels" in refusal(value)
    finally:
        while value != 1:  # taken apart from outside: some interpreters cannot free it in one go
            value = value[0]


def circle_of_lists() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def circle_of_many() -> Any:
    value: dict[Any, Any] = {}
    value["a"] = ({1: [value]},)
    return value


@pytest.mark.parametrize("circle", [circle_of_lists, circle_of_many])
def test_a_value_that_contains_itself_is_refused(circle: Callable[[], Any]) -> None:
    assert "or contains itself" in refusal(circle())


def at_depth(frames: int, call: Callable[[], Any]) -> Any:
    return call() if frames == 0 else at_depth(frames - 1, call)


def room() -> int:
    """Return the number of further frames that the stack takes."""
    frames = 0

    def down() -> None:
        nonlocal frames
        frames += 1
        down()

    with pytest.raises(RecursionError):
        down()
    return frames


@pytest.mark.parametrize(
    "encode",
    [
        lambda value: encode_arguments((value,), {}, lambda: ["items"]),
        lambda value: encode_value(value, "items"),
    ],
    ids=["argument", "result"],
)
@pytest.mark.parametrize(
    "value",
    [1, nested(150, lambda value: [value]), nested(190, lambda value: {1: value})],
    ids=["flat", "lists", "pairs"],
)
def test_a_stack_that_is_almost_used_up_ends_in_the_text_or_a_refusal(
    value: Any, encode: Callable[[Any], str]
) -> None:
    """With any rest of the stack: a RecursionError would hide which argument is at fault."""

    def attempt() -> str:
        try:
            return encode(value)
        except EncodeError as error:
            return str(error)

    # With fewer frames than these nothing can be called, the codec included.
    frames = room()
    outcomes = {at_depth(frames - left, attempt) for left in [*range(8, 40), *range(40, frames, 7)]}
    refusals = outcomes - {encode(value)}
    assert refusals or value == 1
    for message in refusals:
        assert message.startswith("cannot encode items: it is nested too deeply for what is left")


def test_deeply_nested_text_is_a_value_error() -> None:
    for text in ("[" * 200_000, '{"$djjp":"tuple","value":[' * 100_000):
        with pytest.raises(ValueError, match=r"^cannot decode"):
            decode_value(text)
