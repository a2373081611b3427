"""The admin as its tests see it: rows to show, pages and actions, and the statements that a page sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine
from djjp.models import Attempt, Job, Schedule, State

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse

#: What the test client returns. The class exists in the stubs only.
Response: TypeAlias = "_MonkeyPatchedWSGIResponse"
#: Sends one statement, as a wrapper around it receives it: the SQL, its parameters, whether many, the context.
Execute: TypeAlias = Callable[[str, Any, bool, dict[str, Any]], Any]

JOBS = "/admin/djjp/job/"
SCHEDULES = "/admin/djjp/schedule/"
NOW = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)
#: What the form of a new schedule sends.
SCHEDULE_FORM = {
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
SCRIPT = "<script>alert(1)</script>"


class LogIn(Protocol):
    """Log a new member of the staff in, with some permissions only: `log_in("view", "operate")`.

    A verb with a `_` in it is the whole name of a permission: `log_in("view", "view_arguments")`.
    """

    def __call__(self, *verbs: str, strict: bool = False) -> Client: ...


@contextmanager
def nothing_hidden() -> Iterator[None]:
    """Show all arguments and results, also those of jobs that are not registered."""
    with override_settings(DJJP={**getattr(settings, "DJJP", {}), "redact": []}):
        yield


# Rows


def make_job(state: State = State.SUCCEEDED, **fields: Any) -> Job:
    """Create a job as a consumer leaves it."""
    defaults: dict[str, Any] = {
        "name": "shop.echo",
        "arguments": '{"args":[],"kwargs":{}}',
        "created_at": NOW,
        "state": state,
    }
    if state in (State.RUNNING, State.SUCCEEDED, State.FAILED):
        defaults |= {"started_at": NOW, "attempts": 1, "consumer": "here"}
    if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        defaults |= {"finished_at": NOW + timedelta(seconds=4)}
    return Job.objects.create(**(defaults | fields))


def make_attempt(job: Job, number: int = 1, **fields: Any) -> Attempt:
    """Create a failed attempt of a job."""
    defaults = {
        "exception_class": "builtins.ValueError",
        "message": "no address",
        "traceback": "Traceback (most recent call last):\nValueError: no address\n",
        "consumer": "here",
    }
    times = {"started_at": NOW, "finished_at": NOW + timedelta(seconds=1)}
    return Attempt.objects.create(job=job, number=number, **times, **(defaults | fields))


def states(*jobs: Job) -> list[str]:
    """Return the states of jobs as they are now."""
    return [Job.objects.get(pk=job.pk).state for job in jobs]


# Pages


def change_url(row: Job | Schedule) -> str:
    """Return the address of a row's page."""
    return f"/admin/djjp/{row._meta.model_name}/{row.pk}/change/"


def run_action(client: Client, action: str, *rows: Job | Schedule, **fields: str) -> Response:
    """Run an action on rows selected in their list."""
    data = {"action": action, "_selected_action": [str(row.pk) for row in rows]} | fields
    return client.post(f"/admin/djjp/{rows[0]._meta.model_name}/", data, follow=True)


def text(response: Response) -> str:
    """Return the text of a page that is there."""
    assert response.status_code == 200, response
    return response.content.decode()


def messages(response: Response) -> list[str]:
    """Return the messages above a page."""
    return [str(message) for message in response.context["messages"]]


def logged() -> list[tuple[int, str, str]]:
    """Return Django's log of admin actions: of each the kind, the row and the message."""
    entries = LogEntry.objects.order_by("pk")
    return [(entry.action_flag, entry.object_repr, entry.get_change_message()) for entry in entries]


# Statements


class Statements(NamedTuple):
    """The statements that each of the two databases received."""

    to_application: CaptureQueriesContext
    to_queue: CaptureQueriesContext

    @property
    def application(self) -> list[str]:
        return [query["sql"] for query in self.to_application.captured_queries]

    @property
    def queue(self) -> list[str]:
        return [query["sql"] for query in self.to_queue.captured_queries]


@contextmanager
def captured_statements(engine: Engine) -> Iterator[Statements]:
    with (
        CaptureQueriesContext(connections["default"]) as application,
        CaptureQueriesContext(connections[engine.db.alias]) as queue,
    ):
        yield Statements(application, queue)
