"""A job shows the help of its function, and errors of a call name what would be right."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable
from typing import Any

import pytest

import djjp
from djjp import chain, exceptions, expand, group, job, run_many
from djjp.engine import Engine
from djjp.exceptions import EncodeError, PayloadTooLarge
from djjp.jobs import registry
from tests.project.shop.jobs import add, anap, mail
from tests.support.consumers import drain

# Without types: the type checkers would find the mistakes first, as `tests/typed_example.py` shows.
ADD: Any = add
MAIL: Any = mail
ANAP: Any = anap
MANY: Any = run_many
CHAIN: Any = chain
GROUP: Any = group


def plain(a: int) -> int:
    return a


# What a job shows


def test_help_shows_the_function_and_no_internals() -> None:
    _, _, text = pydoc.plain(pydoc.render_doc(add)).partition("\n")
    assert "add(a: int, b: int = 0) -> int" in text.replace("'", "")
    assert "Add two numbers." in text
    assert "RegisteredJob" not in text
    assert "callable_for" not in text


def test_a_job_is_described_by_its_function() -> None:
    assert inspect.signature(add) == inspect.signature(add.function)
    assert inspect.getdoc(add) == "Add two numbers."
    assert repr(add) == "<job tests.project.shop.jobs.add>"
    assert {"run_later", "bind", "using", "__name__"} <= {*dir(add)}
    assert not {"callable_for", "on_finished", "wants_outcome", "_with", "signature"} & {*dir(add)}


def test_a_call_and_a_pipeline_are_described_in_a_few_words() -> None:
    name = "tests.project.shop.jobs.add"
    assert repr(add.bind(1, b=2)) == f"<call {name}(1, b=2)>"
    assert repr(add.using(tags=["a"]).bind()) == f"<call {name}()>"
    assert len(repr(MAIL.bind("a" * 10_000))) < 200
    assert repr(chain(add.bind(1), group(add.bind(), add.bind()))) == "<chain of 2 steps>"
    assert repr(group(add.bind(1))) == "<group of 1 step>"
    assert repr(expand(add)) == f"<expansion of {name}>"


def test_a_job_in_a_class_stays_the_job() -> None:
    class Holder:
        task = add

    assert Holder.task is Holder().task is add


def test_the_package_lists_what_users_need() -> None:
    listed = {*dir(djjp)}
    theirs = {
        n for n, v in vars(exceptions).items() if getattr(v, "__module__", "") == "djjp.exceptions"
    }
    assert listed >= theirs | {"JobHandle", "PipelineHandle", "State", "current_job_or_none"}
    assert all(hasattr(djjp, name) for name in listed)


# Errors of a call


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (ADD.run_later, "shop.jobs.add: missing a required argument: 'a'"),
        (lambda: ADD.run_later(1, c=2), "shop.jobs.add: got an unexpected keyword argument 'c'"),
        (lambda: ADD.bind(1, 2, 3), "shop.jobs.add: too many positional arguments"),
        (lambda: ADD.bind().run_later(), "shop.jobs.add: missing a required argument: 'a'"),
        (lambda: MANY([ADD.bind()]), "shop.jobs.add: missing a required argument: 'a'"),
        (MAIL.run_later, "shop.mail: missing a required argument"),
        (lambda: ANAP.run_later(1, 2), "shop.jobs.anap: too many positional arguments"),
        (ADD.bind_alone, "shop.jobs.add: missing a required argument: 'a'"),
    ],
    ids=[*"12345678"],
)
def test_a_type_error_of_a_call_names_the_function(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert says in str(caught.value)


def test_a_job_by_another_name_is_named_with_its_function() -> None:
    other = job(name="hints.other")(plain)
    try:
        with pytest.raises(TypeError, match=r"^plain \(job 'hints\.other'\): missing a required"):
            other.run_later()  # type: ignore[call-arg]  # the mistake
    finally:
        del registry._jobs["hints.other"]


@pytest.mark.parametrize(
    ("value", "kind"), [(object(), EncodeError), ("x" * 5_000_000, PayloadTooLarge)]
)
def test_an_argument_that_is_refused_names_the_function(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"\(in a call of tests\.project\.shop\.jobs\.add\)$"):
        add.run_later(1, b=value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MANY([add]), "shop.jobs.add.bind(…)"),
        (lambda: MANY([plain]), "make it a job with @job, and write plain.bind(…)"),
        (lambda: MANY([1]), "run_many() got 1; it takes a bound call"),
        (lambda: MANY(add.bind(1)), "it takes a list of bound calls"),
        (lambda: MANY(add), "it takes a list of bound calls"),
        (lambda: CHAIN(add), "shop.jobs.add.bind(…)"),
        (lambda: CHAIN(plain), "make it a job with @job, and write plain.bind(…)"),
        (lambda: GROUP(plain, add.bind(1)), "make it a job with @job"),
        (lambda: CHAIN(add.bind(1), on_failure=plain), "make it a job with @job"),
    ],
    ids=[*"123456789"],
)
def test_something_that_is_no_bound_call_is_refused_with_what_would_be_one(
    call: Callable[[], object], says: str
) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("thing", "word", "right"),
    [
        (add, "delay", "run_later(…)"),
        (add, "apply_async", "using(…).run_later(…)"),
        (add, "enqueue", "run_later(…)"),
        (add, "s", "bind(…)"),
        (add.bind(1), "delay", "run_later()"),
        (add.bind(1), "apply_async", "run_later()"),
        (chain(add.bind(1)), "apply_async", "run_later()"),
        (expand(add), "run_later", "chain(…, expand(…)).run_later()"),
        (expand(add), "delay", "chain(…, expand(…)).run_later()"),
    ],
)
def test_the_word_of_another_queue_is_answered_with_djjps(
    thing: object, word: str, right: str
) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(thing, word)
    assert str(caught.value).endswith(f"has no attribute {word!r}; in djjp it is {right}")
    with pytest.raises(AttributeError, match=r"no attribute 'colour'$"):
        getattr(thing, "colour")  # noqa: B009  (no type checker must see it)


def test_the_words_of_other_queues_on_a_handle(engine: Engine) -> None:
    handle: Any = add.run_later(1)
    for word, right in {"get": "join(timeout=…)", "ready": "ended", "revoke": "cancel()"}.items():
        with pytest.raises(AttributeError) as caught:
            getattr(handle, word)
        assert str(caught.value).endswith(f"; in djjp it is {right}")


@pytest.mark.parametrize(
    ("option", "right"),
    [
        ("retries", "max_attempts"),
        ("max_retries", "max_attempts"),
        ("timezone", "tz"),
        ("prioritty", "priority"),
    ],
)
def test_an_option_of_another_queue_is_answered_with_djjps(option: str, right: str) -> None:
    options: Any = {option: 1}
    with pytest.raises(TypeError, match=f"^@job has no option '{option}'; did you mean '{right}'"):
        job(**options)(plain)
    with pytest.raises(TypeError, match="a name is given as @job\\(name='mine'\\)"):
        job("mine")  # type: ignore[call-overload]  # the mistake


def test_the_options_of_one_call_are_none_of_the_decorator() -> None:
    options: Any = {"call": {"timeout": "soon"}}
    with pytest.raises(TypeError, match=r"^@job has no option 'call'"):
        job(**options)(plain)


def test_a_retry_of_a_live_job_reports_that_it_did_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    handle = add.run_later(1)
    assert handle.retry() is False
    assert f"job {handle.id} was not retried: it is ready, and unchanged" in caplog.text
    drain()
    assert handle.retry() is True
    assert handle.state == "ready"
    pipeline = chain(add.bind(1), add.bind()).run_later()
    assert pipeline.retry() is False
    drain()
    assert pipeline.retry() is True
