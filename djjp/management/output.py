"""The output of commands on a terminal: lines, tables cut to its width, times as "3 min ago"."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import click

from djjp.bounds import one_line
from djjp.durations import spelled

#: The colours of rows, by the value in their column "state".
_COLORS: Mapping[str, Mapping[str, Any]] = {
    "failed": {"fg": "red"},
    "running": {"fg": "cyan"},
    "succeeded": {"fg": "green"},
    "paused": {"fg": "yellow"},
}
_GAP = "  "
#: The columns that are cut at their start: the last part of a dotted name distinguishes it.
_DOTTED = ("name", "job")
#: The characters to which a column is cut at least, before the last columns are left out.
_LEAST = 8


def echo(line: str = "", **style: Any) -> None:
    """Print a line; what could act on a terminal, such as in a name of a queue, is shown as an escape."""
    text = one_line(line)
    color = click.get_current_context().color
    click.echo(click.style(text, **style) if style else text, color=color)


def terminal_width() -> int | None:
    """Return the width to which lines are cut; None where standard output is no terminal."""
    if not (sys.stdout is not None and sys.stdout.isatty()):
        return None
    return shutil.get_terminal_size((80, 24)).columns


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = ("id",)
) -> None:
    """Print rows with aligned columns, numbers to the right.

    Args:
        whole: the columns that are never cut, because their values are typed in again.
    """
    first, *lines = table_lines(head, rows, terminal_width(), whole=whole)
    echo(first, bold=True)
    at = head.index("state") if "state" in head else None
    for row, line in zip(rows, lines, strict=True):
        echo(line, **({} if at is None else _COLORS.get(str(row[at]), {})))


def table_lines(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int | None,
    *,
    whole: Sequence[str] = ("id",),
) -> list[str]:
    """Return the lines of a table: its head, then its rows, no line wider than `width`."""
    cells = [[one_line(str(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(display_width(row[i]) for row in cells) for i in range(len(head))]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    fitted = _fit(head, widths, width, whole)
    lines = []
    for row in cells:
        shown = [
            padded(cell if title not in _DOTTED else cut_start(cell, w), w, right=number)
            for title, cell, w, number in zip(head, row, fitted, right, strict=False)
        ]
        lines.append(_GAP.join(shown).rstrip())
    return lines


def _fit(
    head: Sequence[str], widths: Sequence[int], width: int | None, whole: Sequence[str]
) -> list[int]:
    """Return the widths of the columns that fit: the widest are cut first, then the last are left out."""
    if width is None:
        return list(widths)
    fitted = [w if head[i] in whole else min(w, width) for i, w in enumerate(widths)]
    while sum(fitted) + len(_GAP) * (len(fitted) - 1) > width and len(fitted) > 1:
        flexible = [i for i, w in enumerate(fitted) if head[i] not in whole and w > _LEAST]
        if flexible:
            fitted[max(flexible, key=lambda i: fitted[i])] -= 1
        else:
            fitted.pop()
    return [min(fitted[0], width), *fitted[1:]]


def display_width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(each) for each in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a text that takes at most this number of columns, with "…" in place of what is left out."""
    if display_width(text) <= width:
        return text
    kept, used = [], 0
    for each in text:
        used += _columns(each)
        if used > width - 1:
            break
        kept.append(each)
    return "".join(kept) + "…" if width > 0 else ""


def cut_start(text: str, width: int) -> str:
    """Return a text that takes at most this number of columns, with "…" in place of its start."""
    if display_width(text) <= width:
        return text
    kept, used = [], 0
    for each in reversed(text):
        used += _columns(each)
        if used > width - 1:
            break
        kept.append(each)
    return "…" + "".join(reversed(kept)) if width > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a text cut or filled to a width."""
    text = cut(text, width)
    filling = " " * (width - display_width(text))
    return filling + text if right else text + filling


# Times


def span(seconds: float | None) -> str:
    """Return a duration as text: "45 ms", "3 min" or "2 h"; "-" for None."""
    return "-" if seconds is None else spelled(seconds)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 job", "1,204 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def is_interactive() -> bool:
    """Return whether somebody can answer a question: standard input and output are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def in_colors() -> bool:
    """Return whether standard output shows colours."""
    color = click.get_current_context().color
    if color is None:
        return terminal_width() is not None and not os.environ.get("NO_COLOR")
    return color
