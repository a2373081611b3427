"""Functions that can be jobs, and the arguments of their calls."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from djjp import chain, get_job, job, run_many
from djjp.engine import Engine
from djjp.exceptions import EncodeError, JobNotRegistered
from djjp.jobs import JobOptions, RegisteredJob, registry
from djjp.jobs.functions import signature_of
from tests.project.shop.jobs import add, echo
from tests.support.consumers import drain
from tests.support.processes import Processes
from tests.support.projects import Scratch


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the jobs that a test registers."""
    monkeypatch.setattr(registry, "_jobs", dict(registry._jobs))


def unpickled(text: bytes) -> Any:
    return pickle.loads(text)  # noqa: S301  (this test's own)


# Functions that no consumer could find or run


def main_function() -> Any:
    def function() -> None: ...

    function.__module__, function.__qualname__ = "__main__", "function"
    return function


@pytest.mark.parametrize("options", [{}, {"name": "shop.named"}])
def test_a_function_of_main_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="no consumer imports the module '__main__'"):
        job(**options)(main_function())


def test_a_function_of_no_module_is_refused() -> None:
    """It was typed into `manage.py shell`."""
    space: dict[str, Any] = {"__name__": "__console__", "job": job}
    with pytest.raises(TypeError, match="no consumer imports the module '__console__'"):
        exec("@job\ndef typed(): ...", space)  # noqa: S102  (as the shell does)


def test_a_local_function_needs_a_name_of_its_own(engine: Engine) -> None:
    with pytest.raises(
        TypeError, match=r"<locals>\.local cannot be a job by this name.*@job\(name=\.\.\.\)"
    ):

        @job
        def local() -> None: ...

    @job(name="shop.local")
    def named() -> str:
        return "ran"

    handle = named.run_later()
    drain()
    assert handle.join(0) == "ran"


def test_a_lambda_needs_a_name_of_its_own() -> None:
    with pytest.raises(TypeError, match="cannot be a job by this name"):
        job(lambda: None)
    assert job(name="shop.lambda")(lambda: 7)() == 7


def test_a_method_is_refused() -> None:
    with pytest.raises(TypeError, match="it is a method, and no consumer has the object"):

        class Order:
            @job(name="shop.method")
            def send(self) -> None: ...

    class Orders:
        @job(name="shop.static")
        def send(number: int) -> int:  # noqa: N805  (no method: it is called on the class)
            return number

    assert Orders.send(7) == 7


def test_a_generator_function_is_refused() -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def arows() -> AsyncIterator[int]:
        yield 1

    for function in (rows, arows):
        with pytest.raises(TypeError, match="generator function, so that calling it runs nothing"):
            job(name="shop.rows")(function)


def test_a_script_that_declares_a_job_ends_with_the_reason(scratch: Scratch) -> None:
    scratch.write(
        "script.py", "import django\ndjango.setup()\nfrom djjp import job\n@job\ndef f(): ...\n"
    )
    ran = scratch.python("script.py")
    assert ran.returncode == 1
    assert "no consumer imports the module '__main__'" in ran.stderr


@pytest.fixture
def scratch(tmp_path: Any) -> Scratch:
    return Scratch(tmp_path)


# Parameters of any name


def test_a_parameter_can_have_any_name(engine: Engine) -> None:
    @job(name="shop.odd_names")
    def odd(self: int, args: int, kwargs: int, function: int, options: int) -> list[int]:
        return [self, args, kwargs, function, options]

    given = {"self": 1, "args": 2, "kwargs": 3, "function": 4, "options": 5}
    assert odd(**given) == [1, 2, 3, 4, 5]
    handles = [
        odd.run_later(**given),
        odd.bind(**given).run_later(),
        odd.bind_alone(**given).run_later(),
        odd.using(queue="other").run_later(**given),
    ]
    drain()
    assert [handle.join(0) for handle in handles] == [[1, 2, 3, 4, 5]] * 4


@pytest.mark.parametrize(
    "name",
    [
        "options",
        "name",
        "function",
        "signature",
        "is_coroutine",
        "wants_outcome",
        "run_later",
        "bind",
    ],
)
def test_an_attribute_of_the_function_stands_in_for_nothing_of_the_job(
    engine: Engine, name: str
) -> None:
    def function(number: int) -> int:
        return number + 1

    setattr(function, name, "the function's own")
    function.own = "kept"  # type: ignore[attr-defined]
    registered = job(name="shop.attributes", queue="mail")(function)

    handle = registered.run_later(1)
    drain()

    assert handle.join(0) == 2
    assert registered.options.queue == "mail"
    assert registered.own == "kept"  # type: ignore[attr-defined]


# Decorators beneath @job


