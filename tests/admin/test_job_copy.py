"""Copy and enqueue again: a new job by the rules of its own code, with hidden values that stay hidden."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE
from django.test import Client, override_settings
from django.utils import timezone

from djjp import codec, job
from djjp.engine import Engine
from djjp.models import Job, State
from djjp.redaction import substitute
from tests.project.shop.jobs import add, echo
from tests.support.admin import JOBS, LogIn, change_url, logged, make_job, messages, text
from tests.support.consumers import drain

# The enqueue has tests on each database.
pytestmark = pytest.mark.one_database

SECRET = "hunter2-is-secret"


@job(name="copies.pay", unique_key="pay-{card}")
def pay(card: str, password: str = "", details: object = None, *more: object) -> str:
    return password


def arguments(*args: object, **kwargs: object) -> str:
    return codec.encode_arguments(args, kwargs, None)


def original(*args: object, **kwargs: object) -> Job:
    return make_job(name=pay.name, arguments=arguments(*args, **kwargs))


def fields(client: Client, row: Job) -> dict[str, str]:
    """Return the values of the form as a browser would send them."""
    shown = text(client.get(f"{JOBS}{row.pk}/copy/"))
    found = {
        name: unescape(value).removeprefix("\n")
        for name, value in re.findall(
            r'<textarea name="(\w+)"[^>]*>(.*?)</textarea>', shown, re.DOTALL
        )
    }
    inputs = re.findall(r'<input type="(?:text|number)" name="(\w+)" value="([^"]*)"', shown)
    return {**found, **dict(inputs), "run_after": ""}


def send(client: Client, row: Job, **changes: str) -> Any:
    data = fields(client, row) | changes
    return client.post(f"{JOBS}{row.pk}/copy/", data, follow=True)


def errors(response: Any) -> dict[str, list[str]]:
    assert response.redirect_chain == []
    assert Job.objects.count() == 1
    return {name: [*found] for name, found in response.context["form"].errors.items()}


def copied(row: Job) -> Job:
    return Job.objects.exclude(pk=row.pk).get()


def call_of(row: Job) -> tuple[list[Any], dict[str, Any]]:
    return codec.decode_arguments(row.arguments)


def test_a_copy_is_a_new_job_with_the_same_call(engine: Engine, admin: Client) -> None:
    row = make_job(
        State.FAILED,
        name=echo.name,
        queue="mail",
        priority=7,
        arguments=arguments(1, Decimal("9.90"), when=(1, "ü\u202e")),
        options='{"timeout":5.0,"tags":["tenant-42"]}',
    )
    response = send(admin, row)
    new = copied(row)
    assert response.redirect_chain == [(change_url(new), 302)]
    assert f"job {new.pk}" in messages(response)[0]
    assert (new.name, new.queue, new.priority, new.state) == (echo.name, "mail", 7, "ready")
    assert call_of(new) == call_of(row)
    assert (new.call_options, new.tags) == ({"timeout": 5.0}, ["tenant-42"])
    assert logged() == [(CHANGE, f"{echo.name} {new.pk}", f"Copied from job {row.pk}.")]
    row.refresh_from_db()
    assert row.state == "failed"
    drain()
    new.refresh_from_db()
    assert new.state == "succeeded"


def test_all_of_the_call_can_be_changed(engine: Engine, admin: Client) -> None:
    row = make_job(name=add.name, arguments=arguments(1))
    later = timezone.localtime() + timedelta(days=1)
    send(
        admin,
        row,
        args="[]",
        kwargs='{"a": 2, "b": 3}',
        queue="bulk",
        priority="-3",
        run_after=f"{later:%Y-%m-%dT%H:%M}",
    )
    new = copied(row)
    assert call_of(new) == ([], {"a": 2, "b": 3})
    assert (new.queue, new.priority, new.state) == ("bulk", -3, "scheduled")
    assert new.run_after == later.replace(second=0, microsecond=0)


@override_settings(USE_TZ=False)
def test_without_time_zones_the_start_is_in_the_zone_of_the_site(
    engine: Engine, admin: Client
) -> None:
    row = make_job(
        name=add.name, arguments=arguments(1), created_at=datetime(2026, 5, 4), **_naive()
    )
    send(admin, row, run_after="2040-05-04T12:00")
    assert copied(row).run_after == datetime(2040, 5, 4, 12)


def _naive() -> dict[str, Any]:
    return {"started_at": datetime(2026, 5, 4), "finished_at": datetime(2026, 5, 4)}


# Hidden values


def test_hidden_values_are_never_shown_and_kept_where_they_were_not_changed(
    engine: Engine, admin: Client
) -> None:
    details = {"token": SECRET, "n": 1, "list": [{"api_key": SECRET}, 2]}
    row = original("4711", SECRET, details)
    given = fields(admin, row)
    assert SECRET not in text(admin.get(f"{JOBS}{row.pk}/copy/"))
    assert given["args"].count(substitute()) == 3
    changed = json.loads(given["args"])
    changed[0] = "4712"
    changed[2]["n"] = 99
    response = send(admin, row, args=json.dumps(changed))
    assert SECRET not in response.content.decode()
    assert call_of(copied(row)) == (["4712", SECRET, {**details, "n": 99}], {})


def test_hidden_keyword_arguments_are_kept_too(engine: Engine, admin: Client) -> None:
    row = original("4711", password=SECRET, details={"token": {"a": SECRET}})
    send(admin, row, args='["4712"]')
    assert call_of(copied(row)) == (
        ["4712"],
        {"password": SECRET, "details": {"token": {"a": SECRET}}},
    )


def test_a_hidden_value_can_be_replaced(engine: Engine, admin: Client) -> None:
    row = original("4711", SECRET)
    send(admin, row, args='["4712", "another"]')
    assert call_of(copied(row))[0] == ["4712", "another"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ('["{0}"]', "{{}}"),
        ('["4711", "x", "{0}"]', "{{}}"),
        ('["4711", "x", {{"other": "{0}"}}]', "{{}}"),
        ('["4711", "x", [["{0}"]]]', "{{}}"),
        ('["{0}", "4711"]', "{{}}"),
        ('["4711"]', '{{"details": "{0}"}}'),
    ],
)
def test_the_substitute_elsewhere_is_refused(
    engine: Engine, admin: Client, args: str, kwargs: str
) -> None:
    row = original("4711", SECRET, {"n": 1})
    hidden = substitute()
    response = send(admin, row, args=args.format(hidden), kwargs=kwargs.format(hidden))
    (found,) = errors(response).values()
    assert "stands for a hidden value" in found[0]
    assert SECRET not in response.content.decode()


def test_an_appended_argument_leaves_the_hidden_ones_before_it(
    engine: Engine, admin: Client
) -> None:
    row = original("4711", SECRET)
    send(admin, row, args=f'["4712", "{substitute()}", null, 5]')
    assert call_of(copied(row))[0] == ["4712", SECRET, None, 5]


def test_an_error_does_not_show_a_hidden_value(engine: Engine, admin: Client) -> None:
    @job(name="copies.keyed", unique_key=lambda password: password * 50)
    def keyed(password: str) -> None: ...

    row = make_job(name=keyed.name, arguments=arguments(SECRET))
    response = send(admin, row)
    assert [*errors(response)] == ["args"]
    assert SECRET not in response.content.decode()


# Errors at their field


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"args": "[1"}, "args", "This is no JSON"),
        ({"args": "{}"}, "args", "This must be a list"),
        ({"args": "[NaN]"}, "args", "This is no JSON"),
        ({"args": '[{"$djjp": "nonsense", "value": 1}]'}, "args", "does not fit its tag"),
        ({"args": "[" * 100_000}, "args", "This is no JSON"),
        ({"args": "[]"}, "args", "missing a required argument: 'a'"),
        ({"args": "[1, 2, 3]"}, "args", "too many positional arguments"),
        ({"kwargs": "[]"}, "kwargs", "an object with texts for keys"),
        ({"kwargs": '{"$djjp": "tuple", "value": []}'}, "kwargs", "an object with texts"),
        ({"kwargs": '{"c": 1}'}, "kwargs", "unexpected keyword argument 'c'"),
        ({"queue": ""}, "queue", "required"),
        ({"queue": "q" * 101}, "queue", "at most 100"),
        ({"priority": "x"}, "priority", "whole number"),
        ({"priority": "40000"}, "priority", "32767"),
        ({"run_after": "tomorrow"}, "run_after", "valid date/time"),
    ],
    ids=str,
)
def test_what_the_job_does_not_take_is_refused_at_its_field(
    engine: Engine, admin: Client, changes: dict[str, str], field: str, said: str
) -> None:
    row = make_job(name=add.name, arguments=arguments(1))
    found = errors(send(admin, row, **changes))
    assert [*found] == [field]
    assert said in found[field][0]


def test_arguments_that_are_too_large_are_refused(engine: Engine, admin: Client) -> None:
    row = make_job(name=add.name, arguments=arguments(1))
    with override_settings(DJJP={"db_name": engine.db.alias, "max_payload": 100_000}):
        found = errors(send(admin, row, args=json.dumps(["x" * 100_000])))
    assert "max_payload" in found["args"][0]


def test_a_second_job_with_a_unique_key_is_the_one_that_holds_it(
    engine: Engine, admin: Client
) -> None:
    holder = pay.run_later("4711")
    row = make_job(name=pay.name, arguments=arguments("4711"))
    response = send(admin, row)
    assert response.redirect_chain == [(f"{JOBS}{holder.id}/change/", 302)]
    assert "holds its unique key" in messages(response)[0]
    assert Job.objects.count() == 2
    assert logged() == []


@pytest.mark.parametrize(
    "given",
    [
        {"name": "shop.gone"},
        {"arguments": "nonsense"},
        {"arguments": '{"args":{},"kwargs":[]}'},
        {"arguments": '{"task":1,"args":[],"kwargs":{}}'},
    ],
)
def test_what_cannot_be_checked_here_is_not_copied(
    engine: Engine, admin: Client, given: dict[str, str]
) -> None:
    row = make_job(State.FAILED, **{"name": add.name, "arguments": arguments(1), **given})
    for response in (admin.get(f"{JOBS}{row.pk}/copy/"), admin.post(f"{JOBS}{row.pk}/copy/", {})):
        assert "It cannot be copied here" in text(response)
        assert "<textarea" not in text(response)
    assert Job.objects.count() == 1


def test_a_copy_needs_the_rights_to_operate_and_to_see_arguments(
    engine: Engine, log_in: LogIn
) -> None:
    row = make_job(name=add.name, arguments=arguments(1))
    for rights in (("view", "operate"), ("view", "view_arguments"), ("operate", "view_arguments")):
        client = log_in(*rights)
        assert client.get(f"{JOBS}{row.pk}/copy/").status_code == 403
        assert client.post(f"{JOBS}{row.pk}/copy/", {"args": "[1]"}).status_code == 403
        if "view" in rights:
            assert "/copy/" not in text(client.get(change_url(row)))
    assert Job.objects.count() == 1
    assert timezone.now().tzinfo == UTC
