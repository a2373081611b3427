"""Jobs that kill their consumer, beside jobs that do not: the innocent ones succeed."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any
from uuid import UUID

import pytest

from djjp import queues, run_many
from djjp.consumer.claiming import Claimer
from djjp.consumer.ledger import Ledger
from djjp.consumer.serving import QueueSelector, parse
from djjp.engine import Claimed, Engine, Outcome
from djjp.jobs.handles import JobHandle
from djjp.models import Job
from tests.project.shop.jobs import abe_fatal, abe_fatal_at_once, add, alinger, be_fatal, linger
from tests.project.shop.models import Execution
from tests.support.engine_calls import NOW, done, enqueue, register_consumer
from tests.support.processes import Processes, eventually

SECONDS = 0.7


class OneConsumer:
    """A consumer that takes turns and runs nothing."""

    def __init__(self, engine: Engine, name: str = "one", queues: list[str] | None = None) -> None:
        self.ledger = Ledger(engine, name)
        self.claimer = Claimer(
            engine, self.ledger, QueueSelector(None if queues is None else parse(queues))
        )
        self._engine = engine

    def turn(self, room: int, *ended: Outcome) -> list[UUID]:
        """Write outcomes and claim; return the jobs that are claimed."""
        for outcome in ended:
            self.ledger.report(outcome)
        batch = self.ledger.batch()
        with self._engine.db.transaction():
            accepted = self.ledger.write_outcomes(batch)
            jobs = self.claimer.claim(room, NOW, ending=batch)
        self.ledger.forget_written(batch, accepted)
        self.ledger.hold(jobs)
        return [job.id for job in jobs]

    def held(self, id: UUID) -> Claimed:
        [job] = [job for job in self.ledger.held() if job.id == id]
        return job


def suspects(engine: Engine, count: int, **given: Any) -> list[UUID]:
    """Enqueue jobs as a rescue leaves them."""
    ids = enqueue(engine, count, name=add.name, **given)
    Job.objects.filter(pk__in=ids).update(rescues=1, attempts=1)
    return ids


def fresh(engine: Engine, count: int, **given: Any) -> list[UUID]:
    return enqueue(engine, count, name=add.name, **given)


# One at a time


def test_a_consumer_claims_one_suspect_and_fills_its_room_with_others(engine: Engine) -> None:
    first, second = suspects(engine, 2)
    others = fresh(engine, 3)
    consumer = OneConsumer(engine)

    assert consumer.turn(3) == [first, *others[:2]]
    assert consumer.turn(3) == [others[2]]
    assert consumer.turn(3) == []
    assert not consumer.claimer.finds_ready(3), "it does not poll for what it must not claim"

    assert consumer.turn(3, done(consumer.held(others[0]))) == []
    assert consumer.turn(3, done(consumer.held(first))) == [second]
    assert consumer.turn(3, done(consumer.held(second))) == []


def test_each_of_several_consumers_claims_one(engine: Engine) -> None:
    ids = suspects(engine, 3)
    consumers = [OneConsumer(engine, name) for name in ("one", "two")]
    assert [consumer.turn(5) for consumer in consumers] == [[ids[0]], [ids[1]]]
    assert [consumer.turn(5) for consumer in consumers] == [[], []]


def test_a_consumer_whose_jobs_were_rescued_while_they_run_claims_no_suspect(
    engine: Engine,
) -> None:
    """Some of them may still run there, and are suspects themselves."""
    [id] = fresh(engine, 1)
    consumer = OneConsumer(engine)
    consumer.turn(1)
    held = consumer.held(id)
    consumer.ledger.disown([], "again")
    [suspect] = suspects(engine, 1)
    assert consumer.turn(5) == []
    assert consumer.turn(5, done(held)) == []
    assert OneConsumer(engine, "two").turn(5) == [suspect]


def test_a_consumer_does_not_claim_a_job_that_still_runs_there(engine: Engine) -> None:
    """Others took it for dead, and it has not noticed yet."""
    [id] = fresh(engine, 1)
    consumer = OneConsumer(engine)
    assert consumer.turn(1) == [id]
    peer = register_consumer(engine, "one")
    engine.rescue.rescue_jobs(peer, NOW, max_rescues=3, started=None)
    assert consumer.turn(5) == []
    assert not consumer.claimer.finds_ready(5)
    assert OneConsumer(engine, "two").turn(5) == [id]


# In their order among others


def test_jobs_of_a_higher_priority_come_before_a_suspect(engine: Engine) -> None:
    [suspect] = suspects(engine, 1)
    urgent, late = fresh(engine, 3, priority=5), fresh(engine, 2)
    consumer = OneConsumer(engine)
    assert consumer.turn(2) == urgent[:2]
    assert consumer.turn(2) == [urgent[2], suspect]
    assert consumer.turn(2) == late
    assert set(Job.objects.filter(pk__in=late).values_list("attempts", flat=True)) == {1}


def test_a_suspect_waits_for_its_turn_as_others_do(engine: Engine) -> None:
    early = fresh(engine, 2)
    [suspect] = suspects(engine, 1)
    late = fresh(engine, 2)
    consumer = OneConsumer(engine)
    assert consumer.turn(1) == [early[0]]
    assert consumer.turn(3) == [early[1], suspect, late[0]]


def test_a_suspect_of_the_first_queue_comes_before_others_of_the_second(engine: Engine) -> None:
    second = fresh(engine, 2, queue="second", priority=9)
    [low] = suspects(engine, 1, queue="second", priority=99)
    [suspect] = suspects(engine, 1, queue="first")
    [unserved] = suspects(engine, 1, queue="third")
    consumer = OneConsumer(engine, queues=["first", "second"])
    assert consumer.turn(1) == [suspect]
    assert consumer.turn(3) == second
    assert consumer.turn(3, done(consumer.held(suspect))) == [low]
    assert Job.objects.get(pk=unserved).state == "ready"


def test_suspects_of_a_paused_queue_wait_until_it_resumes(engine: Engine) -> None:
    ids = suspects(engine, 1, queue="mail")
    queues.pause("mail")
    consumer = OneConsumer(engine)
    assert consumer.turn(1) == []
    queues.resume("mail")
    consumer.claimer.refresh(NOW)
    assert consumer.turn(1) == ids


def test_a_suspect_that_is_not_registered_here_is_left_and_does_not_hide_the_next(
    engine: Engine,
) -> None:
    enqueue(engine, 1, name="unknown")
    Job.objects.update(rescues=1)
    ids = suspects(engine, 1)
    consumer = OneConsumer(engine)
    assert consumer.turn(1) == []
    assert consumer.turn(1) == ids
    assert not consumer.claimer.finds_ready(1)


# With real consumers


def start(processes: Processes, *options: str, **settings: Any) -> subprocess.Popen[str]:
    return processes.start(
        "start_consumer",
        *options,
        DJJP_TEST_SETTINGS=json.dumps(settings),
    )


def states(handles: list[JobHandle]) -> set[str]:
    found = dict(Job.objects.values_list("pk", "state"))
    return {found[handle.id] for handle in handles}


def rescues(handles: list[JobHandle]) -> list[int]:
    found = dict(Job.objects.values_list("pk", "rescues"))
    return [found[handle.id] for handle in handles]


@pytest.mark.end_to_end
@pytest.mark.parametrize("fatal", [pytest.param(1, marks=pytest.mark.long), 2])
def test_the_innocent_ones_of_ten_jobs_succeed(
    processes: Processes, engine: Engine, fatal: int
) -> None:
    the_innocent_ones_succeed(processes, "SIGKILL", fatal)


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    ("how", "fatal", "concurrency"),
    [
        ("exit", 2, "asyncio"),
        ("stack overflow", 1, "threads"),
        pytest.param("SIGKILL", 5, "threads", marks=pytest.mark.long),
        pytest.param("exit", 5, "asyncio", marks=pytest.mark.long),
    ],
)
def test_the_innocent_ones_succeed_however_their_consumers_die(
    processes: Processes, engine: Engine, how: str, fatal: int, concurrency: str
) -> None:
    the_innocent_ones_succeed(processes, how, fatal, concurrency)


def the_innocent_ones_succeed(
    processes: Processes, how: str, fatal: int, concurrency: str = "threads"
) -> None:
    """Run ten jobs that all run when their consumer dies for the first time."""
    innocent, deadly = (alinger, abe_fatal) if concurrency == "asyncio" else (linger, be_fatal)
    innocents, culprits = [], []
    for number in range(10):
        if number % (10 // fatal) == 0:
            culprits.append(deadly.run_later(f"fatal {number}", how, rows=10))
        else:
            innocents.append(innocent.run_later(str(number), 600.0, SECONDS))
    consumer = start(processes, "--processes", "1", "--concurrency", concurrency)

    eventually(lambda: states(innocents) == {"succeeded"}, within=240)
    eventually(lambda: states(culprits) == {"failed"}, within=240)

    assert rescues(culprits) == [3] * fatal
    assert max(rescues(innocents)) == 1
    assert add.run_later(1).join(30) == 1
    assert processes.end(consumer)[0] == 0


@pytest.mark.sqlite_only
def test_coroutines_that_waited_for_the_loop_when_their_consumer_died_are_no_suspects(
    processes: Processes, engine: Engine
) -> None:
    handles = run_many([abe_fatal_at_once.bind(), *(alinger.bind(str(i), 0) for i in range(3))])
    start(processes, "--concurrency", "asyncio").wait()
    other = start(processes, "--queues", "elsewhere")
    eventually(lambda: states(handles) == {"ready"})
    assert rescues(handles) == [1, 0, 0, 0]
    processes.end(other)


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("most", [1, 0])
def test_with_few_rescues_the_innocent_ones_succeed_if_they_get_one(
    processes: Processes, engine: Engine, most: int
) -> None:
    innocents = [linger.run_later(str(i), 600, SECONDS) for i in range(3)]
    culprit = be_fatal.run_later("fatal", "SIGKILL", rows=4)
    consumer = start(processes, "--processes", "1", max_rescues=most)
    ended = {"succeeded", "failed"}
    eventually(lambda: states([*innocents, culprit]) <= ended, within=60)
    assert states(innocents) == ({"succeeded"} if most else {"failed"})
    assert states([culprit]) == {"failed"}
    processes.end(consumer)


@pytest.mark.end_to_end
def test_two_consumers_share_the_suspects_and_go_on_with_other_jobs_meanwhile(
    processes: Processes, engine: Engine
) -> None:
    """A suspect that runs for long holds up the other suspects of its consumer only."""
    long = [linger.run_later(f"long {i}", 600, 600) for i in range(4)]
    first = start(processes, "--concurrency-limit", "4")
    eventually(lambda: Execution.objects.count() == 4)
    first.kill()
    others = [start(processes, "--concurrency-limit", "4") for _ in range(2)]
    eventually(lambda: Execution.objects.count() == 6)

    for handle in run_many(add.bind(i) for i in range(100)):
        handle.join(30)

    time.sleep(1.5)
    assert Execution.objects.count() == 6
    found = Job.objects.filter(pk__in=[job.id for job in long], state="running")
    assert found.count() == found.values("consumer").distinct().count() == 2
    for consumer in others:
        consumer.kill()
