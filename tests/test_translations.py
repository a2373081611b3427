"""Promises of the translations: each message is in each catalogue, whole, and as the program uses it."""

from __future__ import annotations

import gettext
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from djjp.admin.reasons import WORDS, of_many
from djjp.engine import bulk
from djjp.engine.rows import TABLE
from djjp.monitoring.operations import listed
from tests.support.catalogue import LOCALES, PACKAGE, catalogues, extracted, read

pytestmark = pytest.mark.one_pair

GERMAN = LOCALES / "de" / "LC_MESSAGES" / "django.po"
every_catalogue = pytest.mark.parametrize("path", list(catalogues()), ids=lambda p: p.parts[-3])
#: `%s`, `%(name)d`, `{}` and the elements of HTML; a space is no flag here, as in "95 % of the jobs".
_PLACEHOLDERS = re.compile(r"%\([a-z_]+\)[sd]|%[sd]|\{\}|</?[a-z]+[^>]*>")


def test_german_is_there() -> None:
    assert GERMAN in list(catalogues())


@pytest.mark.skipif(shutil.which("xgettext") is None, reason="makemessages takes GNU gettext")
def test_makemessages_finds_the_messages_of_each_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails: `make messages`, translate what is empty, and `make messages` again."""
    monkeypatch.chdir(tmp_path)
    found = set(extracted(tmp_path))
    for path in catalogues():
        assert found - set(read(path)) == set(), f"not in {path}"
        assert set(read(path)) - found == set(), f"only in {path}"


@every_catalogue
def test_each_message_is_translated(path: Path) -> None:
    lacking = [each.key for each in read(path).values() if not all(each.translations)]
    assert lacking == []
    assert [each.key for each in read(path).values() if each.is_fuzzy] == []


@every_catalogue
def test_each_translation_has_the_placeholders_of_its_message(path: Path) -> None:
    for message in read(path).values():
        _context, singular, plural = message.key
        for number, text in enumerate(message.translations):
            source = plural if plural and number else singular
            assert placeholders(text) == placeholders(source), text


@every_catalogue
def test_each_translation_ends_as_its_message_does(path: Path) -> None:
    """A label stays one, and a space that separates it from its neighbour stays."""
    for message in read(path).values():
        for text in message.translations:
            source = message.key[1]
            assert text[:1].isspace() == source[:1].isspace(), text
            assert text[-1:].isspace() == source[-1:].isspace(), text
            assert (text[-1] in ".:…?") == (source[-1] in ".:…?"), text


@every_catalogue
def test_the_compiled_catalogue_is_in_step(path: Path) -> None:
    with path.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    texts = compiled._catalog  # type: ignore[attr-defined]  # there is no other way to read it whole
    expected: dict[object, str] = {}
    for message in read(path).values():
        context, singular, plural = message.key
        key = f"{context}\x04{singular}" if context else singular
        forms = message.translations
        expected |= {(key, n): text for n, text in enumerate(forms)} if plural else {key: forms[0]}
    assert {key: text for key, text in texts.items() if key} == expected


def test_the_check_of_placeholders_finds_what_is_wrong() -> None:
    assert placeholders("%(name)s of %s") != placeholders("%(nam)s of %s")
    assert placeholders("<code>{}</code>") != placeholders("<code>{}")
    assert placeholders("95 % of the jobs") == placeholders("95 % der Jobs")


def placeholders(text: str) -> Counter[str]:
    return Counter(_PLACEHOLDERS.findall(text))


# The sources

_TRANSLATED = re.compile(r"\{% blocktranslate.*?\{% endblocktranslate %\}", re.DOTALL)
_COMMENT = re.compile(r"\{% comment.*?\{% endcomment %\}|\{#.*?#\}|<code\b.*?</code>", re.DOTALL)
#: Blocks that stand inside of a tag.
_ATTRIBUTES = re.compile(
    r"\{% block (?:bodyclass|live_attribute) %\}.*?\{% endblock %\}", re.DOTALL
)
_TAG = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_SHOWN = re.compile(r'\b(?:aria-label|title|placeholder|alt|data-text|data-done)="([^"]*)"')
#: Examples in a field, and the names of quantiles.
_SAME_EVERYWHERE = re.compile(r"45m, 18:30|shop\.\*|\bp(?:95|99)?\b|&[a-z]+;")


def unmarked(template: str) -> list[str]:
    """Return the visible texts of a template that no translation reaches."""
    source = _ATTRIBUTES.sub("", _COMMENT.sub("", template))
    source = _TAG.sub("", _TRANSLATED.sub("", source))
    texts = [*_SHOWN.findall(source), re.sub(r"<[^>]*>", "\n", source)]
    lines = [line for text in texts for line in _SAME_EVERYWHERE.sub("", text).splitlines()]
    return [line.strip() for line in lines if re.search("[A-Za-z]", line)]


def test_each_text_of_a_template_is_marked() -> None:
    templates = sorted((PACKAGE / "templates").rglob("*.html"))
    assert len(templates) > 40
    found = {each.name: unmarked(each.read_text(encoding="utf-8")) for each in templates}
    assert {name: texts for name, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "template",
    [
        "<p>Jobs</p>",
        '<p title="Jobs">{% translate "x" %}</p>',
        "{% if a %}yes{% endif %}",
        '<button data-done="Copied">{% translate "Copy" %}</button>',
    ],
)
def test_the_check_of_templates_finds_what_is_not_marked(template: str) -> None:
    assert len(unmarked(template)) == 1


def test_no_message_is_hidden_from_makemessages() -> None:
    """It finds no call inside of an f-string, and no function of another name."""
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert re.search(r"gettext\w* as (?!_$)\w+", source, re.MULTILINE) is None, path
        assert re.search(r"""f["'].*\{(?:_|n?gettext)\(""", source) is None, path


def test_each_reason_of_an_operation_has_words_which_are_those_of_monitoring() -> None:
    reasons = {
        value
        for name, value in vars(bulk).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    } - {TABLE}
    assert set(WORDS) == reasons
    for number in (1, 2, 1_204):
        skipped = dict.fromkeys(reasons, number)
        assert of_many(skipped) == listed(skipped)
