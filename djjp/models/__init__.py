"""The queue's tables."""

from djjp.models.consumer import Consumer
from djjp.models.job import FINISHED, Attempt, Job, OnCrash, State, Trait
from djjp.models.pipeline import Dependency
from djjp.models.relayed import Relayed

__all__ = [
    "FINISHED",
    "Attempt",
    "Consumer",
    "Dependency",
    "Job",
    "OnCrash",
    "Relayed",
    "State",
    "Trait",
]
