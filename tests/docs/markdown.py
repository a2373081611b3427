"""Reads what the documentation says: fenced blocks, tables, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass

import django

from tests.support.processes import ROOT

#: Every page that users read, by its path in the repository.
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w[\w/]*\.py)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        page: the page's path in the repository.
        line: where its text begins there.
        language: the word behind the opening fence.
        text: what is between the fences.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file of the project that the block belongs in, as its first line says: `# shop/jobs.py`."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language == "python" else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = read(page)
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], _here(found[2]))
        for found in _FENCE.finditer(text)
    ]


def _here(text: str) -> str:
    """A block as it is for this Django: 5.2 has the framework of tasks in a package of its own."""
    return (
        text if django.VERSION >= (6, 0) else text.replace("from django.tasks", "from django_tasks")
    )


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def table(page: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so, cell by cell."""
    lines = iter(prose(page).splitlines())
    for line in lines:
        if _cells(line)[:1] == [first]:
            next(lines)  # the rule under the heads
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise LookupError(f"{page} has no table headed {first!r}")


def code(cell: str) -> str:
    """What stands in a cell, or at its start, between backticks."""
    found = re.match(r"`([^`]+)`", cell)
    assert found, f"no `code` in {cell!r}"
    return found[1]


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The fragments by which the page's headings are linked."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(page))
    return {heading.replace(" ", "-") for heading in kept}


def links(page: str) -> list[str]:
    """Where the page's links lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
