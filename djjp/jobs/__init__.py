"""Jobs: what `@job` makes of a function, and how a call of it is enqueued and looked up."""

from djjp.jobs.bound import BoundJob
from djjp.jobs.bulk import arun_many, run_many
from djjp.jobs.current import current_job
from djjp.jobs.decorator import RegisteredJob, job
from djjp.jobs.handles import JobHandle, aget_job, get_job
from djjp.limits import Limit, Rate

__all__ = [
    "BoundJob",
    "JobHandle",
    "Limit",
    "Rate",
    "RegisteredJob",
    "aget_job",
    "arun_many",
    "current_job",
    "get_job",
    "job",
    "run_many",
]
