"""The storage floor: every statement on the queue's database, by concern.

`current()` returns the `Engine`, the list of what can be done to the queue. `run()` calls it from anywhere,
inside a consumer's job too.
"""

from djjp.engine.database import Listener
from djjp.engine.engine import Engine
from djjp.engine.rates import START_MARGIN
from djjp.engine.records import (
    NO_HOLDERS,
    Admitted,
    Claimed,
    Edge,
    Failure,
    Holder,
    KeyHolders,
    NewGraph,
    NewJob,
    Outcome,
    Peer,
    Problem,
    Progress,
)
from djjp.engine.routing import (
    Coordinator,
    arun,
    can_skip_thread,
    coordinator,
    current,
    for_alias,
    run,
)

__all__ = [
    "NO_HOLDERS",
    "START_MARGIN",
    "Admitted",
    "Claimed",
    "Coordinator",
    "Edge",
    "Engine",
    "Failure",
    "Holder",
    "KeyHolders",
    "Listener",
    "NewGraph",
    "NewJob",
    "Outcome",
    "Peer",
    "Problem",
    "Progress",
    "arun",
    "can_skip_thread",
    "coordinator",
    "current",
    "for_alias",
    "run",
]
