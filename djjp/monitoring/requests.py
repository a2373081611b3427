"""Requests to a consumer through its row: show the stacks of its jobs, be quiet, claim again, stop.

The consumer's side is `djjp.consumer.requests`, and the row's `djjp.engine.requests`.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from djjp import engine
from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.exceptions import ConsumerDoesNotAnswer, ConsumerDoesNotExist
from djjp.jsontext import loads
from djjp.monitoring.consumers import Life, consumers

__all__ = ["JobStack", "Stack", "quiet", "request_stack", "stop", "unquiet"]

#: Seconds that a requester waits for an answer, which takes about one; and between two reads of the row.
ANSWER_WITHIN, _POLL_EVERY = 5.0, 0.05


class Call(NamedTuple):
    """One call of a stack.

    Attributes:
        code: the line of code; "" where its file cannot be read.
        is_project: whether the file is the project's: not of a package, of Python or of djjp.
    """

    file: str
    line: int
    function: str
    code: str
    is_project: bool


class Stack(NamedTuple):
    """The calls of a thread or of a task, outermost first.

    Attributes:
        kind: "thread", "coroutine", or "database thread" for the one on which a coroutine uses databases.
        task: the name of the task of a coroutine; "" for threads.
    """

    kind: str
    task: str
    calls: list[Call]


class JobStack(NamedTuple):
    """The stacks of a running job, at one moment.

    Attributes:
        since: when this execution started.
    """

    id: UUID
    name: str
    queue: str
    since: datetime
    stacks: list[Stack]


def request_stack(name: str, timeout: float = ANSWER_WITHIN) -> list[JobStack]:
    """Return the stacks of the jobs that a consumer runs, the oldest start first: at most 200 jobs.

    Its coordinator answers within about a second, also while all its slots are busy.

    Args:
        timeout: seconds to wait for the answer.

    Raises:
        ConsumerDoesNotExist: there is no consumer of this name, or it is dead.
        ConsumerDoesNotAnswer: it has not answered in time; its request is withdrawn.
        QueueUnavailable: the queue's database does not answer.
    """
    return [
        JobStack(
            UUID(job["id"]),
            job["name"],
            job["queue"],
            to_datetime(job["since"]),
            [
                Stack(each["kind"], each["task"], [Call(**call) for call in each["calls"]])
                for each in job["stacks"]
            ],
        )
        for job in _request(name, "stack", timeout)["jobs"]
    ]


def quiet(name: str, timeout: float = ANSWER_WITHIN) -> None:
    """Have a consumer claim no further jobs; it goes on with those that it holds. Raises as `request_stack`."""
    _request(name, "quiet", timeout)


def unquiet(name: str, timeout: float = ANSWER_WITHIN) -> None:
    """Have a consumer claim jobs again. Raises as `request_stack`."""
    _request(name, "unquiet", timeout)


def stop(name: str, timeout: float = ANSWER_WITHIN) -> None:
    """Stop a consumer as a SIGTERM does: it claims no further jobs and ends once those that it runs have ended.

    Of a supervisor's processes each is a consumer: the supervisor replaces one that is stopped.
    Raises as `request_stack`.
    """
    _request(name, "stop", timeout)


def _request(name: str, verb: str, timeout: float) -> dict[str, Any]:
    """Make a request and return the answer."""
    id = uuid4().hex
    request = json.dumps({"id": id, "verb": verb})
    until = time.monotonic() + timeout
    _require(name)
    made = False
    while True:
        found = engine.run(lambda engine: engine.requests.answered(name))
        if found is None:
            if made and verb == "stop":  # an idle consumer ends before its answer is read
                return {}
            raise ConsumerDoesNotExist(name)
        asked, answer = found
        if answer is not None and (given := _answer(answer, id)) is not None:
            engine.run(partial(_forget, name, answer))
            return given
        if asked is None:
            # Not before the last one is answered; and again, if another answer has replaced this one's meanwhile.
            made = engine.run(lambda engine: engine.requests.make(name, request))
        if time.monotonic() >= until:
            if not made or engine.run(lambda engine: engine.requests.withdraw(name, request)):
                raise ConsumerDoesNotAnswer(name, timeout)
            until = time.monotonic() + _POLL_EVERY  # it is answered at this moment
        time.sleep(_POLL_EVERY)


def _require(name: str) -> None:
    """Raise ConsumerDoesNotExist unless a consumer of this name lives."""
    found = next((each for each in consumers() if each.name == name), None)
    if found is None:
        raise ConsumerDoesNotExist(name)
    if found.life is Life.DEAD:
        raise ConsumerDoesNotExist(
            name, "consumer {} is dead: its jobs are rescued by other consumers"
        )


def _forget(name: str, answer: str, engine: Engine) -> None:
    engine.requests.forget(name, answer)


def _answer(text: str, id: str) -> dict[str, Any] | None:
    """Return the answer to the request of this id."""
    found = loads(text)
    return found if isinstance(found, dict) and found.get("id") == id else None
