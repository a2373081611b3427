"""The queue's tables."""

from djjp.models.consumer import Consumer
from djjp.models.dependency import Dependency
from djjp.models.job import FINISHED, LIVE, Attempt, Flag, Job, OnCrash, State
from djjp.models.queue import Queue
from djjp.models.rate_start import RateStart
from djjp.models.receipt import Relayed
from djjp.models.schedule import CatchUp, Occurrence, Schedule, Source

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
