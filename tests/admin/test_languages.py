"""Promises of the admin's pages in other languages: no text of them stays English, and numbers are localised."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from math import inf

import pytest
from django.conf import settings
from django.test import Client, override_settings
from django.utils import timezone, translation
from django.utils.translation import trans_real

from djjp.admin import display
from djjp.jobs import registry
from djjp.models import State
from tests.admin.test_every_page import everything, pages
from tests.project.shop.jobs import echo
from tests.support.admin import make_job
from tests.support.factories import consumer_row

pytestmark = pytest.mark.one_database

__all__ = ["everything"]  # the fixture


# A language in which each message is marked

_MARKED = re.compile("⟦[^⟦⟧]*⟧")


class Marked(trans_real.DjangoTranslation):
    """A language made of the messages themselves, each between marks."""

    def gettext(self, message: str) -> str:
        text = message.rpartition("\x04")[2]
        return f"⟦{text}⟧"

    def ngettext(self, singular: str, plural: str, number: float) -> str:
        return self.gettext(singular if number == 1 else plural)


@pytest.fixture
def marked() -> Iterator[None]:
    """Activate the language of marks."""
    with translation.override("de"):
        trans_real._active.value = Marked("de")  # type: ignore[attr-defined]  # no function activates an object
        yield


#: Elements whose text is data, or a sentence of `djjp.monitoring`, which is English in each language.
_DATA_TAGS = {"script", "style", "code", "pre", "time", "title", "textarea", "option"}
_DATA_CLASSES = {"djjp-headline", "djjp-causes", "djjp-sentence", "djjp-wait", "djjp-name"}
_DATA_CLASSES |= {"djjp-happened", "djjp-call", "djjp-chip", "djjp-code", "djjp-place"}
_VOID = {"br", "img", "input", "link", "meta", "hr", "wbr", "path", "rect", "circle", "line"}
_SHOWN = {"aria-label", "placeholder", "alt", "data-text", "data-done"}


class Texts(HTMLParser):
    """Collects the visible texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.texts += [found[name] for name in _SHOWN & found.keys()]
        if tag == "input" and found.get("type") == "submit":
            self.texts.append(found.get("value", ""))
        classes = {*found.get("class", "").split()}
        is_data = tag in _DATA_TAGS or bool(classes & _DATA_CLASSES)
        if tag not in _VOID:
            self._open.append((tag, is_data))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and not any(is_data for _tag, is_data in self._open):
            self.texts.append(" ".join(data.split()))


#: Data that the pages of `PAGES` have outside of the elements above, and texts that Django itself has in English.
_DATA = re.compile(
    r"shop\.[\w.*]+|\S*/shop/jobs\.py:[0-9]+|[0-9a-f-]{36}|[0-9.,]+ (?:ms|s|min|h)\b|\+00:00|\bUTC\b|\bChicago\b"
    r"|\b(?:superuser|default|stopped|imports|mail|elsewhere:1:a|threads|here|note|password|retry)\b"
    r"|(?:builtins\.)?ValueError(?:: privatefact)?|tenant-42|args\[0\]|\b(?:no_consumer|wait)\b|\bSearch\b"
)
#: Sentences of `djjp.monitoring`.
_ENGLISH = re.compile(r"No living consumer serves|[0-9]+ jobs? comes? before it")


def left(html: str) -> list[str]:
    """Return the texts of a page with words that are in no marks and are no data."""
    while (inner := _MARKED.sub("", html)) != html:
        html = inner
    parser = Texts()
    parser.feed(html)
    texts = [text for text in parser.texts if not _ENGLISH.match(text)]
    queues = {registry.get(name).options.queue for name in registry.names()}
    return [
        text
        for text in texts
        if text not in queues and re.search("[A-Za-z]{2}", _DATA.sub("", text))
    ]


def test_each_text_of_each_page_is_a_message_or_data(everything: Client, marked: None) -> None:
    now = timezone.now()
    consumer_row(name="elsewhere:1:a", heartbeat_at=now - timedelta(hours=1))
    make_job(State.RUNNING, name=echo.name, consumer="elsewhere:1:a", started_at=now)
    found = {key: left(response.content.decode()) for key, response in pages(everything)}
    assert len(found) > 20
    assert {key: texts for key, texts in found.items() if texts} == {}


def test_the_check_of_texts_finds_what_is_not_marked() -> None:
    assert left("<p>⟦All <b>jobs</b> of⟧ shop.echo</p>") == []
    assert left("<p>⟦All⟧ jobs</p>") == ["jobs"]
    assert left('<p aria-label="Jobs">⟦Jobs⟧</p>') == ["Jobs"]
    assert left("<p><code>python manage.py</code> starts</p>") == ["starts"]


# German


@pytest.fixture
def german() -> Iterator[None]:
    with translation.override("de"):
        yield


def test_pages_are_in_the_language_of_the_browser(everything: Client) -> None:
    middleware = "django.middleware.locale.LocaleMiddleware"
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, middleware]):
        german = everything.get("/admin/djjp/job/", headers={"Accept-Language": "de"})
        english = everything.get("/admin/djjp/job/", headers={"Accept-Language": "en"})
    assert "Jobs suchen" in german.content.decode()
    assert "Warteschlange" in german.content.decode()
    assert "Search jobs" in english.content.decode()


def test_django_shows_models_and_fields_in_the_same_language(
    everything: Client, german: None
) -> None:
    form = everything.get("/admin/djjp/schedule/add/").content.decode()
    assert "Zeitplan hinzufügen" in form
    assert "Zeitzone:" in form
    assert "Einen" in form
    assert str(State.FAILED.label) == "Fehlgeschlagen"


def test_messages_and_the_log_are_in_the_language_of_the_user(
    everything: Client, german: None
) -> None:
    job = make_job(State.READY, name=echo.name)
    shown = everything.post(f"/admin/djjp/job/{job.pk}/cancel/", follow=True).content.decode()
    assert "Abgebrochen." in shown


def test_numbers_and_durations_are_those_of_the_language(german: None) -> None:
    assert display.number(1_204) == "1.204"
    assert display.span(2.5) == "2,5 s"
    assert display.span(4 * 86_400) == "4 d"
    assert display.span(inf) == "unbegrenzt"
    assert display.ago(timezone.now() - timedelta(minutes=3)) == "vor 3 min"
    assert display.ago(timezone.now() + timedelta(minutes=3, seconds=1)) == "in 3 min"
    assert display.progress(1_204, 2_408) == "1.204 von 2.408 (50 %)"


def test_english_numbers_and_durations_stay_what_they_were() -> None:
    assert display.number(1_204) == "1,204"
    assert display.number("1204.5") == "1,204.5"
    assert display.span(2.5) == "2.5 s"
    assert display.span(40_000 * 86_400) == "40,000 days"
    assert display.span(inf) == "for ever"
    assert display.span(None) == ""
    assert display.ago(timezone.now() - timedelta(minutes=3)) == "3 min ago"
