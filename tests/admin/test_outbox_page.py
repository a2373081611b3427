"""The pages of outboxes: what waits for its relay, and what the queue refuses, with how it is put right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from djjp.engine import Engine
from djjp.ids import new_id
from djjp.outbox import serialization
from djjp.outbox.models import OutboxJob
from tests.admin.test_outage import away
from tests.project.shop.jobs import add
from tests.support.admin import SCRIPT, LogIn, captured_statements, logged, messages, text
from tests.support.factories import new_job

LIST = "/admin/djjp/job/outbox/"
PAGE = f"{LIST}default/"


@pytest.fixture(autouse=True)
def empty(engine: Engine) -> Iterator[None]:
    yield
    OutboxJob.objects.all().delete()


def wait(ago: float = 60.0, **job: Any) -> UUID:
    """Write a job into the outbox that no relay has taken."""
    new = new_job(**job)
    created = timezone.now() - timedelta(seconds=ago)
    OutboxJob.objects.create(id=new.id, job=serialization.to_text(new), created_at=created)
    return new.id


def refused(problem: str = "priority is 99999") -> UUID:
    id = new_id()
    OutboxJob.objects.create(id=id, job="x", created_at=timezone.now(), problem=problem)
    return id


def shown(page: str) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_list_has_each_outbox(engine: Engine, admin: Client) -> None:
    wait(600)
    refused()
    page = text(admin.get(LIST))
    assert 'data-outbox="default"' in page
    assert "default 1 10 min the queue refuses jobs" in shown(page)
    assert f'href="{PAGE}"' in page


def test_without_an_outbox_the_list_says_why(engine: Engine, admin: Client) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "outbox": []}):
        assert "There is no outbox: djjp.outbox is not installed" in text(admin.get(LIST))
        assert admin.get(PAGE).status_code == 404


def test_an_empty_outbox_has_nothing_that_waits(engine: Engine, admin: Client) -> None:
    page = shown(text(admin.get(PAGE)))
    assert "Nothing waits." in page
    assert "None." in page


def test_what_waits_is_shown_with_the_way_to_put_it_right(engine: Engine, admin: Client) -> None:
    id = wait(600, name=SCRIPT, queue="mail")
    page = text(admin.get(PAGE))
    assert SCRIPT not in page
    assert str(id) in page
    assert "1 call waits, for 10 min." in shown(page)
    assert "none is alive that reaches this database" in shown(page)
    OutboxJob.objects.update(created_at=timezone.now())
    assert "none is alive" not in text(admin.get(PAGE))


def test_arguments_are_shown_by_right_and_without_secrets(engine: Engine, log_in: LogIn) -> None:
    wait(
        name=add.name,
        arguments='{"args":["customer-7"],"kwargs":{"password":"hunter2"}}',
    )
    reader = text(log_in("view", "view_arguments").get(PAGE))
    viewer = text(log_in("view").get(PAGE))
    assert "customer-7" in reader
    assert "hunter2" not in reader
    assert "customer-7" not in viewer


def test_a_damaged_row_and_a_large_one_are_shown(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.outboxes.MOST_CHARACTERS", 500)
    OutboxJob.objects.create(id=new_id(), job="{", created_at=timezone.now())
    wait(arguments='{"args":["%s"],"kwargs":{}}' % ("x-" * 500))
    page = shown(text(admin.get(PAGE)))
    assert "Expecting property name" in page
    assert "a large call, not read" in page
    assert "x-x" not in page


def test_more_rows_than_are_shown_are_counted(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.outboxes.MOST_COUNTED", 55)
    for _ in range(60):
        wait()
    page = text(admin.get(PAGE))
    assert "55+ calls wait" in page
    assert page.count('data-key="call-') == 50
    assert "The first 50 are shown." in page


def test_a_refused_row_is_relayed_again(engine: Engine, admin: Client) -> None:
    id = refused(f"it is {SCRIPT}")
    page = text(admin.get(PAGE))
    assert SCRIPT not in page
    assert "it is &lt;script&gt;" in page

    done = admin.post(f"{PAGE}relay/", {"key": str(id)}, follow=True)

    assert messages(done) == [f"{id}: Relayed again."]
    assert OutboxJob.objects.get(pk=id).problem is None
    assert logged() == [(2, str(id), "Relayed again.")]


def test_a_refused_row_is_deleted_once_that_is_confirmed(engine: Engine, admin: Client) -> None:
    id = refused()
    asked = text(admin.get(f"{PAGE}delete/", {"key": str(id)}))
    assert "its job never runs. This cannot be undone." in asked
    assert "priority is 99999" in asked
    assert OutboxJob.objects.exists()

    done = admin.post(f"{PAGE}delete/", {"key": str(id)}, follow=True)

    assert messages(done) == [f"{id}: Deleted from the outbox."]
    assert not OutboxJob.objects.exists()
    assert logged() == [(2, str(id), "Deleted from the outbox.")]


def test_a_row_whose_id_is_none_is_deleted_too(engine: Engine, admin: Client) -> None:
    refused()
    with connections["default"].cursor() as cursor:
        cursor.execute("UPDATE djjp_outbox SET id = 'no <id>'")
    page = text(admin.get(PAGE))
    assert "no &lt;id&gt;" in page
    admin.post(f"{PAGE}delete/", {"key": "no <id>"})
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM djjp_outbox")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("act", ["relay", "delete"])
def test_a_row_that_is_not_set_aside_is_left_alone(engine: Engine, admin: Client, act: str) -> None:
    id = wait()
    for key in (str(id), str(new_id()), ""):
        page = admin.post(f"{PAGE}{act}/", {"key": key}, follow=True)
        assert messages(page) == ["It is not set aside any more."]
    assert OutboxJob.objects.filter(pk=id).exists()
    assert admin.post(f"{LIST}none/{act}/", {"key": str(id)}).status_code == 404
    assert logged() == []


def test_each_act_needs_its_right(engine: Engine, log_in: LogIn) -> None:
    id = refused()
    viewer, operator = log_in("view"), log_in("view", "operate")
    page = text(viewer.get(PAGE))
    assert "/relay/" not in page
    assert "/delete/" not in page
    assert viewer.post(f"{PAGE}relay/", {"key": str(id)}).status_code == 403
    assert operator.get(f"{PAGE}delete/", {"key": str(id)}).status_code == 403
    assert operator.post(f"{PAGE}delete/", {"key": str(id)}).status_code == 403
    assert "/delete/" not in text(operator.get(PAGE))
    assert log_in("operate").get(PAGE).status_code == 403
    assert OutboxJob.objects.get().problem is not None


@pytest.mark.parametrize("alias", ["none", "queue", "a%2Fb", "%3Cb%3E"])
def test_an_unknown_outbox_has_a_page_that_explains_it(
    engine: Engine, admin: Client, alias: str
) -> None:
    page = admin.get(f"{LIST}{alias}/")
    assert page.status_code == 404
    assert "DJJP[&#x27;outbox&#x27;] has the databases with an outbox" in page.content.decode()


def test_the_number_of_statements_does_not_depend_on_the_rows(
    engine: Engine, admin: Client
) -> None:
    def statements() -> int:
        with captured_statements(engine) as sent:
            text(admin.get(PAGE))
        return len(sent.queue) + len(sent.application)

    wait()
    refused()
    few = statements()
    for _ in range(20):
        wait()
        refused()
    assert statements() == few


def test_the_page_is_there_while_the_queue_is_away(engine: Engine, admin: Client) -> None:
    """The outbox is on another database: what waits there is shown meanwhile."""
    wait(600, name="shop.send")
    with away(engine):
        assert "shop.send" in text(admin.get(PAGE))
