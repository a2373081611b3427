"""Each command has --json, one document on stdout, errors of one catalogue, and its exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from django.core.management import load_command_class
from django.test import override_settings

from djjp import errors, queues
from djjp.databases import queue_database
from djjp.engine import Engine
from djjp.monitoring import shapes
from tests.docs.markdown import headings, read
from tests.management.conftest import Djjp, run
from tests.project.shop.jobs import add, fail
from tests.support.consumers import drain
from tests.support.json_schema import problems
from tests.support.projects import alias_for

GROUP: Any = load_command_class("djjp", "djjp")


def commands(group: click.Group = GROUP, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Return all commands, also those within others, by their words."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


ALL = dict(commands())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_each_command_has_json_and_a_help_with_an_example(words: tuple[str, ...]) -> None:
    options = {option for parameter in ALL[words].params for option in parameter.opts}
    assert "--json" in options
    assert re.search(rf"Examples?: manage.py djjp {words[0]}\b", ALL[words].help)


@pytest.mark.one_database
@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_an_unknown_option_is_a_usage_error_also_as_a_document(
    djjp: Djjp, words: tuple[str, ...]
) -> None:
    ran = djjp(*words, "--nonsense", "--json")

    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == "usage"
    assert "--nonsense" in ran.err
    assert djjp(*words, "--nonsense").out == ""


@pytest.mark.one_database
def test_an_unknown_command_is_a_usage_error(djjp: Djjp) -> None:
    ran = djjp("jbos", "--json")
    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == "usage"


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_a_database_that_does_not_answer_gives_69_and_a_document(
    vendor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "postgres://ann@127.0.0.1:1/jobs"
    config = queue_database(tmp_path / "no" / "q" if vendor == "sqlite" else name)
    with alias_for(config) as alias, override_settings(DJJP={"db_name": alias}):
        ran = run(capsys, "jobs", "--json")
    assert ran.code == 69
    assert ran.document("Failure")["error"]["slug"] == "unavailable"
    assert ran.err.count("\n") == 1


def test_an_unknown_job_gives_3_and_a_document(djjp: Djjp) -> None:
    ran = djjp("show", "nonsense", "--json")
    assert ran.code == 3
    assert ran.document("Failure")["error"] == {
        "slug": "job-not-found",
        "title": "There is no such job",
        "detail": "there is no job nonsense in the queue",
    }


def test_unknown_ids_among_others_are_in_the_document_of_what_was_done(djjp: Djjp) -> None:
    handle = add.run_later(1)
    ran = djjp("cancel", "gone", str(handle.id), "--json")
    assert ran.code == 3
    document = ran.document("Deeds")
    assert document["jobs"] == [
        {"id": str(handle.id), "state": "cancelled", "done": True, "reason": None}
    ]
    assert document["error"]["unknown"] == ["gone"]


def test_unknown_queues_and_schedules_give_3(djjp: Djjp) -> None:
    queues.pause("mail")
    ran = djjp("resume", "mial", "mail", "--json")
    assert ran.code == 3
    assert ran.document("Pauses")["error"]["unknown"] == ["mial"]
    assert queues.paused() == {}
    for words in (["schedules", "run", "x"], ["schedules", "disable", "x"]):
        ran = djjp(*words, "--json")
        assert ran.code == 3
        assert ran.document("Failure")["error"]["slug"] == "schedule-not-found"


def test_a_document_is_one_line_of_ascii(djjp: Djjp) -> None:
    add.using(queue="m\x1b[31mal ☃").run_later(1)
    ran = djjp("jobs", "--json")
    assert ran.out.isascii()
    assert "\x1b" not in ran.out
    assert json.loads(ran.out)["jobs"][0]["queue"] == "m\x1b[31mal ☃"


def test_a_job_with_its_errors_has_the_shape_of_the_schema(djjp: Djjp) -> None:
    handle = fail.using(tags=["a"], unique_key="k").run_later("no")
    drain()
    document = djjp("show", str(handle.id), "--json").document("WholeJob")
    assert (document["state"], document["tags"], document["unique_key"]) == ("failed", ["a"], "k")
    assert (document["args"], document["kwargs"]) == (["no"], {})
    (error,) = document["errors"]
    assert error["exception_class"] == "builtins.ValueError"
    assert "raise ValueError(message)" in error["traceback"]


@pytest.mark.one_database
def test_ctrl_c_ends_a_command_without_a_traceback(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(id: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("djjp.management.one_job.one_job", interrupted)
    with pytest.raises(SystemExit) as ended:
        GROUP.run_from_argv(["manage.py", "djjp", "show", "x"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip() == "stopped"


# Colours


@pytest.mark.one_database
def test_there_are_no_colours_where_there_is_no_terminal_or_no_color_is_set(
    djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    add.run_later(1)
    assert "\x1b" not in djjp("jobs").out
    assert "\x1b[1m" in djjp("--color", "jobs").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in djjp("jobs").out


# The catalogue


def test_each_kind_of_error_is_documented_with_its_status_and_exit_code() -> None:
    page = read("docs/errors.md")
    assert [h for h in headings("docs/errors.md")[1:] if h in errors.KINDS] == list(errors.KINDS)
    for kind in errors.KINDS.values():
        section = page.partition(f"\n## {kind.slug}\n")[2].partition("\n## ")[0]
        assert f"{kind.title}." in section, kind.slug
        assert f"HTTP status {kind.status}, exit code {kind.exit_code}." in section, kind.slug
        assert kind.exit_code in errors.EXIT_CODES


def test_each_exit_code_is_documented() -> None:
    page = read("docs/commands.md")
    for code, meaning in errors.EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page


# The validator of the tests


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"pruned": 1}, None),
        ({"pruned": "1"}, "$.pruned is '1', no integer"),
        ({"pruned": True}, "$.pruned is True, no integer"),
        ({}, "$ has no pruned"),
        ({"pruned": 1, "more": 2}, "$ has more"),
        ([], "$ is [], no object"),
    ],
)
def test_the_validator_finds_what_does_not_fit(document: Any, problem: str | None) -> None:
    schema = shapes.schema()
    found = problems(document, schema["$defs"]["Prune"], schema)
    assert found == ([] if problem is None else [problem])


@pytest.mark.parametrize("text", ["2026-01-01", "2026-01-01T00:00:00.000000+01:00", "x", 5])
def test_the_validator_refuses_times_of_another_form(text: object) -> None:
    schema = shapes.schema()
    assert problems(text, schema["$defs"]["Time"], schema)


def test_times_are_in_utc_with_microseconds(engine: Engine) -> None:
    assert shapes.time(1_767_225_600.5) == "2026-01-01T00:00:00.500000Z"
