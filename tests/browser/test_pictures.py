"""Pictures of every page for the docs, light and dark, wide and narrow: `make screenshots` writes them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from djjp.models import Consumer
from tests.browser.conftest import OpenTab, pictures
from tests.browser.pages import PAGES
from tests.browser.seed import Seeded

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.sqlite_only,
    pytest.mark.skipif(pictures() is None, reason="`make screenshots` makes pictures"),
]

#: Names, widths and heights of the pictures.
SIZES = {"wide": (1400, 900), "narrow": (375, 900)}
#: The number of colours of a picture, which keeps it small.
COLOURS = 64


#: The pages, each with one of its faces, so that all pictures together stay small.
FACES = {name.partition(" ")[0]: name for name in reversed(PAGES)}
NAMES = list((FACES | {"djjp_job_change": "djjp_job_change failed"}).values())
#: Some pages at a time: they share what is seeded, and a tab.
AT_A_TIME = 6


@pytest.mark.parametrize("first", range(0, len(NAMES), AT_A_TIME))
def test_every_page_has_pictures(
    first: int, open_tab: OpenTab, server: str, seeded: Seeded
) -> None:
    folder = pictures()
    assert folder is not None
    page = open_tab()
    for name in NAMES[first : first + AT_A_TIME]:
        Consumer.objects.update(heartbeat_at=timezone.now())
        page.goto(server + PAGES[name](seeded))
        take(page, folder, name)


def take(page: Page, folder: Path, name: str) -> None:
    """Save the pictures of a page in all sizes and themes."""
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.evaluate("document.getAnimations().forEach((each) => each.finish())")
            plain = name.removeprefix("djjp_").replace("_", "-").replace(" ", "-")
            save(page, folder / f"{plain}-{size}-{scheme}.png")


def save(page: Page, path: Path) -> None:
    """Save what is in the window, with few colours."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)
