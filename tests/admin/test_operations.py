"""The pages of operations show their history and their progress, stop them, and work on them without consumers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from djjp.admin import operations as module
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job, Operation, Progression, State
from djjp.monitoring import Filter, operation_steps
from djjp.monitoring.operations import OperationInfo, get, start
from tests.support.admin import (
    SCRIPT,
    LogIn,
    captured_statements,
    logged,
    make_job,
    messages,
    text,
)
from tests.support.factories import consumer_row

OPERATIONS = "/admin/djjp/operation/"


def page(info: OperationInfo) -> str:
    return f"{OPERATIONS}{info.id}/change/"


def read(info: OperationInfo) -> OperationInfo:
    found = get(info.id)
    assert found is not None
    return found


def make_operation(**given: Any) -> Operation:
    return Operation.objects.create(
        **{"verb": "retry", "filter": "state:failed", "until": new_id()}
        | {"created_at": timezone.now()}
        | given
    )


@pytest.fixture
def large(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> OperationInfo:
    """Begin an operation on 35 jobs, which is worked off in steps of 10."""
    for name in ("FIRST_STEP", "SHORTEST_STEP", "STEP"):
        monkeypatch.setattr(operation_steps, name, 10)
    monkeypatch.setattr("djjp.monitoring.operations.STEP", 20)
    monkeypatch.setattr("djjp.monitoring.operations.TAKEOVER", 60.0)  # pages can be slow
    # A page does one step each time.
    monkeypatch.setattr(operation_steps, "SHORT_PAUSE", 1e9)
    monkeypatch.setattr(operation_steps, "LONGEST_PAUSE", 1e9)
    for _ in range(35):
        make_job(State.FAILED)
    info = start("retry", filter=Filter.parse("state:failed"), requested_by="cli:ann")
    assert not info.has_ended
    return info


def test_the_list_shows_what_was_done_by_whom_and_what_was_left_alone(
    engine: Engine, admin: Client
) -> None:
    make_job(State.FAILED)
    make_job(State.READY)
    start("retry", filter=Filter(), requested_by="cli:ann")
    make_operation(verb="move", argument=SCRIPT, filter="", requested_by=SCRIPT, error=SCRIPT)
    shown = text(admin.get(OPERATIONS))
    assert "cli:ann" in shown
    assert "Retry" in shown
    assert "all jobs" in shown
    assert "Move to a queue: &lt;script&gt;" in shown
    assert SCRIPT not in shown


def test_no_operation_is_an_empty_list(engine: Engine, admin: Client) -> None:
    assert "There are no operations" in text(admin.get(OPERATIONS))


def test_the_list_goes_back_page_by_page_with_one_statement(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    made = [make_operation(state="done").pk for _ in range(3)]
    with captured_statements(engine) as sent:
        first = admin.get(OPERATIONS)
    assert len(sent.queue) == 1
    assert [each["info"].id for each in first.context["operations"]] == made[:0:-1]
    assert f"?before={made[1]}" in text(first)
    second = admin.get(f"{OPERATIONS}?before={made[1]}")
    assert [each["info"].id for each in second.context["operations"]] == made[:1]
    assert admin.get(f"{OPERATIONS}?before=x").status_code == 200


def test_the_page_of_an_operation_shows_its_reasons_and_the_link_to_its_jobs(
    engine: Engine, admin: Client
) -> None:
    row = make_operation(
        state="done",
        matched=12_345,
        done=12_340,
        skipped=json.dumps({"running": 2, "has not ended": 3}),
        finished_at=timezone.now(),
        requested_by="admin:ann",
    )
    shown = text(admin.get(f"{OPERATIONS}{row.pk}/change/"))
    for expected in ("12,345", "12,340", "5: 3 have not ended, 2 running", "admin:ann"):
        assert expected in shown
    assert 'href="/admin/djjp/job/?state=failed"' in shown
    assert "/stop/" not in shown, "it has ended"
    assert "data-djjp-live" not in shown


@pytest.mark.parametrize(
    "given",
    [
        {"filter": "nonsense:7"},
        {"filter": "", "ids": "[]"},
        {"state": "failed", "error": "ValueError: no"},
        {"requested_by": ""},
    ],
    ids=str,
)
def test_an_operation_of_any_row_has_a_page(
    engine: Engine, log_in: LogIn, given: dict[str, Any]
) -> None:
    row = make_operation(**given)
    viewer = log_in("view")
    assert given.get("error", "") in text(viewer.get(f"{OPERATIONS}{row.pk}/change/"))
    assert text(viewer.get(OPERATIONS))


@pytest.mark.parametrize("pk", ["x", "0", "00000000-0000-0000-0000-000000000001", "a/b"])
def test_an_unknown_operation_is_not_found(engine: Engine, admin: Client, pk: str) -> None:
    assert admin.get(f"{OPERATIONS}{pk}/change/").status_code == 404


# Work without consumers


def test_without_a_consumer_each_refresh_works_a_bounded_step(
    large: OperationInfo, admin: Client
) -> None:
    seen = []
    for _ in range(8):
        text(admin.get(page(large)))
        seen.append(read(large).done)
        if read(large).has_ended:
            break
    assert seen[:2] == [10, 20]
    assert read(large).state == Progression.DONE
    assert Job.objects.filter(state="ready").count() == 35


def test_the_button_works_it_off_without_javascript(large: OperationInfo, admin: Client) -> None:
    assert f"{OPERATIONS}{large.id}/go-on/" in text(admin.get(page(large)))
    for _ in range(10):
        admin.post(f"{OPERATIONS}{large.id}/go-on/")
    assert (read(large).state, read(large).done) == (Progression.DONE, 35)


def test_while_a_consumer_is_alive_a_page_leaves_the_work_to_it(
    large: OperationInfo, admin: Client
) -> None:
    consumer_row("here")
    text(admin.get(page(large)))
    admin.post(f"{OPERATIONS}{large.id}/go-on/")
    assert read(large).done == 0


def test_a_viewer_sees_the_progress_and_neither_works_on_it_nor_stops_it(
    large: OperationInfo, log_in: LogIn
) -> None:
    viewer = log_in("view", "delete")
    shown = text(viewer.get(page(large)))
    assert "/stop/" not in shown
    assert "/go-on/" not in shown
    for act in ("stop", "go-on"):
        assert viewer.post(f"{OPERATIONS}{large.id}/{act}/").status_code == 403
    assert (read(large).done, read(large).state) == (0, Progression.WAITING)


# Stop


def test_a_stopped_operation_does_nothing_more_and_is_in_the_log(
    large: OperationInfo, admin: Client
) -> None:
    text(admin.get(page(large)))
    response = admin.post(f"{OPERATIONS}{large.id}/stop/", follow=True)
    assert messages(response) == ["Stopped. Retried 10 jobs."]
    assert "Stopped" in text(response)
    assert [entry[2] for entry in logged()] == ["Stopped. Retried 10 jobs."]
    text(admin.get(page(large)))
    assert read(large).done == 10
    again = admin.post(f"{OPERATIONS}{large.id}/stop/", follow=True)
    assert messages(again) == ["It had ended already."]
    assert len(logged()) == 1


def test_a_stop_needs_a_post(large: OperationInfo, admin: Client) -> None:
    for act in ("stop", "go-on"):
        assert admin.get(f"{OPERATIONS}{large.id}/{act}/").status_code == 405
