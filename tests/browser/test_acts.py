"""Every act of the pages has its effect, with JavaScript and without; a refresh harms no confirmation."""

from __future__ import annotations

import pytest

from djjp import queues
from djjp.models import Job, Operation, State
from djjp.outbox.models import OutboxJob
from tests.browser.acts import choose, press
from tests.browser.conftest import OpenTab
from tests.browser.seed import Seeded, make
from tests.browser.test_live import REFRESH

sqlite_only = pytest.mark.sqlite_only
with_and_without = pytest.mark.parametrize("scripts", [True, False], ids=["js", "plain"])


@with_and_without
def test_all_jobs_that_match_are_retried_after_a_preview(
    scripts: bool, open_tab: OpenTab, seeded: Seeded
) -> None:
    count = Job.objects.filter(state=State.FAILED).count()
    page = open_tab("job/?state=failed", scripts=scripts)
    choose(page, "retry", across=True)
    assert str(count) in page.locator("[data-djjp=preview]").inner_text()
    assert Job.objects.filter(state=State.FAILED).count() == count

    press(page, "^Retry")
    assert Job.objects.filter(state=State.FAILED).count() == 0


@sqlite_only
@with_and_without
def test_ticked_jobs_are_deleted_and_no_others(
    scripts: bool, open_tab: OpenTab, seeded: Seeded
) -> None:
    ended, other = seeded.jobs[State.SUCCEEDED], seeded.jobs[State.FAILED]
    page = open_tab("job/", scripts=scripts)
    page.locator(f"#job-{ended} input[type=checkbox]").check()
    choose(page, "delete", across=False)
    press(page, "^Delete")

    assert not Job.objects.filter(pk=ended).exists()
    assert Job.objects.filter(pk=other).exists()


@sqlite_only
@with_and_without
def test_the_way_back_from_a_confirmation_changes_nothing(
    scripts: bool, open_tab: OpenTab, seeded: Seeded
) -> None:
    before = list(Job.objects.order_by("pk").values_list("pk", "state"))
    for address in ("job/bulk/delete/", f"job/pipelines/{seeded.pipeline}/cancel/"):
        page = open_tab(address, scripts=scripts)
        press(page, "^Back, change nothing", "link")

    assert list(Job.objects.order_by("pk").values_list("pk", "state")) == before
    assert not Operation.objects.filter(verb="delete").exists()


@sqlite_only
def test_a_refresh_harms_no_confirmation_and_no_typed_text(
    open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab("job/bulk/move/?state=ready")
    page.get_by_role("textbox").or_(page.get_by_role("combobox")).first.fill("reports")
    page.evaluate(REFRESH)
    page.clock.install()
    page.clock.run_for(60_000)
    press(page, "^Go on")
    assert "reports" in page.locator("form.djjp-confirm").inner_text()
    page.evaluate(REFRESH)
    page.clock.run_for(60_000)
    press(page, "^Move")

    assert not Job.objects.filter(state=State.READY).exclude(queue="reports").exists()


@sqlite_only
def test_ticks_of_the_list_stay_over_a_refresh(open_tab: OpenTab, seeded: Seeded) -> None:
    ticked = seeded.jobs[State.FAILED]
    page = open_tab("job/")
    box = page.locator(f"#job-{ticked} input[type=checkbox]")
    box.check()
    new = make(State.FAILED)
    page.evaluate(REFRESH)
    page.wait_for_timeout(500)
    assert box.is_checked()

    box.uncheck()
    page.evaluate(REFRESH)
    page.locator(f"#job-{new}").wait_for()


@sqlite_only
@with_and_without
def test_a_queue_is_paused_for_a_time_and_resumed(
    scripts: bool, open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab(scripts=scripts)
    row = page.locator("[data-queue=default]")
    row.get_by_role("combobox").select_option("1h")
    with page.expect_navigation():
        row.get_by_role("button").click()
    assert queues.paused()["default"] is not None

    with page.expect_navigation():
        row.get_by_role("button").click()
    assert "default" not in queues.paused()
    assert page.url.partition("?")[0].endswith("/admin/djjp/")


@sqlite_only
@with_and_without
def test_steps_of_a_pipeline_are_retried_after_they_were_listed(
    scripts: bool, open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab(f"job/pipelines/{seeded.pipeline}/", scripts=scripts)
    press(page, "^Retry", "link")
    assert "tests.project.shop.jobs.fail" in page.locator(".djjp").inner_text()
    press(page, "^Retry|^Run")

    failed = Job.objects.filter(pipeline=seeded.pipeline, state=State.FAILED)
    assert not failed.exists()


@sqlite_only
@with_and_without
def test_a_job_that_is_set_aside_is_deleted_from_its_outbox(
    scripts: bool, open_tab: OpenTab, seeded: Seeded
) -> None:
    page = open_tab("job/outbox/default/", scripts=scripts)
    press(page, "^Delete", "link")
    press(page, "^Delete")

    assert not OutboxJob.objects.filter(pk=seeded.aside).exists()
    assert OutboxJob.objects.count() == 1


@sqlite_only
def test_a_user_without_the_right_sees_no_button(open_tab: OpenTab, seeded: Seeded) -> None:
    for address in ("", "job/", "queue/", f"job/pipelines/{seeded.pipeline}/"):
        page = open_tab(address, rights=["view_job"])

        assert page.locator("#content-main form[method=post]").count() == 0, address
