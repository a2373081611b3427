"""A shell completes commands, options, states, and the names of jobs, queues, schedules and consumers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete, ShellComplete
from django.core.management import load_command_class
from django.test import override_settings

from djjp import queues
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.management.group import COMPLETE_VARIABLE
from djjp.models import Consumer
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.processes import ROOT, Processes, eventually
from tests.support.projects import alias_for
from tests.support.schedules import by_hand

GROUP: Any = load_command_class("djjp", "djjp")


def completions(*words: str) -> list[str]:
    """Return what a shell offers for the last of these words."""
    shell = ShellComplete(GROUP, {}, "djjp", COMPLETE_VARIABLE)
    *before, incomplete = words
    return [item.value for item in shell.get_completions(before, incomplete)]


def test_words_are_completed(engine: Engine) -> None:
    add.using(queue="mail-slow").run_later(1)
    queues.pause("mail-paused")
    by_hand(add.name, 0.0, name="nightly", every=None, cron="0 3 * * *")
    assert completions("sch") == ["schedules"]
    assert completions("schedules", "di") == ["disable"]
    assert completions("schedules", "run", "n") == ["nightly"]
    assert completions("jobs", "--sta") == ["--state"]
    assert completions("jobs", "--state", "s") == ["scheduled", "succeeded"]
    assert completions("jobs", "--queue", "mail") == ["mail", "mail-paused", "mail-slow"]
    assert completions("resume", "mail-p") == ["mail-paused"]
    assert add.name in completions("enqueue", "tests.project.shop.jobs.a")
    assert add.name in completions("jobs", "--name", add.name[:-1])
    with consuming() as consumer:
        eventually(Consumer.objects.exists)
        assert completions("consumers", "stop", consumer.name[:3]) == [consumer.name]
        assert completions("jobs", "--consumer", "") == [consumer.name]


def test_ids_of_the_newest_jobs_are_completed(engine: Engine) -> None:
    handle = add.run_later(1)
    assert completions("show", str(handle.id)[:5]) == [str(handle.id)]


def test_a_database_that_does_not_answer_offers_nothing(tmp_path: Path) -> None:
    with (
        alias_for(queue_database(tmp_path / "no" / "q")) as alias,
        override_settings(DJJP={"db_name": alias}),
    ):
        assert completions("show", "") == []


@pytest.mark.sqlite_only
def test_a_shell_gets_completions_of_the_program_djjp(processes: Processes, engine: Engine) -> None:
    script = processes.run("djjp", **{COMPLETE_VARIABLE: "bash_source"})
    assert script.stdout == BashComplete(GROUP, {}, "djjp", COMPLETE_VARIABLE).source()
    asked = {COMPLETE_VARIABLE: "bash_complete", "COMP_WORDS": "djjp consu", "COMP_CWORD": "1"}
    assert processes.run("djjp", **asked).stdout == "plain,consumers\n"


def test_the_program_djjp_runs_the_projects_manage_py(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (tmp_path / "manage.py").write_text("import sys; print(sys.argv)")
    words = [sys.executable, "-m", "djjp", "jobs", "--queue", "a b"]
    env = {"PYTHONPATH": str(ROOT)}

    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[str(tmp_path / 'manage.py'), 'djjp', 'jobs', '--queue', 'a b']}\n"

    (tmp_path / "manage.py").unlink()
    lost = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert lost.returncode == 1
    assert "there is no manage.py here or above" in lost.stderr
