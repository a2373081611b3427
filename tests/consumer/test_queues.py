"""Consumers that serve queues in an order, by shares or by patterns, and queues that are paused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from djjp import current_job, job, queues, run_many
from djjp.consumer.consumer import Consumer
from djjp.consumer.inline import run_due
from djjp.consumer.read_ahead import ReadAhead
from djjp.engine import Engine
from djjp.models import Attempt, Job
from djjp.testing import drain as drain_here
from tests.project.shop.jobs import add, nap, pause_queue
from tests.support.consumers import consuming, drain
from tests.support.jobs import registered
from tests.support.processes import Processes, eventually
from tests.support.recorder import GATE


def fill(*queues: str, each: int = 1, priority: int = 0) -> None:
    for name in queues:
        run_many(add.using(queue=name, priority=priority).bind(n) for n in range(each))


def states() -> dict[str, dict[str, int]]:
    """Return the number of jobs by queue and state."""
    found: dict[str, dict[str, int]] = {}
    for (queue, state), count in sorted(Counter(Job.objects.values_list("queue", "state")).items()):
        found.setdefault(queue, {})[state] = count
    return found


def started() -> list[str]:
    """Return the queues of the finished jobs, in the order of their starts."""
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


@pytest.mark.parametrize("slots", [1, 8])
def test_the_first_queue_is_empty_before_the_second_one_starts(engine: Engine, slots: int) -> None:
    fill("bulk", each=60, priority=9)
    fill("mail", each=60)
    fill("urgent", each=60, priority=-9)

    drain(slots, queues=["urgent", "mail", "bulk"])

    order = started()
    assert len(order) == 180
    # Jobs that run at the same time can be recorded in any order.
    for point, name in enumerate(["urgent", "mail", "bulk"]):
        assert Counter(order[60 * point : 60 * point + 60])[name] >= 60 - slots


@pytest.mark.parametrize("slots", [1, 8])
def test_jobs_run_in_the_shares_of_their_queues(engine: Engine, slots: int) -> None:
    fill("mail", "default", each=400)

    drain(slots, queues=["mail:3", "default:1"])

    ran = Counter(started()[:400])
    assert ran.total() == 400
    assert abs(ran["mail"] - 300) <= 12


def test_a_queue_alone_gets_the_shares_of_the_others(engine: Engine) -> None:
    fill("default", each=50)
    assert drain(queues=["mail:99", "default:1"]).executed == 50


def test_patterns_select_the_queues_that_are_served(engine: Engine) -> None:
    fill("report.daily", "report.slow.a", "report", "mail", "default")

    drain(queues=["report.*", "m*"], exclude_queues=["*.slow.*", "x"])
    left = {name for name, by in states().items() if "ready" in by}
    assert left == {"report.slow.a", "report", "default"}

    drain(exclude_queues=["report*"])
    assert {name for name, by in states().items() if "ready" in by} == {"report.slow.a", "report"}


def test_a_consumer_of_a_pattern_starts_jobs_of_a_new_queue(engine: Engine) -> None:
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


def test_the_drain_of_tests_does_not_run_jobs_of_a_paused_queue(engine: Engine) -> None:
    queues.pause("mail")
    fill("mail", "default", each=2)

    assert drain_here() == 2
    assert drain_here(queues=["mail"]) == 0
    assert states()["mail"] == {"ready": 2}

    queues.resume("mail")
    assert drain_here(queues="m*") == 2


def test_the_drain_of_tests_reads_the_paused_queues_once_for_each_claim(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []

    def counted(read: Callable[[float], Any]) -> Callable[[float], Any]:
        def counting(now: float) -> Any:
            reads.append(now)
            return read(now)

        return counting

    monkeypatch.setattr(engine.jobs, "outlook", counted(engine.jobs.outlook))
    monkeypatch.setattr(engine.queues, "paused", counted(engine.queues.paused))
    run_many(add.bind(i) for i in range(3))

    assert run_due() == 3
    assert len(reads) == 4, "for three jobs, and for the end"


def test_a_queue_paused_until_a_time_resumes_automatically(engine: Engine) -> None:
    ends = queues.pause("mail", 0.7)
    assert ends is not None
    with consuming():
        handle = add.using(queue="mail").run_later(1)
        other = add.run_later(2)
        assert other.join(30) == 2
        assert handle.join(30) == 1
    started = Job.objects.get(pk=handle.id).started_at
    assert started is not None
    assert started >= ends


def test_an_idle_consumer_continues_when_a_queue_is_resumed(engine: Engine) -> None:
    queues.pause("mail")
    with consuming():
        handle = add.using(queue="mail").run_later(1)
        assert add.run_later(2).join(30) == 2  # it has polled at least once
        handle.refresh()
        assert handle.state == "ready"
        queues.resume("mail")
        assert handle.join(30) == 1


def test_running_jobs_of_a_paused_queue_continue_and_their_retries_wait(engine: Engine) -> None:
    begun, over = threading.Barrier(3), threading.Event()

    def fail_once() -> str:
        if current_job().attempt == 1:
            begun.wait(60)
            over.wait(60)
            raise ValueError("not yet")
        return "at last"

    def work() -> int:
        begun.wait(60)
        over.wait(60)
        return 1

    with (
        registered("test.once", fail_once, max_attempts=2, backoff=0) as failing,
        registered("test.work", work) as working,
        consuming(3),
    ):
        running = working.using(queue="mail").run_later()
        again = failing.using(queue="mail").run_later()
        begun.wait(60)
        queues.pause("mail")
        over.set()
        assert running.join(30) == 1
        # Its first attempt may end after that of the other job.
        eventually(lambda: Attempt.objects.filter(job_id=again.id).exists())
        assert add.run_later(1).join(30) == 1
        again.refresh()
        assert again.state in ("ready", "scheduled")
        queues.resume("mail")
        assert again.join(30) == "at last"


class PausedMeanwhile(Consumer):
    """A queue is paused and gets a job at a chosen point of this consumer's first turns."""

    point = ""
    done = False

    def _now(self, point: str) -> None:
        if point == self.point and not self.done:
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

    def _poll(self) -> None:
        super()._poll()
        self._now("before the turn")


