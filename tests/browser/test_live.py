"""A page stays as its user left it while it is refreshed: focus, selection, what is open, and the scroll."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from django.contrib.sessions.models import Session

from djjp import queues
from djjp.admin import snapshot
from djjp.engine import Engine
from djjp.models import State
from tests.browser.conftest import OpenTab
from tests.browser.seed import Seeded, make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page, Request

pytestmark = pytest.mark.sqlite_only

SUMMARY = "[data-djjp=summary]"
#: Has the page refresh itself, as it does when its tab is shown again.
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(autouse=True)
def reads_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show each read for a second only: on a busy machine one takes long, and would be shown 19 times as long."""
    monkeypatch.setattr(snapshot, "LOAD", 1.0)
    snapshot.clear()


def is_fragment(request: Request) -> bool:
    return "x-djjp-fragment" in request.headers


@contextmanager
def fetched(page: Page) -> Iterator[list[str]]:
    """Note the addresses of the fragments that a page fetches."""
    addresses: list[str] = []

    def note(request: Request) -> None:
        if is_fragment(request):
            addresses.append(request.url)

    page.on("request", note)
    yield addresses
    page.remove_listener("request", note)


def pause_and_refresh(page: Page, queue: str = "default") -> None:
    """Pause a queue, and wait until the dashboard shows it."""
    queues.pause(queue)
    # The server is a thread of this process. A read that had begun before is forgotten with it.
    snapshot.clear()
    shown = page.locator(SUMMARY).get_by_text(f"The queue {queue} is paused")
    for _ in range(20):
        with page.expect_response(lambda response: is_fragment(response.request)):
            page.evaluate(REFRESH)
        page.wait_for_timeout(100)
        if shown.count():
            return
    raise AssertionError(page.locator(SUMMARY).inner_text())


def test_a_refresh_keeps_focus_selection_open_details_and_scroll(
    open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab()
    page.set_viewport_size({"width": 1400, "height": 400})
    details = page.locator(".djjp details").first
    details.locator("summary").first.click()
    page.locator("[data-queue] th").first.evaluate("each => getSelection().selectAllChildren(each)")
    focused = page.locator("[data-consumer] a, [data-djjp=consumers] [tabindex]").first
    focused.focus()
    focused.scroll_into_view_if_needed()
    page.evaluate("scrollTo(0, 300)")
    state = """() => [document.activeElement.outerHTML.slice(0, 60), String(getSelection()),
        document.querySelectorAll(".djjp details[open]").length]"""
    before = page.evaluate(state)
    top = focused.bounding_box()

    pause_and_refresh(page)

    assert page.evaluate(state) == before
    assert before[1] != ""
    assert before[2] >= 1
    after = focused.bounding_box()
    assert top is not None
    assert after is not None
    # The browser anchors what is in the window, though the page has grown above it.
    assert abs(after["y"] - top["y"]) <= 200


def test_a_hidden_tab_fetches_nothing_until_it_is_shown(open_tab: OpenTab, seeded: Seeded) -> None:
    page = open_tab()
    page.clock.install()
    page.reload()
    with fetched(page) as addresses:
        page.evaluate(HIDE, True)
        page.clock.run_for(60_000)
        assert addresses == []

        with page.expect_response(lambda response: is_fragment(response.request)):
            page.evaluate(HIDE, False)
        assert len(addresses) == 1

        with page.expect_response(lambda response: is_fragment(response.request)):
            page.clock.run_for(5_000)


def test_the_refresh_can_be_switched_off_and_the_choice_is_kept(
    open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab()
    page.clock.install()
    page.reload()
    page.get_by_label("Refresh").select_option("0")
    for _ in range(2):
        with fetched(page) as addresses:
            page.clock.run_for(120_000)
            page.evaluate(REFRESH)
            assert addresses == []
        assert page.get_by_label("Refresh").input_value() == "0"
        page.reload()


def test_a_page_whose_session_has_ended_leads_to_the_login(
    open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab()
    Session.objects.all().delete()
    page.evaluate(REFRESH)

    page.wait_for_url("**/admin/login/?next=/admin/djjp/")


def test_a_page_whose_server_does_not_answer_says_so_until_it_does(
    open_tab: OpenTab, seeded: Seeded, problems: list[str]
) -> None:
    page = open_tab()
    note = page.get_by_text("The server does not answer")
    assert not note.is_visible()
    page.route("**/dashboard/**", lambda route: route.abort())
    page.evaluate(REFRESH)
    note.wait_for()
    assert page.locator("[data-queue]").count() > 0

    page.unroute_all()
    page.evaluate(REFRESH)
    note.wait_for(state="hidden")
    assert [each for each in problems if "ERR_FAILED" not in each] == []
    problems.clear()


def test_a_page_shows_by_its_own_refreshes_what_has_changed(
    open_tab: OpenTab, engine: Engine, seeded: Seeded
) -> None:
    page = open_tab()
    page.get_by_label("Refresh").select_option("2")
    make(State.READY, queue="brand-new")

    page.locator("[data-queue=brand-new]").wait_for()


def test_a_copy_button_works_without_https(open_tab: OpenTab, seeded: Seeded) -> None:
    page = open_tab(host="shop.test")
    assert page.evaluate("isSecureContext") is False
    button = page.locator("[data-djjp-copy]").first
    source = page.locator("#" + str(button.get_attribute("data-djjp-copy")))
    button.click()
    assert button.inner_text() == button.get_attribute("data-done")

    page.evaluate("document.querySelector('.djjp').append(document.createElement('textarea'))")
    page.locator("textarea").focus()
    page.keyboard.press("Control+V")
    assert page.locator("textarea").input_value() == source.inner_text() != ""


def test_a_list_is_not_refreshed_while_jobs_are_ticked(open_tab: OpenTab, seeded: Seeded) -> None:
    page = open_tab("job/")
    page.get_by_label("All on this page").check()
    boxes = page.locator("[data-djjp-tick]")
    assert page.locator("[data-djjp-tick]:checked").count() == boxes.count() > 1
    boxes.first.uncheck()
    assert page.get_by_text(f"{boxes.count() - 1} ticked").is_visible()
    with fetched(page) as addresses:
        page.evaluate(REFRESH)
        page.wait_for_timeout(100)
        assert addresses == []

    page.get_by_label("All on this page").check()
    page.get_by_label("All on this page").uncheck()
    with page.expect_response(lambda response: is_fragment(response.request)):
        page.evaluate(REFRESH)
