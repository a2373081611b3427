"""Every page of the admin is looked at, and every button pressed: new ones fail here until they are listed."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client

import djjp
from djjp.engine import Engine
from tests.browser.acts import name_of, pressed
from tests.browser.conftest import session
from tests.browser.pages import NO_PAGES, PAGES, names
from tests.browser.seed import Seeded

TEMPLATES = Path(djjp.__file__).parent / "templates"


class Buttons(HTMLParser):
    """Finds the buttons of a page that send a form, by their names, and those that copy a text.

    Attributes:
        found: the names of buttons.
        copied: the ids of the texts that buttons copy.
        ids: all ids of the page.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address, self._form, self._actions = address, {"method": "get"}, [""]
        self.found: set[str] = set()
        self.copied: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given[key] for key in ("id",) if key in given]
        self.copied += [given[key] for key in ("data-djjp-copy",) if key in given]
        if tag == "form":
            self._form, self._actions = given, [""]
        elif tag == "option" and given.get("value", "").endswith("_selected"):
            self._actions.append(given["value"])
        elif given.get("type", "submit" if tag == "button" else "") == "submit":
            self._add(given)

    def _add(self, button: dict[str, str]) -> None:
        url = button.get("formaction") or self._form.get("action")
        path = urlsplit(urljoin(self._address, url)).path
        for action in self._actions[1:] or self._actions:
            sent = {button.get("name", ""): ""} | ({"action": action} if action else {})
            self.found.add(name_of(self._form.get("method", "get"), path, sent))


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    """Yield a client of a superuser."""
    client = Client()
    client.cookies["sessionid"] = session(None)
    yield client
    User.objects.all().delete()


def test_every_url_of_the_admin_is_a_page_that_the_browser_visits_or_none() -> None:
    listed = {name.partition(" ")[0] for name in PAGES} | set(NO_PAGES)

    assert listed - set(names()) == set(), "these are in no URLconf"
    assert set(names()) - listed == set(), (
        "enter these in PAGES or NO_PAGES of tests/browser/pages.py"
    )


@pytest.mark.sqlite_only
def test_every_button_of_the_admin_is_pressed_by_an_act(client: Client, seeded: Seeded) -> None:
    found, rendered, lost = set(), set(), []
    for name, address in PAGES.items():
        at = f"/admin/djjp/{address(seeded)}"
        response = client.get(at)
        rendered |= {each.name for each in response.templates}
        buttons = Buttons(at)
        buttons.feed(response.content.decode())
        found |= {each for each in buttons.found if "djjp_" in each}
        lost += [(name, each) for each in buttons.copied if buttons.ids.count(each) != 1]
    found |= {name for name, reason in NO_PAGES.items() if reason == "a button"}
    with_buttons = {
        str(path.relative_to(TEMPLATES))
        for path in TEMPLATES.rglob("*.html")
        if "<button" in path.read_text()
    } - {"admin/djjp/consumer_stack.html"}  # the answer to a button

    assert lost == [], "these buttons copy no text of their page"
    assert with_buttons - rendered == set(), "no page in PAGES shows the buttons of these"
    assert found - set(pressed()) == set(), "no act of tests/browser/acts.py presses these"
    assert set(pressed()) - found == set(), "no page in PAGES has these"
