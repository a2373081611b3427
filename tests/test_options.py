"""Options of `@job`: an invalid value is refused where the job is declared, with the reason."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from djjp import job
from djjp.jobs import JobOptions, RegisteredJob, options, registry
from djjp.jobs.options import JobOptionsDict


@pytest.fixture
def declare() -> Iterator[Callable[..., RegisteredJob[..., Any]]]:
    """Declare a job with these options, registered until the end of the test."""
    names: list[str] = []

    def declare(**options: Any) -> RegisteredJob[..., Any]:
        declared = job(name=f"options.{len(names)}", **options)(lambda: None)
        names.append(declared.name)
        return declared

    yield declare
    for name in names:
        del registry._jobs[name]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("max_attempts", 0, "max_attempts is 0; it must be a whole number, 1 or more"),
        ("max_attempts", -1, "max_attempts is -1"),
        ("max_attempts", 2.0, "max_attempts is 2.0"),
        ("max_attempts", True, "max_attempts is True"),
        ("max_attempts", "3", "max_attempts is '3'"),
        ("backoff", -1, "backoff is -1; it must be seconds, 0 or more, or a timedelta"),
        ("backoff", None, "backoff is None"),
        ("backoff", [], "backoff is an empty list; it must hold a pause for each retry"),
        ("backoff", [1, "2"], "backoff is '2'"),
        ("timeout", 0, "timeout is 0; it must be above 0, or None for no limit"),
        ("timeout", timedelta(0), "it must be above 0"),
        ("timeout", -5, "timeout is -5; it must be seconds, 0 or more, or a timedelta"),
        ("timeout", "5", "timeout is '5'"),
        ("on_crash", "ignore", "on_crash is 'ignore'; it must be 'retry' or 'fail'"),
        ("on_crash", None, "on_crash is None"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_it_and_its_option(
    declare: Callable[..., Any], option: str, value: Any, says: str
) -> None:
    with pytest.raises(ValueError) as caught:
        declare(**{option: value})

    assert says in str(caught.value)


@pytest.mark.parametrize("value", [int, "ValueError", [ValueError, 7]])
def test_retry_on_takes_classes_of_exceptions_only(declare: Callable[..., Any], value: Any) -> None:
    with pytest.raises(TypeError, match=r"^retry_on holds .*; it must be one or more exception"):
        declare(retry_on=value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_attempts", None),
        ("max_attempts", 1),
        ("backoff", 0),
        ("backoff", timedelta(seconds=1)),
        ("backoff", [1, timedelta(minutes=1)]),
        ("backoff", lambda attempt: attempt),
        ("retry_on", OSError),
        ("retry_on", [OSError, ValueError]),
        ("retry_on", {OSError}),
        ("retry_on", ()),
        ("timeout", None),
        ("timeout", 0.5),
        ("timeout", timedelta(minutes=5)),
        ("on_crash", "retry"),
        ("on_crash", "fail"),
    ],
)
def test_an_option_keeps_a_valid_value(
    declare: Callable[..., Any], option: str, value: Any
) -> None:
    assert getattr(declare(**{option: value}).options, option) == value


def test_an_option_that_does_not_exist_is_a_type_error(declare: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="retries"):
        declare(retries=3)


def test_on_crash_is_written_into_the_row(declare: Callable[..., Any]) -> None:
    assert declare().bind().to_row().on_crash == "retry"
    assert declare(on_crash="fail").bind().to_row().on_crash == "fail"


# Options that are written twice


def test_the_options_for_type_checkers_are_those_of_the_dataclass() -> None:
    """All except those that only `using()` sets; the function gives the default of `name`."""
    of_using = {"run_after", "database", "call"}
    fields = {f.name: f.type for f in dataclasses.fields(JobOptions) if f.name not in of_using}
    written = {name: each.__forward_arg__ for name, each in JobOptionsDict.__annotations__.items()}
    assert written == fields | {"name": "str | None"}


def test_each_option_is_described_in_the_docstring() -> None:
    described = re.findall(r"^    (\w+): ", inspect.getdoc(JobOptions) or "", re.MULTILINE)
    assert described == [field.name for field in dataclasses.fields(JobOptions)]


def test_each_option_is_validated() -> None:
    """By a validator of its own, or together with the other options of a schedule."""
    validated = [*options._VALIDATORS, *options.SCHEDULE_OPTIONS]
    assert validated == [field.name for field in dataclasses.fields(JobOptions)]


# Options for some calls


def test_a_copy_validates_only_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    job = RegisteredJob(lambda: None, JobOptions("options.copied", every=60))
    seen: list[str] = []
    watched = {o: lambda option, value: seen.append(option) for o in options._VALIDATORS}
    monkeypatch.setattr(options, "_VALIDATORS", watched)

    copied = job.using(queue="bulk", priority=3)

    assert seen == ["queue", "priority"]
    assert copied.signature is job.signature


def test_a_copy_computes_its_own_constraints() -> None:
    job = RegisteredJob(lambda: None, JobOptions("options.constrained"))
    assert not job.options.has_constraints
    assert job.using(unique_key="one").options.has_constraints
    assert not job.options.has_constraints


def test_an_attribute_of_the_function_is_not_taken_for_the_options() -> None:
    def function() -> None: ...

    function.options = "its own"  # type: ignore[attr-defined]  # a function takes any
    assert RegisteredJob(function, JobOptions("options.own")).options.name == "options.own"
