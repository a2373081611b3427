"""The page of a job in a browser: progress moves, a traceback is copied whole, nothing typed is lost."""

from __future__ import annotations

import pytest

from djjp.engine import Engine
from djjp.models import Attempt, Job, State
from tests.browser.conftest import OpenTab
from tests.browser.seed import Seeded, make

pytestmark = pytest.mark.sqlite_only

#: Has the page refresh itself, as it does when its tab is shown again.
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"


def test_the_progress_of_a_job_moves_while_its_page_is_open(
    open_tab: OpenTab, engine: Engine, seeded: Seeded
) -> None:
    job = make(State.RUNNING)
    Job.objects.filter(pk=job).update(progress_done=10, progress_total=100)
    page = open_tab(f"job/{job}/change/")
    assert page.locator("progress").get_attribute("value") == "10"
    Job.objects.filter(pk=job).update(progress_done=70)

    page.evaluate(REFRESH)
    page.locator("progress[value='70']").wait_for()


def test_what_is_typed_into_the_forms_of_a_job_survives_a_refresh(
    open_tab: OpenTab, engine: Engine, seeded: Seeded
) -> None:
    job = make(State.READY)
    page = open_tab(f"job/{job}/change/")
    page.get_by_label("Queue", exact=True).fill("half-typed")
    Job.objects.filter(pk=job).update(priority=7)

    page.evaluate(REFRESH)
    page.locator("dt:text('Priority')").wait_for()
    assert page.get_by_label("Queue", exact=True).input_value() == "half-typed"


def test_a_copied_traceback_is_whole_and_without_the_labels_of_its_folds(
    open_tab: OpenTab, engine: Engine, seeded: Seeded
) -> None:
    page = open_tab(f"job/{seeded.jobs[State.FAILED]}/change/")
    page.get_by_role("button", name="Copy the traceback").first.click()
    page.evaluate("document.querySelector('.djjp').append(document.createElement('textarea'))")
    page.locator("textarea").focus()
    page.keyboard.press("Control+V")

    latest = Attempt.objects.filter(job=seeded.jobs[State.FAILED]).latest("pk")
    assert page.locator("textarea").input_value() == latest.traceback
