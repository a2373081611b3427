"""djjp: background jobs for Django on a database of their own.

Names load on first use, because settings modules import `djjp.databases` before Django is set up.
"""

import importlib
import sys
import typing

if typing.TYPE_CHECKING:
    from djjp.exceptions import (
        ConsumerDoesNotAnswer,
        ConsumerDoesNotExist,
        Discard,
        EncodeError,
        JobCancelled,
        JobDoesNotExist,
        JobFailed,
        JobInterrupted,
        JobNameTaken,
        JobNotFinished,
        JobNotRegistered,
        JobStopped,
        JobTimedOut,
        OutboxUnavailable,
        OutcomeUnknown,
        PayloadTooLarge,
        QueueUnavailable,
        Retry,
    )
    from djjp.jobs import (
        JobHandle,
        aget_job,
        arun_many,
        current_job,
        current_job_or_none,
        get_job,
        job,
        run_many,
    )
    from djjp.limits import Limit, Rate
    from djjp.models import State
    from djjp.pipelines import PipelineHandle, aget_pipeline, chain, expand, get_pipeline, group

__version__ = "0.2.0"
__all__ = [
    "ConsumerDoesNotAnswer",
    "ConsumerDoesNotExist",
    "Discard",
    "EncodeError",
    "JobCancelled",
    "JobDoesNotExist",
    "JobFailed",
    "JobHandle",
    "JobInterrupted",
    "JobNameTaken",
    "JobNotFinished",
    "JobNotRegistered",
    "JobStopped",
    "JobTimedOut",
    "Limit",
    "OutboxUnavailable",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PipelineHandle",
    "QueueUnavailable",
    "Rate",
    "Retry",
    "State",
    "aget_job",
    "aget_pipeline",
    "arun_many",
    "chain",
    "current_job",
    "current_job_or_none",
    "expand",
    "get_job",
    "get_pipeline",
    "group",
    "job",
    "run_many",
]


_HOMES = {
    "Limit": "djjp.limits",
    "PipelineHandle": "djjp.pipelines",
    "Rate": "djjp.limits",
    "State": "djjp.models",
    "aget_pipeline": "djjp.pipelines",
    "chain": "djjp.pipelines",
    "expand": "djjp.pipelines",
    "get_pipeline": "djjp.pipelines",
    "group": "djjp.pipelines",
    **dict.fromkeys(
        (
            "ConsumerDoesNotAnswer",
            "ConsumerDoesNotExist",
            "Discard",
            "EncodeError",
            "JobCancelled",
            "JobDoesNotExist",
            "JobFailed",
            "JobInterrupted",
            "JobNameTaken",
            "JobNotFinished",
            "JobNotRegistered",
            "JobStopped",
            "JobTimedOut",
            "OutboxUnavailable",
            "OutcomeUnknown",
            "PayloadTooLarge",
            "QueueUnavailable",
            "Retry",
        ),
        "djjp.exceptions",
    ),
}


def __getattr__(name: str) -> typing.Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "djjp.jobs")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]


if sys.argv[1:2] == ["start_consumer"]:
    # The settings import this package, long before the project is loaded.
    from djjp import init

    init.split_if_reaper()
