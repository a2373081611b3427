from __future__ import annotations

import enum
import io
import json
import sys
import threading
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.http import QueryDict
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from djjp import codec
from djjp.codec import decode_arguments, decode_value, encode_arguments, encode_value
from djjp.exceptions import EncodeError

BERLIN = ZoneInfo("Europe/Berlin")
HALF_SECOND = timezone(timedelta(milliseconds=500))
LORD_HOWE = timezone(timedelta(hours=10, minutes=30))
ODD_OFFSET = timezone(-timedelta(hours=1, minutes=2, seconds=3, microseconds=4))


def trip(value: Any) -> Any:
    """The value after its way to the consumer, the same as an argument and as a result."""
    text = encode_value(value, "return value")
    assert text.isascii()
    [positional], keyword = decode_arguments(encode_arguments((value,), {"a": value}, None))
    back = decode_value(text)
    assert exact(positional) == exact(keyword["a"]) == exact(back)
    return back


def exact(value: Any) -> Any:
    """The value as something that is equal only where type, fold, zone, sign and digits are too."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(exact(item)) for item in value)
    if isinstance(value, (datetime, time)):
        zone = value.tzinfo
        place = zone.key if isinstance(zone, ZoneInfo) else value.utcoffset()
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, place
    if isinstance(value, Decimal):
        return kind, value.as_tuple()
    return kind, repr(value)


# Round trips


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        -(2**64) - 1,
        10**4000,
        0.0,
        -0.0,
        0.1,
        1e308,
        5e-324,
        1e16,
        "",
        "x",
        'it\'s "quoted" \\ud83d \\',
        "NUL \0 and \x1f and \u2028",
        "ünï😀",
        "\ud83d lone, high",
        "\udcff lone, low",
        "\ude00\ud83d lone, both, the wrong way round",
        "😀\ud83d",
        "$djjp",
        '{"$djjp": "uuid"}',
        [],
        [1, [2, [3, None]]],
        {},
        {"a": {"b": [1.5, "x"]}, "": None, "ü\0": 1},
    ],
    ids=ascii,
)
def test_what_json_can_say_comes_back_as_it_was(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 2, 29, 12, 30, 1, 2),
        datetime(2024, 2, 29),
        datetime.min,
        datetime.max,
        datetime(2024, 1, 1, fold=1),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=UTC, fold=1),
        datetime(2024, 1, 1, tzinfo=LORD_HOWE),
        datetime(2024, 1, 1, tzinfo=ODD_OFFSET),
        datetime(2024, 1, 1, tzinfo=ODD_OFFSET, fold=1),
        datetime(2024, 1, 1, tzinfo=HALF_SECOND, fold=1),
        datetime(2024, 1, 1, tzinfo=timezone(-timedelta.resolution)),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59))),
        datetime(2024, 7, 1, 12, tzinfo=BERLIN),
        datetime(1880, 1, 1, tzinfo=BERLIN),  # local mean time: +00:53:28
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN),  # a time that this day did not have
        datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
        date(2024, 2, 29),
        date.min,
        date.max,
        time(),
        time(23, 59, 59, 999999),
        time(2, 30, fold=1),
        time(12, tzinfo=UTC),
        time(12, tzinfo=ODD_OFFSET),
        time(12, tzinfo=HALF_SECOND),
        time(12, tzinfo=BERLIN),
        time(12, tzinfo=BERLIN, fold=1),
        time(12, tzinfo=ZoneInfo("UTC")),
        timedelta(),
        timedelta(days=-1, microseconds=1),
        timedelta.max,
        timedelta.min,
        timedelta.resolution,
        UUID("00000000-0000-0000-0000-000000000000"),
        UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),
        Decimal("9.90"),
        Decimal("-0"),
        Decimal("0E+3"),
        Decimal("1E-999999"),
        Decimal("1E+999999999999999999"),
        Decimal("1" * 5000 + ".0"),
        Decimal("NaN"),
        Decimal("-NaN123"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("-Infinity"),
        b"",
        bytes(range(256)),
        (),
        (1, (2, [3, ()])),
        set(),
        {1, "a", None, (2, frozenset({3}))},
        frozenset(),
        frozenset({UUID(int=1), date(2024, 1, 1)}),
    ],
    ids=ascii,
)
def test_what_json_cannot_say_comes_back_by_its_tag(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


def test_a_zone_comes_back_as_the_very_same_zone() -> None:
    assert trip(datetime(2024, 7, 1, tzinfo=BERLIN)).tzinfo is BERLIN
    assert trip(time(12, tzinfo=BERLIN)).tzinfo is BERLIN


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", 2: "b"},
        {None: 0},
        {True: 0, 0: 1},
        {"a": 1, 1: "a"},
        {(1, "x"): [1], date(2024, 1, 1): {2: 3}, UUID(int=5): None},
        {frozenset({1}): {b"k": Decimal("1.0")}},
        {"b": 1, 2: 2, "a": 3},
        {1: "😀"},
    ],
    ids=repr,
)
def test_a_dict_with_other_keys_than_text_comes_back_with_its_keys_and_their_order(
    value: dict[Any, Any],
) -> None:
    assert exact(trip(value)) == exact(value)


@pytest.mark.parametrize(
    "value",
    [
        {"$djjp": "uuid", "value": "00000000-0000-0000-0000-000000000000"},
        {"$djjp": "no such tag"},
        {"$djjp": None},
        {"$djjp": {"$djjp": {"$djjp": "set", "value": []}}},
        {"$djjp": "tuple", "value": (1, 2)},
        [{"a": {"$djjp": "dict", "value": [[1, 2]]}}],
        {"$djjp": 1, 2: 3},
        {"value": 1},
    ],
    ids=repr,
)
def test_a_dict_that_looks_like_a_tag_comes_back_as_the_dict_it_was(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


def test_an_argument_may_be_named_like_the_tag() -> None:
    assert decode_arguments(encode_arguments((), {"$djjp": "uuid"}, None)) == (
        [],
        {"$djjp": "uuid"},
    )


def test_arguments_are_the_json_that_one_would_write_by_hand() -> None:
    assert encode_arguments((42, "x"), {"copy": None}, None) == (
        '{"args":[42,"x"],"kwargs":{"copy":null}}'
    )
    assert encode_arguments((Decimal("9.90"),), {}, None) == (
        '{"args":[{"$djjp":"decimal","value":"9.90"}],"kwargs":{}}'
    )


def test_no_arguments_are_arguments() -> None:
    assert decode_arguments(encode_arguments((), {}, None)) == ([], {})


# Anything at all, nested in anything at all.

texts = st.text(st.characters(exclude_categories=())).filter(
    lambda text: json.loads(json.dumps(text)) == text
)
zones = st.none() | st.timezones()
DAY = timedelta(days=1) - timedelta.resolution
offsets = st.builds(timezone, st.timedeltas(-DAY, DAY))
hashables: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=zones | offsets, allow_imaginary=True)
    | st.times(timezones=zones | offsets)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values: st.SearchStrategy[Any] = st.recursive(
    hashables | st.decimals(allow_nan=True),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashables, max_size=4)
        | st.dictionaries(texts | st.just("$djjp"), inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(values)
@example({"$djjp": {1: {"$djjp"}}})
@example(time(tzinfo=timezone(timedelta.resolution)))  # found here: as text it is no offset at all
def test_any_value_comes_back_exactly(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.from_regex(r'\{"\$djjp":"[a-z]+","value":("?[0-9:T\-]*"?|\[.*\])\}'))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        decode_value(text)
    except ValueError as error:
        assert str(error).startswith("cannot decode")  # noqa: PT017  (it need not raise)


# Subclasses


class Colour(models.TextChoices):
    RED = "red", "Red"


class Level(enum.IntEnum):
    HIGH = 3


class Old(str, enum.Enum):  # noqa: UP042  (as it was written before StrEnum)
    ONE = "one"


class Access(enum.IntFlag):
    READ = 4
    WRITE = 2


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Celsius(float):
    def __float__(self) -> float:
        return 0.0


class Reversed(list[Any]):
    def __iter__(self) -> Any:
        return reversed([*super().__iter__()])


class FakeDate(date):
    pass


class FakeDatetime(datetime, FakeDate):
    pass


class Duration(timedelta):
    @property
    def days(self) -> int:
        return 7


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (SafeString("<b>"), "<b>"),
        (Colour.RED, "red"),
        (enum.StrEnum("Size", {"S": "small"}).S, "small"),  # type: ignore[attr-defined]
        (Old.ONE, "one"),
        (Loud("quiet"), "quiet"),
        (Level.HIGH, 3),
        (Access.READ | Access.WRITE, 6),
        (Celsius(1.5), 1.5),
        (type("Weight", (Decimal,), {})("1.50"), Decimal("1.50")),
        (type("Id", (UUID,), {})(int=5), UUID(int=5)),
        (type("Blob", (bytes,), {})(b"\xff"), b"\xff"),
        (type("Items", (list,), {})([1, (2,)]), [1, (2,)]),
        (Reversed([1, 2]), [1, 2]),
        (type("Tags", (set,), {})({1}), {1}),
        (type("Tags", (frozenset,), {})({1}), frozenset({1})),
        (Point(1, Point(2, 3)), (1, (2, 3))),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, {"a": [1]}), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (QueryDict("a=1&a=2"), {"a": ["1", "2"]}),
        ({SafeString("k"): 1, Colour.RED: 2}, {"k": 1, "red": 2}),
        ({Level.HIGH: 1}, {3: 1}),
        (FakeDate(2024, 1, 2), date(2024, 1, 2)),
        (FakeDatetime(2024, 1, 2, 3, tzinfo=BERLIN), datetime(2024, 1, 2, 3, tzinfo=BERLIN)),
        (type("Noon", (time,), {})(12, fold=1), time(12, fold=1)),
        (Duration(days=1, seconds=5), timedelta(days=1, seconds=5)),
    ],
    ids=ascii,
)
def test_a_value_of_a_subclass_arrives_as_its_base(value: Any, arrives: Any) -> None:
    assert exact(trip(value)) == exact(arrives)
    assert exact(trip([value])) == exact([arrives])


def test_a_frozen_clock_in_this_module_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing puts a subclass in place of each `datetime` and `date` that a module imported."""
    monkeypatch.setattr(codec, "datetime", FakeDatetime)
    monkeypatch.setattr(codec, "date", FakeDate)
    for value in (
        FakeDatetime(2024, 1, 2, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=BERLIN),
    ):
        assert type(trip(value)) is datetime
    assert type(trip(FakeDate(2024, 1, 2))) is date
    assert type(trip(date(2024, 1, 2))) is date


