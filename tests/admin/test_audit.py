"""Audit: the admin's log has every act, by whom and to what; without the log the act is done all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import DatabaseError
from django.test import Client

from djjp.admin import consumers
from djjp.engine import Engine
from djjp.models import Job, State
from tests.admin.test_permissions import DONE, PAGES, address
from tests.project.shop.jobs import echo
from tests.support.admin import make_job, messages

pytestmark = pytest.mark.one_database

#: The URLs whose POST only leads to another page, with the reason.
NO_ACTS = {
    "djjp_job_changelist": "it leads to the confirmation of the chosen action",
    "djjp_operation_go_on": "the log has the operation since its start",
}
#: The URLs whose POST does something, and leads to another page.
ACTS = [
    key
    for key, page in PAGES.items()
    if page.post[1] == DONE and page.post[0] and key not in NO_ACTS
]


@pytest.fixture
def superuser(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    answering = {
        verb: (lambda name, timeout: None, done) for verb, (_, done) in consumers.REQUESTS.items()
    }
    monkeypatch.setattr(consumers, "REQUESTS", answering)
    client = Client()
    client.force_login(User.objects.create_superuser("emma"))
    yield client
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    Session.objects.all().delete()


@pytest.fixture
def broken_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(LogEntry, "save", refuse)
    monkeypatch.setattr(LogEntry.objects, "bulk_create", refuse)


def test_each_act_is_in_the_log_of_its_user(superuser: Client) -> None:
    assert len(ACTS) > 5
    for key in ACTS:
        url, before = address(key), LogEntry.objects.count()
        response = superuser.post(url, PAGES[key].data)
        assert response.status_code == DONE, key
        entries = LogEntry.objects.order_by("pk")[before:]
        assert [entry.user.username for entry in entries] == ["emma"], key
        (entry,) = entries
        assert entry.object_repr, key
        assert entry.get_change_message() or entry.is_deletion(), key


@pytest.mark.usefixtures("broken_log")
def test_without_the_log_each_act_is_done_and_the_failure_is_reported(
    superuser: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ACTS:
        url = address(key)
        caplog.clear()
        response = superuser.post(url, PAGES[key].data)
        assert response.status_code == DONE, key
        logged = [each.getMessage() for each in caplog.records if each.name == "djjp.admin"]
        assert len(logged) == 1, key
        assert logged[0].startswith("the admin's log lacks what emma has done: "), key
        assert logged[0].endswith("(the disk is full)"), key


@pytest.mark.usefixtures("broken_log")
def test_the_page_that_follows_reports_both_the_act_and_the_failure_of_the_log(
    superuser: Client,
) -> None:
    job = make_job(State.FAILED, name=echo.name)
    response = superuser.post(f"/admin/djjp/job/{job.pk}/retry/", follow=True)
    assert Job.objects.get().state == State.READY
    found = messages(response)
    assert "This is done, but the admin's log could not be written: the disk is full" in found
    assert any("etried" in text for text in found)
