"""Consumers that serve queues in an order, by shares or by patterns, and queues that are paused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from django.db import connections

from djjp import queues, run_many
from djjp.consumer.consumer import Consumer
from djjp.engine import Engine
from djjp.models import Job
from djjp.testing import drain as drain_here
from tests.project.shop.jobs import add, fail_once, nap, pause_queue
from tests.support.consumers import consuming, drain
from tests.support.processes import Processes, eventually


def fill(*queues: str, each: int = 1, priority: int = 0) -> None:
    for name in queues:
        run_many(add.using(queue=name, priority=priority).bind(n) for n in range(each))


def states() -> dict[str, dict[str, int]]:
    """How many jobs of each queue are in each state."""
    found: dict[str, dict[str, int]] = {}
    for (queue, state), count in sorted(Counter(Job.objects.values_list("queue", "state")).items()):
        found.setdefault(queue, {})[state] = count
    return found


def started() -> list[str]:
    """The queues of the jobs that ran, in the order in which they began."""
    ran = Job.objects.filter(state="succeeded").order_by("started_at")
    return list(ran.values_list("queue", flat=True))


def elsewhere(*calls: Any) -> None:
    """Do this on a thread with connections of its own, as another process would."""

    def work() -> None:
        try:
            for call in calls:
                call()
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


# Orders, shares, patterns


@pytest.mark.parametrize("limit", [1, 8])
def test_the_first_queue_is_empty_before_the_second_begins(engine: Engine, limit: int) -> None:
    fill("bulk", each=60, priority=9)
    fill("mail", each=60)
    fill("urgent", each=60, priority=-9)

    drain(limit, queues=["urgent", "mail", "bulk"])

    order = started()
    assert len(order) == 180
    # Of those that run at the same time one may be noted before another.
    for place, name in enumerate(["urgent", "mail", "bulk"]):
        assert Counter(order[60 * place : 60 * place + 60])[name] >= 60 - limit


@pytest.mark.parametrize("limit", [1, 8])
def test_jobs_run_in_the_shares_of_their_queues(engine: Engine, limit: int) -> None:
    fill("mail", "default", each=400)

    drain(limit, queues=["mail:3", "default:1"])

    ran = Counter(started()[:400])
    assert ran.total() == 400
    assert abs(ran["mail"] - 300) <= 12


def test_a_queue_alone_gets_what_is_another_queues_share(engine: Engine) -> None:
    fill("default", each=50)
    assert drain(queues=["mail:99", "default:1"]).executed == 50


def test_patterns_say_what_is_served_and_what_is_not(engine: Engine) -> None:
    fill("report.daily", "report.slow.a", "report", "mail", "default")

    drain(queues=["report.*", "m*"], exclude_queues=["*.slow.*", "x"])
    left = {name for name, by in states().items() if "ready" in by}
    assert left == {"report.slow.a", "report", "default"}

    drain(exclude_queues=["report*"])
    assert {name for name, by in states().items() if "ready" in by} == {"report.slow.a", "report"}


def test_a_consumer_of_a_pattern_starts_what_comes_into_a_new_queue(engine: Engine) -> None:
    with consuming(queues=["report.*"]):
        handle = add.using(queue="report.new").run_later(1)
        assert handle.join(30) == 1


# Pauses


@pytest.mark.parametrize(
    "options",
    [{}, {"queues": ["mail", "default"]}, {"queues": ["*"]}, {"queues": ["m*:3", "default:1"]}],
)
def test_jobs_of_a_paused_queue_stay_ready(engine: Engine, options: dict[str, Any]) -> None:
    queues.pause("mail")
    fill("mail", "default", each=3, priority=5)

    assert drain(**options).executed == 3
    assert states() == {"mail": {"ready": 3}, "default": {"succeeded": 3}}

    queues.resume("mail")
    assert drain(**options).executed == 3
    assert set(Job.objects.values_list("state", "attempts")) == {("succeeded", 1)}


def test_the_drain_of_tests_leaves_a_paused_queue_alone(engine: Engine) -> None:
    queues.pause("mail")
    fill("mail", "default", each=2)

    assert drain_here() == 2
    assert drain_here(queues=["mail"]) == 0
    assert states()["mail"] == {"ready": 2}

    queues.resume("mail")
    assert drain_here(queues="m*") == 2


def test_with_a_time_a_queue_goes_on_by_itself(engine: Engine) -> None:
    ends = queues.pause("mail", 0.7)
    assert ends is not None
    with consuming():
        handle = add.using(queue="mail").run_later(1)
        other = add.run_later(2)
        assert other.join(30) == 2
        assert handle.join(30) == 1
    begun = Job.objects.get(pk=handle.id).started_at
    assert begun is not None
    assert begun >= ends


def test_a_consumer_that_rests_goes_on_when_a_queue_is_resumed(engine: Engine) -> None:
    queues.pause("mail")
    with consuming():
        handle = add.using(queue="mail").run_later(1)
        assert add.run_later(2).join(30) == 2  # it has looked, at least once
        handle.refresh()
        assert handle.state == "ready"
        queues.resume("mail")
        assert handle.join(30) == 1


def test_what_runs_goes_on_and_what_is_to_run_again_waits(engine: Engine) -> None:
    with consuming(3) as consumer:
        running = nap.using(queue="mail").run_later(0.5)
        again = fail_once.using(queue="mail").run_later()
        eventually(lambda: len(consumer._ledger))
        queues.pause("mail")
        assert isinstance(running.join(30), float)
        assert add.run_later(1).join(30) == 1
        again.refresh()
        assert again.state in ("ready", "scheduled")
        queues.resume("mail")
        assert again.join(30) == "at last"


class PausedMeanwhile(Consumer):
    """A queue is paused, and a job comes into it, at a chosen place of this consumer's first turns."""

    place = ""
    done = False

    def _now(self, place: str) -> None:
        if place == self.place and not self.done:
            self.done = True
            elsewhere(lambda: queues.pause("mail"), lambda: fill("mail", each=3, priority=9))

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        select = self._queues.select

        def spy(ready: Any) -> Any:
            selections = select(ready)
            if self._engine.db.connection.in_atomic_block:
                self._now("before the claim")
            return selections

        self._queues.select = spy  # type: ignore[method-assign]  # a hook in this one consumer

    def _poll(self, *args: Any) -> None:
        super()._poll(*args)
        self._now("before the turn")