class Foreign(tzinfo):
    """A tzinfo of another make, as pytz and dateutil have them."""

    def __init__(self, offset: timedelta | None) -> None:
        self.offset = offset

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return self.offset

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str:
        return "foreign"


class Broken(Foreign):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise LookupError("no such zone")


def nameless_zone() -> ZoneInfo:
    """Berlin's zone, read from a file: it has no name to be found again by."""
    files = [Path(folder, "Europe/Berlin") for folder in zoneinfo.TZPATH]
    found = next((file for file in files if file.exists()), None)
    # BERLIN was found: where the system has no zones, they come from this package.
    with (found or resources.files("tzdata") / "zoneinfo/Europe/Berlin").open("rb") as lines:
        return ZoneInfo.from_file(lines)


def test_a_tzinfo_of_another_make_comes_back_as_its_offset() -> None:
    for moment in (
        datetime(2024, 1, 1, 12, tzinfo=Foreign(timedelta(hours=3))),
        datetime(2024, 1, 1, 12, tzinfo=Foreign(timedelta(hours=3)), fold=1),
        datetime(2024, 7, 1, 12, tzinfo=nameless_zone()),
    ):
        back = trip(moment)
        assert back == moment
        assert back.fold == moment.fold
        assert back.tzinfo == timezone(moment.utcoffset() or timedelta())
    assert trip(time(12, tzinfo=Foreign(timedelta(hours=3)))) == time(
        12, tzinfo=timezone(timedelta(hours=3))
    )


