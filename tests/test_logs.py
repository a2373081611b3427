"""No text of a job or a row forges a line of a log, or acts on a terminal."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import timezone

import djjp
from djjp import job, logs
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.models import Job
from tests.support.consumers import drain
from tests.support.factories import consumer_row
from tests.support.processes import Processes

FORGED = "WARNING djjp.consumer consumer a:1:2 is dead; 9 of its jobs are rescued"
HOSTILE = f"no\n{FORGED}\r\x1b[2J\x1b]0;title\x07\u202e\x9b1m"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The lines that a handler of the project writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("djjp")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_all_loggers_are_protected() -> None:
    folder = Path(djjp.__file__).parent
    used = {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(r'getLogger\("(.+?)"\)', path.read_text())
    } | {logs.JOBS}

    assert used == set(logs.NAMES)


def test_the_message_of_a_failed_job_is_one_line_before_its_traceback(
    engine: Engine, log: io.StringIO
) -> None:
    @job(name="test.hostile")
    def hostile() -> None:
        raise ValueError(HOSTILE)

    try:
        handle = hostile.run_later()
        drain()
    finally:
        del registry._jobs["test.hostile"]

    line, *traceback = log.getvalue().splitlines()
    assert line.startswith(
        f"ERROR djjp.consumer.jobs test.hostile {handle.id} failed: builtins.ValueError: no"
    )
    assert all(each.isprintable() for each in (line, *traceback))
    assert all(each.startswith("  ") for each in traceback)
    assert handle.errors[0].message == HOSTILE  # it is kept as it was


@pytest.mark.parametrize("name", logs.NAMES)
def test_arguments_and_tracebacks_are_printable_and_begin_no_line(
    name: str, log: io.StringIO
) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger(name).exception("%s, %r and %d", HOSTILE, HOSTILE, 3)

    head, *rest = log.getvalue().splitlines()
    assert head.startswith(f"ERROR {name} no")
    assert all(line.isprintable() for line in (head, *rest))
    assert rest[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in rest)


def test_commands_print_no_control_characters(processes: Processes, engine: Engine) -> None:
    now = timezone.now()
    Job.objects.create(name="a\x1b[31mb\nc", queue="q\x1b]0;x\x07", arguments="{}", created_at=now)
    consumer_row("h\x1b[2J:1:a", concurrency_limit=1)

    status, jobs = processes.run("djjp", "status"), processes.run("djjp", "jobs")

    assert (status.returncode, jobs.returncode) == (0, 0), status.stderr + jobs.stderr
    assert "q\\x1b]0;x\\x07  " in status.stdout
    assert "\nh\\x1b[2J:1:a  alive  " in status.stdout
    assert "a\\x1b[31mb\\nc  " in jobs.stdout
    lines = (status.stdout + jobs.stdout).splitlines()
    assert all(line.isprintable() for line in lines)
