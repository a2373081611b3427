"""Catalogues of translations: read from their text, and made anew from the sources."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.core.management import call_command

import djjp

PACKAGE = Path(djjp.__file__).parent
LOCALES = PACKAGE / "locale"
_KEYWORD = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[[0-9]\])?) (".*")')


class Message(NamedTuple):
    """A message of a catalogue.

    Attributes:
        key: its context, its text and its plural; "" for one that it lacks.
        translations: one, or one for each form of the plural.
    """

    key: tuple[str, str, str]
    translations: tuple[str, ...]
    is_fuzzy: bool


def read(path: Path) -> dict[tuple[str, str, str], Message]:
    """Return the messages of a .po file by their keys, without its header."""
    found = {}
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        parts = _parts(block)
        if parts.get("msgid"):
            key = (parts.get("msgctxt", ""), parts["msgid"], parts.get("msgid_plural", ""))
            forms = tuple(text for name, text in parts.items() if name.startswith("msgstr"))
            assert key not in found, f"twice: {key}"
            found[key] = Message(key, forms, "fuzzy" in block.partition("msgid")[0])
    return found


def _parts(block: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if (begin := _KEYWORD.fullmatch(line)) is not None:
            name = begin[1]
            parts[name] = ast.literal_eval(begin[2])
        elif line.startswith('"'):
            parts[name] += ast.literal_eval(line)
    return parts


def extracted(home: Path) -> dict[tuple[str, str, str], Message]:
    """Return the messages of the sources, as `makemessages` finds them in a copy of the package."""
    copy = home / "djjp"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.mo", "*.po", "__pycache__"))
    call_command("makemessages", locale=["de"], no_location=True, verbosity=0)
    return read(copy / "locale" / "de" / "LC_MESSAGES" / "django.po")


def catalogues() -> Iterator[Path]:
    """Yield the .po file of each language."""
    yield from sorted(LOCALES.glob("*/LC_MESSAGES/django.po"))
