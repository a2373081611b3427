"""Print the figures: as aligned tables for readers, or as JSON for programs."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The samples of one figure that was measured several times."""

    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        return cls(tuple(samples))

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def ratio(self, base: Spread) -> Spread:
        """Return this figure in units of the other, repeat by repeat."""
        return Spread(tuple(a / b for a, b in zip(self.samples, base.samples, strict=True)))


@dataclass(frozen=True)
class Column:
    """A heading, the key of the column's value in a row, and the format of a number."""

    heading: str
    key: str
    form: str = ""


@dataclass(frozen=True)
class Section:
    """One table. Rows contain texts, numbers, spreads, and None for a figure that could not be measured."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


def publish(facts: Mapping[str, str | int], sections: Iterable[Section], *, as_json: bool) -> None:
    """Print each section as soon as it is measured, below a line about the machine.

    With JSON, these tables go to stderr, and stdout gets only the JSON, at the end.
    """
    tables = sys.stderr if as_json else sys.stdout
    print(header_of(facts), file=tables, flush=True)
    measured = []
    for section in sections:
        print(f"\n{text_of(section)}", file=tables, flush=True)
        measured.append(section)
    if as_json:
        print(json_of(facts, measured))


def text_of(section: Section) -> str:
    """Return the section as a table: texts to the left, numbers to the right."""
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
    """Return one line about the machine."""
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in facts.items()]
    return f"djjp benchmarks: {', '.join(parts)}"


def json_of(facts: Mapping[str, str | int], sections: Sequence[Section]) -> str:
    """Return all figures, with every sample."""
    whole = {"machine": facts, **{s.name: [dict(row) for row in s.rows] for s in sections}}
    return json.dumps(whole, default=_plain, indent=2)


def _plain(value: Any) -> Any:
    if not isinstance(value, Spread):
        raise TypeError(f"a report cannot contain {value!r}")
    samples = value.samples
    return {"median": value.median, "min": min(samples), "max": max(samples), "samples": samples}


def progress(text: str) -> None:
    """Report on stderr what is measured now; stdout contains results only."""
    print(f"… {text}", file=sys.stderr, flush=True)