# SQLite allows no other writer during a turn.
@pytest.mark.parametrize(
    ("engine", "point"),
    [
        ("sqlite", "before the turn"),
        ("postgresql", "before the turn"),
        ("postgresql", "before the claim"),
    ],
    indirect=["engine"],
)
@pytest.mark.parametrize("queues", [None, ["mail", "default"], ["*:2", "mail:1"]])
def test_a_job_enqueued_after_a_pause_waits(
    engine: Engine, point: str, queues: list[str] | None
) -> None:
    """However late the consumer reads the pause."""
    fill("default", each=3)
    consumer = PausedMeanwhile(2, drain=True, queues=queues)
    consumer.point = point

    assert consumer.run()

    assert consumer.done
    assert states() == {"mail": {"ready": 3}, "default": {"succeeded": 3}}
    assert set(Job.objects.values_list("queue", "attempts")) == {("mail", 0), ("default", 1)}


@job
def gated() -> None:
    GATE.wait()


class TenAhead(ReadAhead):
    """A read-ahead of ten jobs, in which a slow machine stalls no slot."""

    def size(self, slots: int) -> int:
        return 10

    def stall_threshold(self) -> float:
        return 60.0


class PausedWhileQueued(Consumer):
    """Its queue is paused once some of its jobs are claimed and have not started.

    The jobs that have started wait for the gate, which opens when the consumer has noticed the pause.
    """

    queued = 0
    released: list[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._claimer.read_ahead = TenAhead()
        notice_pauses = self._claimer.notice_pauses

        def spy(paused: frozenset[str]) -> bool:
            new = notice_pauses(paused)
            if new:
                assert self._pool.waiting() == 0
                self.released = list(self._ledger.batch().releases)
                GATE.set()
            return new

        self._claimer.notice_pauses = spy  # type: ignore[method-assign]  # a hook in this one consumer

    def _poll(self) -> None:
        if not self.queued and (waiting := self._pool.waiting()):
            self.queued = waiting
            elsewhere(lambda: queues.pause("mail"))
            self._poll_at = 0.0
        super()._poll()


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_claimed_jobs_that_have_not_started_are_released_when_their_queue_is_paused(
    engine: Engine, concurrency: str
) -> None:
    run_many(gated.using(queue="mail").bind() for _ in range(120))
    consumer = PausedWhileQueued(2, drain=True, concurrency=concurrency)

    assert consumer.run()

    assert consumer.queued >= 10
    assert len(consumer.released) >= 10
    assert len(consumer.released) + consumer.executed == 12
    back = Job.objects.filter(pk__in=[job.id for job in consumer.released])
    assert set(back.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}
    assert states()["mail"] == {"ready": 120 - consumer.executed, "succeeded": consumer.executed}


def test_a_job_can_pause_its_own_queue(engine: Engine) -> None:
    """The listener does not report the consumer's own writes, but they are read before the next claim."""
    handle = pause_queue.run_later("default")
    fill("default", each=5)

    assert drain(1).executed == 1

    handle.refresh()
    assert (handle.state, states()["default"]["ready"]) == ("succeeded", 5)


# Processes


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_the_children_of_a_supervisor_serve_its_queues(
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


@pytest.mark.end_to_end
def test_consumers_follow_a_pause_made_by_a_command(processes: Processes, engine: Engine) -> None:
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
