"""The type variables of jobs: the parameters of a function, and the result of its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec

P = ParamSpec("P")
Q = ParamSpec("Q")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: What a call of the function returns: for a coroutine function, the coroutine.
    R = TypeVar("R", covariant=True)  # noqa: PLC0105  (likewise)
    T = TypeVar("T")
    #: The result of a handle or a bound call; Any for one whose function is not known.
    Result = TypeVar("Result", covariant=True, default=Any)  # noqa: PLC0105  (a word, not a letter)
else:
    from typing import TypeVar

    R, T = TypeVar("R", covariant=True), TypeVar("T")
    Result = TypeVar("Result", covariant=True)  # noqa: PLC0105  (likewise)
