"""The docs describe everything that is public, and nothing that does not exist."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections import OrderedDict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cache, reduce
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import djclick
import pytest
from django.dispatch import Signal
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

import djjp
from djjp import codec, conf, databases, exceptions, signals
from djjp.exceptions import JobCancelled, JobFailed
from djjp.instruments import Call, JobRun
from djjp.jobs import BoundJob, JobOptions, RegisteredJob
from djjp.jobs.current import CurrentJob
from djjp.jobs.handles import JobHandle
from djjp.jobs.options import JobOptionsDict
from djjp.management.commands.djjp import command as djjp_command
from djjp.management.commands.start_consumer import command as start_consumer
from djjp.models import Job, State
from docs._ext import facts
from tests.docs.markdown import PAGES, anchors, blocks, code, headings, links, prose, read, table
from tests.project.shop.jobs import echo
from tests.support.processes import ROOT

pytestmark = pytest.mark.one_pair

SOURCES = sorted((ROOT / "djjp").rglob("*.py"))

#: The names that the cells of the tables of types can use.
VOCABULARY: dict[str, Any] = {
    each.__name__: each
    for each in (
        *(Decimal, Enum, HTTPStatus, Job, JobCancelled, JobFailed, OrderedDict, Path),
        *(SafeString, State, UUID, ZoneInfo),
        *(date, datetime, namedtuple, reduce, time, timedelta, timezone),
    )
} | {"gettext_lazy": gettext_lazy}

TYPES = [*table("docs/jobs.md", "Type"), *table("docs/jobs.md", "Subclass")]
REFUSED = table("docs/jobs.md", "Refused")


@cache
def literals() -> list[str]:
    """Return the text literals in djjp's source."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    return [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


# Settings


def test_each_setting_is_documented_with_its_default_and_its_valid_values() -> None:
    documented = {
        code(key): (eval(code(default), dict(VOCABULARY)), allowed)  # noqa: S307  (our own page)
        for key, default, allowed, _ in table("docs/settings.md", "Key")
    }
    existing = {
        field.name: (field.default, field.metadata["allowed"])
        for field in dataclasses.fields(conf.Settings)
    }
    assert documented == existing


@pytest.mark.parametrize("page", PAGES)
def test_no_setting_is_mentioned_that_does_not_exist(page: str) -> None:
    mentioned = set(re.findall(r"""DJJP\[['"](\w+)['"]\]""", read(page)))
    assert mentioned <= {field.name for field in dataclasses.fields(conf.Settings)}


def test_each_argument_of_queue_database_is_documented_with_its_default() -> None:
    documented = {
        code(name): None if default == "*(required)*" else ast.literal_eval(code(default))
        for name, default, _ in table("docs/settings.md", "Argument")
    }
    parameters = inspect.signature(databases.queue_database).parameters.values()
    required = inspect.Parameter.empty
    assert documented == {p.name: None if p.default is required else p.default for p in parameters}
    assert f"`{databases.ENV}`" in prose("docs/settings.md")


# The command


def own_options() -> set[str]:
    """Return the options of `start_consumer` that other commands do not have."""

    @djclick.command()  # type: ignore[untyped-decorator,unused-ignore]
    def bare() -> None: ...

    common = {option for parameter in bare.params for option in parameter.opts}
    return {option for parameter in start_consumer.params for option in parameter.opts} - common


def test_each_option_of_start_consumer_is_documented() -> None:
    rows = table("docs/consumer.md", "Option")
    assert {code(row[0]).split()[0] for row in rows} == own_options()


@pytest.mark.parametrize("page", PAGES)
def test_no_option_of_start_consumer_is_shown_that_does_not_exist(page: str) -> None:
    for command in re.findall(r"start_consumer(?: +[^\n`]*)?", read(page)):
        assert set(re.findall(r"--[a-z-]+", command)) <= own_options(), command


def test_each_command_of_djjp_is_documented_with_its_options() -> None:
    filters = {code(row[0]).split()[0] for row in table("docs/commands.md", "Filter")}
    documented = {}
    for row in table("docs/commands.md", "Command"):
        name, *words = re.sub(r"\[(`\w+`)\]\(#[\w-]+\)|`", r"\1", row[0]).replace("`", "").split()
        documented[name] = {word.strip("[]") for word in words if word.strip("[").startswith("--")}
        if "[FILTERS]" in words:
            documented[name] |= filters
    existing = {
        name: {o for p in each.params for o in p.opts if o.startswith("--")} - {"--json"}
        for name, each in djjp_command.commands.items()
    }
    assert documented == existing
    assert "`--json`" in prose("docs/commands.md")


