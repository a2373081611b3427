"""Without JavaScript every page is refreshed by the browser, and every act works."""

from __future__ import annotations

import re

import pytest

from djjp.models import Job, State
from tests.browser.conftest import OpenTab
from tests.browser.seed import Seeded

pytestmark = pytest.mark.sqlite_only


def test_the_dashboard_is_whole_and_refreshed_by_the_browser(
    open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab(scripts=False)

    meta = page.locator("meta[http-equiv=refresh]")
    assert meta.get_attribute("content") == "30"
    panels = page.locator("[data-djjp]")
    assert [each.get_attribute("data-djjp") for each in panels.all()] == [
        "summary",
        "charts",
        "queues",
        "failures",
        "consumers",
        "schedules",
        "operations",
        "outbox",
    ]
    assert not page.get_by_label("Refresh").is_visible()


def test_a_failed_job_is_retried(open_tab: OpenTab, seeded: Seeded) -> None:
    id = seeded.jobs[State.FAILED]
    page = open_tab(f"job/{id}/change/", scripts=False)
    page.get_by_role("button", name=re.compile("^retry", re.IGNORECASE)).first.click()

    page.wait_for_url(f"**/job/{id}/change/")
    assert Job.objects.get(pk=id).state == State.READY
