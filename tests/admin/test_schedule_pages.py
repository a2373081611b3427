"""The pages of schedules: in words, next and last, what is wrong and what to do; 5,000 of them stay usable."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.contrib.admin.models import CHANGE
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job, Schedule, State
from tests.project.shop.jobs import echo, mail
from tests.support.admin import (
    SCHEDULE_FORM,
    SCHEDULES,
    SCRIPT,
    LogIn,
    captured_statements,
    change_url,
    logged,
    make_job,
    messages,
    text,
)
from tests.support.schedules import by_hand, registered


@pytest.fixture
def log_in(log_in_for: Callable[[str], LogIn]) -> LogIn:
    return log_in_for("schedule")


@pytest.fixture
def admin(log_in: LogIn) -> Client:
    return log_in("view", "add", "change", "delete", "view_job", "view_arguments")


def cell(shown: str, column: str) -> str:
    found = re.search(rf'<t[dh][^>]*class="field-{column}[^>]*>(.*?)</t[dh]>', shown, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


# The list


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> float:
    """Hold the clock at noon, days from a change of clocks: before two in the night it is seconds until then."""
    at = datetime(2027, 5, 4, 12, tzinfo=UTC).timestamp()
    monkeypatch.setattr("djjp.admin.schedule_times.time.time", lambda: at)
    return at


def test_a_schedule_is_listed_in_words_with_its_next_occurrence_in_both_zones(
    engine: Engine, admin: Client, noon: float
) -> None:
    by_hand(echo.name, noon, cron="0 2 * * *", tz="America/New_York")
    with timezone.override("Asia/Tokyo"):
        shown = text(admin.get(SCHEDULES))
    assert cell(shown, "when") == "daily at 02:00 New York"
    assert 'title="0 2 * * * America/New_York"' in shown
    following = cell(shown, "next_or_trouble")
    assert re.search(r"in \d+ (h|min)", following)
    assert re.search(r"\w{3} \d{4}-\d\d-\d\d 02:00 New York", following)
    assert re.search(r"\( ?(\w{3} [\d-]+ )?1[56]:00 Tokyo ?\)", following)


@override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
def test_without_time_zone_support_the_zone_of_the_site_is_the_viewers(
    engine: Engine, admin: Client, noon: float
) -> None:
    row = by_hand(echo.name, noon, cron="0 2 * * *", tz="Europe/Berlin")
    shown = text(admin.get(SCHEDULES))
    assert "02:00 Berlin" in cell(shown, "next_or_trouble")
    assert "(" not in cell(shown, "next_or_trouble"), "one zone, one time"
    assert text(admin.get(change_url(row))).count("02:00 Berlin") >= 5


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.RUNNING])
def test_the_last_run_is_shown_with_how_it_ended(
    engine: Engine, admin: Client, state: State
) -> None:
    job = make_job(state)
    by_hand(echo.name, time.time(), every=timedelta(hours=1), last_occurrence=1.0, last_job=job.pk)
    shown = text(admin.get(SCHEDULES))
    assert cell(shown, "last").endswith(str(state.label))
    assert change_url(job) in shown
    job.delete()
    shown = text(admin.get(SCHEDULES))
    assert change_url(job) not in shown, "a link to a job that is pruned"
    assert "ago" in cell(shown, "last")


def test_only_who_may_see_jobs_has_the_link_to_the_last_run(engine: Engine, log_in: LogIn) -> None:
    job = make_job(State.SUCCEEDED)
    row = by_hand(
        echo.name, time.time(), every=timedelta(hours=1), last_occurrence=1.0, last_job=job.pk
    )
    for rights, is_linked in ((("view", "view_job"), True), (("view",), False)):
        client = log_in(*rights)
        for address in (SCHEDULES, change_url(row)):
            shown = text(client.get(address))
            assert "Succeeded" in shown
            assert (change_url(job) in shown) == is_linked


def test_5000_schedules_are_listed_in_pages_with_a_fixed_number_of_statements(
    engine: Engine, admin: Client
) -> None:
    job = make_job(State.FAILED)

    def add(first: int, last: int) -> None:
        Schedule.objects.bulk_create(
            Schedule(
                name=f"s{n:05}",
                job=echo.name,
                arguments='{"args":[],"kwargs":{}}',
                fired_until=time.time(),
                cron=f"{n % 60} {n % 24} * * *",
                tz="UTC",
                last_job=job.pk if n % 2 else new_id(),
                last_occurrence=1.0,
            )
            for n in range(first, last)
        )

    counts, shown = [], ""
    for first, last in ((0, 150), (150, 5_000)):
        add(first, last)
        with captured_statements(engine) as sent:
            shown = text(admin.get(SCHEDULES, {"p": "2"}))
        counts.append(len(sent.queue))
        assert "s00100" in shown
        assert "s00099" not in shown
    assert counts[0] == counts[1] <= 4
    assert shown.count('<th class="field-name">') == 100
    assert "s04321" in text(admin.get(SCHEDULES, {"q": "4321"}))


def test_schedules_are_filtered_by_switch_source_problem_and_last_run(
    engine: Engine, admin: Client
) -> None:
    def names(**query: str) -> list[str]:
        shown = text(admin.get(SCHEDULES, query))
        return re.findall(r'class="field-name"><a [^>]*>(\w+)</a>', shown)

    at, hour = time.time(), timedelta(hours=1)
    failed, good = make_job(State.FAILED), make_job(State.SUCCEEDED)
    by_hand(echo.name, at, name="good", every=hour, last_job=good.pk, last_occurrence=1.0)
    by_hand(echo.name, at, name="bad", every=hour, last_job=failed.pk, last_occurrence=1.0)
    by_hand("long.gone", at, name="gone", every=hour)
    by_hand(echo.name, at, name="off", every=hour, enabled=False, source="code")
    assert names() == ["bad", "gone", "good", "off"]
    assert names(enabled__exact="0") == ["off"]
    assert names(source__exact="admin") == ["bad", "gone", "good"]
    assert names(problem="yes") == ["gone", "off"]
    assert names(problem="no") == ["bad", "good"]
    assert names(last="failed") == ["bad"]
    assert names(last="succeeded") == ["good"]
    assert names(last="never") == ["gone", "off"]
    assert names(last="nonsense") == names(problem="nonsense") == []


def test_a_problem_is_shown_with_what_to_do(engine: Engine, admin: Client) -> None:
    hour = timedelta(hours=1)
    by_hand(f"long.gone{SCRIPT}", time.time(), name="a", every=hour)
    shown = text(admin.get(SCHEDULES))
    assert SCRIPT not in shown
    assert "no job named" in cell(shown, "next_or_trouble")
    assert "run this process with the code that has the job" in cell(shown, "next_or_trouble")
    Schedule.objects.update(job=echo.name, source="code")
    assert "delete it, unless another release" in text(admin.get(SCHEDULES))
    Schedule.objects.update(source="admin", cron="61 * * * *", tz="UTC", every=None)
    shown = text(admin.get(SCHEDULES))
    assert "for the minute" in shown
    assert cell(shown, "next_or_trouble").endswith("edit it")
    assert "for the minute" in text(admin.get(change_url(Schedule.objects.get())))


def test_a_schedule_that_nobody_fires_is_overdue(engine: Engine, admin: Client) -> None:
    by_hand(echo.name, time.time() - 7200, every=timedelta(hours=1))
    assert "overdue start a consumer, which fires it" in cell(
        text(admin.get(SCHEDULES)), "next_or_trouble"
    )


@pytest.mark.sqlite_only
def test_a_damaged_row_is_left_out_of_the_list_and_has_no_page(
    engine: Engine, admin: Client
) -> None:
    sound, odd = (by_hand(echo.name, 0.0, name=n, every=timedelta(hours=1)) for n in ("a", "b"))
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute("UPDATE djjp_schedule SET every = 'soon' WHERE id = %s", [odd.pk])
    shown = text(admin.get(SCHEDULES))
    assert change_url(sound) in shown
    assert "1 row on this page is left out" in shown
    assert admin.get(change_url(odd)).status_code == 302
    assert admin.get(f"{SCHEDULES}x/change/").status_code == 302


# The page


def test_the_page_shows_the_next_five_occurrences_with_the_change_of_the_clocks(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    before = datetime(2027, 3, 26, 12, tzinfo=berlin).timestamp()
    monkeypatch.setattr("djjp.admin.schedule_times.time.time", lambda: before)
    row = by_hand(echo.name, before, cron="30 2 * * *", tz="Europe/Berlin")
    with timezone.override(UTC):
        shown = text(admin.get(change_url(row)))
    found = re.search(r'<ol class="djjp-occurrences">(.*?)</ol>', shown)
    assert found is not None
    items = [
        " ".join(re.sub(r"<[^>]+>", " ", each).split())
        for each in re.findall(r"<li>(.*?)</li>", found[1])
    ]
    assert len(items) == 5
    assert items[0].startswith("Sat 2027-03-27 02:30 Berlin (01:30 UTC)")
    assert items[1].startswith("Sun 2027-03-28 03:00 Berlin (01:00 UTC)"), "2:30 does not exist"
    assert items[2].startswith("Mon 2027-03-29 02:30 Berlin (00:30 UTC)")
    assert 'title="CET, UTC+0100"' in found[1]
    assert 'title="CEST, UTC+0200"' in found[1]


def test_the_preview_of_a_disabled_schedule_says_that_none_is_fired(
    engine: Engine, admin: Client
) -> None:
    row = by_hand(echo.name, time.time(), every=timedelta(hours=1), enabled=False)
    shown = text(admin.get(change_url(row)))
    assert shown.count("<li>") >= 5
    assert "It is disabled: none of these has a job." in shown


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "never"}, "cron"),
        ({"cron": "", "tz": ""}, "cron"),
        ({"tz": "Mars/X"}, "tz"),
        ({"cron": ""}, "tz"),
        ({"every": "00:05:00"}, "every"),
        ({"cron": "", "tz": "", "every": "0"}, "every"),
        ({"job": mail.name}, "positional"),
        ({"job": mail.name, "positional": "[1, 2]"}, "positional"),
        ({"job": mail.name, "positional": "[1]", "keyword": '{"x": 1}'}, "keyword"),
        ({"job": mail.name, "positional": "[1]", "keyword": '{"address": 1}'}, "keyword"),
        ({"keyword": '{"x": NaN}'}, "keyword"),
    ],
)
def test_an_error_is_at_its_field(
    engine: Engine, admin: Client, fields: dict[str, str], at: str
) -> None:
    form = admin.post(f"{SCHEDULES}add/", SCHEDULE_FORM | fields).context["adminform"].form
    assert list(form.errors) == [at]
    assert not Schedule.objects.exists()


def test_an_error_of_the_arguments_size_is_at_the_larger_field(
    engine: Engine, admin: Client
) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "max_payload": 1000}):
        given = {"keyword": f'{{"x": "{"x" * 1000}"}}'}
        form = admin.post(f"{SCHEDULES}add/", SCHEDULE_FORM | given).context["adminform"].form
    assert list(form.errors) == ["keyword"]


# Arguments


def test_an_error_of_arguments_that_are_not_shown_is_at_the_job(
    engine: Engine, log_in: LogIn
) -> None:
    row = by_hand(echo.name, 1.0, every=timedelta(hours=1), arguments='{"args":[1],"kwargs":{}}')
    client = log_in("view", "change")
    with registered("test.none", lambda: None):
        form = SCHEDULE_FORM | {"cron": "", "tz": "", "every": "02:00:00", "job": "test.none"}
        page = client.post(change_url(row), form)
    assert list(page.context["adminform"].form.errors) == ["job"]


# Buttons


def test_a_schedule_is_disabled_and_enabled_on_its_page(engine: Engine, admin: Client) -> None:
    row = by_hand(echo.name, 1.0, every=timedelta(hours=1))
    assert "Disable" in text(admin.get(change_url(row)))
    response = admin.post(f"{SCHEDULES}{row.pk}/disable/", follow=True)
    assert messages(response) == ["Disabled 1 schedule."]
    row.refresh_from_db()
    assert not row.enabled
    assert "Enable" in text(admin.get(change_url(row)))
    admin.post(f"{SCHEDULES}{row.pk}/enable/")
    row.refresh_from_db()
    assert row.enabled
    assert row.fired_until > 1.0, "it goes on with its next occurrence"
    assert logged() == [(CHANGE, str(row), "Disabled."), (CHANGE, str(row), "Enabled.")]


def test_the_buttons_need_the_right_to_change_schedules(engine: Engine, log_in: LogIn) -> None:
    row = by_hand(echo.name, 1.0, every=timedelta(hours=1))
    viewer = log_in("view")
    assert "Disable" not in text(viewer.get(change_url(row)))
    for button in ("run", "enable", "disable"):
        assert viewer.post(f"{SCHEDULES}{row.pk}/{button}/").status_code == 403
        assert log_in("view", "change").get(f"{SCHEDULES}{row.pk}/{button}/").status_code == 405
    assert not Job.objects.exists()


def test_the_pages_have_the_tabs_of_the_queue(engine: Engine, admin: Client) -> None:
    row = by_hand(echo.name, 1.0, every=timedelta(hours=1))
    for url in (SCHEDULES, change_url(row), f"{SCHEDULES}add/"):
        shown = text(admin.get(url))
        assert re.search(r'href="/admin/djjp/schedule/" aria-current="(page|true)"', shown)
