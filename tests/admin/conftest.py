"""People of the admin, jobs to look at, and a view of what each database is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine
from djjp.models import Attempt, Job, State

LIST = "/admin/djjp/job/"
NOW = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)

Staff = Callable[..., Client]


def page(job: Job) -> str:
    return f"{LIST}{job.pk}/change/"


def make(state: State = State.SUCCEEDED, **fields: Any) -> Job:
    """A job as a consumer leaves it."""
    known: dict[str, Any] = {
        "name": "shop.echo",
        "arguments": '{"args":[],"kwargs":{}}',
        "created_at": NOW,
        "state": state,
    }
    if state in (State.RUNNING, State.SUCCEEDED, State.FAILED):
        known |= {"started_at": NOW, "attempts": 1, "consumer": "here"}
    if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        known |= {"finished_at": NOW + timedelta(seconds=4)}
    return Job.objects.create(**(known | fields))


def failure(job: Job, number: int = 1, **fields: Any) -> Attempt:
    known = {
        "exception_class": "builtins.ValueError",
        "message": "no address",
        "traceback": "Traceback (most recent call last):\nValueError: no address\n",
        "consumer": "here",
        "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=1),
    }
    return Attempt.objects.create(job=job, number=number, **(known | fields))


def text(response: Any) -> str:
    assert response.status_code == 200, response
    content: str = response.content.decode()
    return content


@pytest.fixture
def staff(engine: Engine) -> Iterator[Staff]:
    """Log somebody in who may do some things to jobs: `staff("view", "change")`."""

    def log_in(*may: str, strict: bool = False) -> Client:
        user = User.objects.create(username=f"user-{User.objects.count()}", is_staff=True)
        codenames = [f"{verb}_job" for verb in may]
        granted = Permission.objects.filter(content_type__app_label="djjp", codename__in=codenames)
        assert len(granted) == len(may)
        user.user_permissions.set(granted)
        client = Client(enforce_csrf_checks=strict)
        client.force_login(user)
        return client

    yield log_in
    User.objects.all().delete()
    Session.objects.all().delete()


@pytest.fixture
def admin(staff: Staff) -> Client:
    return staff("view", "change", "delete")


class Asked:
    """The statements that each of two databases was sent."""

    def __init__(self, application: CaptureQueriesContext, queue: CaptureQueriesContext) -> None:
        self._application, self._queue = application, queue

    @property
    def application(self) -> list[str]:
        return [query["sql"] for query in self._application.captured_queries]

    @property
    def queue(self) -> list[str]:
        return [query["sql"] for query in self._queue.captured_queries]


@contextmanager
def asked(engine: Engine) -> Iterator[Asked]:
    with (
        CaptureQueriesContext(connections["default"]) as application,
        CaptureQueriesContext(connections[engine.db.alias]) as ours,
    ):
        yield Asked(application, ours)
