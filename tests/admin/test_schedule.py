import re
import time
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from djjp import codec, schedules
from djjp.admin import ScheduleAdmin
from djjp.models import Job, Occurrence, Schedule, Source
from tests.admin.conftest import asked, text
from tests.project.shop.jobs import echo, mail
from tests.support.engine_calls import NOW
from tests.support.factories import new_job
from tests.support.schedules import by_hand, registered

LIST = "/admin/djjp/schedule/"
SCRIPT = "<script>alert(1)</script>"
FORM = {
    "name": "Nightly",
    "job": "shop.echo",
    "cron": "0 9 * * *",
    "tz": "Europe/Berlin",
    "every": "",
    "catch_up": "once",
    "enabled": "on",
    "positional": "",
    "keyword": "",
}


@pytest.fixture
def who(staff):
    """Log somebody in who may do some things to schedules."""

    def log_in(*may):
        client = staff()
        user = User.objects.latest("pk")
        codenames = [f"{verb}_schedule" for verb in may]
        granted = Permission.objects.filter(content_type__app_label="djjp", codename__in=codenames)
        assert len(granted) == len(may)
        user.user_permissions.set(granted)
        return client

    yield log_in
    LogEntry.objects.all().delete()


@pytest.fixture
def admin(who):
    return who("view", "add", "change", "delete")


def page(row):
    return f"{LIST}{row.pk}/change/"


def said(response):
    return [str(message) for message in response.context["messages"]]


def errors(response):
    return str(response.context["errors"])


def act(client, action, *rows, **fields):
    data = {"action": action, "_selected_action": [row.pk for row in rows]} | fields
    return client.post(LIST, data, follow=True)


def logged():
    entries = LogEntry.objects.order_by("pk")
    return [(entry.action_flag, entry.object_repr, entry.get_change_message()) for entry in entries]


def rows():
    return list(Schedule.objects.order_by("pk").values())


# Made here


def test_a_schedule_is_made_for_a_registered_job(engine, admin):
    given = {"positional": '[42, "ünï"]', "keyword": '{"at": {"$djjp": "tuple", "value": [1, 2]}}'}
    before = time.time()
    response = admin.post(f"{LIST}add/", FORM | given, follow=True)
    assert "was added successfully" in said(response)[0]
    row = Schedule.objects.get()
    assert (row.name, row.job, row.source, row.enabled) == ("Nightly", "shop.echo", "admin", True)
    assert (row.cron, row.tz, row.every) == ("0 9 * * *", "Europe/Berlin", None)
    assert codec.decode_arguments(row.arguments) == ([42, "ünï"], {"at": (1, 2)})
    assert before <= row.fired_until <= time.time(), "it begins with its next slot"
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
def test_what_cannot_be_is_refused_and_nothing_written(engine, admin, fields, complaint):
    by_hand("shop.echo", NOW, name="taken", every=timedelta(minutes=1))
    before = rows()
    response = admin.post(f"{LIST}add/", FORM | fields)
    assert complaint in errors(response)
    assert rows() == before
    assert logged() == []


def test_a_page_shows_what_can_be_posted_back(engine, admin):
    arguments = codec.encode_arguments((1, (2, 3)), {"to": "ü"}, None)
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=5), arguments=arguments)
    form = admin.get(page(row)).context["adminform"].form
    shown = {name: form[name].value() for name in form.fields}
    data = {name: value for name, value in shown.items() if value not in (None, False)}
    assert "enabled" in data
    before = rows()
    admin.post(page(row), data | {"every": "00:05:00"})
    assert rows() == before


def test_to_edit_one_schedule_leaves_the_others_and_the_marks_of_its_slots_alone(engine, admin):
    """An interval keeps its place too, as long as what says when it is due does not change."""
    one, two = (by_hand("shop.echo", NOW, name=n, cron="0 9 * * *", tz="UTC") for n in "ab")
    for row in (one, two):
        engine.schedules.fire(row, [(NOW + 60, new_job())])
    first, second = rows()

    response = admin.post(page(one), FORM | {"name": "a", "tz": "UTC", "positional": "[7]"})
    assert response.status_code == 302
    changed = first | {"arguments": '{"args": [7], "kwargs": {}}'}
    now = rows()
    assert [codec.decode_arguments(now[0].pop("arguments")), now[1]] == [([7], {}), second]
    changed.pop("arguments")
    assert now[0] == changed

    before = time.time()
    admin.post(page(one), FORM | {"name": "a", "tz": "UTC", "cron": "0 8 * * *"})
    now = rows()
    assert now[1] == second
    assert before <= now[0]["fired_until"] <= time.time(), (
        "what it missed by the new times is not due"
    )
    assert now[0]["last_occurrence"] == NOW + 60


