"""django-unfold: the pages with its base class behind theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages.looks import try_pages
from tests.packages.support import need

REGISTERED = """
from django.contrib import admin
import djjp.admin
import unfold.admin

djjp.admin.register(admin.site, base=unfold.admin.ModelAdmin)
assert isinstance(admin.site._registry[djjp.models.Job], unfold.admin.ModelAdmin)
"""
DERIVED = """
from django.contrib import admin
import djjp.admin
import unfold.admin
from djjp.models import Job

admin.site.unregister(Job)


@admin.register(Job)
class JobAdmin(djjp.admin.JobAdmin, unfold.admin.ModelAdmin):
    pass
"""


@pytest.mark.parametrize("admin", ["", REGISTERED, DERIVED], ids=["plain", "base", "derived"])
def test_each_page_is_there_with_its_buttons(tmp_path: Path, admin: str) -> None:
    need("unfold", "django-unfold")
    try_pages(tmp_path, "unfold", admin=admin)
