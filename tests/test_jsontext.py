"""JSON text, in the one form that djjp writes."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from djjp import jsontext

VALUES: list[Any] = [
    None,
    True,
    -(10**30),
    0.1,
    5e-324,
    "",
    'a"\\\n\0é\u2028😀\ud800',
    [],
    {},
    {"args": (1, [2, {"b": []}]), "kwargs": {"a": None}},
]


@pytest.fixture(params=["compiled", "python"], autouse=True)
def _(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With Python's compiled encoder, and without, as on a Python that has none."""
    if request.param == "python":
        monkeypatch.setattr(json.encoder, "c_make_encoder", None)
        importlib.reload(jsontext)
    yield
    monkeypatch.undo()
    importlib.reload(jsontext)


@pytest.mark.borrowed
@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_the_text_is_that_of_the_standard_encoder_without_spaces(value: Any) -> None:
    text = jsontext.dumps(value)

    assert text == json.dumps(value, separators=(",", ":"))
    assert text.isascii()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        jsontext.dumps([value])


def test_types_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        jsontext.dumps({"a": object()})


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(RecursionError):
        jsontext.dumps(value)
