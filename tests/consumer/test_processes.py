"""Consumers as users run them: processes of their own, ended by signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp import run_many
from djjp.engine import Engine
from djjp.models import Consumer, Job
from tests.project.shop.forking import shout
from tests.project.shop.jobs import (
    TALLY,
    add,
    fan_out,
    hog_until,
    linger,
    linger_until,
    nap,
    record,
)
from tests.project.shop.models import Execution
from tests.support.processes import Processes, eventually

ENQUEUE = """
import django; django.setup()
from tests.project.shop.jobs import tally
for i in range({start}, {stop}):
    tally.run_later(str(i))
"""


def states() -> Counter[str]:
    return Counter(Job.objects.values_list("state", flat=True))


@pytest.mark.both_databases
def test_one_process_enqueues_and_another_runs(processes: Processes, engine: Engine) -> None:
    handle = add.run_later(1, b=2)
    ended = processes.run("start_consumer", "--drain")

    assert ended.returncode == 0, ended.stderr
    assert handle.join(0) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_jobs_end_and_releases_the_rest(
    processes: Processes, engine: Engine, number: int, tmp_path: Path
) -> None:
    over = tmp_path / "over"
    run_many(linger_until.bind(str(i), str(over)) for i in range(10))
    consumer = processes.consumer("--concurrency-limit", "2")
    eventually(lambda: Execution.objects.count() == 2)

    consumer.send_signal(number)
    over.touch()
    _, err = consumer.communicate(timeout=60)

    assert consumer.returncode == 0, err
    assert "Traceback" not in err
    assert states() == {"succeeded": 2, "ready": 8}
    assert set(Job.objects.filter(state="ready").values_list("attempts", "consumer")) == {(0, None)}


@pytest.mark.sqlite_only
def test_a_signal_ends_an_idle_consumer_too(processes: Processes, engine: Engine) -> None:
    handle = add.run_later(1)
    consumer = processes.consumer()
    handle.join(30)

    assert processes.end(consumer) == (0, "")


@pytest.mark.sqlite_only
def test_a_second_signal_releases_running_jobs_without_an_attempt_spent(
    processes: Processes, engine: Engine
) -> None:
    run_many(linger.bind(str(i), 60.0) for i in range(3))
    consumer = processes.start("start_consumer", "--concurrency-limit", "2", DJJP_TEST_LOG="")
    eventually(lambda: Execution.objects.count() == 2)

    consumer.send_signal(signal.SIGTERM)
    # Before it was handled, a second one would be none.
    assert consumer.stderr is not None
    assert any(line == "stopping: waits for 2 running jobs\n" for line in consumer.stderr)
    with pytest.raises(subprocess.TimeoutExpired):
        consumer.wait(0.5)
    processes.end(consumer)

    assert consumer.returncode == 1
    assert set(Job.objects.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}


def test_after_the_shutdown_timeout_running_jobs_are_released(
    processes: Processes, engine: Engine
) -> None:
    run_many(linger.bind(str(i), 60.0) for i in range(2))
    consumer = processes.start("start_consumer", DJJP_TEST_SHUTDOWN_TIMEOUT="0.3")
    eventually(lambda: Execution.objects.count() == 2)

    code, _ = processes.end(consumer)

    assert code == 1
    assert set(Job.objects.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}


@pytest.mark.end_to_end
@pytest.mark.parametrize("jobs", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_three_consumers_and_four_enqueuers_run_each_job_exactly_once(
    processes: Processes, engine: Engine, jobs: int
) -> None:
    share = jobs // 4
    TALLY.unlink(missing_ok=True)
    consumers = [processes.consumer() for _ in range(3)]
    eventually(lambda: Consumer.objects.count() == 3)
    enqueuers = [
        processes.python(ENQUEUE.format(start=i * share, stop=(i + 1) * share)) for i in range(4)
    ]
    for enqueuer in enqueuers:
        _, err = enqueuer.communicate(timeout=240)
        assert (enqueuer.returncode, err) == (0, "")
    eventually(lambda: states()["succeeded"] == jobs, within=240)
    endings = [processes.end(consumer) for consumer in consumers]

    assert [code for code, _ in endings] == [0] * 3
    # On a busy machine one of seven writers can wait for SQLite's lock for longer than its timeout.
    said = "".join(err for _, err in endings).splitlines()
    assert [line for line in said if "(database is locked); again in" not in line] == []
    assert states() == {"succeeded": jobs}
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}
    lines = [line.split() for line in TALLY.read_text().splitlines()]
    assert Counter(key for key, _ in lines) == {str(i): 1 for i in range(jobs)}
    assert {process for _, process in lines} == {str(consumer.pid) for consumer in consumers}


@pytest.mark.both_databases
def test_a_consumer_holds_one_queue_connection_whatever_its_jobs_do(
    processes: Processes, engine: Engine
) -> None:
    run_many(fan_out.bind(20) for _ in range(40))
    run_many(nap.bind(60.0) for _ in range(20))
    before = _sessions(engine)
    consumer = processes.start(
        "start_consumer", "--concurrency-limit", "20", DJJP_TEST_SHUTDOWN_TIMEOUT="0"
    )
    eventually(lambda: Job.objects.filter(state="running", name=nap.name).count() == 20)
    # These are claimed ahead, while the last of the others still enqueue.
    eventually(lambda: Job.objects.filter(name=add.name).count() == 40 * 20)

    if engine.db.alias == "postgresql":
        assert len(_sessions(engine) - before) == 1
    else:
        assert _open_files(engine, consumer.pid) == 1

    processes.end(consumer)


def _sessions(engine: Engine) -> set[int]:
    """Return the sessions of all clients on the server, on PostgreSQL."""
    if engine.db.alias != "postgresql":
        return set()
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return {pid for (pid,) in cursor.fetchall()}


def _open_files(engine: Engine, pid: int) -> int:
    """Return the number of times that a process has the SQLite file open."""
    name = str(engine.db.connection.settings_dict["NAME"])
    listing = subprocess.run(
        ["ls", "-l", f"/proc/{pid}/fd"], capture_output=True, text=True, check=True
    )
    return len(re.findall(rf"{re.escape(name)}$", listing.stdout, re.MULTILINE))


@pytest.mark.end_to_end
@pytest.mark.both_databases
def test_no_statement_goes_to_the_wrong_database(processes: Processes, engine: Engine) -> None:
    """The statements of an enqueue here, and of a whole consumer process that logs each of its own."""
    run_many(record.bind(str(i)) for i in range(20))
    handle = record.run_later("last")
    ended = processes.run("start_consumer", "--drain", DJJP_TEST_STATEMENTS="1")

    assert handle.join(0)
    lines = [line.split(" ", 2) for line in ended.stderr.splitlines() if line.startswith("SQL ")]
    by_alias = {
        alias: [sql for _, a, sql in lines if a == alias] for alias in ("default", engine.db.alias)
    }
    assert len(lines) == sum(map(len, by_alias.values()))
    assert any("shop_execution" in sql for sql in by_alias["default"])
    # The outbox is the application's own table.
    assert not any("djjp_" in sql.replace("djjp_outbox", "") for sql in by_alias["default"])
    assert any("djjp_job" in sql for sql in by_alias[engine.db.alias])
    assert not any("shop_" in sql for sql in by_alias[engine.db.alias])


def test_an_enqueue_runs_one_statement_on_the_queue_and_none_on_the_application(
    engine: Engine,
) -> None:
    with (
        CaptureQueriesContext(connections["default"]) as application,
        CaptureQueriesContext(connections[engine.db.alias]) as queued,
    ):
        add.run_later(1)
        run_many(add.bind(i) for i in range(3))

    assert [query["sql"] for query in application.captured_queries] == []
    assert queued.captured_queries[0]["sql"].count("INSERT INTO djjp_job") == 1


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_job_that_keeps_the_interpreter_busy_does_not_stop_the_turns(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    over = tmp_path / "over"
    slow = hog_until.run_later(str(over))
    quick = [nap.run_later(0.01) for _ in range(5)]
    consumer = processes.consumer("--concurrency-limit", "4")

    for handle in quick:
        handle.join(60)
    slow.refresh()
    assert slow.state == "running"

    over.touch()
    assert processes.end(consumer)[0] == 0
    assert slow.join(0) is None


# Run a consumer whose standard output is closed, or is a pipe that nobody reads.
SPEECHLESS = """
import os, sys
read, write = os.pipe()
os.dup2(write, 1)
os.close(read), os.close(write)
if {closed}:
    os.close(1)
