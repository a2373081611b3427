"""Consumers that are killed, stopped and stuck: real processes, and what becomes of their jobs."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from djjp import run_many
from djjp.consumer import rescue, start_journal
from djjp.consumer.heartbeat import ConsumerName
from djjp.consumer.start_journal import StartJournal
from djjp.engine import Engine, Peer
from djjp.jobs.handles import JobHandle
from djjp.models import Attempt, Consumer, Job, OnCrash
from tests.project.shop.jobs import (
    TALLY,
    add,
    hold_interpreter_until,
    kill_consumer,
    kill_consumer_once,
    linger,
    mail,
    nap,
    serve_tenant,
    tally,
)
from tests.project.shop.models import Execution
from tests.support.engine_calls import NOW, at_once, claim, enqueue, one, register_consumer, row
from tests.support.processes import Processes, eventually

# With a `frozen_limit` of seconds.
SOON_FROZEN = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}


def start(processes: Processes, *options: str, **settings: Any) -> subprocess.Popen[str]:
    """Start a consumer, by default of one job at a time, with these keys in `DJJP`."""
    limit = [] if "--concurrency-limit" in options else ["--concurrency-limit", "1"]
    return processes.start(
        "start_consumer", *options, *limit, DJJP_TEST_SETTINGS=json.dumps(settings)
    )


def present(*consumers: subprocess.Popen[str]) -> bool:
    """Return whether these consumers have registered, so that they can detect each other."""
    return set(Consumer.objects.values_list("pid", flat=True)) >= {c.pid for c in consumers}


def ran_by(key: str) -> list[int]:
    """Return the processes that have started a job with this key, first to last."""
    return list(Execution.objects.filter(key=key).order_by("at").values_list("process", flat=True))


def state(handle: JobHandle) -> str:
    handle.refresh()
    return handle.state


def shown(handle: JobHandle) -> dict[str, Any]:
    return dict(Job.objects.values().get(pk=handle.id))


@pytest.fixture
def files_of(engine: Engine) -> Callable[..., list[str]]:
    """Return the journals and locks of these processes, without those of earlier processes of the same ids."""
    folder = engine.db.runtime_dir()
    assert folder is not None
    before = set(folder.iterdir())

    def files(*pids: int) -> list[str]:
        new = {path.name for path in set(folder.iterdir()) - before}
        return sorted(name for name in new if any(f"-{pid}-" in name for pid in pids))

    return files


@pytest.mark.both_databases
def test_the_job_of_a_killed_consumer_runs_again_once_it_is_dead_and_not_before(
    files_of: Callable[..., list[str]], processes: Processes
) -> None:
    """While its consumer lives, the job is not rescued for several heartbeats, however long it runs."""
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


@pytest.mark.end_to_end
def test_a_drain_rescues_the_jobs_of_a_drain_that_was_killed(
    processes: Processes, engine: Engine
) -> None:
    """As when both are started by cron: no other consumer runs in between."""
    started = [linger.run_later(f"job {i}", 600) for i in range(2)]
    limited = [serve_tenant.run_later("acme", 600.0) for _ in range(2)]
    waiting = serve_tenant.run_later("acme", 0.0)
    first = start(processes, "--drain", "--concurrency-limit", "4")
    eventually(lambda: all(state(handle) == "running" for handle in [*started, *limited]))
    eventually(lambda: all(ran_by(f"job {i}") for i in range(2)))
    first.kill()
    first.wait()
    for handle in limited:
        handle.cancel()

    second = start(processes, "--drain", "--concurrency-limit", "4")

    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert [handle.join(0) for handle in started] == [second.pid] * 2
    assert [state(handle) for handle in limited] == ["cancelled"] * 2
    assert state(waiting) == "succeeded"
    assert not Consumer.objects.exists()


@pytest.mark.end_to_end
def test_a_drain_does_not_wait_for_consumers_that_live(
    processes: Processes, engine: Engine
) -> None:
    handle = linger.run_later("long", 600)
    busy = start(processes)
    eventually(lambda: ran_by("long"))
    drain = start(processes, "--drain")
    drain.communicate(timeout=60)
    assert state(handle) == "running"
    busy.kill()


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


@pytest.mark.end_to_end
def test_a_job_that_keeps_the_interpreter_for_three_heartbeat_limits_runs_once(
    engine: Engine, processes: Processes, tmp_path: Path
) -> None:
    """No heartbeat comes in that time, and two idle consumers could rescue the job."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    busy = start(processes, "--queues", "default", heartbeat_limit=1)
    idle = [start(processes, "--queues", "other", heartbeat_limit=1) for _ in range(2)]
    eventually(lambda: present(busy, *idle))
    handle = hold_interpreter_until.run_later("stuck", str(fifo))
    eventually(lambda: ran_by("stuck"))
    mine = Consumer.objects.filter(pid=busy.pid).values_list("name", "heartbeat_at")

    def beats_no_more() -> bool:
        beats = set(mine)
        time.sleep(3)
        return set(mine) == beats

    eventually(beats_no_more)
    [(name, _)] = mine
    with fifo.open("wb"):
        handle.join(30)

    assert ran_by("stuck") == [busy.pid]
    assert (shown(handle)["attempts"], shown(handle)["rescues"]) == (1, 0)
    assert [processes.end(consumer) for consumer in (busy, *idle)] == [(0, "")] * 3
    assert shown(handle)["consumer"] == name