def test_what_a_consumer_writes_meanwhile_is_not_overwritten(engine, admin, monkeypatch):
    row = by_hand("shop.echo", NOW, cron="0 9 * * *", tz="UTC")
    clean = schedules.call

    def fire_first(seen):
        engine.schedules.fire(row, [(NOW + 60, new_job())])
        return clean(seen)

    monkeypatch.setattr(schedules, "call", fire_first)
    admin.post(page(row), FORM | {"tz": "UTC", "positional": "[7]"})
    row.refresh_from_db()
    assert (row.fired_until, row.last_occurrence) == (NOW + 60, NOW + 60)
    assert codec.decode_arguments(row.arguments) == ([7], {})


# Written by the code


def test_of_a_schedule_of_the_code_only_the_switch_can_be_set(engine, admin):
    with registered(every=60, schedule_args=[SCRIPT]):
        engine.schedules.sync(schedules.declared(), NOW)
        row, before = Schedule.objects.get(), rows()
        shown = text(admin.get(page(row)))
        assert re.findall(r'<(?:input|textarea|select)[^>]* name="(\w+)"', shown).count("cron") == 0
        assert "&lt;script&gt;" in shown
        assert "Declared by the code: only its switch can be changed here." in shown
        assert f"Times in the time zone {settings.TIME_ZONE}." in shown
        admin.post(page(row), FORM | {"name": "x", "job": "shop.echo", "positional": "[7]"})
        assert rows() == before
        admin.post(page(row), {})
        assert rows() == [before[0] | {"enabled": False}]


def test_one_that_the_code_declares_cannot_be_deleted_and_one_that_it_has_dropped_can(
    engine, admin
):
    with registered(every=60):
        engine.schedules.sync(schedules.declared(), NOW)
        row = Schedule.objects.get()
        assert admin.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
        act(admin, "delete_selected", row, post="yes")
        assert Schedule.objects.exists()
    shown = text(admin.get(page(row)))
    assert "no job named &#x27;test.scheduled&#x27; is registered here" in shown
    assert admin.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Schedule.objects.exists()


def test_what_the_code_says_anew_meanwhile_is_not_overwritten(engine, admin, monkeypatch):
    with registered(every=60):
        engine.schedules.sync(schedules.declared(), NOW)
    row, fields = Schedule.objects.get(), ScheduleAdmin.get_readonly_fields

    def declare_first(self, *args):
        engine.schedules.sync(schedules.declared(), NOW)
        return fields(self, *args)

    monkeypatch.setattr(ScheduleAdmin, "get_readonly_fields", declare_first)
    with registered(every=90):
        admin.post(page(row), {})
    row.refresh_from_db()
    assert (row.enabled, row.every) == (False, timedelta(seconds=90))


# Gone


def test_a_schedule_whose_job_is_not_registered_says_so_and_can_be_switched_off(engine, admin):
    row = by_hand(f"long.gone{SCRIPT}", NOW, name=f"n{SCRIPT}", every=timedelta(minutes=1))
    for url in (LIST, page(row), f"{LIST}{row.pk}/delete/", f"{LIST}?q={SCRIPT}"):
        shown = text(admin.get(url))
        assert "<script>alert" not in shown, url
        assert "&lt;script&gt;alert" in shown, url
    assert "no job named" in text(admin.get(LIST))
    assert "Run now" not in text(admin.get(page(row)))
    refused = admin.post(page(row), FORM | {"job": row.job})
    assert "no job named" in errors(refused)

    assert said(act(admin, "disable_selected", row)) == ["Disabled 1 schedule."]
    assert not Schedule.objects.get().enabled
    response = act(admin, "run_selected", row)
    assert "no job named" in said(response)[0]
    assert "<script>alert" not in text(response)
    assert not Job.objects.exists()


def test_damaged_arguments_are_shown_and_can_be_mended(engine, admin):
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=1), arguments=SCRIPT)
    assert "cannot decode" in text(admin.get(LIST))
    admin.post(page(row), FORM | {"positional": "[1]"})
    assert codec.decode_arguments(Schedule.objects.get().arguments) == ([1], {})


# Actions


