"""Requests to a consumer: it shows the stacks of its jobs, becomes quiet and stops, within about a second."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from djjp import get_job, job, monitoring, run_many
from djjp.consumer.consumer import Consumer as RunningConsumer
from djjp.engine import Engine
from djjp.engine.requests import Requests
from djjp.exceptions import ConsumerDoesNotAnswer, ConsumerDoesNotExist
from djjp.models import Consumer, Job, State
from djjp.monitoring.requests import JobStack, quiet, request_stack, stop, unquiet
from tests.monitoring.test_consumers import row
from tests.project.shop.jobs import add, hog, linger, nap
from tests.project.shop.models import Execution
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually
from tests.support.recorder import GATE, SEEN, recorder

__all__ = ["recorder"]
pytestmark = pytest.mark.usefixtures("recorder")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for longer than users do, because tests can run on a busy machine."""
    for each in (request_stack, quiet, unquiet, stop):
        monkeypatch.setattr(each, "__defaults__", (60.0,))


@job(name="requests.gate")
def gate() -> None:
    wait_at_the_gate()


def wait_at_the_gate() -> None:
    SEEN.append("waits")
    GATE.wait(60)


@job(name="requests.sleeps")
async def sleeps() -> None:
    await sleep_until_open()


async def sleep_until_open() -> None:
    SEEN.append("waits")
    while not GATE.is_set():
        await asyncio.sleep(0.01)


@job(name="requests.gathers")
async def gathers() -> None:
    await asyncio.gather(*(sleep_until_open() for _ in range(2)))


@job(name="requests.blocks")
async def blocks() -> None:
    wait_at_the_gate()


@job(name="requests.queries")
async def queries() -> None:
    await sync_to_async(wait_at_the_gate)()


@job(name="requests.asks_itself")
def asks_itself(consumer: str) -> list[str]:
    return [stack.name for stack in request_stack(consumer)]


def running(count: int) -> None:
    eventually(lambda: len(SEEN) >= count)


def functions(stack: JobStack, *, project: bool = True) -> list[str]:
    """Return the project's functions in the stacks of a job."""
    return [
        call.function
        for each in stack.stacks
        for call in each.calls
        if call.is_project or not project
    ]


def begun_job(consumer: str) -> JobStack:
    """Return the one job of a consumer, which runs soon after its claim, once its function is called."""
    found: list[JobStack] = []

    def has_begun() -> bool:
        found[:] = request_stack(consumer, timeout=30)
        return bool(found) and bool(functions(found[0]))

    eventually(has_begun)
    return found[0]


def is_in_a_library(stack: JobStack) -> bool:
    return not stack.stacks[0].calls[-1].is_project


# The stacks


def test_the_stacks_of_functions_are_shown_while_all_slots_are_busy(engine: Engine) -> None:
    handles = [gate.run_later() for _ in range(2)]
    add.run_later(1, 2)
    with consuming(2) as consumer:
        running(2)
        eventually(lambda: all(map(is_in_a_library, request_stack(consumer.name))))
        found = request_stack(consumer.name)
        GATE.set()

    assert {stack.id for stack in found} == {handle.id for handle in handles}
    for stack in found:
        assert (stack.name, stack.queue) == (gate.name, "default")
        assert functions(stack) == ["gate", "wait_at_the_gate"]
        [thread] = stack.stacks
        assert thread.kind == "thread"
        call = thread.calls[1]
        assert call.file == __file__
        assert call.code == "GATE.wait(60)"
        assert not thread.calls[-1].is_project  # in `threading`
        assert stack.since.timestamp() <= time.time()


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_the_stack_of_a_coroutine_shows_what_it_awaits(engine: Engine, concurrency: str) -> None:
    sleeps.run_later()
    with consuming(1, concurrency=concurrency) as consumer:
        running(1)
        [found] = request_stack(consumer.name)
        GATE.set()
    assert functions(found) == ["sleeps", "sleep_until_open"]
    assert found.stacks[0].kind == "coroutine"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a task shows its context from 3.12 on")
