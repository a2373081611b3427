"""What was measured, as aligned text for people and as JSON for programs."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """One figure, measured several times."""

    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        return cls(tuple(samples))

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def ratio(self, base: Spread) -> Spread:
        """This figure in units of the other, repeat by repeat."""
        return Spread(tuple(a / b for a, b in zip(self.samples, base.samples, strict=True)))


@dataclass(frozen=True)
class Column:
    """A heading, the key of its value in a row, and how to write a number."""

    heading: str
    key: str
    form: str = ""


@dataclass(frozen=True)
class Section:
    """One table. Rows hold texts, numbers, spreads, and None for what could not be measured."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


def text_of(section: Section) -> str:
    """The section as a table: texts to the left, numbers to the right."""
    lines = [[column.heading for column in section.columns]]
    lines += [[_cell(row[c.key], c.form) for c in section.columns] for row in section.rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    left = [not column.form for column in section.columns]
    table = [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([section.title, "", table[0], "  ".join("-" * w for w in widths), *table[1:]])


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "–"
    if not isinstance(value, Spread):
        return format(value, form)
    median = format(value.median, form)
    if len(value.samples) == 1:
        return median
    return f"{median} ({format(min(value.samples), form)}–{format(max(value.samples), form)})"


def header_of(facts: Mapping[str, str | int]) -> str:
    """One line about the machine."""
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in facts.items()]
    return f"djjp benchmarks: {', '.join(parts)}"


def json_of(facts: Mapping[str, str | int], sections: Sequence[Section]) -> str:
    """Everything, with every sample."""
    whole = {"machine": facts, **{s.name: [dict(row) for row in s.rows] for s in sections}}
    return json.dumps(whole, default=_plain, indent=2)


def _plain(value: Any) -> Any:
    if not isinstance(value, Spread):
        raise TypeError(f"{value!r} has no place in a report")
    samples = value.samples
    return {"median": value.median, "min": min(samples), "max": max(samples), "samples": samples}


def progress(text: str) -> None:
    """Tell whoever waits what goes on; never among the results."""
    print(f"… {text}", file=sys.stderr, flush=True)
