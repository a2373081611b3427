"""Read the documentation: fenced blocks, tables, headings and links."""

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
        line: the line of the page at which its text begins.
        language: the word after the opening fence.
        text: the text between the fences.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file of the project that the first line names, as in `# shop/jobs.py`; None without one."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language == "python" else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = read(page)
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], _here(found[2]))
        for found in _FENCE.finditer(text)
    ]


def _here(text: str) -> str:
    """Return a block for this version of Django: on 5.2 the framework of tasks is a separate package."""
    return (
        text if django.VERSION >= (6, 0) else text.replace("from django.tasks", "from django_tasks")
    )


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return prose_of(read(page))


def prose_of(text: str) -> str:
    """Return the text of a page without its fenced blocks."""
    return _FENCE.sub("", text)


def table(page: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this heading, cell by cell."""
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
    """Return the text between the backticks with which a cell begins."""
    found = re.match(r"`([^`]+)`", cell)
    assert found, f"no `code` in {cell!r}"
    return found[1]


def headings(page: str) -> list[str]:
    return headings_of(read(page))


def headings_of(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose_of(text), re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Return the fragments of links to the headings of a page."""
    return anchors_of(read(page))


def anchors_of(text: str) -> set[str]:
    """Return the fragments of links to the headings of a text."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings_of(text))
    return {heading.replace(" ", "-") for heading in kept}


def links(page: str) -> list[str]:
    """Return the targets of the links of a page."""
    return links_of(read(page))


def links_of(text: str) -> list[str]:
    """Return the targets of the links of a text."""
    return re.findall(r"\]\(([^)\s]+)\)", prose_of(text))


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
