"""Tracebacks as text, cut into parts: the frames of the project's code, those of libraries, and the exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from djjp.monitoring.frames import is_project

#: The parts of one traceback at most: those in the middle become one.
MOST_PARTS = 120
#: The lines of a part in sight at most: those in the middle become a part of their own.
MOST_LINES = 60

# Signs that indent the lines of an exception group.
_INDENT = r"[ |+\-]*"
_FRAME = re.compile(rf'({_INDENT})File "(.+?)", line [0-9]+, in .+')
_CHAINED = re.compile(
    rf"{_INDENT}(During handling of the above exception|The above exception was the direct cause)"
)


class Part(NamedTuple):
    """Lines of a traceback.

    Attributes:
        kind: "project" or "library" for frames; "chained" for the line between two exceptions; "text" for the
            others, such as the exceptions; "left" for lines from the middle of a long text.
        text: the lines, each with its end.
        frames: the number of frames; 0 for other kinds.
    """

    kind: str
    text: str
    frames: int

    @property
    def lines(self) -> int:
        """The number of lines."""
        return self.text.count("\n")


def parts(traceback: str) -> list[Part]:
    """Return the parts of a traceback in order; their texts are together the traceback.

    The last part of each exception is never "left" as a whole: its decisive lines are the last ones.
    """
    found = [short for part in _joined(_lines(traceback)) for short in _shortened(part)]
    if len(found) <= MOST_PARTS:
        return found
    head, tail = MOST_PARTS // 4, MOST_PARTS // 2
    middle = "".join(part.text for part in found[head:-tail])
    return [*found[:head], Part("left", middle, 0), *found[-tail:]]


def has_project_frames(found: Sequence[Part]) -> bool:
    """Return whether a frame of the project's code is among the parts."""
    return any(part.kind == "project" for part in found)


def _lines(traceback: str) -> Iterator[tuple[str, str, bool]]:
    """Return each line with its kind, and whether it begins a frame."""
    kind, indent = "text", -1
    for line in traceback.splitlines(keepends=True):
        if (frame := _FRAME.match(line)) is not None:
            kind, indent = "project" if is_project(frame[2]) else "library", len(frame[1])
            yield kind, line, True
        elif indent >= 0 and _belongs(line, indent):
            yield kind, line, False
        else:
            kind, indent = "text", -1
            yield "chained" if _CHAINED.match(line) else "text", line, False


def _belongs(line: str, indent: int) -> bool:
    """Return whether a line is one of code below a frame that is indented so."""
    if line[:indent].strip(" |+-"):
        return False
    inside = line[indent:]
    return inside.startswith(("  ", "[Previous line repeated"))


def _joined(lines: Iterator[tuple[str, str, bool]]) -> Iterator[Part]:
    """Return successive lines of one kind as one part."""
    held: list[str] = []
    current, frames = "", 0
    for kind, line, begins in lines:
        if kind != current and held:
            yield Part(current, "".join(held), frames)
            held, frames = [], 0
        current = kind
        held.append(line)
        frames += begins
    if held:
        yield Part(current, "".join(held), frames)


def _shortened(part: Part) -> Iterator[Part]:
    """Return a part, a long one with the lines of its middle as a part of their own."""
    lines = part.text.splitlines(keepends=True)
    if part.kind == "library" or len(lines) <= MOST_LINES:
        yield part
        return
    head, tail = MOST_LINES // 3, MOST_LINES // 2
    yield Part(part.kind, "".join(lines[:head]), part.frames)
    yield Part("left", "".join(lines[head:-tail]), 0)
    yield Part(part.kind, "".join(lines[-tail:]), part.frames)
