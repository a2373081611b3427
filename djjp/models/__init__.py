"""The queue's tables."""

from djjp.models.attempt import Attempt
from djjp.models.consumer import Consumer
from djjp.models.dependency import Dependency
from djjp.models.job import FINISHED, LIVE, Flag, Job, OnCrash, State
from djjp.models.occurrence import Occurrence
from djjp.models.queue import Queue
from djjp.models.rate_start import RateStart
from djjp.models.receipt import Relayed
from djjp.models.schedule import CatchUp, Schedule, Source

__all__ = [
    "FINISHED",
    "LIVE",
    "Attempt",
    "CatchUp",
    "Consumer",
    "Dependency",
    "Flag",
    "Job",
    "Occurrence",
    "OnCrash",
    "Queue",
    "RateStart",
    "Relayed",
    "Schedule",
    "Source",
    "State",
]
