"""The site that `make docs` builds with Sphinx: these pages, and others that are made."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import django
from django.conf import settings

import djjp
from docs._ext import facts, pages, reference

# The project whose code is read. Nothing connects to its databases.
settings.configure(
    INSTALLED_APPS=[
        *("django.contrib.contenttypes", "django.contrib.auth", "django.contrib.admin"),
        *("djjp", "djjp.outbox"),
    ],
    DATABASES={alias: {"ENGINE": "django.db.backends.sqlite3"} for alias in ("default", "queue")},
    DATABASE_ROUTERS=["djjp.routers.QueueRouter"],
)
django.setup()

project = "djjp"
project_copyright = "djjp contributors"
release = djjp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_build", "_ext"]

html_theme = "furo"
html_title = f"djjp {release}"
html_copy_source = False

# A heading has the anchor that it has on a code host, so that links between pages lead there in both places.
myst_heading_anchors = 6


# Docstrings have `code` in single backticks.
default_role = "literal"
napoleon_custom_sections = [("Attributes", "params_style")]
# Links from annotations lead to the public names. The build has no network, so other libraries have no targets.
_PUBLIC = "|".join(re.escape(module) for module in facts.MODULES)
nitpick_ignore_regex = [
    (r"py:.*", rf"(?!({_PUBLIC})\.\w+$).*"),
    (r"py:.*", r"djjp\.backend\.T|djjp\.(monitoring\.requests|outbox\.relay)\.Call"),
]


def setup(app: Any) -> None:
    """Write the pages that are made, before Sphinx searches for pages."""
    app.connect("builder-inited", _make)
    app.connect("source-read", _relink)
    app.connect("doctree-read", _add_anchors)
    app.connect("autodoc-process-docstring", _keep_sentence, priority=400)


def _keep_sentence(
    app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon, which comes after this, from taking the words before a colon for the type of a property."""
    if what == "property":
        lines.insert(0, "")


def _make(app: Any) -> None:
    pages.write(pages.copies() | reference.pages())


def _relink(app: Any, name: str, source: list[str]) -> None:
    if "/" not in name:  # the pages that are made have the right links
        source[0] = pages.folded(pages.relinked(source[0], f"docs/{name}.md"))
    if name == "index":
        source[0] = pages.with_contents(source[0], {"Reference": reference.ROWS})


def _add_anchors(app: Any, doctree: Any) -> None:
    """Give each section the anchor of its heading, as an id: without it only Sphinx finds the section by it."""
    for node in doctree.findall():
        slug = node.get("slug") if hasattr(node, "attributes") else None
        if slug and slug not in node["ids"]:
            node["ids"].append(slug)
