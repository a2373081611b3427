"""The queue's tables."""

from djjp.models.consumer import Consumer
from djjp.models.job import FINISHED, LIVE, Attempt, Job, OnCrash, State, Trait
from djjp.models.pipeline import Dependency
from djjp.models.queue import Queue
from djjp.models.relayed import Relayed
from djjp.models.schedule import CatchUp, Schedule, Slot, Source
from djjp.models.start import Start

__all__ = [
    "FINISHED",
    "LIVE",
    "Attempt",
    "CatchUp",
    "Consumer",
    "Dependency",
    "Job",
    "OnCrash",
    "Queue",
    "Relayed",
    "Schedule",
    "Slot",
    "Source",
    "Start",
    "State",
    "Trait",
]
