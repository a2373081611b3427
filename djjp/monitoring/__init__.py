"""The facts about a queue that the admin, the command line and programs show, each read in one place."""

from djjp.monitoring.causes import Cause
from djjp.monitoring.consumers import ConsumerInfo, RunningJobs, consumers
from djjp.monitoring.counts import counts
from djjp.monitoring.depths import QueueDepth, depths, latest_depths
from djjp.monitoring.explain import Explanation, aexplain, explain
from djjp.monitoring.failures import FailureGroup, Failures, afailures, failures
from djjp.monitoring.filters import Filter, FilterError
from djjp.monitoring.frames import Frame
from djjp.monitoring.incidents import Incident, aincidents, aworst, incidents, worst
from djjp.monitoring.jobs import (
    Count,
    Page,
    Walk,
    acount,
    afind,
    count,
    find,
    latest_jobs,
    tagged_jobs,
    walk,
)
from djjp.monitoring.totals import Figures, Histogram, aever, atotals, ever, totals

__all__ = [
    "Cause",
    "ConsumerInfo",
    "Count",
    "Explanation",
    "FailureGroup",
    "Failures",
    "Figures",
    "Filter",
    "FilterError",
    "Frame",
    "Histogram",
    "Incident",
    "Page",
    "QueueDepth",
    "RunningJobs",
    "Walk",
    "acount",
    "aever",
    "aexplain",
    "afailures",
    "afind",
    "aincidents",
    "atotals",
    "aworst",
    "consumers",
    "count",
    "counts",
    "depths",
    "ever",
    "explain",
    "failures",
    "find",
    "incidents",
    "latest_depths",
    "latest_jobs",
    "tagged_jobs",
    "totals",
    "walk",
    "worst",
]