# Names


def test_each_public_name_is_documented() -> None:
    shown = "\n".join(read(page) for page in PAGES)
    for name in djjp.__all__:
        assert re.search(rf"\b{name}\b", shown), name
        assert callable(getattr(djjp, name))


def test_nothing_is_exported_by_accident() -> None:
    """A star import gives the public names; other names in the package are modules."""
    names: dict[str, Any] = {}
    exec("from djjp import *", names)  # noqa: S102
    assert names.keys() - {"__builtins__"} == set(djjp.__all__)
    public = {
        name
        for name, value in vars(djjp).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public <= set(djjp.__all__)


def test_each_exception_is_documented_and_no_other() -> None:
    documented = [code(row[0]) for row in table("docs/jobs.md", "Exception")]
    existing = {
        n for n, v in vars(exceptions).items() if getattr(v, "__module__", "") == "djjp.exceptions"
    }
    assert set(documented) == existing


def test_the_attributes_of_a_handle_are_documented_and_no_other() -> None:
    documented = {code(row[0]).partition("(")[0] for row in table("docs/jobs.md", "Of a handle")}
    existing = {name for name in dir(JobHandle) if not name.startswith("_")} | {"id"}
    twins = {name for name in existing if name.startswith("a") and name[1:] in existing}
    assert documented == existing - twins
    for twin in twins:
        assert f"`{twin}()`" in prose("docs/jobs.md"), twin


@pytest.mark.parametrize("what", [RegisteredJob, BoundJob])
def test_the_methods_of_a_job_are_documented(what: type) -> None:
    called_by_djjp = {
        "callable_for",
        "of_row",
        "on_finished",
        "scheduled_call",
        "to_row",
        "validate",
    }
    for name, value in vars(what).items():
        public = inspect.isfunction(value) and not name.startswith("_")
        if public and name not in called_by_djjp:
            assert re.search(rf"\b{name}\b", read("docs/jobs.md")), name


def test_the_attributes_of_the_current_job_are_documented_and_no_other() -> None:
    documented = {
        code(row[0]).partition("(")[0] for row in table("docs/jobs.md", "Of `current_job()`")
    }
    called_by_consumers = {"cancel"}
    existing = {name for name in vars(CurrentJob) if not name.startswith("_")}
    assert documented == existing - called_by_consumers


@pytest.mark.parametrize("what", [Call, JobRun])
def test_what_instruments_get_is_documented_and_nothing_else(what: type[Any]) -> None:
    listed = [
        code(name)
        for row in table("docs/hooks.md", f"Of a `{what.__name__}`")
        for name in row[0].split(", ")
    ]
    assert listed == [field.name for field in dataclasses.fields(what)]


def test_each_signal_is_documented() -> None:
    heads = [row[0] for row in table("docs/hooks.md", "Signal of `djjp.signals`")]
    documented = {code(name) for head in heads for name in head.split(", ")}
    assert documented == {n for n, each in vars(signals).items() if isinstance(each, Signal)}


def test_the_options_of_jobs_are_documented_with_their_defaults_and_no_other() -> None:
    # Defaults that the page describes in words.
    in_words = {"name", "backoff", "tz"}
    documented = {
        code(name): None if default == "none" else eval(code(default))  # noqa: S307  (our own page)
        for name, default, _ in table("docs/jobs.md", "Option of `@job`")
        if code(name) not in in_words
    }
    existing = {field.name: field.default for field in dataclasses.fields(JobOptions)}
    assert documented == {
        name: existing[name] for name in JobOptionsDict.__annotations__ if name not in in_words
    }


def test_the_options_of_using_are_documented_and_no_other() -> None:
    documented = {code(row[0]) for row in table("docs/jobs.md", "Option of `using()`")}
    assert documented == set(inspect.signature(RegisteredJob.using).parameters) - {"self"}


def test_the_fields_of_a_job_are_documented() -> None:
    for field in Job._meta.get_fields():
        assert f"`{field.name}`" in prose("docs/jobs.md"), field.name


def test_the_picture_of_states_has_each_state() -> None:
    (picture,) = [block.text for block in blocks("docs/internals.md") if block.language == "text"]
    for state in State:
        assert re.search(rf"\b{state.value}\b", picture), state


# Types


@pytest.mark.parametrize("row", TYPES, ids=lambda row: row[0])
def test_a_value_comes_back_as_in_the_table(row: list[str]) -> None:
    _, example, back = row
    value = eval(code(example), VOCABULARY)  # noqa: S307  (our own page)
    expected = value if back.startswith("the same") else ast.literal_eval(code(back))
    (arrived,), _ = codec.decode_arguments(echo.bind(value).arguments)
    assert arrived == expected
    assert repr(arrived) == repr(expected)


def test_the_table_has_every_type_that_is_carried() -> None:
    named = {name for row in TYPES for name in re.findall(r"`(\w+)`", row[0])}
    assert {kind.__name__ for kind in codec._RULES} | {"None", "bool"} <= named


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_a_value_in_the_table_of_refused_values_is_refused(row: list[str]) -> None:
    with pytest.raises(exceptions.EncodeError):
        echo.bind(eval(code(row[1]), VOCABULARY))  # noqa: S307


# Trouble


def test_each_check_is_documented_and_no_other() -> None:
    found = {re.fullmatch(r"(?:djjp\.)?([EW]\d{3})", text) for text in literals()} - {None}
    existing = {f"djjp.{match[1]}" for match in found if match}
    assert {h for h in headings("docs/trouble.md") if h.startswith("djjp.")} == existing


def test_messages_that_trouble_quotes_are_djjps() -> None:
    """A quoted message is a heading, or stands in backticks; … stands for the varying part."""
    texts = "\n".join(literals())
    quoted = re.findall(r"(?:says|say) `([^`]+)`", prose("docs/trouble.md").replace("\n", " "))
    quoted += [h for h in headings("docs/trouble.md") if h.startswith("the ")]
    assert len(quoted) >= 5
    for message in quoted:
        for part in message.split("…"):
            assert part.strip() in texts, message


#: The lines that have hardly a text of their own, with the words of their sections.
MOSTLY_VARYING = {
    "… … …: …: …": "attempt … of … failed, again in … s",
    "… … …: …ran …": "…ran …",
    "…": "stopping: waits for …",
    "djjp.…: …. …": "djjp.…: …. …",
    "incident: …": "incident: …",
    "child … … after … s…": "child … has failed with exit code …",
    "consumer … …, as requested": "claims no further jobs, as requested",
}


def is_explained(line: str, quotes: list[str]) -> bool:
    """Return whether one of these texts stands for a log line; … stands for any text in both."""
    if line in MOSTLY_VARYING:
        return MOSTLY_VARYING[line] in quotes
    for quote in quotes:
        parts = [part.strip() for part in quote.split("…")]
        fits = re.search(".*".join(map(re.escape, parts)), line, re.DOTALL)
        if fits and sum(map(len, parts)) >= 10:
            return True
    return False


def quotes_of_trouble() -> list[str]:
    """Return the headings of the page, and what stands in backticks there."""
    text = " ".join(prose("docs/trouble.md").split())
    return [*headings("docs/trouble.md"), *re.findall(r"`([^`]+)`", text)]


@cache
def log_lines() -> list[str]:
    """Return the texts of the lines that djjp logs."""
    return sorted({line.text for line in facts.log_lines()})


def test_each_log_line_is_explained() -> None:
    quotes = quotes_of_trouble()
    assert [line for line in log_lines() if not is_explained(line, quotes)] == []


def test_a_log_line_that_is_not_explained_is_noticed() -> None:
    assert len(log_lines()) > 80
    quotes = quotes_of_trouble()
    assert not is_explained("consumer … has lost its way: …", quotes)
    for line in log_lines():
        assert not is_explained(line, []), line
    assert not is_explained(
        "a cache could not be closed", [q for q in quotes if "a cache" not in q]
    )
    assert {*MOSTLY_VARYING} <= {*log_lines()}


# Links


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(str(target.resolve().relative_to(ROOT))), link


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {f"docs/{link.partition('#')[0]}" for link in links("docs/index.md")}
    assert {page for page in PAGES if page.startswith("docs/")} - {"docs/index.md"} <= listed


# Paths


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/internals.md"])
def test_every_path_of_djjp_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:djjp|tests|benchmarks)/[\w/]*(?:\.py)?)`", prose(page))
    assert len(named) >= 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_test_that_contributing_names_exists() -> None:
    named = re.findall(r"`(test_\w+)`", prose("CONTRIBUTING.md"))
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    assert named
    assert [name for name in named if f"def {name}(" not in sources] == []