# SQLite lets nobody write within a turn.
@pytest.mark.parametrize(
    ("engine", "place"),
    [
        ("sqlite", "before the turn"),
        ("postgresql", "before the turn"),
        ("postgresql", "before the claim"),
    ],
    indirect=["engine"],
)
@pytest.mark.parametrize("queues", [None, ["mail", "default"], ["*:2", "mail:1"]])
def test_who_pauses_a_queue_and_then_enqueues_finds_the_job_waiting(
    engine: Engine, place: str, queues: list[str] | None
) -> None:
    """However late the consumer hears of the pause."""
    fill("default", each=3)
    consumer = PausedMeanwhile(2, drain=True, queues=queues)
    consumer.place = place

    assert consumer.run()

    assert consumer.done
    assert states() == {"mail": {"ready": 3}, "default": {"succeeded": 3}}
    assert set(Job.objects.values_list("queue", "attempts")) == {("mail", 0), ("default", 1)}


class PausedInLine(Consumer):
    """Its queue is paused once some jobs stand in its line."""

    in_line = 0
    given_back: list[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        notice_pauses = self._claimer.notice_pauses

        def spy(paused: frozenset[str]) -> bool:
            new = notice_pauses(paused)
            if new:
                assert self._pool.waiting() == 0
                self.given_back = self._ledger.batch().returns
            return new

        self._claimer.notice_pauses = spy  # type: ignore[method-assign]  # a hook in this one consumer

    def _wait(self, *args: Any) -> None:
        if not self.in_line and (waiting := self._pool.waiting()) >= 3:
            self.in_line = waiting
            elsewhere(lambda: queues.pause("mail"))
            self._poll_at = 0.0
            return
        super()._wait(*args)


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_what_stands_in_line_is_given_back_when_its_queue_is_paused(
    engine: Engine, concurrency: str
) -> None:
    run_many(nap.using(queue="mail").bind(0.01) for _ in range(120))
    consumer = PausedInLine(2, drain=True, concurrency=concurrency)

    assert consumer.run()

    assert consumer.given_back
    back = Job.objects.filter(pk__in=[job.id for job in consumer.given_back])
    assert set(back.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}
    assert states()["mail"] == {"ready": 120 - consumer.executed, "succeeded": consumer.executed}


def test_a_job_can_pause_its_own_queue(engine: Engine) -> None:
    """Its consumer does not hear its own writes, but sees them before it claims again."""
    handle = pause_queue.run_later("default")
    fill("default", each=5)

    assert drain(1).executed == 1

    handle.refresh()
    assert (handle.state, states()["default"]["ready"]) == ("succeeded", 5)


# Processes


@pytest.mark.sqlite_only
def test_the_processes_of_a_supervisor_serve_what_it_was_told(
    processes: Processes, engine: Engine
) -> None:
    queues.pause("mail.paused")
    fill("mail.a", "mail.b", "mail.bulk", "mail.paused", "default", each=2)

    ended = processes.run(
        *("start_consumer", "--processes", "2", "--drain"),
        *("--queues", "mail.*:3,other:1", "--exclude-queues", "mail.bulk,x*"),
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    ready, done = {"ready": 2}, {"succeeded": 2}
    assert states() == {
        "mail.a": done,
        "mail.b": done,
        "mail.bulk": ready,
        "mail.paused": ready,
        "default": ready,
    }


def test_consumers_hear_of_a_pause_that_a_command_makes(
    processes: Processes, engine: Engine
) -> None:
    consumer = processes.consumer("--concurrency-limit", "2")
    assert nap.using(queue="mail").run_later(0).join(30)

    assert processes.run("djjp", "pause", "mail").returncode == 0
    waits = [add.using(queue="mail").run_later(n) for n in range(3)]
    assert add.run_later(1).join(30) == 1
    time.sleep(0.1)
    assert states()["mail"] == {"ready": 3, "succeeded": 1}

    assert processes.run("djjp", "resume", "mail").returncode == 0
    assert [handle.join(30) for handle in waits] == [0, 1, 2]
    assert processes.end(consumer)[0] == 0
