"""The queue's tables."""

from djjp.models.attempt import Attempt
from djjp.models.consumer import Consumer
from djjp.models.dependency import Dependency
from djjp.models.depth import Depth
from djjp.models.idempotency_key import IdempotencyKey
from djjp.models.incident import Incident
from djjp.models.job import FINISHED, LIVE, Flag, Job, OnCrash, State, listed
from djjp.models.occurrence import Occurrence
from djjp.models.operation import Operation, Progression, Verb
from djjp.models.queue import Queue
from djjp.models.rate_start import RateStart
from djjp.models.receipt import Relayed
from djjp.models.release import Release
from djjp.models.schedule import CatchUp, Schedule, Source
from djjp.models.tag import Tag
from djjp.models.token import Scope, Token
from djjp.models.total import Span, Total, TotalEntry
from djjp.models.transfer import Transfer

__all__ = [
    "FINISHED",
    "LIVE",
    "Attempt",
    "CatchUp",
    "Consumer",
    "Dependency",
    "Depth",
    "Flag",
    "IdempotencyKey",
    "Incident",
    "Job",
    "Occurrence",
    "OnCrash",
    "Operation",
    "Progression",
    "Queue",
    "RateStart",
    "Relayed",
    "Release",
    "Schedule",
    "Scope",
    "Source",
    "Span",
    "State",
    "Tag",
    "Token",
    "Total",
    "TotalEntry",
    "Transfer",
    "Verb",
    "listed",
]
