"""`@job` and enqueueing: an error is raised at once, and then nothing is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings
from django.utils import timezone

import djjp
from djjp import arun_many, get_job, job, run_many
from djjp.engine import Engine
from djjp.exceptions import EncodeError, JobDoesNotExist, JobNameTaken, JobNotRegistered
from djjp.jobs import JobOptions, RegisteredJob, registry
from djjp.models import Job
from tests.project.shop.jobs import add, anap, echo, mail


@pytest.fixture
def clean_registry() -> Iterator[None]:
    before = dict(registry._jobs)
    yield
    registry._jobs.clear()
    registry._jobs.update(before)


def only_row() -> Job:
    return Job.objects.get()


# The function


def test_a_job_is_still_the_plain_function() -> None:
    assert add(1, b=2) == 3
    assert add.__name__ == "add"  # type: ignore[attr-defined]  # set by functools.update_wrapper
    assert add.__doc__ == "Add two numbers."


def test_a_coroutine_job_is_still_the_coroutine_function() -> None:
    assert asyncio.run(anap(0.0)) > 0


def test_a_job_is_named_by_its_dotted_path_or_its_option() -> None:
    assert add.name == "tests.project.shop.jobs.add"
    assert mail.name == "shop.mail"


def test_jobs_py_of_an_installed_app_is_imported_automatically() -> None:
    assert registry.get("shop.mail") is mail


def test_the_seeds_spelling_of_the_import_works_too() -> None:
    from djjp.jobs import get_job as seed_get_job
    from djjp.jobs import job as seed_job

    assert (seed_job, seed_get_job) == (djjp.job, djjp.get_job)


def test_two_functions_of_one_name_are_an_error_that_names_both(clean_registry: None) -> None:
    @job(name="shop.twice")
    def first() -> None: ...

    with pytest.raises(JobNameTaken) as caught:

        @job(name="shop.twice")
        def second() -> None: ...

    assert "'shop.twice'" in str(caught.value)
    assert "locals>.first" in str(caught.value)
    assert "locals>.second" in str(caught.value)
    assert registry.get("shop.twice") is first


def test_the_same_function_defined_anew_replaces_the_earlier_one(clean_registry: None) -> None:
    def define() -> RegisteredJob[..., Any]:
        @job(name="shop.reloaded")
        def reloaded() -> None: ...

        return reloaded

    define()
    latest = define()
    assert registry.get("shop.reloaded") is latest


def test_an_unregistered_name_is_refused() -> None:
    with pytest.raises(JobNotRegistered, match=r"shop\.nobody"):
        registry.get("shop.nobody")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, ["name", "''", "1 to 200"]),
        ({"name": "x" * 201}, ["name", "1 to 200"]),
        ({"queue": ""}, ["queue", "''", "1 to 100"]),
        ({"queue": 7}, ["queue", "7", "text"]),
        ({"priority": "high"}, ["priority", "'high'", "-32768"]),
        ({"priority": 40_000}, ["priority", "40000", "32767"]),
        ({"priority": True}, ["priority", "True"]),
    ],
)
def test_an_invalid_option_is_refused_with_what_is_allowed(
    clean_registry: None, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        job(**options)(lambda: None)

    assert [word for word in words if word not in str(caught.value)] == []


def test_only_functions_can_be_jobs() -> None:
    with pytest.raises(TypeError, match="function"):
        job(int)


# Enqueueing


def test_run_later_writes_one_row_and_returns_its_handle(engine: Engine) -> None:
    before = timezone.now()
    handle = mail.run_later("a@b.c")
    after = timezone.now()

    row = only_row()
    assert row.id == handle.id
    assert (row.name, row.queue, row.priority, row.state) == ("shop.mail", "mail", 5, "ready")
    assert (row.attempts, row.rescues, row.consumer, row.result) == (0, 0, None, None)
    assert row.run_after is row.started_at is row.finished_at is None
    assert before <= row.created_at <= after
    assert handle.state == "ready"


@pytest.mark.parametrize("call", [(), (1, 2, 3), ("x", {"c": 1})])
def test_wrong_arguments_are_a_type_error_here_and_nothing_is_written(
    engine: Engine, call: tuple[Any, ...]
) -> None:
    args = [a for a in call if not isinstance(a, dict)]
    kwargs = next((a for a in call if isinstance(a, dict)), {})
    with pytest.raises(TypeError):
        add.run_later(*args, **kwargs)
    with pytest.raises(TypeError):
        add.bind(*args, **kwargs).run_later()
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((object(),), {}, "a"),
        ((1,), {"b": [{"deep": object()}]}, "b"),
    ],
)
def test_an_argument_that_cannot_be_encoded_is_named_and_nothing_is_written(
    engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any], named: str
) -> None:
    with pytest.raises(EncodeError, match=rf"\b{named}\b"):
        add.run_later(*args, **kwargs)
    assert not Job.objects.exists()


def none() -> None: ...
def two(a: Any, b: Any) -> None: ...
def some(a: Any, b: Any = 1, /, c: Any = 2) -> None: ...
def rest(a: Any, *more: Any) -> None: ...
def needs(a: Any, *, b: Any) -> None: ...
def may(a: Any = 1, *, b: Any = 2, **more: Any) -> None: ...


@pytest.mark.parametrize("function", [none, two, some, rest, needs, may])
def test_a_call_is_accepted_exactly_if_the_function_would_take_it(function: Any) -> None:
    its = RegisteredJob(function, JobOptions("test.its"))
    for count in range(6):
        for named in ({}, {"a": 0}, {"b": 0}, {"c": 0}, {"z": 0}):
            fits = True
            try:
                function(*range(count), **named)
            except TypeError:
                fits = False
            try:
                bound = its.bind(*range(count), **named)
            except TypeError:
                assert not fits
            else:
                assert fits == (not bound.missing_first)


def test_surplus_positional_arguments_are_named_by_their_position(engine: Engine) -> None:
    with pytest.raises(EncodeError, match=r"args\[1\]"):
        echo.run_later(1, object())


def test_using_changes_the_options_of_one_call_only(engine: Engine) -> None:
    mail.using(queue="bulk", priority=-3).run_later("a@b.c")

    assert (only_row().queue, only_row().priority) == ("bulk", -3)
    assert (mail.options.queue, mail.options.priority) == ("mail", 5)


def test_using_an_option_that_is_none_is_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match="colour"):
        mail.using(colour="red")  # type: ignore[call-arg]  # that is what is tested
    with pytest.raises(TypeError, match="run_after"):
        mail.using(run_after="60")  # type: ignore[arg-type]  # likewise
    with pytest.raises(ValueError, match="priority"):
        mail.using(priority=10**6)


def test_a_job_of_the_future_is_scheduled_and_not_ready(engine: Engine) -> None:
    handle = add.using(run_after=timedelta(minutes=5)).run_later(1)

    row = only_row()
    assert handle.state == row.state == "scheduled"
    assert row.run_after is not None
    assert abs(row.run_after - row.created_at - timedelta(minutes=5)) <= timedelta(microseconds=2)


def test_a_job_of_the_past_is_ready(engine: Engine) -> None:
    assert add.using(run_after=timedelta(minutes=-5)).run_later(1).state == "ready"


@pytest.mark.parametrize(
    "when",
    [
        datetime(2126, 7, 1, 12, tzinfo=UTC),
        datetime(2126, 7, 1, 14, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2126, 7, 1, 7, 0, 0),
    ],
)
@override_settings(TIME_ZONE="America/Chicago")
def test_a_time_is_an_instant_and_a_naive_one_is_in_the_current_zone(
    engine: Engine, when: datetime
) -> None:
    timezone.get_default_timezone.cache_clear()  # type: ignore[attr-defined]  # not in the stubs
    add.using(run_after=when).run_later(1)

    assert only_row().run_after == datetime(2126, 7, 1, 12, tzinfo=UTC)


# Many


def test_run_many_takes_any_mix_and_returns_handles_in_order(engine: Engine) -> None:
    bound = [add.bind(1), mail.bind("a@b.c"), add.using(queue="bulk").bind(2)]

    handles = run_many(bound)

    rows = Job.objects.in_bulk([handle.id for handle in handles])
    assert [rows[h.id].name for h in handles] == [add.name, "shop.mail", add.name]
    assert [rows[h.id].queue for h in handles] == ["default", "mail", "bulk"]


def test_run_many_streams_what_it_is_given(engine: Engine) -> None:
    """A chunk is written before the next one is read."""
    seen: list[int] = []

    def calls() -> Iterator[Any]:
        for i in range(2500):
            if i in (1000, 2000):
                seen.append(Job.objects.count())
            yield add.bind(i)

    handles = run_many(calls())

    assert seen == [1000, 2000]
    assert len(handles) == Job.objects.count() == 2500
    assert [h.id for h in handles] == sorted(h.id for h in handles)


def test_run_many_of_nothing_is_nothing(engine: Engine) -> None:
    assert run_many([]) == []


# Coroutines


def test_the_a_twins_do_the_same(engine: Engine) -> None:
    async def story() -> list[Any]:
        handle = await add.arun_later(1)
        many = await arun_many([add.bind(2), add.bind(3)])
        bound = await add.bind(4).arun_later()
        await handle.arefresh()
        with pytest.raises(TimeoutError):
            await handle.ajoin(timeout=0.01)
        return [handle, *many, bound]

    handles = asyncio.run(story())

    assert [h.state for h in handles] == ["ready"] * 4
    assert Job.objects.count() == 4


# Handles


def test_get_job_takes_the_id_or_its_text(engine: Engine) -> None:
    handle = add.run_later(1)

    assert get_job(handle.id) == get_job(str(handle.id)) == get_job(handle.id.hex) == handle


@pytest.mark.parametrize("id", ["01a20ea1-30c5-7899-9bf1-a6a7d8c6d722", "nonsense", "", None, 7])
def test_get_job_of_an_unknown_id_raises(engine: Engine, id: Any) -> None:
    with pytest.raises(JobDoesNotExist):
        get_job(id)


def test_the_name_of_a_row_imports_nothing(engine: Engine) -> None:
    """A row can name any module; only a registered name runs."""
    from djjp.consumer.execution import Execution
    from djjp.engine import Claimed

    row = Claimed(add.bind(1).to_row().id, "os.getcwd", '{"args":[],"kwargs":{}}', 1, 0)
    outcome = Execution(row).run()

    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.exception_class == "djjp.exceptions.JobNotRegistered"
    assert time.time() >= outcome.started_at
