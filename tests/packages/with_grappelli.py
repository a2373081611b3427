"""django-grappelli: the pages in its frame. It hides buttons among the tools of Django's form."""

from __future__ import annotations

from pathlib import Path

from tests.packages.looks import try_pages
from tests.packages.support import need


def test_each_page_is_there_with_its_buttons(tmp_path: Path) -> None:
    need("grappelli", "django-grappelli")
    try_pages(tmp_path, "grappelli", urls='path("grappelli/", include("grappelli.urls")), ')