@pytest.mark.end_to_end
def test_a_consumer_that_was_declared_dead_is_refused_and_continues_as_a_new_one(
    files_of: Callable[..., list[str]], processes: Processes
) -> None:
    handle = linger.run_later("late", 5)
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
    assert {shown(job)["claim"] for job in waiting} == {1}, "claimed while there was no slot"
    assert not Consumer.objects.exists()
    assert files_of(frozen.pid, other.pid) == []


@pytest.mark.end_to_end
def test_a_consumer_whose_slots_are_full_rescues_the_jobs_of_others(
    engine: Engine, processes: Processes
) -> None:
    """Rescue is not a job, which would wait behind the jobs that it should rescue."""
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


@pytest.mark.end_to_end
def test_a_job_that_kills_its_consumers_fails_after_max_rescues(
    engine: Engine, processes: Processes
) -> None:
    """Two consumers die with one rescue allowed: the third one lives, and logs the failure of the job."""
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


@pytest.mark.end_to_end
def test_a_job_that_must_not_run_twice_fails_and_the_jobs_queued_behind_it_run(
    engine: Engine, processes: Processes
) -> None:
    """Queued jobs were claimed ahead: they have not run, and are released unchanged."""
    TALLY.unlink(missing_ok=True)
    before = run_many(tally.bind(f"before {i}") for i in range(400))
    deadly = kill_consumer_once.run_later("deadly")
    behind = run_many(tally.bind(f"behind {i}") for i in range(400))
    first = start(processes)
    first.wait(60)
    queued = Job.objects.filter(state="running").exclude(pk=deadly.id)
    assert queued.filter(pk__in=[job.id for job in behind]).count() > 0

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


@pytest.mark.end_to_end
def test_two_consumers_rescue_the_jobs_of_a_dead_one_once(
    engine: Engine, processes: Processes
) -> None:
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
    logged = [processes.end(consumer)[1] for consumer in others]
    assert "".join(logged).count("is dead") == 1


# A consumer that was declared dead, and lives


