"""Every page can be used by keyboard alone: Tab reaches each control in order, and shows where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from djjp.models import Job, State
from tests.browser.conftest import OpenTab
from tests.browser.pages import PAGES
from tests.browser.seed import Seeded

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.sqlite_only

#: Marks the controls of a page with numbers, in their order; returns how many there are.
NUMBER = """() => {
    const controls = "a[href], button, input, select, textarea, summary, [tabindex='0']";
    const isShown = (each) => each.checkVisibility({ visibilityProperty: true }) && !each.disabled
        && each.type !== "hidden" && !each.closest("details:not([open]) > :not(summary)");
    const shown = [...document.querySelectorAll("#content-main :is(" + controls + ")")].filter(isShown);
    shown.forEach((each, number) => { each.dataset.number = number; });
    return shown.length;
}"""
FOCUSED = """() => {
    const each = document.activeElement, style = getComputedStyle(each);
    const isSeen = style.outlineStyle !== "none" || style.boxShadow !== "none" || each.matches("input, select");
    return [each.dataset.number ?? null, isSeen, each.outerHTML.slice(0, 120)];
}"""


def tabbed(page: Page, most: int) -> list[Any]:
    """Press Tab from the start of the content; return what was focused in it, in order."""
    page.evaluate(
        "() => { const main = document.querySelector('#content-main'); main.tabIndex = -1; main.focus(); }"
    )
    found = []
    for _ in range(most):
        page.keyboard.press("Tab")
        number, is_seen, html = page.evaluate(FOCUSED)
        if number is None:
            break
        found.append((int(number), is_seen, html))
    return found


@pytest.mark.parametrize(
    "name", ["app_list", "djjp_job_change failed", "djjp_job_pipeline", "djjp_job_pipeline_retry"]
)
def test_tab_reaches_every_control_in_order_and_shows_it(
    name: str, open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab(PAGES[name](seeded))
    count = page.evaluate(NUMBER)
    found = tabbed(page, count + 1)

    assert [number for number, _, _ in found] == list(range(count))
    assert [html for _, is_seen, html in found if not is_seen] == []


def test_enter_on_a_focused_button_retries_a_job(open_tab: OpenTab, seeded: Seeded) -> None:
    id = seeded.jobs[State.FAILED]
    page = open_tab(f"job/{id}/change/")
    page.get_by_role("button", name="Retry").first.focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")

    assert Job.objects.get(pk=id).state == State.READY
