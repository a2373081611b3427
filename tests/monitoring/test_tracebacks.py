"""Tracebacks: the frames of the project's code and those of libraries apart, whatever the text has."""

from __future__ import annotations

import traceback

import pytest

from djjp.consumer.failures import describe
from djjp.monitoring.tracebacks import MOST_LINES, MOST_PARTS, has_project_frames, parts

pytestmark = pytest.mark.one_database

LIBRARY = (
    '  File "/usr/lib/python3/dist-packages/requests/api.py", line {}, in get\n    return get()\n'
)
PROJECT = (
    '  File "/srv/shop/jobs.py", line {}, in charge\n    gateway.pay(order)\n    ~~~~~~~^^^^\n'
)
HEAD, END = "Traceback (most recent call last):\n", "shop.PaymentRefused: card declined\n"


def kinds(text: str) -> list[tuple[str, int]]:
    found = parts(text)
    assert "".join(part.text for part in found) == text
    return [(part.kind, part.frames) for part in found]


def test_frames_of_the_project_are_apart_from_those_of_libraries() -> None:
    text = HEAD + LIBRARY.format(1) * 3 + PROJECT.format(2) + LIBRARY.format(3) + END
    assert kinds(text) == [
        *[("text", 0), ("library", 3), ("project", 1), ("library", 1), ("text", 0)]
    ]
    assert parts(text)[-1].text == END
    assert has_project_frames(parts(text))
    assert not has_project_frames(parts(HEAD + LIBRARY.format(1) + END))


def test_chained_exceptions_are_told_apart() -> None:
    between = "\nDuring handling of the above exception, another exception occurred:\n\n"
    text = HEAD + PROJECT.format(1) + "KeyError: 7\n" + between + HEAD + PROJECT.format(2) + END
    assert [kind for kind, _ in kinds(text)] == [
        *["text", "project", "text", "chained", "text", "project", "text"]
    ]
    cause = between.replace(
        "During handling of the above exception, another exception occurred",
        "The above exception was the direct cause of the following exception",
    )
    assert ("chained", 0) in kinds(HEAD + PROJECT.format(1) + "E\n" + cause + HEAD + END)


def test_an_exception_group_keeps_its_lines_and_its_frames_are_found() -> None:
    def part(number: int) -> None:
        raise ValueError(f"item {number}")

    errors: list[Exception] = []
    for number in range(3):
        try:
            part(number)
        except ValueError as error:
            errors.append(error)
    try:
        raise ExceptionGroup("three items", errors)
    except ExceptionGroup as group:
        text = describe(group).traceback
    assert "+-+---------------- 1 ----------------" in text
    assert kinds(text).count(("project", 1)) + kinds(text).count(("project", 2)) == 4


def test_repeated_frames_and_lines_without_code_belong_to_their_frame() -> None:
    text = HEAD + PROJECT.format(1) + "  [Previous line repeated 980 more times]\n" + END
    assert kinds(text) == [("text", 0), ("project", 1), ("text", 0)]


@pytest.mark.parametrize("text", ["", "\n", "no traceback at all", "\0\x1b[31m\u202e", 'File "'])
def test_any_text_has_its_parts(text: str) -> None:
    kinds(text)


def test_thousands_of_lines_have_few_parts_and_keep_the_first_and_the_last_ones() -> None:
    alternating = "".join(PROJECT.format(n) + LIBRARY.format(n) for n in range(1000))
    text = HEAD + alternating + END
    found = parts(text)
    assert len(found) <= MOST_PARTS
    assert "".join(part.text for part in found) == text
    assert "left" in {part.kind for part in found}
    assert found[-1].text == END

    deep = parts(HEAD + PROJECT.format(1) * 5000 + END)
    assert [part.kind for part in deep] == ["text", "project", "left", "project", "text"]
    in_sight = "".join(part.text for part in deep if part.kind != "left")
    assert in_sight.count("\n") <= MOST_LINES + 2


def test_a_message_of_thousands_of_lines_keeps_its_last_lines_in_sight() -> None:
    text = HEAD + "E: " + "".join(f"line {n}\n" for n in range(5000))
    first, left, last = parts(text)
    assert (first.kind, left.kind, last.kind) == ("text", "left", "text")
    assert last.text.endswith("line 4999\n")


def test_a_syntax_error_has_its_place_as_text() -> None:
    with pytest.raises(SyntaxError) as raised:
        compile("x = = 1", "/srv/shop/jobs.py", "exec")
    assert kinds("".join(traceback.format_exception(raised.value)))
