"""A connection that breaks at the commit of a call, or just after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test import override_settings

from djjp import JobHandle, chain, job, run_many
from djjp.consumer import call_queue
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.wakeup import Wakeup
from djjp.engine import Engine, current
from djjp.exceptions import OutcomeUnknown, QueueUnavailable
from djjp.jobs import get_job
from djjp.models import Job
from tests.project.shop.jobs import add, echo
from tests.support.clocks import stopped
from tests.support.link import Link
from tests.support.processes import eventually
from tests.support.projects import alias_for

unique = job(name="test.unique_over_a_link", unique_key="one")(lambda: None)


@pytest.fixture
def link(engine: Engine) -> Iterator[Link]:
    """A link to the server, which this process uses for its queue."""
    connection: Any = connections[engine.db.alias]
    connection.ensure_connection()
    link = Link(connection.connection.info)
    config = {**connections.settings[engine.db.alias], "HOST": "127.0.0.1", "PORT": link.port}
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        add.run_later(0)  # it connects
        Job.objects.using(engine.db.alias).all().delete()
        yield link
    link.close()


def there(engine: Engine) -> int:
    return Job.objects.using(engine.db.alias).count()


@pytest.mark.postgresql_only
def test_an_enqueue_succeeds_although_its_notification_does_not(
    engine: Engine, link: Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("djjp.engine.postgresql.database._last_notify", 0.0)
    link.breaks_before = b"pg_notify"
    link.refuses = True

    handle = add.run_later(1)

    assert there(engine) == 1
    assert "were not notified" in caplog.text
    with pytest.raises(QueueUnavailable):
        handle.refresh()
    link.refuses = False
    assert get_job(handle.id).state == "ready"


@pytest.mark.postgresql_only
@pytest.mark.parametrize("kind", ["single", "many", "pipeline", "unique"])
def test_a_call_whose_commit_was_not_answered_is_completed_on_a_new_connection(
    engine: Engine, link: Link, kind: str
) -> None:
    link.breaks_after = b"INSERT" if kind == "single" else b"COMMIT"
    handles: list[JobHandle]
    if kind == "single":
        handles = [add.run_later(1)]
    elif kind == "many":
        handles = [*run_many([add.bind(1), add.bind(2)])]
    elif kind == "pipeline":
        handles = chain(add.bind(1), add.bind()).run_later().steps
    else:
        handles = [unique.run_later()]

    assert link.breaks_after is None
    assert set(Job.objects.using(engine.db.alias).values_list("pk", flat=True)) == {
        handle.id for handle in handles
    }


@pytest.mark.postgresql_only
@pytest.mark.parametrize("kind", ["single", "many"])
def test_where_the_database_does_not_come_back_the_error_leaves_open_whether_it_was_written(
    engine: Engine, link: Link, kind: str
) -> None:
    link.breaks_after = b"INSERT" if kind == "single" else b"COMMIT"
    link.refuses = True

    enqueue = add.bind(1).run_later if kind == "single" else partial(run_many, [add.bind(1)] * 2)
    with pytest.raises(OutcomeUnknown, match="may have been written") as caught:
        enqueue()

    ids = set(Job.objects.using(engine.db.alias).values_list("pk", flat=True))
    assert set(caught.value.job_ids) == ids != set()
    with pytest.raises(QueueUnavailable) as caught_next:
        add.run_later(3)
    assert not isinstance(caught_next.value, OutcomeUnknown)  # nothing was sent


@pytest.mark.postgresql_only
def test_a_cancel_succeeds_although_the_row_cannot_be_read_after_it(
    engine: Engine, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = add.run_later(1)
    original = type(engine.control).cancel

    def cancel_and_break(self: Any, *args: Any, **kwargs: Any) -> int:
        count = original(self, *args, **kwargs)
        link.breaks_before, link.refuses = b"SELECT", True
        return count

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.control), "cancel", cancel_and_break)
        handle.cancel()

    link.refuses = False
    assert handle.state == "cancelled"


def test_a_call_in_a_turn_whose_commit_failed_may_have_been_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_queue, "_POLL_EVERY", 0.01)
    clock = stopped(monkeypatch, call_queue)
    wakeup = Wakeup()
    calls = CallQueue(wakeup, timeout=0.2)
    errors: list[Exception] = []

    def call() -> None:
        try:
            calls.call(lambda engine: None)
        except QueueUnavailable as error:
            errors.append(error)

    def turn(*, commits: bool) -> None:
        with suppress(OperationalError), current().db.transaction():
            if commits:
                calls.execute(current())
            raise OperationalError("the link is down")
        calls.requeue()

    for commits in (True, False):
        thread = threading.Thread(target=call)
        thread.start()
        eventually(lambda: len(calls) == 1)
        turn(commits=commits)
        clock.now += 1
        thread.join()
    wakeup.close()

    assert [type(error) for error in errors] == [OutcomeUnknown, QueueUnavailable]


@pytest.mark.sqlite_only
def test_a_full_disk_has_written_nothing(engine: Engine) -> None:
    with engine.db.connection.cursor() as cursor:
        cursor.execute("VACUUM")  # pages that other tests have left free would be filled first
        cursor.execute("PRAGMA page_count")
        (pages,) = cursor.fetchone()
        init = engine.db.connection.settings_dict["OPTIONS"]
        before = init["init_command"]
        init["init_command"] += f"; PRAGMA max_page_count = {pages + 1}"
    engine.db.connection.close()
    try:
        with pytest.raises(QueueUnavailable, match="full") as caught:
            run_many(echo.bind("x" * 10_000) for _ in range(100))
    finally:
        init["init_command"] = before
        engine.db.connection.close()

    assert not isinstance(caught.value, OutcomeUnknown)
    assert there(engine) == 0


@pytest.mark.postgresql_only
def test_a_conflict_after_which_the_answer_is_lost_leaves_open_whether_it_was_written(
    engine: Engine, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is made again after a deadlock, and this second one meets the broken connection."""
    original = type(engine.jobs).enqueue
    raised: list[bool] = []

    def conflict_first(self: Any, *args: Any) -> Any:
        if not raised:
            raised.append(True)
            with self._db.connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$")
            raise AssertionError
        link.breaks_after, link.refuses = b"INSERT", True
        return original(self, *args)

    monkeypatch.setattr(type(engine.jobs), "enqueue", conflict_first)
    with pytest.raises(OutcomeUnknown) as caught:
        add.run_later(1)

    assert raised
    [id] = Job.objects.using(engine.db.alias).values_list("pk", flat=True)
    assert caught.value.job_ids == (id,)
