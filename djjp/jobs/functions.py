"""Functions of jobs: which ones a consumer can find and run, and the arguments that a call of one needs."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType
from typing import Any, TypeVar

T = TypeVar("T", bound=Exception)

_ANYTHING = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
_CHANGES = ("update", "pop", "popitem", "setdefault", "clear", "__setitem__")


def require_runnable(function: Callable[..., Any], *, named: bool) -> None:
    """Raise TypeError for a function that no consumer could find, or that would never run.

    Args:
        named: whether the job has a name of its own, and not the path of its function.
    """
    path = f"{function.__module__}.{function.__qualname__}"
    if function.__module__ not in sys.modules or function.__module__ == "__main__":
        raise TypeError(
            f"{path} cannot be a job: no consumer imports the module {function.__module__!r}; "
            "define it in a jobs.py of an installed app"
        )
    if "<" in function.__qualname__ and not named:
        raise TypeError(
            f"{path} cannot be a job by this name, which is not the name of one function; "
            "define it at the top of a module, or name the job: @job(name=...)"
        )
    parameters = [*inspect.signature(function).parameters]
    in_class = "." in function.__qualname__.rpartition("<locals>.")[2]
    if in_class and parameters and parameters[0] in ("self", "cls"):
        raise TypeError(
            f"{path} cannot be a job: it is a method, and no consumer has the object to call it on; "
            "make it a function, or a static method"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{path} cannot be a job: it is a generator function, so that calling it runs nothing; "
            "return a list, or None"
        )


class CallSignature(inspect.Signature):
    """The signature of a job's function. Its errors name the function, as those of a plain call do.

    Attributes:
        function: the job's name, and the function's where that is another.
        accepted_counts: the numbers of arguments that fit if all are positional; `bind` takes far longer.
    """

    __slots__ = ("accepted_counts", "function")

    function: str
    accepted_counts: range

    @classmethod
    def of(
        cls, function: Callable[..., Any], signature: inspect.Signature, name: str
    ) -> CallSignature:
        """Return the signature of the function of a job of this name."""
        made = cls([*signature.parameters.values()], return_annotation=signature.return_annotation)
        called = function.__name__
        made.function = name if name.rpartition(".")[2] == called else f"{called} (job {name!r})"
        made.accepted_counts = made._accepted_counts()
        return made

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Return the arguments by parameter; raise TypeError, with the function's name, if they do not fit."""
        try:
            return super().bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.function}: {error}") from None

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Return whether the function takes these arguments."""
        try:
            self.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    def positional_names(self, count: int, missing_first: bool = False) -> Sequence[str]:
        """Return the parameters of this number of positional arguments, without the first if it is missing."""
        count += missing_first
        names: list[str] = []
        for parameter in self.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
        return names[missing_first:count]

    def _accepted_counts(self) -> range:
        least = most = 0
        for parameter in self.parameters.values():
            needed = parameter.default is parameter.empty
            if parameter.kind is parameter.VAR_POSITIONAL:
                most = sys.maxsize - 1
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                least, most = least + needed, most + 1
            elif parameter.kind is parameter.KEYWORD_ONLY and needed:
                return range(0)
        return range(least, most + 1)

    def named(self, error: T) -> T:
        """Return an error about an argument of a call with the function's name in its message."""
        error.args = (f"{error} (in a call of {self.function})",)
        return error


def signature_of(function: Callable[..., Any], name: str = "") -> CallSignature:
    """Return the signature by which the function of a job is called.

    `inspect.signature` returns that of the innermost decorated function. It is wrong where a decorator adds an
    argument, or takes one away. So it is used only as far as each wrapper passes on what it gets.
    """
    return CallSignature.of(function, _signature_of(function), name or function.__name__)


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    inspect.unwrap(function)  # raises where it would never end
    while hasattr(function, "__wrapped__") and not hasattr(function, "__signature__"):
        if isinstance(function, FunctionType) and not _Wrapper(function).passes_on:
            return inspect.signature(function, follow_wrapped=False)
        function = function.__wrapped__
    return inspect.signature(function)


def returns_coroutine(function: Callable[..., Any]) -> bool:
    """Return whether a call must be awaited: also of an async function behind a wrapper that is not async."""
    if inspect.iscoroutinefunction(function):
        return True
    if not isinstance(function, FunctionType) or "__wrapped__" not in vars(function):
        return False
    inner = vars(function)["__wrapped__"]
    return returns_coroutine(inner) and _Wrapper(function).returns_the_call


class _Wrapper:
    """A wrapper of a decorator, as far as its source shows it.

    Attributes:
        passes_on: whether it calls its function with the `*args` and `**kwargs` that it gets, and only so.
        returns_the_call: whether it returns the value of such a call as it is.
    """

    def __init__(self, wrapper: FunctionType) -> None:
        parameters = inspect.signature(wrapper, follow_wrapped=False).parameters.values()
        names = [parameter.name for parameter in parameters]
        self.passes_on = [parameter.kind for parameter in parameters] == _ANYTHING
        self.returns_the_call = False
        code = wrapper.__code__
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
        except (OSError, SyntaxError, TypeError):
            return  # it cannot be read, or is a part of a line: most wrappers pass on what they get
        cells = zip(code.co_freevars, wrapper.__closure__ or (), strict=True)
        inner = vars(wrapper)["__wrapped__"]
        functions = {name for name, cell in cells if _content(cell) is inner}
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and _name(node.func) in functions
        ]
        self.returns_the_call = any(
            isinstance(node, (ast.Return, ast.Lambda))
            and (node.value if isinstance(node, ast.Return) else node.body) in calls
            for node in ast.walk(tree)
        )
        if self.passes_on:
            exact = bool(calls) and all(_gets(call, *names) for call in calls)
            self.passes_on = exact and _keeps(tree, *names)


def _gets(call: ast.Call, args: str, kwargs: str) -> bool:
    """Return whether a call has the arguments `*args, **kwargs` and no others."""
    starred = [_name(each.value) if isinstance(each, ast.Starred) else "" for each in call.args]
    spread = [_name(each.value) if each.arg is None else "" for each in call.keywords]
    return (starred, spread) == ([args], [kwargs])


def _keeps(tree: ast.AST, args: str, kwargs: str) -> bool:
    """Return whether no step gives `args` or `kwargs` another value, or changes `kwargs`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):  # args = (1, *args)
            changed = node.id in (args, kwargs) and not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Subscript):  # kwargs["client"] = 1
            changed = _name(node.value) == kwargs and not isinstance(node.ctx, ast.Load)
        else:  # kwargs.update(client=1)
            changed = (
                isinstance(node, ast.Attribute)
                and _name(node.value) == kwargs
                and node.attr in _CHANGES
            )
        if changed:
            return False
    return True


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None
