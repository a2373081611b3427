"""django-jazzmin: the pages in its frame."""

from __future__ import annotations

from pathlib import Path

from tests.packages.looks import try_pages
from tests.packages.support import need


def test_each_page_is_there_with_its_buttons(tmp_path: Path) -> None:
    need("jazzmin", "django-jazzmin")
    try_pages(tmp_path, "jazzmin")