def logged(function: Any) -> Any:
    """Passes on what it gets."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        print("called with", args, kwargs)
        return function(*args, **kwargs)

    return wrapper


def injected(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("client", *args, **kwargs)

    return wrapper


def injected_by_name(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, client="client", **kwargs)

    return wrapper


def injected_into_kwargs(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs["client"] = "client"
        return function(*args, **kwargs)

    return wrapper


def injected_into_args(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = ("client", *args)
        return function(*args, **kwargs)

    return wrapper


def injected_before(function: Any) -> Any:
    partly = functools.partial(function, "client")

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return partly(*args, **kwargs)

    return wrapper


def with_parameters_of_its_own(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(to: str) -> Any:
        return function("client", to)

    return wrapper


def with_a_lambda(function: Any) -> Any:
    return functools.wraps(function)(lambda *args, **kwargs: function("client", *args, **kwargs))


INJECTING = [
    injected,
    injected_by_name,
    injected_into_kwargs,
    injected_into_args,
    injected_before,
    with_parameters_of_its_own,
    with_a_lambda,
    lambda function: logged(injected(function)),
    lambda function: injected(logged(function)),
]


@pytest.mark.parametrize("decorator", INJECTING, ids=range(len(INJECTING)))
def test_a_decorator_can_inject_an_argument(
    engine: Engine, decorator: Callable[[Any], Any]
) -> None:
    by_name = decorator in (injected_by_name, injected_into_kwargs)

    def send(client: str, to: str) -> str:
        return f"{client} to {to}"

    registered: Any = job(name="shop.injected")(decorator(send))
    handles = [registered.run_later(to="a@b.c")]
    if not by_name:
        handles.append(registered.run_later("a@b.c"))
    drain()
    assert {handle.join(0) for handle in handles} == {"client to a@b.c"}


class Context(contextlib.ContextDecorator):
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("decorator", [logged, Context(), lambda f: logged(Context()(f))])
def test_behind_a_decorator_that_passes_on_its_arguments_a_wrong_call_is_refused_at_once(
    engine: Engine, decorator: Callable[[Any], Any]
) -> None:
    def send(to: str, *, copy: str = "") -> str:
        return to + copy

    registered: Any = job(name="shop.passed_on", unique_key="send-{to}")(decorator(send))
    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"cc": 2})):
        with pytest.raises(TypeError):
            registered.run_later(*args, **kwargs)
    with pytest.raises(EncodeError, match="cannot encode to"):
        registered.run_later(object())
    handle = registered.run_later("a", copy="b")
    drain()
    assert handle.join(0) == "ab"


def test_a_signature_that_a_decorator_declares_counts() -> None:
    wrapper = injected(add.function)
    wrapper.__signature__ = inspect.Signature()
    assert str(signature_of(wrapper)) == "()"
    patched: Any = mock.patch("os.getcwd")(add.function)
    assert str(signature_of(patched)).startswith("(*args")


def test_a_wrapper_whose_source_is_not_there_counts_as_one_that_passes_on() -> None:
    space: dict[str, Any] = {"functools": functools, "f": add.function}
    source = "@functools.wraps(f)\ndef wrapper(*args, **kwargs): return f(*args, **kwargs)"
    exec(compile(source, "<nowhere>", "exec"), space)  # noqa: S102  (it has no file)
    assert signature_of(space["wrapper"]) == inspect.signature(add.function)


def test_a_coroutine_function_behind_a_plain_wrapper_is_awaited(engine: Engine) -> None:
    async def double(number: int) -> int:
        return 2 * number

    def run_here(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                function(*args, **kwargs).send(None)
            except StopIteration as end:
                return end.value

        return wrapper

    awaited = job(name="shop.awaited")(logged(double)).run_later(2)
    by_itself = job(name="shop.by_itself")(run_here(double)).run_later(3)
    drain()
    assert (awaited.join(0), by_itself.join(0)) == (4, 6)


# Pickles


def test_a_job_pickles_by_its_name() -> None:
    assert unpickled(pickle.dumps(add)) is add
    assert copy.deepcopy(add) is add
    changed = unpickled(pickle.dumps(add.using(queue="bulk", priority=7)))
    assert (changed.function, changed.options.queue, changed.options.priority) == (
        add.function,
        "bulk",
        7,
    )
    assert changed.options.max_attempts == add.options.max_attempts


def test_bound_calls_and_pipelines_pickle(engine: Engine) -> None:
    bound = unpickled(pickle.dumps(add.using(queue="bulk").bind(1, b=2)))
    chained = unpickled(pickle.dumps(chain(add.bind(1), echo.bind())))
    handle = unpickled(pickle.dumps(bound.run_later()))
    pipeline = chained.run_later()
    drain()
    assert handle.join(0) == get_job(handle.id).join(0) == 3
    assert pipeline.join(0) is not None
    assert copy.copy(bound).arguments == bound.arguments
    run_many([copy.deepcopy(bound)])


def test_what_cannot_be_found_by_its_name_says_why_it_does_not_pickle() -> None:
    options = JobOptions("shop.nowhere")
    stray: RegisteredJob[..., Any] = RegisteredJob(add.function, options)
    for each in (stray, stray.bind(1)):
        with pytest.raises(pickle.PicklingError, match=r"'shop\.nowhere' cannot be pickled"):
            pickle.dumps(each)
    other: RegisteredJob[..., Any] = RegisteredJob(echo.function, add.options)
    with pytest.raises(pickle.PicklingError, match="another function has its name"):
        pickle.dumps(other)
    text = pickle.dumps(add)
    del registry._jobs[add.name]
    with pytest.raises(JobNotRegistered, match=add.name):
        unpickled(text)


def test_a_spawned_process_gets_a_job_and_a_bound_call(
    engine: Engine, processes: Processes
) -> None:
    child = processes.python(
        f"""
import django
django.setup()
import pickle
job, bound = pickle.loads(bytes.fromhex({pickle.dumps((add, add.bind(1))).hex()!r}))
print(job(1, b=1), bound.options.name)
"""
    )
    out, err = child.communicate(timeout=60)
    assert out.split() == ["2", add.name], err
