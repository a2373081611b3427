from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.admin.models import ADDITION, CHANGE, DELETION
from django.http import HttpRequest
from django.test import Client, override_settings

from djjp import codec, redaction, schedules
from djjp.admin import ScheduleAdmin
from djjp.engine import Engine
from djjp.jobs import BoundJob, job
from djjp.models import Job, Occurrence, Schedule, Source
from tests.project.shop.jobs import echo, mail
from tests.support.admin import (
    SCHEDULE_FORM,
    SCHEDULES,
    SCRIPT,
    LogIn,
    Response,
    captured_statements,
    change_url,
    logged,
    messages,
    run_action,
    text,
)
from tests.support.engine_calls import NOW
from tests.support.factories import new_job
from tests.support.schedules import by_hand, registered

# Forms and permissions are Django's own; what they write is written by verbs, which have tests on each database.
pytestmark = pytest.mark.one_database


@pytest.fixture
def log_in(log_in_for: Callable[[str], LogIn]) -> LogIn:
    """Log users in who have some permissions on schedules."""
    return log_in_for("schedule")


@pytest.fixture
def admin(log_in: LogIn) -> Client:
    return log_in("view", "add", "change", "delete", "view_arguments")


def errors(response: Response) -> str:
    return str(response.context["errors"])


def rows() -> list[dict[str, Any]]:
    return [dict(row) for row in Schedule.objects.order_by("pk").values()]


# Created in the admin


def test_a_schedule_is_created_for_a_registered_job(engine: Engine, admin: Client) -> None:
    given = {"positional": '[42, "ünï"]', "keyword": '{"at": {"$djjp": "tuple", "value": [1, 2]}}'}
    before = time.time()
    response = admin.post(f"{SCHEDULES}add/", SCHEDULE_FORM | given, follow=True)
    assert "was added successfully" in messages(response)[0]
    row = Schedule.objects.get()
    assert (row.name, row.job, row.source, row.enabled) == ("Nightly", "shop.echo", "admin", True)
    assert (row.cron, row.tz, row.every) == ("0 9 * * *", "Europe/Berlin", None)
    assert codec.decode_arguments(row.arguments) == ([42, "ünï"], {"at": (1, 2)})
    assert before <= row.fired_until <= time.time(), "it begins with its next occurrence"
    assert logged() == [(ADDITION, "Nightly", "Added.")]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"cron": "61 * * * *"}, "with &#x27;61&#x27; for the minute"),
        ({"cron": ""}, "only a cron expression has a time zone"),
        ({"cron": "", "tz": ""}, "a schedule needs a cron expression or an interval"),
        ({"every": "00:05:00"}, "a schedule has one of them"),
        ({"tz": "Mars/X"}, "it must be the name of a time zone"),
        ({"cron": "", "tz": "", "every": "0"}, "it must be from 0.1 seconds"),
        ({"cron": "", "tz": "", "every": "soon"}, "Enter a valid duration"),
        ({"job": "long.gone"}, "is not one of the available choices"),
        ({"job": ""}, "This field is required"),
        ({"job": mail.name}, "missing a required argument: &#x27;address&#x27;"),
        (
            {"job": mail.name, "positional": "[1, 2]"},
            f"the arguments do not fit {mail.name}(address): too many positional arguments",
        ),
        ({"positional": "{}"}, "This must be a list."),
        ({"keyword": "[]"}, "This must be an object with texts for keys."),
        ({"positional": "[1"}, "cannot decode"),
        ({"positional": '[{"$djjp": "nonsense", "value": 1}]'}, "cannot decode"),
        ({"positional": "[NaN]"}, "cannot decode"),
        ({"name": "taken"}, "There is a schedule with this name."),
        ({"catch_up": "twice"}, "is not one of the available choices"),
    ],
)
def test_an_invalid_form_is_refused_and_nothing_is_written(
    engine: Engine, admin: Client, fields: dict[str, str], complaint: str
) -> None:
    by_hand("shop.echo", NOW, name="taken", every=timedelta(minutes=1))
    before = rows()
    response = admin.post(f"{SCHEDULES}add/", SCHEDULE_FORM | fields)
    assert complaint in errors(response)
    assert rows() == before
    assert logged() == []


