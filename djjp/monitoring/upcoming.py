"""Upcoming: when schedules are due next, how their last jobs ended, and why some cannot be fired."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from djjp import engine, schedules
from djjp.engine import Engine
from djjp.exceptions import JobNotRegistered
from djjp.models import Job, Schedule, Source
from djjp.monitoring.overview import OVERDUE


class ScheduleInfo(NamedTuple):
    """A schedule as it is now.

    Attributes:
        next: its next occurrence, in seconds since the epoch; None if there is none, it cannot be fired, or it is
            disabled.
        problem: why this process cannot fire it; None if it can.
        remedy: what puts the problem right, or has an overdue one fired; "" if nothing is wrong.
        is_overdue: whether its next occurrence is over, and was not fired.
        last_state: the state of its last job; "" if it has none, or that job is not kept any more.
    """

    row: Schedule
    next: float | None
    problem: str | None
    remedy: str
    is_overdue: bool
    last_state: str


class Upcoming(NamedTuple):
    """Some schedules, and the number of all that are enabled and of those that are not."""

    schedules: list[ScheduleInfo]
    enabled: int
    disabled: int


def upcoming(limit: int = 10) -> Upcoming:
    """Return the enabled schedules that cannot be fired, then the overdue ones, then those that are due next.

    Args:
        limit: the number of schedules to return at most.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    rows, now = schedules.listing(), time.time()
    enabled = [_info(row, now) for row in rows if row.enabled]
    enabled.sort(key=lambda each: (each.problem is None, each.next is None, each.next or 0.0))
    return Upcoming(_with_states(enabled[:limit]), len(enabled), len(rows) - len(enabled))


def infos(rows: Iterable[Schedule]) -> list[ScheduleInfo]:
    """Return these schedules as they are now; all their last jobs are read in one statement.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    now = time.time()
    return _with_states([_info(row, now) for row in rows])


def _info(row: Schedule, now: float) -> ScheduleInfo:
    problem = schedules.problem(row)
    is_due = row.enabled and problem is None
    following = schedules.next_occurrence(row) if is_due else None
    is_overdue = following is not None and following < now - OVERDUE
    remedy = _remedy(row) if problem is not None else _START if is_overdue else ""
    return ScheduleInfo(row, following, problem, remedy, is_overdue, "")


_START = "start a consumer, which fires it: python manage.py start_consumer"


def _remedy(row: Schedule) -> str:
    """Return what puts right that a schedule cannot be fired here."""
    is_of_code = row.source == Source.CODE
    try:
        schedules.timing(row)
        schedules.call(row)
    except JobNotRegistered:
        return (
            "run this process with the code that has the job; if the job is gone for good, "
            "delete the schedule, or disable it"
        )
    except (LookupError, ValueError, TypeError):
        if is_of_code and not schedules.is_in_code(row):
            return "delete it, unless another release still declares it"
    return "deploy code that declares it rightly" if is_of_code else "edit it"


def _with_states(found: list[ScheduleInfo]) -> list[ScheduleInfo]:
    states = engine.run(lambda engine: _states(engine, found))
    return [each._replace(last_state=states.get(each.row.last_job, "")) for each in found]


def _states(engine: Engine, shown: list[ScheduleInfo]) -> dict[object, str]:
    """Return the states of the last jobs of schedules by their ids."""
    ids = [each.row.last_job for each in shown if each.row.last_job is not None]
    rows = Job.objects.using(engine.db.alias).filter(pk__in=ids).order_by()
    return dict(rows.values_list("pk", "state")) if ids else {}
