"""Every page is whole in light and dark, wide and narrow: nothing is refused, cut off or out of reach."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.browser.conftest import OpenTab
from tests.browser.pages import PAGES
from tests.browser.seed import Seeded

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.sqlite_only

#: Themes with widths, and rules of axe. Colours do not depend on the width, and most rules on neither.
LOOKS: list[tuple[Literal["light", "dark"], int, list[str] | None]] = [
    ("light", 1400, None),
    (
        "dark",
        375,
        ["color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size"],
    ),
]
#: Parts of Django's lists with barriers: a label that is a picture, and targets that are close together.
DJANGOS = ["#searchbar", "#changelist-filter", "#action-toggle"]
#: Ends the transitions of colours.
SETTLE = "document.getAnimations().forEach((each) => each.finish())"


@pytest.fixture(scope="session")
def axe() -> str:
    """Return the script of axe-core, which checks a page for barriers."""
    pytest.importorskip("axe_playwright_python", reason="install djjp[browser]")
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def barriers(page: Page, rules: list[str] | None) -> list[str]:
    """Return what axe finds on a page into which it was loaded, by some rules or all."""
    # It would copy style sheets into the page, which the policy forbids.
    options: dict[str, Any] = {"preload": False, "rules": {"target-size": {"enabled": True}}}
    if rules is not None:
        options["runOnly"] = rules
    found: dict[str, Any] = page.evaluate(
        "([exclude, options]) => axe.run({ exclude }, options)", [DJANGOS, options]
    )
    return [
        f"{each['id']}: {each['help']}: {node['html'][:300]} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def sideways(page: Page) -> list[str]:
    """Return the elements that make a page wider than its window."""
    found: list[str] = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            const cut = (element) => element.closest(".djjp-scroll, .results") !== null;
            return [...document.querySelectorAll("*")]
                .filter((each) => each.getBoundingClientRect().right > width + 1 && !cut(each))
                .map((each) => each.outerHTML.slice(0, 200));
        }"""
    )
    return found


#: Some pages at a time: they share what is seeded, and a tab.
AT_A_TIME = 6


@pytest.mark.parametrize("first", range(0, len(PAGES), AT_A_TIME))
def test_pages_are_whole_in_light_and_dark_wide_and_narrow(
    first: int, axe: str, open_tab: OpenTab, server: str, seeded: Seeded
) -> None:
    found: dict[str, str] = {}
    page = open_tab("")
    for name, address in list(PAGES.items())[first : first + AT_A_TIME]:
        page.goto(server + address(seeded))
        page.evaluate(axe)
        for scheme, width, rules in LOOKS:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.evaluate(SETTLE)
            faults = barriers(page, rules) + [f"too wide: {each}" for each in sideways(page)]
            found |= {f"{name}: {fault}": f"{scheme}, {width} px" for fault in faults}

    assert not found, "\n".join(f"{where}: {what}" for what, where in found.items())