def in_a_turn(engine: Engine) -> bool:
    """Return whether a transaction is open that writes to the queue."""
    if engine.db.alias == "sqlite":
        name = engine.db.connection.settings_dict["NAME"]
        with closing(sqlite3.connect(name, timeout=0.2, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.end_to_end
def test_queued_jobs_of_a_frozen_consumer_do_not_run_again_when_it_wakes(
    processes: Processes, engine: Engine
) -> None:
    """Its queued jobs are released as not started; the threads that wake must not start them."""
    TALLY.unlink(missing_ok=True)
    run_many(tally.bind(str(i)) for i in range(20_000))
    frozen = processes.start("start_consumer", **SOON_FROZEN)
    running = Job.objects.filter(state="running")
    for _ in range(100):
        eventually(lambda: running.count() > 50)
        frozen.send_signal(signal.SIGSTOP)
        if running.count() > 50 and not in_a_turn(engine):
            break
        frozen.send_signal(signal.SIGCONT)
    name = running.values_list("consumer", flat=True)[0]

    other = processes.start("start_consumer", **SOON_FROZEN)
    eventually(lambda: not Job.objects.exclude(state="succeeded").exists(), within=240)
    frozen.send_signal(signal.SIGCONT)
    codes = [processes.end(consumer)[0] for consumer in (frozen, other)]

    assert codes == [0, 0]
    assert Job.objects.filter(consumer=name).exists()
    executions = Counter(line.split()[0] for line in TALLY.read_text().splitlines())
    times = Counter(executions.values())
    rescued = Job.objects.filter(rescues=1).count()
    assert (times[1] + times[2], times[2]) == (20_000, rescued)


@pytest.mark.both_databases
def test_the_files_of_a_consumer_that_are_removed_are_made_anew(
    engine: Engine, files_of: Callable[..., list[str]], processes: Processes
) -> None:
    """As by a program that cleans the temporary directory."""
    handle = linger.run_later("long", 600)
    consumer = start(processes, "--concurrency-limit", "2", heartbeat_limit=0.5)
    eventually(lambda: ran_by("long"))
    folder, files = engine.db.runtime_dir(), files_of(consumer.pid)
    assert folder is not None
    assert len(files) == 2

    for name in files:
        (folder / name).unlink()

    eventually(lambda: files_of(consumer.pid) == files)
    name = shown(handle)["consumer"]
    eventually(lambda: start_journal.started(folder, name) == {(handle.id, shown(handle)["claim"])})
    # Jobs still start.
    assert add.run_later(1).join(30) == 1


# The rescue itself, and the files of the dead consumer


def leave_files(engine: Engine, name: str) -> tuple[StartJournal, list[str]]:
    """Write the files that a dead consumer leaves: the journal of its jobs, all started, and its lock."""
    folder = engine.db.runtime_dir()
    assert folder is not None
    jobs = claim(engine, name)
    journal = StartJournal(folder, name, 5)
    journal.reserve(jobs)
    for job in jobs:
        journal.record(job)
    (folder / f"{name.replace(':', '-')}.lock").touch()
    return journal, left_files(engine, name)


def left_files(engine: Engine, name: str) -> list[str]:
    folder = engine.db.runtime_dir()
    assert folder is not None
    return sorted(path.name for path in folder.glob(f"{name.replace(':', '-')}.*"))


def test_a_rescue_reads_the_journal_and_removes_the_files(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    name = ConsumerName.new().text
    register_consumer(engine, name)
    [started_id] = enqueue(engine)
    _, files = leave_files(engine, name)
    assert len(files) == 2
    [waiting] = enqueue(engine)
    claim(engine, name)

    with caplog.at_level(logging.WARNING, "djjp"):
        rescue.rescue(engine, Peer(name, NOW, locked=True))

    assert (row(started_id)["state"], row(started_id)["rescues"]) == ("ready", 1)
    assert (row(waiting)["state"], row(waiting)["rescues"]) == ("ready", 0)
    assert left_files(engine, name) == []
    logged, incident = [r.getMessage() for r in caplog.records]
    assert logged == f"consumer {name} is dead; 1 of its jobs are rescued", "the other was released"
    assert f"the last one {name}; 1 job was rescued;" in incident


def test_a_consumer_that_lives_after_all_keeps_its_files_and_nothing_is_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its lock file it would be declared dead a second later."""
    name = ConsumerName.new().text
    register_consumer(engine, name)
    enqueue(engine)
    journal, files = leave_files(engine, name)
    engine.consumers.heartbeat(name, NOW + 1, locked=True)

    with caplog.at_level(logging.WARNING, "djjp"):
        rescue.rescue(engine, Peer(name, NOW, locked=True))

    assert left_files(engine, name) == files
    assert journal.is_suspected(), (
        "it must check whether it was in time before it starts another job"
    )
    assert not caplog.records
    assert Job.objects.get().state == "running"
    start_journal.clear(engine.db.runtime_dir(), name)


def test_jobs_that_fail_by_a_death_are_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    register_consumer(engine, "host:7:a")
    enqueue(engine, on_crash=OnCrash.FAIL)
    enqueue(engine)
    claim(engine, "host:7:a")
    with caplog.at_level(logging.WARNING, "djjp"):
        rescue.rescue(engine, Peer("host:7:a", NOW, locked=True))
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "WARNING"]
    assert caplog.records[1].getMessage() == "1 jobs of consumer host:7:a have failed by its death"
    assert "; 1 job was rescued, and 1 has failed;" in caplog.records[2].getMessage()


def test_a_supervisor_rescues_the_jobs_of_its_dead_child_only(engine: Engine) -> None:
    """Other consumers can have its host and its process id, in another container."""
    mine = f"{socket.gethostname()}:4711:aa"
    others = [f"{socket.gethostname()}:4711:{token}" for token in ("aaa", "bb", "baa", "")]
    for name in (mine, *others):
        register_consumer(engine, name)
    [job, *theirs] = [one(engine, name) for name in (mine, *others)]

    def rescue_child(own: Engine) -> tuple[int, bool]:
        return rescue.rescue_child("aa"), connections[own.db.alias].connection is None

    assert at_once(rescue_child) == [(1, True)]
    assert row(job.id)["state"] == "ready"
    assert {row(other.id)["state"] for other in theirs} == {"running"}
    assert [peer.name for peer in engine.consumers.peers()] == sorted(others)