def test_schedules_are_enabled_and_disabled_one_by_one(engine, admin):
    on, off = (by_hand("shop.echo", NOW, name=n, every=timedelta(minutes=1)) for n in "ab")
    assert said(act(admin, "disable_selected", off)) == ["Disabled 1 schedule."]
    _, second = rows()
    assert not second["enabled"]
    assert said(act(admin, "enable_selected", on, off)) == ["Enabled 1 schedule."]
    first, second = rows()
    assert first["fired_until"] == NOW
    assert second["enabled"]
    assert second["fired_until"] > NOW, "it goes on with its next slot"
    assert logged() == [(CHANGE, "b", "Disabled."), (CHANGE, "b", "Enabled.")]


@pytest.mark.parametrize("way", ["button", "action"])
def test_a_schedule_runs_now_beside_its_slots(engine, admin, way):
    row = by_hand(
        mail.name, NOW, cron="0 9 * * *", tz="UTC", arguments='{"args":["x"],"kwargs":{}}'
    )
    before = rows()
    assert "Run now" in text(admin.get(page(row)))
    if way == "button":
        response = admin.post(f"{LIST}{row.pk}/run/", follow=True)
    else:
        response = act(admin, "run_selected", row)
    job = Job.objects.get()
    assert (job.name, job.queue) == (mail.name, "mail")
    assert f'<a href="/admin/djjp/job/{job.pk}/change/">job {job.pk}</a>' in said(response)[0]
    assert (rows(), Occurrence.objects.count()) == (before, 0)
    assert logged() == [(CHANGE, row.name, f"Run now: job {job.pk}.")]


def test_a_deleted_schedule_goes_with_its_slots(engine, admin):
    one, two = (by_hand("shop.echo", NOW, name=n, every=timedelta(minutes=1)) for n in "ab")
    for row in (one, two):
        engine.schedules.fire(row, [(NOW + 60, new_job())])
    act(admin, "delete_selected", one, post="yes")
    assert list(Occurrence.objects.values_list("schedule", flat=True)) == [two.pk]
    admin.post(f"{LIST}{two.pk}/delete/", {"post": "yes"})
    assert not Occurrence.objects.exists()
    assert [flag for flag, *_ in logged()] == [DELETION, DELETION]


# Who may do what


def test_who_may_only_look_can_do_nothing(engine, who):
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=1))
    looker, before = who("view"), rows()
    shown = text(looker.get(page(row)))
    assert "Run now" not in shown
    assert 'name="cron"' not in shown
    assert "selected schedules" not in text(looker.get(LIST))
    assert looker.post(page(row), FORM).status_code == 403
    assert looker.post(f"{LIST}add/", FORM).status_code == 403
    assert looker.post(f"{LIST}{row.pk}/run/").status_code == 403
    assert looker.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("enable_selected", "disable_selected", "run_selected", "delete_selected"):
        act(looker, action, row, post="yes")
    assert (rows(), Job.objects.count()) == (before, 0)


def test_each_permission_allows_its_own_and_no_more(engine, who):
    row = by_hand("shop.echo", NOW, every=timedelta(minutes=1))
    adder, changer, deleter = who("view", "add"), who("view", "change"), who("view", "delete")
    assert adder.post(f"{LIST}{row.pk}/run/").status_code == 403
    assert changer.post(f"{LIST}add/", FORM).status_code == 403
    assert changer.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert deleter.post(page(row), FORM).status_code == 403
    assert changer.get(f"{LIST}{row.pk}/run/").status_code == 405
    assert changer.post(f"{LIST}{row.pk}/run/").status_code == 302
    assert Client().post(f"{LIST}{row.pk}/run/").status_code == 302  # to the login
    assert Job.objects.count() == 1
    assert adder.post(f"{LIST}add/", FORM).status_code == 302
    assert deleter.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert [row["name"] for row in rows()] == ["Nightly"]


def test_the_list_asks_the_queue_a_few_things_however_long_it_is(engine, admin):
    for n in range(20):
        by_hand(echo.name, NOW, name=f"s{n}", cron="0 9 * * *", tz="Europe/Berlin")
    with asked(engine) as seen:
        shown = text(admin.get(LIST))
    assert shown.count("0 9 * * * Europe/Berlin") == 20
    assert len(seen.queue) <= 4


def test_a_schedule_of_the_code_and_one_made_here_may_have_one_name(engine, admin):
    with registered("shop.both", every=60):
        engine.schedules.sync(schedules.declared(), NOW)
        admin.post(f"{LIST}add/", FORM | {"name": "shop.both"})
        assert [row["source"] for row in rows()] == [Source.CODE, Source.ADMIN]