@pytest.mark.parametrize("value", [datetime(2024, 1, 1), time(12)], ids=repr)
@pytest.mark.parametrize(
    ("zone", "reason"),
    [(Foreign(None), "gives no offset; use a ZoneInfo"), (Broken(None), "no such zone")],
)
def test_a_tzinfo_that_gives_no_offset_is_refused(
    value: datetime | time, zone: tzinfo, reason: str
) -> None:
    assert reason in refusal(value.replace(tzinfo=zone))


def test_a_time_in_a_nameless_zone_is_refused() -> None:
    assert "gives no offset" in refusal(time(12, tzinfo=nameless_zone()))


# Refusals


def refusal(value: Any) -> str:
    """The message that refuses the value, the same for an argument and for a result."""
    with pytest.raises(EncodeError) as as_argument:
        encode_arguments((1, value), {}, lambda: ["order_id", "items"])
    with pytest.raises(EncodeError) as as_keyword:
        encode_arguments((), {"order_id": 1, "items": value}, None)
    with pytest.raises(EncodeError) as as_result:
        encode_value(value, "items")
    assert str(as_argument.value) == str(as_keyword.value) == str(as_result.value)
    assert str(as_argument.value).startswith("cannot encode items")
    assert len(str(as_argument.value)) < 400
    return str(as_argument.value)


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
        (Thing(), "which is <a thing> of type tests.test_codec.Thing: pass None"),
        (Unprintable(), "of type tests.test_codec.Unprintable: pass None"),
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
def test_all_else_is_refused_with_what_to_pass_instead(value: Any, words: str) -> None:
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


def test_the_first_argument_that_is_wrong_is_named() -> None:
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
def test_an_argument_without_a_name_is_named_by_its_place(
    names: Callable[[], list[str]] | None,
) -> None:
    with pytest.raises(EncodeError, match=r"^cannot encode argument 2, which is 1j"):
        encode_arguments((0, 0, 1j), {}, names)


def test_more_names_than_arguments_do_no_harm() -> None:
    with pytest.raises(EncodeError, match=r"^cannot encode copy_to, which is 1j"):
        encode_arguments((0,), {"copy_to": 1j}, lambda: ["order_id", "copy_to", "other"])


def test_names_are_asked_for_only_when_something_is_refused() -> None:
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


def test_a_query_is_not_run_to_be_shown() -> None:
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
def test_depth_without_end_is_refused_alike(levels: int) -> None:
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
    """How many more frames the stack takes."""
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
    """Whatever is left of the stack: a RecursionError would hide which argument was at fault."""

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


def test_text_nested_without_end_is_a_value_error() -> None:
    for text in ("[" * 200_000, '{"$djjp":"tuple","value":[' * 100_000):
        with pytest.raises(ValueError, match=r"^cannot decode"):
            decode_value(text)


# Decoding what no encoder made


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
    with pytest.raises(ValueError, match="is no tag that this version of djjp knows"):
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