def test_the_tasks_that_a_coroutine_has_started_are_shown_with_it(engine: Engine) -> None:
    gathers.run_later()
    with consuming(2, concurrency="asyncio") as consumer:
        running(2)
        [found] = request_stack(consumer.name)
        GATE.set()
    assert sorted(functions(found)) == ["gathers", "sleep_until_open", "sleep_until_open"]
    assert len({stack.task for stack in found.stacks}) == 3


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_coroutine_that_blocks_its_loop_shows_the_call_in_which_it_does(
    engine: Engine, concurrency: str
) -> None:
    blocks.run_later()
    with consuming(1, concurrency=concurrency) as consumer:
        running(1)
        [found] = request_stack(consumer.name)
        GATE.set()
    assert functions(found) == ["blocks", "wait_at_the_gate"]


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_what_a_coroutine_does_with_databases_is_shown_too(
    engine: Engine, concurrency: str
) -> None:
    queries.run_later()
    with consuming(1, concurrency=concurrency) as consumer:
        running(1)
        [found] = request_stack(consumer.name)
        GATE.set()
    kinds = {
        stack.kind: [call.function for call in stack.calls if call.is_project]
        for stack in found.stacks
    }
    assert kinds == {"coroutine": ["queries"], "database thread": ["wait_at_the_gate"]}


def test_the_stacks_leave_out_most_of_very_many_jobs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.consumer.stacks.MOST_JOBS", 1)
    first = gate.run_later()
    with consuming(2) as consumer:
        running(1)
        gate.run_later()
        running(2)
        [found] = request_stack(consumer.name)
        assert Consumer.objects.get().answer is None  # it is read
        GATE.set()
    assert found.id == first.id


def test_a_consumer_without_jobs_has_no_stacks(engine: Engine) -> None:
    with consuming(1) as consumer:
        eventually(Consumer.objects.exists)
        assert request_stack(consumer.name) == []


def test_a_job_can_ask_the_consumer_that_runs_it(engine: Engine) -> None:
    with consuming(1) as consumer:
        eventually(Consumer.objects.exists)
        handle = asks_itself.run_later(consumer.name)
        assert handle.join(timeout=30) == [asks_itself.name]


# Quiet


def test_a_quiet_consumer_goes_on_with_its_jobs_and_claims_no_others(engine: Engine) -> None:
    held = gate.run_later()
    with consuming(2) as consumer:
        running(1)
        quiet(consumer.name)
        assert Consumer.objects.get().quiet
        assert [each.quiet for each in monitoring.consumers()] == [True]
        waiting = add.run_later(1, 2)
        GATE.set()
        held.join(timeout=30)
        # It has taken turns since, and its slots are free.
        request_stack(consumer.name)
        assert get_job(waiting.id).state == State.READY

        unquiet(consumer.name)
        assert not Consumer.objects.get().quiet
        assert waiting.join(timeout=30) == 3


def test_a_consumer_that_was_declared_dead_stays_quiet_under_its_new_name(engine: Engine) -> None:
    limits = {"db_name": engine.db.alias, "heartbeat_limit": 6}  # so that it sends heartbeats often
    with override_settings(DJJP=limits), consuming(1) as consumer:
        eventually(Consumer.objects.exists)
        name = consumer.name
        quiet(name)
        Consumer.objects.all().delete()
        eventually(lambda: consumer.name != name and Consumer.objects.exists())
        assert Consumer.objects.get(pk=consumer.name).quiet


# Stop


def test_a_consumer_that_is_stopped_lets_its_jobs_end(engine: Engine) -> None:
    held, waiting = gate.run_later(), None
    with consuming(1) as consumer:
        running(1)
        stop(consumer.name)
        stop(consumer.name)  # not at once: a second request is no second signal
        waiting = add.run_later(1, 2)
        GATE.set()
        eventually(lambda: not Consumer.objects.exists())
    assert get_job(held.id).state == State.SUCCEEDED
    assert get_job(waiting.id).state == State.READY


def test_an_idle_consumer_that_ends_before_its_answer_is_read_was_stopped(engine: Engine) -> None:
    with consuming(1) as consumer:
        eventually(Consumer.objects.exists)
        stop(consumer.name)
        eventually(lambda: not Consumer.objects.exists())


@pytest.mark.parametrize(("request_to", "is_done"), [(stop, True), (quiet, False)])
def test_a_consumer_whose_row_is_gone_has_stopped_and_done_nothing_else(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, request_to: Any, is_done: bool
) -> None:
    row("gone:1:a")
    make = Requests.make

    def make_and_end(self: Requests, consumer: str, request: str) -> bool:
        made = make(self, consumer, request)
        Consumer.objects.all().delete()
        return made

    monkeypatch.setattr(Requests, "make", make_and_end)
    if is_done:
        request_to("gone:1:a")
    else:
        with pytest.raises(ConsumerDoesNotExist):
            request_to("gone:1:a")