os.execv(sys.executable, [sys.executable, "-m", "tests.project.manage", "start_consumer", *{options}])
"""


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    ("closed", "options", "stops", "code"),
    [
        (True, [], 1, 0),
        pytest.param(True, ["--processes", "1"], 2, 1, marks=pytest.mark.end_to_end),
        pytest.param(False, [], 2, 1, marks=pytest.mark.end_to_end),
        (False, ["--processes", "1"], 1, 0),
        pytest.param(True, [], 2, 1, marks=pytest.mark.end_to_end),
        pytest.param(True, ["--processes", "1"], 1, 0, marks=pytest.mark.end_to_end),
        pytest.param(False, [], 1, 0, marks=pytest.mark.end_to_end),
        pytest.param(False, ["--processes", "1"], 2, 1, marks=pytest.mark.end_to_end),
    ],
)
def test_output_that_nobody_reads_changes_neither_the_end_nor_the_exit_code(
    engine: Engine, processes: Processes, closed: bool, options: list[str], stops: int, code: int
) -> None:
    shout.run_later("into the void")
    linger.run_later("long", 4 if stops == 1 else 60)
    consumer = processes.python(
        SPEECHLESS.format(closed=closed, options=options), PYTHONUNBUFFERED=""
    )
    eventually(lambda: states()["succeeded"] and Execution.objects.exists())

    for number in range(stops):
        time.sleep(number)  # two that come together count as one
        consumer.send_signal(signal.SIGTERM)
    _, err = consumer.communicate(timeout=30)

    assert consumer.returncode == code
    assert "Traceback" not in err
    assert "Exception" not in err


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("options", [[], ["--processes", "1"]])
def test_a_terminal_that_closes_lets_running_jobs_end(
    engine: Engine, processes: Processes, options: list[str]
) -> None:
    linger.run_later("long", 1.5)
    consumer = processes.consumer(*options)
    eventually(Execution.objects.count)

    for _ in range(3):  # a shell and the kernel each send one, and to the whole group
        os.killpg(consumer.pid, signal.SIGHUP)
        time.sleep(0.1)
    consumer.communicate(timeout=30)

    assert consumer.returncode == 0
    assert states() == {"succeeded": 1}


@pytest.mark.sqlite_only
def test_nohup_keeps_a_consumer_running(engine: Engine, processes: Processes) -> None:
    command = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    command += (
        "os.execv(sys.executable, [sys.executable, '-m', 'tests.project.manage', 'start_consumer'])"
    )
    consumer = processes.python(command)
    add.run_later(1).join(30)

    consumer.send_signal(signal.SIGHUP)

    assert add.run_later(1).join(30) == 1
    time.sleep(0.5)
    assert add.run_later(1).join(30) == 1
    assert processes.end(consumer) == (0, "")
