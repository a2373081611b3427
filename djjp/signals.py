"""Signals: what Django's receivers can react to.

Receivers are called by `send_robust`: Django logs an exception in one of them, and it harms nothing. A receiver
must be connected in each process that can send the signal, as in the `ready()` of an app. `docs/hooks.md` has the
process and the thread that send each.

`job_enqueued`: a job was enqueued; sent after the commit of the transaction that it belongs to. `sender` is the
registered job, and `job` a `djjp.instruments.Call`.

`job_started`: a job begins to run. `job_finished`: a job has ended for good by a run. `sender` is the registered
job, None if this process has none of that name; `job` is a `djjp.instruments.JobRun`.

`consumer_started`: a consumer is about to claim jobs. `consumer_stopped`: it has ended. `sender` is the class of
consumers; `consumer` is its name, `queues` are those that it serves, `slots` is the number of jobs that it runs at
once, and `concurrency` is "threads" or "asyncio". The second one also has `executed`, the number of executions,
and `graceful`: whether all jobs that it started have ended.

`incident_opened`, `incident_closed`: an incident was opened or closed. Each is sent once for an incident, after
the commit, by the process that has opened or closed it: a consumer or, where none is alive, a process that shows
incidents. `sender` is the class `djjp.monitoring.Incident`, and `incident` one of its objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.dispatch import Signal

__all__ = [
    "consumer_started",
    "consumer_stopped",
    "incident_closed",
    "incident_opened",
    "job_enqueued",
    "job_finished",
    "job_started",
]

logger = logging.getLogger("djjp.signals")

_ENDS = "a receiver of %s has tried to end the process"

job_enqueued = Signal()
job_started = Signal()
job_finished = Signal()
consumer_started = Signal()
consumer_stopped = Signal()
incident_opened = Signal()
incident_closed = Signal()


def _none(name: str) -> object:
    return None


#: Returns the registered job of a name, which is the sender of the signals of jobs; `djjp.jobs.registry` sets it.
job_named: Callable[[str], object] = _none


def send(signal: Signal, sender: object, **values: Any) -> None:
    """Call the receivers of a signal, whose exceptions are logged."""
    try:
        signal.send_robust(sender=sender, **values)
    except SystemExit:  # the process goes on
        logger.exception(_ENDS, _name(signal))


async def asend(signal: Signal, sender: object, **values: Any) -> None:
    """`send` for coroutines. Receivers that are functions are called on a thread."""
    try:
        await signal.asend_robust(sender=sender, **values)
    except SystemExit:
        logger.exception(_ENDS, _name(signal))


def _name(signal: Signal) -> str:
    return next(name for name, each in globals().items() if each is signal)
