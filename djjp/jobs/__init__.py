"""Jobs: what `@job` makes of a function, and how a call of it is enqueued and looked up."""

from djjp.jobs.bound import BoundJob, arun_many, run_many
from djjp.jobs.current import CurrentJob, current_job, current_job_or_none
from djjp.jobs.decorator import job
from djjp.jobs.handles import JobHandle
from djjp.jobs.options import JobOptions
from djjp.jobs.pipeline_handles import aget_job, get_job
from djjp.jobs.registered import RegisteredJob
from djjp.limits import Limit, Rate

__all__ = [
    "BoundJob",
    "CurrentJob",
    "JobHandle",
    "JobOptions",
    "Limit",
    "Rate",
    "RegisteredJob",
    "aget_job",
    "arun_many",
    "current_job",
    "current_job_or_none",
    "get_job",
    "job",
    "run_many",
]
