"""The site has every page once, and the links on it lead to pages, files and headings that exist."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

import pytest
from django.apps import apps
from django.contrib.auth import management
from django.dispatch import Signal

from djjp import conf, signals
from djjp.errors import KINDS
from djjp.monitoring.incidents import KINDS as INCIDENTS
from docs._ext import facts, pages, reference
from tests.docs.markdown import PAGES, anchors_of, blocks, links_of, read
from tests.support.processes import ROOT

pytestmark = pytest.mark.one_pair

CONTENTS = {"Reference": reference.ROWS}


@cache
def whole_site() -> dict[str, str]:
    """Return the text of each page as Sphinx reads it, by its path on the site."""
    site = {page: pages.relinked(read(page), page) for page in PAGES if page.startswith("docs/")}
    return site | pages.copies() | reference.pages()


def broken(site: dict[str, str]) -> list[str]:
    """Return the links that lead nowhere, each with its page."""
    found = []
    headings = {page: anchors_of(text) for page, text in site.items()}
    for page, text in site.items():
        for link in links_of(text):
            path, _, fragment = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            target = target if path else page
            if "://" in link or link.startswith("mailto:"):
                continue
            exists = target in site or (not target.endswith(".md") and (ROOT / target).is_file())
            if not exists or (fragment and fragment not in headings[target]):
                found.append(f"{page}: {link}")
    return found


def test_links_on_the_site_lead_to_pages_files_and_headings() -> None:
    assert broken(whole_site()) == []


@pytest.mark.parametrize(
    "link", ["nowhere.md", "jobs.md#nothing", "#nothing", "images/none.png", "../README.md"]
)
def test_a_link_that_leads_nowhere_is_named(link: str) -> None:
    site = whole_site() | {"docs/queues.md": f"[text]({link})"}
    assert f"docs/queues.md: {link}" in broken(site)


def test_links_between_pages_are_right_wherever_the_pages_lie() -> None:
    text = "[a](docs/jobs.md#size) `[b](docs/jobs.md)` [c](CHANGELOG.md) [d](https://a.org/x.md) [e](#f)"
    assert pages.relinked(text, "README.md") == (
        "[a](../jobs.md#size) `[b](docs/jobs.md)` [c](changelog.md) [d](https://a.org/x.md) [e](#f)"
    )
    assert pages.relinked("[a](../README.md#x)\n[b](jobs.md)", "docs/queues.md") == (
        "[a](project/readme.md#x)\n[b](jobs.md)"
    )


def test_a_diagram_that_only_a_code_host_draws_is_folded_up() -> None:
    assert pages.folded("a\n```mermaid\nx --> y\n```\nb\n```text\nc\n```\n") == (
        "a\n<details><summary>The picture, as text</summary>\n\n```text\nx --> y\n```\n\n</details>\n"
        "b\n```text\nc\n```\n"
    )


def test_each_page_is_in_the_contents_once() -> None:
    index = pages.with_contents(whole_site()["docs/index.md"], CONTENTS)
    listed = re.findall(r"^[\w/-]+$", index, re.MULTILINE)
    listed += [f"{REFERENCE}/{module}".removeprefix("docs/") for module in facts.MODULES]
    assert sorted(f"docs/{page}.md" for page in listed) == sorted(
        {*whole_site()} - {"docs/index.md"}
    )


# Completeness


class Public(NamedTuple):
    """Something public that the site must have: on a page, and there in a section, if one is named."""

    kind: str
    name: str
    page: str
    section: str | None = None

    def is_on(self, site: dict[str, str]) -> bool:
        text = site.get(self.page, "")
        if self.section is not None:
            _, _, text = text.partition(f"\n## {self.section}\n")
            text, _, _ = text.partition("\n## ")
        return re.search(rf"(?<![\w.-]){re.escape(self.name)}(?![\w-])", text) is not None


REFERENCE = reference.FOLDER


#: By kind, what returns the names, and the pages: one that is made, and the one that explains them.
ON_PAGES: dict[str, tuple[Callable[[], Iterable[str]], list[str]]] = {
    "setting": (lambda: conf.Settings.__dataclass_fields__, ["reference/settings", "settings"]),
    "check": (lambda: [each.id for each in facts.checks()], ["reference/checks", "trouble"]),
    "error": (lambda: KINDS, ["reference/errors", "errors"]),
    "permission": (
        lambda: [each.name for each in facts.permissions()],
        ["reference/permissions", "admin"],
    ),
    "metric": (lambda: [each.name for each in facts.metrics()], ["reference/metrics", "metrics"]),
    "signal": (lambda: signals.__all__, ["reference/djjp.signals", "hooks"]),
    "incident": (lambda: [f"### {kind}" for kind in INCIDENTS], ["incidents"]),
    "command": (lambda: [words for words, _ in facts.commands()], ["reference/commands"]),
    "module": (lambda: facts.MODULES, ["reference/modules"]),
}


def _public() -> Iterator[Public]:
    for kind, (names, places) in ON_PAGES.items():
        yield from (Public(kind, name, f"docs/{page}.md") for name in names() for page in places)
    for words, command in facts.commands():
        for option in (name for each in facts.own_options(command) for name in each.opts):
            yield Public("option", option, f"{REFERENCE}/commands.md", words)
    for module, exported in facts.api().items():
        for each in exported:
            yield Public("name", f"## {each}", f"{REFERENCE}/{module}.md")


@cache
def public() -> list[Public]:
    """Return everything public."""
    return list(_public())


def missing(site: dict[str, str]) -> list[Public]:
    return [each for each in public() if not each.is_on(site)]


def test_everything_public_is_on_the_site() -> None:
    assert missing(whole_site()) == []


def test_every_kind_of_what_is_public_is_there() -> None:
    assert {each.kind for each in public()} == {*ON_PAGES, "option", "name"}


@pytest.mark.parametrize("kind", [*ON_PAGES, "option", "name"])
def test_what_is_missing_is_named(kind: str) -> None:
    removed = next(each for each in public() if each.kind == kind)
    name = re.escape(removed.name)
    without = re.sub(rf"(?<![\w.-]){name}(?![\w-])", "…", whole_site()[removed.page])
    site = whole_site() | {removed.page: without}
    assert removed in missing(site)


def test_the_facts_have_every_check_permission_signal_and_command() -> None:
    sources = "\n".join(path.read_text() for path in facts.SOURCE.rglob("*.py"))
    assert {each.id for each in facts.checks()} == {
        f"djjp.{id}" for id in re.findall(r"\"(?:djjp\.)?([EW]\d{3})\"", sources)
    }
    models = [
        m for label in ("djjp", "djjp_outbox") for m in apps.get_app_config(label).get_models()
    ]
    assert {each.name for each in facts.permissions()} == {
        f"{model._meta.app_label}.{codename}"
        for model in models
        for codename, _ in management._get_all_permissions(model._meta)  # type: ignore[attr-defined]  # it has no types
    }
    assert set(signals.__all__) == {n for n, v in vars(signals).items() if isinstance(v, Signal)}
    own = {path.stem for path in (facts.SOURCE / "management/commands").glob("[a-z]*.py")}
    assert {words.split()[0] for words, _ in facts.commands()} == own


def test_what_the_pages_import_is_public() -> None:
    imported = {
        (module, name.strip())
        for page in PAGES
        for block in blocks(page)
        for module, names in re.findall(
            r"^(?:>>> )? *from (djjp(?:\.\w+)*) import (.+)$", block.text, re.MULTILINE
        )
        for name in names.split(",")
    }
    assert len(imported) > 20
    api = facts.api()
    assert [
        (module, name)
        for module, name in sorted(imported)
        if name not in api.get(str(module), []) and f"{module}.{name}" not in api
    ] == []
