"""The pages of the repository that lie outside `docs/`, as pages of the site; links between all of them."""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Where pages lie on the site, by the path in the repository.
ELSEWHERE = {
    "README.md": "docs/project/readme.md",
    "CONTRIBUTING.md": "docs/project/contributing.md",
    "CHANGELOG.md": "docs/project/changelog.md",
    "benchmarks/README.md": "docs/project/benchmarks.md",
    "example_multidb/README.md": "docs/project/example.md",
}

_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def relinked(text: str, page: str) -> str:
    """Return the text of a page with links that are right on the site.

    Args:
        page: the path of the page in the repository, from which its links lead.
    """
    here = posixpath.dirname(ELSEWHERE.get(page, page))

    def on_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[1]))
        return posixpath.relpath(ELSEWHERE.get(target, target), here)

    parts = []
    end = 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(on_the_site, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(on_the_site, text[end:])])


def folded(text: str) -> str:
    """Return the text of a page whose mermaid diagrams, which only a code host draws, are folded up as text."""
    return _DIAGRAM.sub(
        r"<details><summary>The picture, as text</summary>\n\n```text\n\1```\n\n</details>\n", text
    )


def copies() -> dict[str, str]:
    """Return the text of each page from outside `docs/`, by its path on the site."""
    return {
        place: relinked((ROOT / page).read_text(encoding="utf-8"), page)
        for page, place in ELSEWHERE.items()
    }


def write(pages: dict[str, str]) -> None:
    """Write pages into the folders of pages that are made, and remove all others from these folders."""
    for folder in {posixpath.dirname(place) for place in pages}:
        shutil.rmtree(ROOT / folder, ignore_errors=True)
        (ROOT / folder).mkdir()
    for place, text in pages.items():
        (ROOT / place).write_text(text, encoding="utf-8")


_GROUP = re.compile(r"^## (.+)\n\n((?:\|.*\n)+)", re.MULTILINE)


def with_contents(index: str, further: dict[str, list[tuple[str, str]]]) -> str:
    """Return the text of the index with a table of contents of each group, from the links in the group's table.

    Args:
        further: by group, the rows of pages that are made: a question, and a link.
    """

    def with_toctree(group: re.Match[str]) -> str:
        made = (f"| {question} | {link} |\n" for question, link in further.get(group[1], ()))
        table = "".join([group[2], *made])
        links = "\n".join(link.removesuffix(".md") for link in _LINK.findall(table))
        contents = f"```{{toctree}}\n:caption: {group[1]}\n:hidden:\n\n{links}\n```\n"
        return f"## {group[1]}\n\n{table}\n{contents}"

    return _GROUP.sub(with_toctree, index)
