"""The lines of `start_consumer` on stderr: a greeting, what it waits for, and the log of jobs."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import djjp
from djjp import conf, job, logs
from djjp.consumer import console as console_module
from djjp.consumer.console import Console
from djjp.consumer.process import consume
from djjp.engine import Engine
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually

released = threading.Event()
held: list[bool] = []


@job(name="console.fail")
def fail() -> None:
    raise ValueError("no\n\x1b[2J")


@job(name="console.hold")
def hold() -> None:
    held.append(True)
    released.wait(30)


@pytest.fixture
def unconfigured(settings: Any) -> Iterator[None]:
    """A project that configures no logging for djjp, nor any handler for all."""
    settings.LOGGING = {}
    with without_handlers("djjp"), without_handlers(""):
        yield


@contextmanager
def without_handlers(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.handlers = logger.handlers, []
    yield
    logger.handlers = before


def run(verbosity: int) -> None:
    """Run a succeeding and a failing job as `start_consumer -v N --drain` does."""
    add.run_later(1, 2)
    fail.run_later()
    assert consume(drain=True, verbosity=verbosity) == 0


@pytest.mark.usefixtures("unconfigured", "engine")
def test_it_greets_and_reports_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    run(1)

    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith(f"djjp {djjp.__version__}: consumer ")
    assert lines[1].startswith(f"database: {conf.db_name()}, ")
    assert lines[2:5] == [
        "queues: all queues",
        "concurrency: threads, 10 jobs at a time",
        "Ctrl-C stops, once the running jobs have ended; a second Ctrl-C releases them",
    ]
    assert lines[-1] == "stopped after 2 jobs"
    assert "succeeded" not in err


@pytest.mark.usefixtures("unconfigured", "engine")
def test_no_verbosity_is_silence(capfd: pytest.CaptureFixture[str]) -> None:
    run(0)

    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("djjp").handlers == []


@pytest.mark.usefixtures("unconfigured", "engine")
def test_more_verbosity_shows_each_job(capfd: pytest.CaptureFixture[str]) -> None:
    run(2)

    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith(f"{add.name} ") and " succeeded: " in line]
    [failed] = [line for line in lines if line.startswith("console.fail ")]
    assert failed.endswith(" failed: builtins.ValueError: no\\n\\x1b[2J")
    assert all(line.isprintable() for line in lines)
    jobs = logging.getLogger(logs.JOBS)
    assert (jobs.handlers, jobs.level) == ([], logging.NOTSET)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_a_project_with_logging_for_djjp_gets_the_log_alone(
    verbosity: int, capfd: pytest.CaptureFixture[str]
) -> None:
    add.run_later(1, 2)

    assert consume(drain=True, verbosity=verbosity) == 0

    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("unconfigured", "engine")
def test_handlers_of_the_root_logger_show_a_job_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()  # on the stderr that is captured
    logging.getLogger().addHandler(handler)

    run(2)

    err = capsys.readouterr().err
    assert err.count(" succeeded: ") == 1
    assert err.count(" failed: ") == 1
    assert err.startswith("djjp ")


@pytest.mark.usefixtures("unconfigured")
def test_while_stopping_it_reports_the_jobs_that_it_waits_for(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    released.clear()
    held.clear()
    console, seen = Console(1), list[int]()
    with consuming(2) as consumer:
        consumer.on_ending = lambda running: [f(running) for f in (seen.append, console.wait_for)]
        hold.run_later()
        hold.run_later()
        eventually(lambda: len(held) == 2)
        consumer.stop()
        eventually(lambda: seen)
        released.set()

    assert seen[0] == 2
    assert capsys.readouterr().err.startswith("stopping: waits for 2 running jobs\n")


@pytest.mark.usefixtures("unconfigured")
def test_the_number_is_reported_when_it_changes(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 10.5, 11.5, 12.0, 20.0])
    # The clock of this module only: threads that are left from other tests read theirs.
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    console, supervised = Console(1), Console(1, process=7)

    for number in (3, 2, 2, 2):
        console.wait_for(number)
    console.wait_for(0)
    monkeypatch.undo()
    supervised.wait_for(1)
    supervised.greet("consumer x", "all queues", None, None)
    supervised.end(3)

    assert capsys.readouterr().err.splitlines() == [
        "stopping: waits for 3 running jobs",
        "stopping: waits for 2 running jobs",
        "process 7 waits for 1 running job",
    ]


@pytest.mark.usefixtures("unconfigured")
def test_the_greeting_has_no_password(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"NAME": "shop", "HOST": "db", "PORT": "6432", "USER": "me", "PASSWORD": "secret"}
    monkeypatch.setattr(engine.db.connection, "settings_dict", given | {"OPTIONS": {}})

    Console(1).greet("consumer x", "mail\x1b[2J", "asyncio", 500)

    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith(" shop on db:6432")
    assert lines[2] == "queues: mail\\x1b[2J"
    assert lines[3] == "concurrency: asyncio, 500 jobs at a time"


@pytest.mark.usefixtures("unconfigured")
def test_a_closed_stderr_is_no_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)

    Console(1).end(3)


@pytest.mark.end_to_end
@pytest.mark.processes
def test_a_supervisor_greets_for_its_children(processes: Processes, engine: Engine) -> None:
    command = ["start_consumer", "-v", "2", "--processes", "2", "--concurrency-limit", "3"]
    supervisor = processes.start(*command, DJJP_TEST_LOG="")
    handle = add.run_later(1, 2)
    eventually(lambda: Job.objects.filter(state="succeeded").exists(), within=60)

    code, err = processes.end(supervisor, signal.SIGINT)

    assert code == 0, err
    lines = err.splitlines()
    assert lines[0] == f"djjp {djjp.__version__}: supervisor {supervisor.pid} of 2 consumers"
    assert "concurrency: threads, 3 jobs at a time" in lines
    assert err.count("djjp 0") == err.count("Ctrl-C stops") == 1
    assert err.count(f"{add.name} {handle.id} succeeded: ") == 1
    assert "stopping: waits for 2 processes" in lines
    assert lines[-1] == "stopped"
