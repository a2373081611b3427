"""Jobs: lists of them, one of them, why it does not run, and its verbs."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.http import HttpResponse

from djjp import conf, engine, errors
from djjp.api.frame import Call, answer, endpoint, integer
from djjp.api.problems import Problem
from djjp.api.schemas import FILTER, number
from djjp.engine import Engine, Tally
from djjp.exceptions import JobDoesNotExist
from djjp.jobs.handles import JobHandle
from djjp.jobs.reading import read_row
from djjp.models import FINISHED, Job, Scope, Verb
from djjp.monitoring import Filter, find, shapes
from djjp.monitoring.causes import shown_reason
from djjp.monitoring.explain import explain
from djjp.monitoring.filters import KEYS
from djjp.monitoring.one_job import JobInFull, one_job

#: The jobs on a page at most, and as a rule.
MOST, USUAL = 200, 50
#: Seconds for which a request waits at most.
LONGEST_WAIT = 30
# Seconds between two reads of a job that is waited for.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)

# As the page before has it in `next`.
_CURSOR = {"type": "string"}
OF_ONE = (errors.JOB_NOT_FOUND,)


class _Waits:
    """The requests of this process that wait for a job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            if self._number >= conf.current().api_waits:
                text = f"{self._number} requests of this process wait for jobs"
                raise Problem(errors.TOO_MANY_WAITS, text, headers={"Retry-After": "1"})
            self._number += 1
        try:
            yield
        finally:
            with self._lock:
                self._number -= 1


waits = _Waits()


def wanted(call: Call) -> Filter:
    """Return the filter in the query of a request."""
    return Filter.of({key: call.request.GET.getlist(key) for key in KEYS})


@endpoint(
    "GET",
    "/v1/jobs",
    query={**FILTER, "limit": number(MOST, USUAL), "cursor": _CURSOR},
    answers={200: "Jobs"},
    problems=[errors.INVALID_FILTER],
)
def jobs(call: Call) -> HttpResponse:
    """List the jobs of a filter, the newest first."""
    page = find(
        wanted(call),
        limit=integer(call, "limit", USUAL, 1, MOST),
        cursor=call.request.GET.get("cursor"),
    )
    seen = [shown(call, row) for row in page.jobs if call.sees(row)]
    return answer(shapes.page(page._replace(jobs=seen)))


@endpoint(
    "GET",
    "/v1/jobs/{id}",
    headers={"Prefer": "wait=N answers once the job has ended, or after N seconds, 30 at most"},
    answers={200: "AnyJob"},
    problems=[*OF_ONE, errors.TOO_MANY_WAITS],
)
async def job(call: Call, id: str) -> HttpResponse:
    """Return a job; with `Prefer: wait=30`, once it has ended."""
    found = await sync_to_async(seen)(call, id)
    preferred = _WAIT.search(call.request.headers.get("Prefer", ""))
    if preferred is None:
        return answer(shape(call, found))
    seconds = min(int(preferred[1]), LONGEST_WAIT)
    if found.row.state not in FINISHED and seconds:
        with waits.one():
            await _end(found.row.pk, seconds)
        found = await sync_to_async(seen)(call, id)
    return answer(shape(call, found), Preference_Applied=f"wait={seconds}")


async def _end(id: UUID, seconds: float) -> None:
    """Wait until a job has ended, or for these seconds."""
    until, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.3, _LONGEST_PAUSE)
        if (await sync_to_async(_state)(id)) in FINISHED:
            return


def _state(id: UUID) -> str:
    def load(engine: Engine) -> Job | None:
        return Job.objects.using(engine.db.alias).only("state").filter(pk=id).first()

    return read_row(id, load).state


@endpoint("GET", "/v1/jobs/{id}/explain", answers={200: "Explanation"}, problems=OF_ONE)
def explanation(call: Call, id: str) -> HttpResponse:
    """Explain why a job does not run, or what has become of it."""
    try:
        found = explain(identifier(id), shows_errors=call.token.arguments)
    except JobDoesNotExist:
        raise missing(id) from None
    if not call.sees(found.job):
        raise missing(id)
    return answer(shapes.explanation(*found))


def identifier(id: str) -> UUID:
    """Return the id in a path; raise the problem of a job that does not exist for what is none."""
    try:
        return UUID(id)
    except ValueError:
        raise missing(id) from None


def missing(id: str) -> Problem:
    """Return the problem of a job that does not exist, or that the token is not for."""
    return Problem(errors.JOB_NOT_FOUND, str(JobDoesNotExist(id[:100])))


def seen(call: Call, id: str) -> JobInFull:
    """Return a job that the token is for."""
    try:
        found = one_job(identifier(id))
    except JobDoesNotExist:
        raise missing(id) from None
    if not call.sees(found.row):
        raise missing(id)
    return found


def shape(call: Call, found: JobInFull) -> shapes.Document:
    """Return a job with what the token shows of it."""
    return shapes.whole_job(*found) if call.token.arguments else shapes.job(shown(call, found.row))


def shown(call: Call, row: Job) -> Job:
    """Return the row of a job without a reason that the token must not see."""
    row.reason = shown_reason(row.reason, shows_errors=call.token.arguments)
    return row


# Verbs


_VERB: dict[str, Any] = {
    "answers": {200: "AnyJob"},
    "problems": [*OF_ONE, errors.CONFLICT],
}


@endpoint("POST", "/v1/jobs/{id}/cancel", Scope.OPERATE, **_VERB)
def cancel(call: Call, id: str) -> HttpResponse:
    """Cancel a job that has not ended; a running one is stopped by its consumer."""
    row = seen(call, id).row
    if row.state in FINISHED:
        raise _conflict(row, "it has ended")
    JobHandle(row.pk).cancel()
    return answer(shape(call, seen(call, id)))


@endpoint("POST", "/v1/jobs/{id}/retry", Scope.OPERATE, **_VERB)
def retry(call: Call, id: str) -> HttpResponse:
    """Make a job that has ended ready again, with fresh attempts."""
    row = seen(call, id).row
    if row.state not in FINISHED:
        raise _conflict(row, "it has not ended")
    if not JobHandle(row.pk).retry():
        raise _conflict(row, "it cannot run again")
    return answer(shape(call, seen(call, id)))


@endpoint("POST", "/v1/jobs/{id}/run", Scope.OPERATE, **_VERB)
def run(call: Call, id: str) -> HttpResponse:
    """Make a scheduled job ready now."""
    row = seen(call, id).row
    tally: Tally = engine.run(lambda engine: engine.bulk.do(Verb.RUN, [row.pk], "", time.time()))
    if not tally.done:
        raise _conflict(row, f"it is {row.state}, and only a scheduled job can be made ready")
    return answer(shape(call, seen(call, id)))


def _conflict(row: Job, why: str) -> Problem:
    return Problem(errors.CONFLICT, f"job {row.pk} is {row.state}: {why}")
