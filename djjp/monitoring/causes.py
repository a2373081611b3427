"""Causes: what keeps a job from running, each with a sentence and the command that puts it right."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.utils import timezone

from djjp.durations import to_datetime
from djjp.engine.expiry import EXPIRED
from djjp.engine.line import Listed
from djjp.engine.pipelines import NOT_NEEDED
from djjp.jobs import registry
from djjp.models import Job, Transfer
from djjp.monitoring.consumers import ConsumerInfo, Life
from djjp.served import Servers

#: The codes, the worst first. Only a row by hand, or of a later version, is `unknown`.
RANKS = (
    *("unknown", "outbox", "paused", "no_consumer", "not_registered", "limit", "rate", "parents"),
    *("scheduled", "busy", "line", "running", "ended"),
)

#: How a job ends that was cancelled by hand.
ON_REQUEST = "cancelled on request"
# Reasons that djjp has written; any other can have the message of an error.
_OWN_REASONS = {ON_REQUEST, f"its pipeline was {ON_REQUEST}", NOT_NEEDED, EXPIRED}


def shown_reason(reason: str | None, *, shows_errors: bool) -> str | None:
    """Return the reason of an end; None for one that can have the message of an error, if these are hidden."""
    return reason if shows_errors or reason in _OWN_REASONS else None


class Cause(NamedTuple):
    """One cause.

    Attributes:
        sentence: the cause in one sentence, which ends in the remedy.
        remedy: the command that puts it right.
        facts: the values in the sentence and more, as JSON takes them.
    """

    code: str
    sentence: str
    remedy: str
    facts: dict[str, Any]

    @property
    def text(self) -> str:
        """The cause alone, without the remedy at the end of its sentence."""
        rest = self.sentence.removesuffix(f": {self.remedy}")
        return rest.rpartition("; ")[0] or rest


class Surroundings(NamedTuple):
    """The parts of a queue that all causes depend on: consumers, with the names that they know, and pauses."""

    now: float
    alias: str
    consumers: Sequence[tuple[ConsumerInfo, list[str]]]
    servers: Servers[tuple[ConsumerInfo, list[str]]]
    paused: Mapping[str, datetime | None]
    transfer: Transfer | None

    def serving(self, queue: str) -> list[ConsumerInfo]:
        """Return the consumers that serve a queue, in whatever condition."""
        return [info for info, _ in self.servers.of(queue)]

    def workers(self, job: Job) -> list[ConsumerInfo]:
        """Return the consumers that can claim a job now, or once they have a free slot."""
        is_task = registry.can_run("", getattr(job, "arguments_head", ""))
        return [
            info
            for info, names in self.servers.of(job.queue)
            if claims(info) and (is_task or job.name in names)
        ]


def claims(info: ConsumerInfo) -> bool:
    """Return whether a consumer claims jobs."""
    return info.life is Life.ALIVE and not info.quiet


def sorted_by_rank(causes: Iterable[Cause]) -> list[Cause]:
    """Return causes, the worst first."""
    return sorted(causes, key=lambda cause: RANKS.index(cause.code))


def cause(code: str, text: str, then: str, command: str, **facts: Any) -> Cause:
    """Return a cause whose sentence ends in a command of `manage.py`."""
    remedy = f"python manage.py {command}"
    return Cause(code, f"{text}; {then}: {remedy}", remedy, facts)


def at(value: datetime | float) -> str:
    """Return a time as it is read here."""
    moment = to_datetime(value) if isinstance(value, (int, float)) else value
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return f"{local:%Y-%m-%d %H:%M:%S}"


def quoted(word: str) -> str:
    """Return a word as a shell reads it."""
    return shlex.quote(word)


def start(queue: str) -> str:
    """Return the command of a consumer that serves a queue; of all where the option cannot name it."""
    plain = queue and not set(queue) & set(",:*") and not queue.startswith("-")
    return f"start_consumer --queues {quoted(queue)}" if plain else "start_consumer"


def names(infos: Sequence[ConsumerInfo]) -> str:
    """Return the names of the first consumers."""
    return ", ".join(info.name for info in infos[:3])


def shown(info: ConsumerInfo) -> dict[str, Any]:
    """Return a consumer as facts have it."""
    return {
        "name": info.name,
        "life": str(info.life),
        "quiet": info.quiet,
        "busy": info.busy,
        "limit": info.limit,
        "heartbeat_age": round(info.heartbeat_age, 3),
    }


def fact(listed: Listed, place: str) -> dict[str, Any]:
    """Return a job that another one waits for as facts have it."""
    return {"id": str(listed.id), "name": listed.name, place: listed.place}
