"""Children that jobs fork: plain processes, which neither keep nor end what belongs to their consumer."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from djjp import run_many
from djjp.engine import Engine
from djjp.jobs import RegisteredJob
from djjp.models import Consumer, Job
from tests.project.shop import forking
from tests.project.shop.jobs import add
from tests.project.shop.models import Execution
from tests.support.processes import Processes, eventually


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("concurrency", "in_child"),
    [
        ("threads", forking.enqueue_in_child),
        ("asyncio", forking.enqueue_in_child_of_coroutine),
        pytest.param("asyncio", forking.enqueue_in_child, marks=pytest.mark.end_to_end),
        pytest.param(
            "threads", forking.enqueue_in_child_of_coroutine, marks=pytest.mark.end_to_end
        ),
    ],
)
def test_a_child_enqueues_on_connections_of_its_own_while_its_consumer_is_busy(
    engine: Engine, processes: Processes, concurrency: str, in_child: RegisteredJob[..., Any]
) -> None:
    consumer = processes.consumer("--concurrency", concurrency)
    run_many(add.bind(i) for i in range(4000))  # keeps the coordinator in its turns
    handles = [in_child.using(priority=5).run_later(4) for _ in range(8)]

    for handle in handles:
        code, ids, seconds = handle.join(timeout=120)
        assert (code, len(ids)) == (0, 5), processes.end(consumer)
        assert seconds < 25  # a call without an answer waits for 30 s
        assert Job.objects.filter(pk__in=ids).count() == 5
    assert Execution.objects.filter(key="parent").count() == 8
    code, err = processes.end(consumer)
    assert code == 0
    # On a busy machine the watchdog may log, with the calls indented below.
    lines = [line for line in err.splitlines() if "has blocked the event loop" not in line]
    assert [line for line in lines if not line.startswith("  ")] == [], err
    assert "Traceback" not in err


@pytest.mark.end_to_end
@pytest.mark.both_databases
def test_the_jobs_of_a_killed_consumer_are_rescued_at_once_though_a_child_lives(
    engine: Engine, processes: Processes
) -> None:
    handle = forking.leave_child_and_wait.run_later(300, "child")
    # If heartbeats decided, they would after an hour, and the child would after 300 s.
    patient = {"DJJP_TEST_SETTINGS": '{"heartbeat_limit": 3600}'}
    victim = processes.start("start_consumer", **patient)
    eventually(lambda: Execution.objects.filter(key="child").exists())
    processes.start("start_consumer", **patient)
    eventually(lambda: Consumer.objects.count() == 2)

    victim.send_signal(signal.SIGKILL)
    eventually(lambda: Execution.objects.filter(key="child").count() == 2)

    handle.refresh()
    assert handle.attempts == 2


def test_signals_end_a_child_as_they_end_any_process(engine: Engine, processes: Processes) -> None:
    consumer = processes.consumer()

    assert forking.terminate_child.run_later().join(timeout=30) == -signal.SIGTERM
    # A shell has its background processes, such as these tests, ignore some.
    inherited = [*map(forking.handles_by_default, forking.HANDLED)]
    assert forking.signals_of_child.run_later().join(timeout=30) == inherited
    assert forking.square_in_pool.run_later(4).join(timeout=30) == [0, 1, 4, 9]
    assert processes.end(consumer) == (0, "")


@pytest.mark.sqlite_only
def test_a_daemon_child_ends_with_the_consumer(engine: Engine, processes: Processes) -> None:
    consumer = processes.consumer()
    child = forking.leave_daemon.run_later().join(timeout=30)
    assert child is not None

    assert processes.end(consumer) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    ("concurrency", "returning"),
    [
        ("threads", forking.return_in_child),
        pytest.param("asyncio", forking.return_in_child_of_coroutine, marks=pytest.mark.end_to_end),
        pytest.param("asyncio", forking.return_in_child, marks=pytest.mark.end_to_end),
        pytest.param("threads", forking.return_in_child_of_coroutine, marks=pytest.mark.end_to_end),
    ],
)
def test_a_child_that_leaves_the_function_of_its_job_ends_there(
    engine: Engine, processes: Processes, concurrency: str, returning: RegisteredJob[..., Any]
) -> None:
    consumer = processes.consumer("--concurrency", concurrency)

    assert returning.run_later("return").join(timeout=30) == 0
    assert returning.run_later("exit").join(timeout=30) == 7
    assert returning.run_later("raise").join(timeout=30) == 1
    assert add.run_later(1, 2).join(timeout=30) == 3
    code, err = processes.end(consumer)
    assert code == 0
    assert "ValueError: in the child" in err


def test_a_child_that_leaves_a_transaction_does_not_end_that_of_its_parent(
    engine: Engine, processes: Processes
) -> None:
    consumer = processes.consumer()

    assert forking.fork_in_transaction.run_later("both").join(timeout=30) == 0
    assert Execution.objects.filter(key="both").count() == 2
    assert processes.end(consumer) == (0, "")
