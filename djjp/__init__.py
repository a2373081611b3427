"""djjp: background jobs for Django on a database of their own.

Names load on first use, because settings modules import `djjp.databases` before Django is set up.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from djjp.exceptions import Discard, Retry
    from djjp.jobs import aget_job, arun_many, current_job, get_job, job, run_many

__version__ = "0.1.0"
__all__ = [
    "Discard",
    "Retry",
    "aget_job",
    "arun_many",
    "current_job",
    "get_job",
    "job",
    "run_many",
]


def __getattr__(name: str) -> typing.Any:
    if name in __all__:
        home = "djjp.exceptions" if name in ("Discard", "Retry") else "djjp.jobs"
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
