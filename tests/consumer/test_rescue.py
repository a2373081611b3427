"""Consumers that are killed, stopped and stuck: real processes, and what becomes of their jobs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from djjp import run_many
from djjp.engine import Engine
from djjp.jobs.handles import JobHandle
from djjp.models import Attempt, Consumer, Job
from tests.project.shop.jobs import (
    TALLY,
    add,
    hold_interpreter,
    kill_consumer,
    kill_consumer_once,
    linger,
    mail,
    nap,
    tally,
)
from tests.project.shop.models import Execution
from tests.support.processes import Processes, eventually


def start(processes: Processes, *options: str, **settings: Any) -> subprocess.Popen[str]:
    """A consumer, of one job at a time unless told otherwise, with these keys in `DJJP`."""
    limit = [] if "--concurrency-limit" in options else ["--concurrency-limit", "1"]
    return processes.start(
        "start_consumer", *options, *limit, DJJP_TEST_SETTINGS=json.dumps(settings)
    )


def present(*consumers: subprocess.Popen[str]) -> bool:
    """Whether these consumers have come up, and can see each other."""
    return set(Consumer.objects.values_list("pid", flat=True)) >= {c.pid for c in consumers}


def ran_by(key: str) -> list[int]:
    """The processes that have begun a job with this key, first to last."""
    return list(Execution.objects.filter(key=key).order_by("at").values_list("process", flat=True))


def state(handle: JobHandle) -> str:
    handle.refresh()
    return handle.state


def shown(handle: JobHandle) -> dict[str, Any]:
    return Job.objects.values().get(pk=handle.id)


@pytest.fixture
def files_of(engine: Engine) -> Callable[..., list[str]]:
    """The notes and locks of these processes; not those that earlier ones of the same numbers have left."""
    folder = engine.db.runtime_dir()
    assert folder is not None
    before = set(folder.iterdir())

    def files(*pids: int) -> list[str]:
        new = {path.name for path in set(folder.iterdir()) - before}
        return sorted(name for name in new if any(f"-{pid}-" in name for pid in pids))

    return files


def test_trap_2_the_job_of_a_killed_consumer_runs_again_once_it_is_dead_and_not_before(
    files_of: Callable[..., list[str]], processes: Processes
) -> None:
    """However long it runs. While its consumer lives, another one looks on for several heartbeats."""
    handle = linger.run_later("long", 600)
    first = start(processes, heartbeat_limit=0.5)
    eventually(lambda: ran_by("long"))
    second = start(processes, heartbeat_limit=0.5)
    eventually(lambda: present(first, second))
    time.sleep(2)
    assert (state(handle), ran_by("long")) == ("running", [first.pid])

    first.kill()

    assert handle.join(30) == second.pid
    assert ran_by("long") == [first.pid, second.pid]
    assert (shown(handle)["attempts"], shown(handle)["rescues"]) == (2, 1)
    assert handle.errors == []
    assert list(Consumer.objects.values_list("pid", flat=True)) == [second.pid]
    assert files_of(first.pid) == []
    code, err = processes.end(second)
    assert code == 0
    assert "is dead; 1 of its jobs are rescued" in err


def test_a_consumer_that_ends_leaves_no_row_and_no_file(
    files_of: Callable[..., list[str]], processes: Processes
) -> None:
    handle = add.run_later(1)
    consumer = start(processes)
    handle.join(30)
    assert present(consumer)
    assert files_of(consumer.pid)

    assert processes.end(consumer) == (0, "")

    assert not Consumer.objects.exists()
    assert files_of(consumer.pid) == []


def test_trap_2_a_job_that_keeps_the_interpreter_for_three_heartbeat_limits_runs_once(
    engine: Engine, processes: Processes
) -> None:
    """Not a single heartbeat comes in that time, and two idle consumers look on."""
    busy = start(processes, "--queues", "default", heartbeat_limit=1)
    idle = [start(processes, "--queues", "other", heartbeat_limit=1) for _ in range(2)]
    eventually(lambda: present(busy, *idle))
    handle = hold_interpreter.run_later("stuck", 3.5)
    eventually(lambda: ran_by("stuck"))
    time.sleep(0.1)
    beats = set(Consumer.objects.filter(pid=busy.pid).values_list("name", "heartbeat_at"))
    time.sleep(3)
    still = set(Consumer.objects.filter(pid=busy.pid).values_list("name", "heartbeat_at"))

    handle.join(30)

    assert still == beats, "the interpreter was not kept"
    assert ran_by("stuck") == [busy.pid]
    assert (shown(handle)["attempts"], shown(handle)["rescues"]) == (1, 0)
    assert [processes.end(consumer) for consumer in (busy, *idle)] == [(0, "")] * 3
    assert {name for name, _ in beats} == {shown(handle)["consumer"]}


def test_trap_1_a_consumer_that_was_taken_for_dead_is_refused_and_goes_on_as_a_new_one(
    files_of: Callable[..., list[str]], processes: Processes
) -> None:
    handle = linger.run_later("late", 1)
    frozen = start(processes, frozen_limit=2)
    eventually(lambda: ran_by("late"))
    frozen.send_signal(signal.SIGSTOP)
    waiting = [
        mail.run_later(str(i)) for i in range(3)
    ]  # for the frozen one to claim when it thaws
    other = start(processes, "--queues", "default", frozen_limit=2)

    assert handle.join(30) == other.pid
    assert ran_by("late") == [frozen.pid, other.pid]
    ended, old_name = shown(handle), Job.objects.get(pk=handle.id).consumer
    assert (ended["attempts"], ended["rescues"]) == (2, 1)
    assert processes.end(other)[0] == 0
    assert not present(frozen)

    frozen.send_signal(signal.SIGCONT)
    names = set()
    for job in waiting:
        job.join(30)
        names.add(shown(job)["consumer"])
    code, err = processes.end(frozen)

    assert shown(handle) == ended, "a finished job has changed its state"
    assert not Attempt.objects.exists()
    assert code == 0
    assert "was taken for dead; its 1 jobs are no longer its own" in err
    assert "is no longer ours; its outcome is dropped" in err
    [name] = names
    assert name != old_name
    assert f":{frozen.pid}:" in name
    assert {shown(job)["attempts"] for job in waiting} == {1}
    assert not Consumer.objects.exists()
    assert files_of(frozen.pid, other.pid) == []


def test_trap_3_a_consumer_whose_slots_are_full_rescues_the_jobs_of_others(
    engine: Engine, processes: Processes
) -> None:
    """Rescue is not a job, that would wait behind those it should help."""
    dying = start(processes, "--queues", "default")
    handle = linger.run_later("lost", 600)
    eventually(lambda: ran_by("lost"))
    blocked = nap.using(queue="slow").run_later(600)
    full = start(processes, "--queues", "slow")
    eventually(lambda: present(full) and state(blocked) == "running")

    dying.kill()

    eventually(lambda: state(handle) == "ready")
    assert (shown(handle)["rescues"], state(blocked)) == (1, "running")
    full.kill()


def test_trap_12_a_job_that_kills_its_consumers_is_held_by_none_of_them_for_ever(
    engine: Engine, processes: Processes
) -> None:
    """Two consumers, one rescue allowed: the third one lives, and says what became of the job."""
    consumers = [start(processes, max_rescues=1) for _ in range(3)]
    eventually(lambda: present(*consumers))
    handle = kill_consumer.run_later("deadly")

    eventually(lambda: state(handle) == "failed")

    [alive] = [consumer for consumer in consumers if consumer.poll() is None]
    assert sorted(ran_by("deadly")) == sorted(c.pid for c in consumers if c is not alive)
    assert (handle.attempts, shown(handle)["rescues"]) == (2, 1)
    [error] = handle.errors
    assert (error.exception_class, error.number) == ("ConsumerDied", 2)
    assert "after 1 rescues" in error.message
    assert add.run_later(1).join(30) == 1
    code, err = processes.end(alive)
    assert code == 0
    assert "1 jobs of consumer" in err
    assert not Consumer.objects.exists()


def test_a_job_that_must_not_run_twice_fails_and_what_stood_in_line_behind_it_runs(
    engine: Engine, processes: Processes
) -> None:
    """In line are jobs that were claimed ahead: they have not run, and are given back as they were."""
    TALLY.unlink(missing_ok=True)
    before = run_many(tally.bind(f"before {i}") for i in range(400))
    deadly = kill_consumer_once.run_later("deadly")
    behind = run_many(tally.bind(f"behind {i}") for i in range(400))
    first = start(processes)
    first.wait(60)
    in_line = Job.objects.filter(state="running").exclude(pk=deadly.id)
    assert in_line.filter(pk__in=[job.id for job in behind]).count() > 0

    second = start(processes)
    for handle in [*before, *behind]:
        handle.join(60)

    assert state(deadly) == "failed"
    assert ran_by("deadly") == [first.pid]
    assert (deadly.attempts, shown(deadly)["rescues"]) == (1, 0)
    [error] = deadly.errors
    assert (error.exception_class, error.traceback) == ("ConsumerDied", "")
    assert "must not run twice" in error.message
    rescued = dict(Job.objects.filter(name=tally.name).values_list("pk", "rescues"))
    assert {rescued[job.id] for job in behind} == {0}
    assert set(
        Job.objects.filter(pk__in=[job.id for job in behind]).values_list("attempts", flat=True)
    ) == {1}
    runs = Counter(line.rpartition(" ")[0] for line in TALLY.read_text().splitlines())
    assert {runs[f"behind {i}"] for i in range(400)} == {1}
    # What had run and was not written yet when the process died has run again, and is counted.
    assert [runs[f"before {i}"] for i in range(400)] == [1 + rescued[job.id] for job in before]
    assert processes.end(second)[0] == 0


def test_two_that_look_on_rescue_a_dead_ones_job_once(engine: Engine, processes: Processes) -> None:
    handles = [linger.run_later(f"lost {i}", 600) for i in range(4)]
    dying = start(processes, "--concurrency-limit", "4")
    eventually(lambda: Execution.objects.count() == 4)
    others = [start(processes, "--concurrency-limit", "4") for _ in range(2)]
    eventually(lambda: present(dying, *others))

    dying.kill()

    for handle in handles:
        handle.join(30)
    assert set(Job.objects.values_list("attempts", "rescues")) == {(2, 1)}
    assert [len(ran_by(f"lost {i}")) for i in range(4)] == [2] * 4
    said = [processes.end(consumer)[1] for consumer in others]
    assert "".join(said).count("is dead") == 1
