"""Commands as a shell calls them, and as `call_command()` does: the same options, the same errors, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.test import override_settings

from djjp import run_many
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.management.actions import VerbCommand
from djjp.models import Job
from tests.project.shop.jobs import add, mail
from tests.support.processes import Processes
from tests.support.projects import alias_for

GROUP: Any = load_command_class("djjp", "djjp")


@pytest.fixture(params=["postgresql", "sqlite"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A queue whose database does not answer."""
    name = "postgres://ann@127.0.0.1:1/jobs"
    config = queue_database(tmp_path / "no" / "q" if request.param == "sqlite" else name)
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        yield alias


@pytest.mark.parametrize("name", sorted(GROUP.commands.keys() - {"outbox"}))  # needs no queue
def test_each_command_reports_in_one_line_that_the_database_does_not_answer(
    away: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = [
        param
        for param in GROUP.commands[name].params
        if isinstance(param, click.Argument) and param.required
    ]
    arguments = [away, "default"][: len(needed)] if name == "transfer" else ["5"] * len(needed)
    if isinstance(GROUP.commands[name], VerbCommand):
        arguments.append("x")

    with pytest.raises(CommandError) as ended:
        call_command("djjp", name, *arguments)

    out, err = capsys.readouterr()
    assert ended.value.returncode == 69
    assert (out, err, str(ended.value).count("\n")) == ("", "", 0)
    assert name == "migrate" or f"the queue's database {away!r} did not take the call" in str(
        ended.value
    )


@pytest.mark.end_to_end
def test_from_a_shell_there_is_no_traceback_either(processes: Processes, engine: Engine) -> None:
    gone = {
        "DJJP_TEST_ALIAS": "postgresql",
        "DJJP_TEST_SERVER_URL": "postgres://ann@127.0.0.1:1/jobs",
    }
    for command in (["djjp", "status"], ["start_consumer"], ["start_consumer", "--processes", "2"]):
        done = processes.run(*command, **gone)
        code = 69 if command[0] == "djjp" else 1
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert done.stderr.startswith("CommandError: ")


# Options from call_command()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"queues": "mail"}, 1),
        ({"queues": " mail , default "}, 0),
        ({"queues": ["mail", "default"]}, 0),
        ({"queues": ("mail",)}, 1),
        ({"queues": None}, 0),
        ({"exclude_queues": ["mail"]}, 1),
        ({"exclude_queues": "mail"}, 1),
        ({"concurrency": "asyncio", "concurrency_limit": "2"}, 0),
        ({"concurrency_limit": 2, "max_rss": None, "processes": None, "reload": False}, 0),
        ({"max_jobs": "1"}, 1),
        ({"verbosity": 0, "settings": None, "max-jobs": "1"}, 1),
    ],
)
def test_options_mean_what_they_mean_in_a_shell(
    engine: Engine, options: dict[str, Any], left: int
) -> None:
    run_many([add.bind(1), mail.bind("a")])

    call_command("start_consumer", drain="true", **options)

    assert Job.objects.filter(state="ready").count() == left


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queues", ""),
        ("queues", []),
        ("queues", ["mail:0"]),
        ("queues", ["mail:2", "default"]),
        ("concurrency", "processes"),
        ("concurrency_limit", 0),
        ("concurrency_limit", "many"),
        ("concurrency_limit", [1, 2]),
        ("max_jobs", -1),
        ("max_jobs", True),
        ("max_rss", 1.5),
        ("processes", 10_000),
    ],
)
def test_a_wrong_value_is_refused_as_a_shell_refuses_it(
    engine: Engine, option: str, value: Any
) -> None:
    word = ",".join(map(str, value)) if isinstance(value, list) else str(value)

    with pytest.raises(click.BadParameter) as in_a_shell:
        call_command("start_consumer", "--drain", f"--{option.replace('_', '-')}={word}")
    with pytest.raises(click.BadParameter) as from_python:
        call_command("start_consumer", drain=True, **{option: value})

    assert from_python.value.message == in_a_shell.value.message


def test_a_flag_takes_only_what_can_be_read_as_yes_or_no(engine: Engine) -> None:
    with pytest.raises(click.BadParameter):
        call_command("start_consumer", drain="perhaps")


# The streams


@pytest.mark.end_to_end
@pytest.mark.one_database
def test_a_character_that_the_locale_lacks_is_printed_as_an_escape(
    processes: Processes, engine: Engine
) -> None:
    handle = add.using(tags=["\u03a9"]).run_later(1)
    done = processes.run("djjp", "show", str(handle.id), PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u03a9" in done.stdout


@pytest.mark.one_database
@pytest.mark.parametrize("words", [["djjp", "status"], ["start_consumer", "--help"]])
def test_output_that_cannot_be_written_is_one_line(
    engine: Engine, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = load_command_class("djjp", words[0])
    with (
        Path("/dev/full").open("w") as full,
        redirect_stdout(full),
        pytest.raises(SystemExit) as ended,
    ):
        command.run_from_argv(["manage.py", *words])
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "CommandError: [Errno 28] No space left on device\n")