def test_arguments_that_are_too_large_are_refused(engine: Engine, admin: Client) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "max_payload": 1000}):
        fields = {"job": "shop.echo", "positional": f'["{"x" * 1000}"]'}
        response = admin.post(f"{SCHEDULES}add/", SCHEDULE_FORM | fields)
    assert "the arguments have 1,025 bytes, of which args[0] has 1,002" in errors(response)
    assert rows() == []


def test_a_posted_form_without_changes_changes_nothing(engine: Engine, admin: Client) -> None:
    arguments = codec.encode_arguments((1, (2, 3)), {"to": "ü"}, None)
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=5), arguments=arguments)
    form = admin.get(change_url(row)).context["adminform"].form
    shown = {name: form[name].value() for name in form.fields}
    data = {name: value for name, value in shown.items() if value not in (None, False)}
    assert "enabled" in data
    before = rows()
    admin.post(change_url(row), data | {"every": "00:05:00"})
    assert rows() == before


def test_an_edit_changes_neither_other_schedules_nor_the_occurrences(
    engine: Engine, admin: Client
) -> None:
    """An interval keeps its place too, as long as its times do not change."""
    one, two = (by_hand("shop.echo", NOW, name=n, cron="0 9 * * *", tz="UTC") for n in "ab")
    for row in (one, two):
        engine.schedules.fire(row, [(NOW + 60, new_job())])
    first, second = rows()

    response = admin.post(
        change_url(one), SCHEDULE_FORM | {"name": "a", "tz": "UTC", "positional": "[7]"}
    )
    assert response.status_code == 302
    changed = first | {"arguments": '{"args": [7], "kwargs": {}}'}
    now = rows()
    assert [codec.decode_arguments(now[0].pop("arguments")), now[1]] == [([7], {}), second]
    changed.pop("arguments")
    assert now[0] == changed

    before = time.time()
    admin.post(change_url(one), SCHEDULE_FORM | {"name": "a", "tz": "UTC", "cron": "0 8 * * *"})
    now = rows()
    assert now[1] == second
    assert before <= now[0]["fired_until"] <= time.time(), (
        "occurrences missed under the new times are not due"
    )
    assert now[0]["last_occurrence"] == NOW + 60


