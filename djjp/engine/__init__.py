"""The storage layer: every statement on the queue's database, by concern.

`current()` returns the `Engine`, the list of what can be done to the queue. `run()` calls it from anywhere,
inside a consumer's job too.
"""

from djjp.engine.attempts import FailedAttempt
from djjp.engine.bulk import Tally
from djjp.engine.control import Retried
from djjp.engine.engine import Engine
from djjp.engine.graphs import Graph, Step
from djjp.engine.listener import Listener
from djjp.engine.rates import START_MARGIN
from djjp.engine.records import (
    NO_HOLDERS,
    Admitted,
    Claimed,
    ClaimKey,
    Edge,
    Failure,
    Holder,
    KeyHolders,
    Liveness,
    NewJob,
    NewPipeline,
    Outcome,
    Peer,
    Problem,
    Progress,
    new_record,
)
from djjp.engine.refusals import Refusal
from djjp.engine.routing import (
    CallQueue,
    arun,
    can_skip_thread,
    current,
    current_call_queue,
    for_alias,
    run,
)
from djjp.engine.rows import Key
from djjp.engine.sources import Range, Wanted
from djjp.engine.suspects import Place
from djjp.engine.transfer import Transferring

__all__ = [
    "NO_HOLDERS",
    "START_MARGIN",
    "Admitted",
    "CallQueue",
    "ClaimKey",
    "Claimed",
    "Edge",
    "Engine",
    "FailedAttempt",
    "Failure",
    "Graph",
    "Holder",
    "Key",
    "KeyHolders",
    "Listener",
    "Liveness",
    "NewJob",
    "NewPipeline",
    "Outcome",
    "Peer",
    "Place",
    "Problem",
    "Progress",
    "Range",
    "Refusal",
    "Retried",
    "Step",
    "Tally",
    "Transferring",
    "Wanted",
    "arun",
    "can_skip_thread",
    "current",
    "current_call_queue",
    "for_alias",
    "new_record",
    "run",
]
