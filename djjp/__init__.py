"""djjp: background jobs for Django on a database of their own.

Names load on first use, because settings modules import `djjp.databases` before Django is set up.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from djjp.exceptions import Discard, Retry
    from djjp.jobs import aget_job, arun_many, current_job, get_job, job, run_many
    from djjp.limits import Limit, Rate
    from djjp.pipelines import chain, group

__version__ = "0.1.0"
__all__ = [
    "Discard",
    "Limit",
    "Rate",
    "Retry",
    "aget_job",
    "arun_many",
    "chain",
    "current_job",
    "get_job",
    "group",
    "job",
    "run_many",
]


_HOMES = {
    "Discard": "djjp.exceptions",
    "Limit": "djjp.limits",
    "Rate": "djjp.limits",
    "Retry": "djjp.exceptions",
    "chain": "djjp.pipelines",
    "group": "djjp.pipelines",
}


def __getattr__(name: str) -> typing.Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "djjp.jobs")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