def test_an_edit_does_not_overwrite_a_concurrent_write_of_a_consumer(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = by_hand("shop.echo", NOW, cron="0 9 * * *", tz="UTC")
    original = schedules.call

    def fire_first(given: Schedule) -> BoundJob:
        engine.schedules.fire(row, [(NOW + 60, new_job())])
        return original(given)

    monkeypatch.setattr(schedules, "call", fire_first)
    admin.post(change_url(row), SCHEDULE_FORM | {"tz": "UTC", "positional": "[7]"})
    row.refresh_from_db()
    assert (row.fired_until, row.last_occurrence) == (NOW + 60, NOW + 60)
    assert codec.decode_arguments(row.arguments) == ([7], {})


# Declared by the code


def test_a_declared_schedule_can_only_be_enabled_and_disabled(
    engine: Engine, admin: Client
) -> None:
    with registered(every=60, schedule_args=[SCRIPT]):
        engine.schedules.sync(schedules.declared(), NOW)
        row, before = Schedule.objects.get(), rows()
        shown = text(admin.get(change_url(row)))
        assert re.findall(r'<(?:input|textarea|select)[^>]* name="(\w+)"', shown).count("cron") == 0
        assert "&lt;script&gt;" in shown
        assert "Declared by the code: only its switch can be changed here." in shown
        assert f"Times in the time zone {settings.TIME_ZONE}." in shown
        admin.post(
            change_url(row), SCHEDULE_FORM | {"name": "x", "job": "shop.echo", "positional": "[7]"}
        )
        assert rows() == before
        admin.post(change_url(row), {})
        assert rows() == [before[0] | {"enabled": False}]


def test_a_declared_schedule_can_be_deleted_only_after_the_code_has_dropped_it(
    engine: Engine, admin: Client
) -> None:
    with registered(every=60):
        engine.schedules.sync(schedules.declared(), NOW)
        row = Schedule.objects.get()
        assert admin.post(f"{SCHEDULES}{row.pk}/delete/", {"post": "yes"}).status_code == 403
        run_action(admin, "delete_selected", row, post="yes")
        assert Schedule.objects.exists()
    shown = text(admin.get(change_url(row)))
    assert "no job named &#x27;test.scheduled&#x27; is registered here" in shown
    assert admin.post(f"{SCHEDULES}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Schedule.objects.exists()


def test_an_edit_does_not_overwrite_a_concurrent_declaration(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(every=60):
        engine.schedules.sync(schedules.declared(), NOW)
    row, fields = Schedule.objects.get(), ScheduleAdmin.get_readonly_fields

    def declare_first(
        self: ScheduleAdmin, request: HttpRequest, obj: Schedule | None = None
    ) -> object:
        engine.schedules.sync(schedules.declared(), NOW)
        return fields(self, request, obj)

    monkeypatch.setattr(ScheduleAdmin, "get_readonly_fields", declare_first)
    with registered(every=90):
        admin.post(change_url(row), {})
    row.refresh_from_db()
    assert (row.enabled, row.every) == (False, timedelta(seconds=90))


# Unregistered jobs, damaged arguments


def test_a_schedule_of_an_unregistered_job_is_marked_and_can_be_disabled(
    engine: Engine, admin: Client
) -> None:
    row = by_hand(f"long.gone{SCRIPT}", NOW, name=f"n{SCRIPT}", every=timedelta(minutes=1))
    for url in (
        SCHEDULES,
        change_url(row),
        f"{SCHEDULES}{row.pk}/delete/",
        f"{SCHEDULES}?q={SCRIPT}",
    ):
        shown = text(admin.get(url))
        assert "<script>alert" not in shown, url
        assert "&lt;script&gt;alert" in shown, url
    assert "no job named" in text(admin.get(SCHEDULES))
    assert "Run now" not in text(admin.get(change_url(row)))
    refused = admin.post(change_url(row), SCHEDULE_FORM | {"job": row.job})
    assert "no job named" in errors(refused)

    assert messages(run_action(admin, "disable_selected", row)) == ["Disabled 1 schedule."]
    assert not Schedule.objects.get().enabled
    response = run_action(admin, "run_selected", row)
    assert "no job named" in messages(response)[0]
    assert "<script>alert" not in text(response)
    assert not Job.objects.exists()


def test_damaged_arguments_are_shown_and_can_be_replaced(engine: Engine, admin: Client) -> None:
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=1), arguments=SCRIPT)
    assert "cannot decode" in text(admin.get(SCHEDULES))
    admin.post(change_url(row), SCHEDULE_FORM | {"positional": "[1]"})
    assert codec.decode_arguments(Schedule.objects.get().arguments) == ([1], {})


# Actions


def test_schedules_are_enabled_and_disabled_separately(engine: Engine, admin: Client) -> None:
    on, off = (by_hand("shop.echo", NOW, name=n, every=timedelta(minutes=1)) for n in "ab")
    assert messages(run_action(admin, "disable_selected", off)) == ["Disabled 1 schedule."]
    _, second = rows()
    assert not second["enabled"]
    assert messages(run_action(admin, "enable_selected", on, off)) == ["Enabled 1 schedule."]
    first, second = rows()
    assert first["fired_until"] == NOW
    assert second["enabled"]
    assert second["fired_until"] > NOW, "it goes on with its next occurrence"
    assert logged() == [(CHANGE, "b", "Disabled."), (CHANGE, "b", "Enabled.")]


@pytest.mark.parametrize("way", ["button", "action"])
def test_a_run_now_is_independent_of_the_occurrences(
    engine: Engine, admin: Client, way: str
) -> None:
    row = by_hand(
        mail.name, NOW, cron="0 9 * * *", tz="UTC", arguments='{"args":["x"],"kwargs":{}}'
    )
    before = rows()
    assert "Run now" in text(admin.get(change_url(row)))
    if way == "button":
        response = admin.post(f"{SCHEDULES}{row.pk}/run/", follow=True)
    else:
        response = run_action(admin, "run_selected", row)
    job = Job.objects.get()
    assert (job.name, job.queue) == (mail.name, "mail")
    assert f'<a href="/admin/djjp/job/{job.pk}/change/">job {job.pk}</a>' in messages(response)[0]
    assert (rows(), Occurrence.objects.count()) == (before, 0)
    assert logged() == [(CHANGE, row.name, f"Run now: job {job.pk}.")]


def test_the_deletion_of_a_schedule_includes_its_occurrences(engine: Engine, admin: Client) -> None:
    one, two = (by_hand("shop.echo", NOW, name=n, every=timedelta(minutes=1)) for n in "ab")
    for row in (one, two):
        engine.schedules.fire(row, [(NOW + 60, new_job())])
    run_action(admin, "delete_selected", one, post="yes")
    assert list(Occurrence.objects.values_list("schedule", flat=True)) == [two.pk]
    admin.post(f"{SCHEDULES}{two.pk}/delete/", {"post": "yes"})
    assert not Occurrence.objects.exists()
    assert [flag for flag, *_ in logged()] == [DELETION, DELETION]


# Permissions


def test_a_viewer_of_schedules_can_change_nothing(engine: Engine, log_in: LogIn) -> None:
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=1))
    viewer, before = log_in("view"), rows()
    shown = text(viewer.get(change_url(row)))
    assert "Run now" not in shown
    assert 'name="cron"' not in shown
    assert "selected schedules" not in text(viewer.get(SCHEDULES))
    assert viewer.post(change_url(row), SCHEDULE_FORM).status_code == 403
    assert viewer.post(f"{SCHEDULES}add/", SCHEDULE_FORM).status_code == 403
    assert viewer.post(f"{SCHEDULES}{row.pk}/run/").status_code == 403
    assert viewer.post(f"{SCHEDULES}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("enable_selected", "disable_selected", "run_selected", "delete_selected"):
        run_action(viewer, action, row, post="yes")
    assert (rows(), Job.objects.count()) == (before, 0)


def test_each_permission_allows_its_own_verb_only(engine: Engine, log_in: LogIn) -> None:
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=1))
    adder, changer, deleter = (
        log_in("view", "add"),
        log_in("view", "change"),
        log_in("view", "delete"),
    )
    assert adder.post(f"{SCHEDULES}{row.pk}/run/").status_code == 403
    assert changer.post(f"{SCHEDULES}add/", SCHEDULE_FORM).status_code == 403
    assert changer.post(f"{SCHEDULES}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert deleter.post(change_url(row), SCHEDULE_FORM).status_code == 403
    assert changer.get(f"{SCHEDULES}{row.pk}/run/").status_code == 405
    assert changer.post(f"{SCHEDULES}{row.pk}/run/").status_code == 302
    assert Client().post(f"{SCHEDULES}{row.pk}/run/").status_code == 302  # to the login
    assert Job.objects.count() == 1
    assert adder.post(f"{SCHEDULES}add/", SCHEDULE_FORM).status_code == 302
    assert deleter.post(f"{SCHEDULES}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert [row["name"] for row in rows()] == ["Nightly"]


def test_the_number_of_statements_does_not_grow_with_the_list(
    engine: Engine, admin: Client
) -> None:
    for n in range(20):
        by_hand(echo.name, NOW, name=f"s{n}", cron="0 9 * * *", tz="Europe/Berlin")
    with captured_statements(engine) as sent:
        shown = text(admin.get(SCHEDULES))
    assert shown.count("0 9 * * * Europe/Berlin") == 20
    assert len(sent.queue) <= 4


def test_a_declared_and_a_created_schedule_can_share_a_name(engine: Engine, admin: Client) -> None:
    with registered("shop.both", every=60):
        engine.schedules.sync(schedules.declared(), NOW)
        admin.post(f"{SCHEDULES}add/", SCHEDULE_FORM | {"name": "shop.both"})
        assert [row["source"] for row in rows()] == [Source.CODE, Source.ADMIN]


# Secrets


@job(name="schedules.sign_in")
def sign_in(user: str, password: str = "", *, login: dict[str, Any] | None = None) -> None: ...


def saved(admin: Client, row: Schedule, **fields: str) -> tuple[Response, list[Any]]:
    """Save the form of a schedule; return the answer and the arguments that the row has then."""
    form = SCHEDULE_FORM | {"job": row.job, "cron": row.cron, "tz": row.tz, "name": row.name}
    response = admin.post(change_url(row), form | fields)
    row.refresh_from_db()
    return response, [*codec.decode_arguments(row.arguments)]


@pytest.fixture
def signing_in(engine: Engine) -> Schedule:
    arguments = codec.encode_arguments(
        ("lovelace", "hunter2"), {"login": {"key": "x-1", "n": [1]}}, None
    )
    return by_hand(sign_in.name, NOW, cron="0 9 * * *", tz="UTC", arguments=arguments)


def test_the_form_shows_no_secret_and_keeps_it_where_it_is_saved(
    admin: Client, signing_in: Schedule
) -> None:
    hidden = redaction.substitute()
    shown = text(admin.get(change_url(signing_in)))
    assert "hunter2" not in shown
    assert "x-1" not in shown  # a token of a form has no dash
    edited = {
        "positional": f'["grace", "{hidden}"]',
        "keyword": f'{{"login": {{"key": "{hidden}", "n": [2, 3]}}}}',
    }
    response, arguments = saved(admin, signing_in, **edited)
    assert response.status_code == 302, text(response)
    assert arguments == [["grace", "hunter2"], {"login": {"key": "x-1", "n": [2, 3]}}]
    _, arguments = saved(admin, signing_in, **edited | {"positional": '["grace", "new"]'})
    assert arguments[0] == ["grace", "new"]


def test_a_hidden_value_cannot_be_moved_to_where_it_is_shown(
    admin: Client, signing_in: Schedule
) -> None:
    hidden = redaction.substitute()
    before = codec.decode_arguments(signing_in.arguments)
    for fields in (
        {"positional": f'["{hidden}", "{hidden}"]', "keyword": "{}"},
        {"job": "shop.echo", "positional": f'["lovelace", "{hidden}"]', "keyword": "{}"},
        {"positional": '["lovelace"]', "keyword": f'{{"login": {{"n": "{hidden}"}}}}'},
    ):
        response, arguments = saved(admin, signing_in, **fields)
        assert "stands for a hidden value" in text(response)
        assert arguments == [*before]


def test_without_the_permission_to_see_arguments_a_schedule_is_changed_without_them(
    log_in: LogIn, signing_in: Schedule
) -> None:
    admin = log_in("view", "change")
    shown = text(admin.get(change_url(signing_in)))
    assert "lovelace" not in shown
    assert 'name="positional"' not in shown
    response, arguments = saved(admin, signing_in, tz="Europe/Berlin", positional='["grace"]')
    assert response.status_code == 302, text(response)
    assert signing_in.tz == "Europe/Berlin"
    assert arguments[0] == ["lovelace", "hunter2"]


def test_arguments_that_cannot_be_shown_are_kept_unless_they_are_replaced(
    admin: Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = codec.encode_arguments(("x" * 500,), {}, None)
    row = by_hand(sign_in.name, NOW, cron="0 9 * * *", tz="UTC", arguments=arguments)
    monkeypatch.setattr(redaction, "LONGEST", 100)
    response, kept = saved(admin, row, catch_up="all")
    assert response.status_code == 302, text(response)
    assert kept == [["x" * 500], {}]