def test_a_stopped_process_ends_gracefully(processes: Processes, engine: Engine) -> None:
    linger.run_later("long", 1.0)
    process = processes.consumer("--concurrency-limit", "1")
    eventually(Execution.objects.count)
    [found] = monitoring.consumers()

    stop(found.name, timeout=30)

    assert process.wait(60) == 0
    assert Job.objects.get().state == State.SUCCEEDED
    assert monitoring.consumers() == []


@pytest.mark.end_to_end
def test_each_process_of_a_supervisor_answers_for_itself(
    processes: Processes, engine: Engine
) -> None:
    run_many(nap.bind(600.0) for _ in range(2))
    processes.consumer("--processes", "2", "--concurrency-limit", "1")
    eventually(lambda: Job.objects.filter(state=State.RUNNING).count() == 2)
    for each in monitoring.consumers():
        stack = begun_job(each.name)
        assert stack.id == Job.objects.get(consumer=each.name).pk
        assert functions(stack) == ["nap"]


# No answer


def test_there_is_no_answer_from_a_consumer_that_does_not_exist(engine: Engine) -> None:
    with pytest.raises(ConsumerDoesNotExist, match="there is no consumer host:1:x in the queue"):
        quiet("host:1:x")


def test_a_dead_consumer_is_not_asked(engine: Engine) -> None:
    row("host:1:x", heartbeat_at="2001-01-01T00:00:00Z")
    with pytest.raises(ConsumerDoesNotExist, match="consumer host:1:x is dead"):
        request_stack("host:1:x")
    assert Consumer.objects.get().request is None


def test_a_request_that_is_not_answered_is_withdrawn(engine: Engine) -> None:
    row("host:1:x")
    with pytest.raises(ConsumerDoesNotAnswer, match=r"host:1:x has not answered within 0\.2 s"):
        stop("host:1:x", timeout=0.2)
    assert Consumer.objects.get().request is None


def test_a_request_waits_for_the_one_before_it(engine: Engine) -> None:
    row("host:1:x", request='{"id": "other", "verb": "stop"}')
    with pytest.raises(ConsumerDoesNotAnswer):
        quiet("host:1:x", timeout=0.2)
    assert Consumer.objects.get().request == '{"id": "other", "verb": "stop"}'


def test_requests_at_the_same_time_are_all_answered(engine: Engine) -> None:
    def ask(_: int) -> Any:
        try:
            return request_stack(consumer.name, timeout=60)
        finally:
            connections.close_all()

    gate.run_later()
    with consuming(1) as consumer:
        running(1)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(ask, range(4)))
        GATE.set()
    assert [[stack.name for stack in each] for each in found] == [[gate.name]] * 4


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"verb": "dance"}', "{}"])
def test_a_request_by_hand_is_answered_and_harms_no_consumer(engine: Engine, text: str) -> None:
    with consuming(1) as consumer:
        eventually(Consumer.objects.exists)
        Consumer.objects.update(request=text)
        eventually(lambda: Consumer.objects.get().request is None)
        assert "does not know such a request" in str(Consumer.objects.get().answer)
        assert request_stack(consumer.name) == []


def state_of(pid: int) -> str:
    """Return the letter of a process's state; Linux only."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.end_to_end
def test_a_frozen_process_does_not_answer(processes: Processes, engine: Engine) -> None:
    process = processes.consumer()
    eventually(Consumer.objects.exists)
    name = Consumer.objects.get().name
    # It stops while it is kept from writing. Stopped in the middle of a commit it would keep the lock of the file,
    # and the request would wait for that.
    with transaction.atomic(using=engine.db.alias):
        Consumer.objects.select_for_update().get()
        os.kill(process.pid, signal.SIGSTOP)
        eventually(lambda: state_of(process.pid) == "T")
    try:
        with pytest.raises(ConsumerDoesNotAnswer, match="its process is frozen"):
            request_stack(name, timeout=2)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert request_stack(name, timeout=30) == []


@pytest.mark.end_to_end
def test_a_job_that_keeps_the_interpreter_busy_is_found_by_its_stack(
    processes: Processes, engine: Engine
) -> None:
    hog.run_later(600.0)
    processes.consumer("--concurrency-limit", "1")
    eventually(lambda: Job.objects.filter(state=State.RUNNING).exists())
    assert functions(begun_job(Consumer.objects.get().name)) == ["hog"]


def test_no_statement_is_added_to_the_search_for_dead_consumers(engine: Engine) -> None:
    consumer = RunningConsumer(1)
    consumer._appear()
    with CaptureQueriesContext(connections[engine.db.alias]) as queries:
        consumer._maintenance._rescue(time.monotonic())
    assert not [each for each in queries.captured_queries if '"request"' in each["sql"]]
    consumer.stop()
    consumer.run()
