"""Rows by hand in any table of the queue, with NULL or an odd value in any column: all else is done as ever."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import DataError
from django.test import override_settings

from djjp import Limit, Rate, chain, run_many
from djjp.consumer import rescue
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import FINISHED, Consumer, Job, Schedule, State
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.engine_calls import enqueue
from tests.support.jobs import registered
from tests.support.odd_rows import insert_odd, without_constraints
from tests.support.processes import eventually

#: A consumer that has died long ago.
DEAD = "gone:1:0123456789abcdef"
DAY = 86_400.0


def rows_of(table: str, engine: Engine) -> dict[str, Any]:
    """Return a row of a table as any other."""
    now = time.time()
    at, hence = engine.db.to_param(now - 100), engine.db.to_param(now + 1000)
    every = 1_000_000 if engine.db.alias == "sqlite" else "1 second"
    rows: dict[str, dict[str, Any]] = {
        "djjp_queue": {"name": str(uuid.uuid4()), "paused_at": at, "paused_until": hence},
        "djjp_consumer": {
            "name": f"other:1:{uuid.uuid4().hex}",
            "host": "other",
            "pid": 1,
            "queues": None,
            "concurrency": "threads",
            "concurrency_limit": 2,
            "started_at": at,
            "heartbeat_at": at,
            "locked": True,
        },
        "djjp_schedule": {
            "name": str(uuid.uuid4()),
            "job": "test.unknown",
            "source": "admin",
            "cron": "",
            "tz": "",
            "every": every,
            "arguments": '{"args":[],"kwargs":{}}',
            "catch_up": "once",
            "enabled": True,
            "fired_until": now,
            "declared_at": 0.0,
            "replaced": "",
        },
        "djjp_rate_start": {"key": "rate", "until": now + 5, "count": 1},
        "djjp_occurrence": {"schedule": 1, "occurs_at": now},
        "djjp_dependency": {"parent": new_id(), "child": new_id(), "result_path": ""},
        "djjp_relayed": {"id": new_id(), "relayed_at": at},
    }
    return rows[table]


def job_in(state: str, engine: Engine) -> dict[str, Any]:
    """Return the row of a job in a state, where "suspect" means a ready and rescued one."""
    at = time.time() - DAY
    return {
        "id": new_id(),
        "name": "test.unknown",
        "queue": "default",
        "priority": 1,
        "state": "ready" if state == "suspect" else state,
        "attempts": 1,
        "rescues": int(state == "suspect"),
        "claim": 1,
        "flags": 0,
        "waits_for": 0,
        "on_crash": "retry",
        "cancel_requested": False,
        "created_at": engine.db.to_param(at),
        "run_after": engine.db.to_param(at) if state == "scheduled" else None,
        "finished_at": engine.db.to_param(at) if state in FINISHED else None,
        "consumer": DEAD if state == "running" else None,
        "limit_key": "odd" if state == "blocked" else None,
        "limit_max": 1 if state == "blocked" else None,
        "arguments": '{"args":[],"kwargs":{}}',
    }


Odd = list[tuple[str, Callable[[Engine], dict[str, Any]]]]
TABLES = (
    "djjp_queue",
    "djjp_consumer",
    "djjp_schedule",
    "djjp_rate_start",
    "djjp_occurrence",
    "djjp_dependency",
    "djjp_relayed",
)
STATES = ("suspect", *State)


def fails() -> None:
    raise ValueError


@contextmanager
def whole_work(engine: Engine) -> Iterator[dict[str, Callable[[], bool]]]:
    """Leave all kinds of work for a consumer; yield for each whether it is done."""
    ticks: list[int] = []
    with ExitStack() as stack:
        enter = stack.enter_context
        limits = {"heartbeat_limit": 2, "keep_succeeded": DAY / 2}
        enter(override_settings(DJJP={"db_name": engine.db.alias, "outbox": [], **limits}))
        every = timedelta(seconds=1)
        enter(registered("test.ticks", lambda: ticks.append(1), every=every))
        limited = enter(registered("test.limited", lambda: 1, limit=Limit("limit", 1)))
        rated = enter(registered("test.rated", lambda: 1, limit=Rate("rate", 100, per=10)))
        failing = enter(registered("test.fails", fails))

        past = to_datetime(time.time() - DAY)
        Consumer.objects.create(
            name=DEAD,
            host="gone",
            pid=1,
            concurrency="threads",
            concurrency_limit=1,
            started_at=past,
            heartbeat_at=past,
            locked=False,
        )
        orphan = add.run_later(1)
        Job.objects.filter(pk=orphan.id).update(state="running", consumer=DEAD, claim=1)
        [old] = enqueue(engine)
        Job.objects.filter(pk=old).update(state="succeeded", created_at=past, finished_at=past)
        engine.queues.pause("paused", time.time(), None)
        soon = timedelta(seconds=0.3)
        handles: dict[str, list[Any]] = {
            "plain": run_many(add.bind(number) for number in range(10)),
            "scheduled": [add.using(run_after=soon).run_later(1)],
            "limited": run_many(limited.bind() for _ in range(3)),
            "rated": run_many(rated.bind() for _ in range(3)),
            "in a pipeline": [chain(add.bind(1), add.bind(1)).run_later()],
            "rescued": [orphan],
        }
        cancelled: dict[str, list[Any]] = {
            "after a failure": [chain(failing.bind(), add.bind(1)).run_later()],
            "expired": [add.using(expires_after=soon, queue="paused").run_later(1)],
        }

        def ended(handles: list[Any], state: str) -> bool:
            ids = [handle.id for handle in handles]
            return Job.objects.filter(pk__in=ids, state=state).count() == len(ids)

        done: dict[str, Callable[[], bool]] = {
            kind: partial(ended, some, "succeeded") for kind, some in handles.items()
        }
        done |= {kind: partial(ended, some, "cancelled") for kind, some in cancelled.items()}
        done["by a schedule"] = lambda: bool(ticks)
        done["pruned"] = lambda: not Job.objects.filter(pk=old).exists()
        yield done


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "odd",
    [
        [(table, partial(rows_of, table)) for table in TABLES],
        [("djjp_job", partial(job_in, state)) for state in STATES],
    ],
    ids=["tables", "jobs"],
)
def test_odd_rows_of_all_tables_keep_nothing_from_being_done(engine: Engine, odd: Odd) -> None:
    with ExitStack() as stack:
        for table in {table for table, _ in odd}:
            stack.enter_context(without_constraints(engine, table))
        for table, usual in odd:
            assert insert_odd(engine, table, partial(usual, engine)) > 1
        left = stack.enter_context(whole_work(engine))
        # A consumer of patterns reads the names of all queues.
        with consuming(2, queues=["*"], exclude_queues=["none.*"]) as consumer:
            eventually(lambda: hasattr(consumer, "_maintenance"))
            consumer._maintenance._prune_at = 0.0

            def undone() -> list[str]:
                for kind in [kind for kind, is_done in left.items() if is_done()]:
                    del left[kind]
                return [*left]

            eventually(lambda: undone() == [], within=60)


def test_a_supervisor_finds_its_child_beside_names_by_hand(engine: Engine) -> None:
    with without_constraints(engine, "djjp_consumer"):
        insert_odd(engine, "djjp_consumer", partial(rows_of, "djjp_consumer", engine))
        assert rescue.rescue_child("0123456789abcdef") == 0


def test_a_fault_that_all_claims_share_fails_no_job(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of every claim is refused for a while: the consumer pauses, and then claims the jobs."""
    handles = run_many(add.bind(number) for number in range(5))
    refused: list[int] = []
    paused = engine.queues.paused

    def refuse(now: float) -> frozenset[str]:
        # From the first claim on.
        if len(refused) < 6 and (refused or engine.db.connection.in_atomic_block):
            refused.append(1)
            raise DataError("a row by hand")
        return paused(now)

    with consuming() as consumer:
        eventually(lambda: hasattr(consumer, "_maintenance"))
        monkeypatch.setattr(consumer._engine.queues, "paused", refuse)
        others = run_many(add.bind(number) for number in range(5))
        for handle in [*handles, *others]:
            handle.join(30)
    assert len(refused) == 6


def test_a_query_for_ready_jobs_that_a_row_makes_fail_stops_no_consumer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn meets the row too, and singles it out."""
    with consuming() as consumer:
        eventually(lambda: hasattr(consumer, "_maintenance"))

        def refuse(room: int) -> bool:
            raise ValueError("a row by hand")

        monkeypatch.setattr(consumer._claimer, "finds_ready", refuse)
        assert add.run_later(1).join(30) == 1


def test_a_schedule_by_hand_is_left_out_with_one_line(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"job": "test.unknown", "arguments": "{}", "every": timedelta(seconds=1)}
    Schedule.objects.create(name="good", fired_until=time.time(), **fields)
    bad = Schedule.objects.create(name="bad", fired_until=time.time(), **fields)
    with without_constraints(engine, "djjp_schedule"):
        Schedule.objects.filter(pk=bad.pk).update(fired_until=None)
        for _ in range(2):
            assert [row.name for row in engine.schedules.all()] == ["good"]
    assert caplog.text.count(f"schedule number {bad.pk} is left out: ") == 1
