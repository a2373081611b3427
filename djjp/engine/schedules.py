"""Schedules: when registered jobs run automatically, and which occurrences have had their job."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from math import isfinite
from uuid import UUID

from django.db.models import QuerySet

from djjp.bounds import one_line
from djjp.engine.clocks import AHEAD
from djjp.engine.database import Database
from djjp.engine.jobs import Jobs
from djjp.engine.records import KeyHolders, NewJob
from djjp.engine.refusals import Refusal
from djjp.models import Occurrence, Schedule, Source

logger = logging.getLogger("djjp.consumer")

_OCCURRENCES = Occurrence._meta.db_table
_RECORD = f"INSERT INTO {_OCCURRENCES} (schedule, occurs_at) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_FORGET = f"DELETE FROM {_OCCURRENCES} WHERE schedule = %s AND occurs_at < %s"

#: Seconds for which the record of an occurrence that has had its job is kept, counted back from the latest one.
#: After that only `Schedule.fired_until` prevents a second job for it.
KEEP_OCCURRENCES = 86_400.0

#: Seconds between two declarations of a schedule by the consumers that have its code …
DECLARE_EVERY = 30.0
#: … and for which none of them may have declared it before an earlier declaration replaces it.
SILENCE = 120.0
#: The number of earlier declarations that a schedule remembers.
KEEP_REPLACED = 20

#: The fields that decide when a schedule is due, and all fields that the code declares.
WHEN = ("cron", "tz", "every")
DECLARED = ("job", *WHEN, "arguments", "catch_up")


class Schedules:
    """Keep schedules, and enqueue the jobs of their occurrences."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs
        self._odd: dict[int, str] = {}  # the problem logged for each row that is left out

    def all(self) -> list[Schedule]:
        """Return all schedules, by name."""
        return self.read(Schedule.objects.using(self._db.alias).order_by("name", "pk"))

    def read(self, rows: QuerySet[Schedule]) -> list[Schedule]:
        """Return these schedules in order, without rows by hand that cannot be used, which are logged once."""
        try:
            found = list(rows)
        except Exception as error:
            if self._db.classify(error) is not Refusal.CONTENT:
                raise
            found = self._one_by_one(rows)
        for row in found:
            if not _is_sound(row):
                self._log_odd(row.pk, "a value in its row is none that djjp writes")
        return [row for row in found if _is_sound(row)]

    def _one_by_one(self, rows: QuerySet[Schedule]) -> list[Schedule]:
        found: list[Schedule] = []
        for pk in list(rows.values_list("pk", flat=True)):
            try:
                found += Schedule.objects.using(self._db.alias).filter(pk=pk)
            except Exception as error:
                if self._db.classify(error) is not Refusal.CONTENT:
                    raise
                self._log_odd(pk, str(error))
        return found

    def _log_odd(self, pk: int, problem: str) -> None:
        if self._odd.get(pk) != problem:
            self._odd[pk] = problem
            logger.warning("schedule number %s is left out: %s", pk, one_line(problem))

    def sync(self, schedules: Sequence[Schedule], now: float) -> None:
        """Write the schedules that the code declares; leave all others unchanged. Call it every `DECLARE_EVERY`.

        A new schedule, and one whose times have changed, starts with its next occurrence. `fired_until` of the
        others, and whether a person has disabled a schedule, stay unchanged.

        Two versions of the code can run side by side and declare a schedule differently. The first declaration
        of a kind is applied at once. A replaced declaration is that of older code, or of a change that was taken
        back: it is applied when no consumer has declared the present one for `SILENCE`.
        """
        if not any(self._plan(schedules, now)):
            return
        rows = Schedule.objects.using(self._db.alias)
        with self._db.transaction():
            new, changed, unchanged = self._plan(schedules, now)
            for schedule in new:
                schedule.fired_until = schedule.declared_at = now
                rows.bulk_create([schedule], ignore_conflicts=True)
            for schedule, before in changed:
                changes = {field: getattr(schedule, field) for field in DECLARED}
                if any(getattr(before, field) != changes[field] for field in WHEN):
                    changes["fired_until"] = now
                earlier = before.replaced.splitlines()
                others = [each for each in earlier if each != _as_text(schedule)]
                changes["replaced"] = "\n".join([*others, _as_text(before)][-KEEP_REPLACED:])
                rows.filter(pk=before.pk).update(declared_at=now, **changes)
            if unchanged:
                rows.filter(pk__in=unchanged).update(declared_at=now)

    def fire(
        self,
        seen: Schedule,
        due: Sequence[tuple[float, NewJob]],
        enqueue: Callable[[NewJob], KeyHolders] | None = None,
    ) -> int:
        """Enqueue the jobs of occurrences, in one transaction with a record of each; return their number.

        Does nothing if, since `seen` was read, the schedule was disabled or another consumer has fired
        occurrences of it. An occurrence that has had its job gets no second one. So the clocks of consumers
        need not agree.

        Args:
            due: the occurrences to fire, oldest first, each with its job.
            enqueue: enqueues one job; None for `Jobs.enqueue`.
        """
        fired_until = due[-1][0]
        rows = Schedule.objects.using(self._db.alias).filter(pk=seen.pk)
        with self._db.transaction():
            if not rows.filter(enabled=True, fired_until=seen.fired_until).update(
                fired_until=fired_until
            ):
                return 0
            fired = [
                (occurrence, _id_in_queue(job, (enqueue or self._jobs.enqueue)(job)))
                for occurrence, job in due
                if self._record_occurrence(seen.pk, occurrence)
            ]
            if fired:
                last_occurrence, last_job = fired[-1]
                rows.update(last_occurrence=last_occurrence, last_job=last_job)
                with self._db.connection.cursor() as cursor:
                    cursor.execute(_FORGET, [seen.pk, fired_until - KEEP_OCCURRENCES])
        return len(fired)

    def put_right(self, seen: Schedule) -> bool:
        """Let a schedule go on from now whose occurrences are handled up to a time in the future.

        A clock that was ahead has fired it. An occurrence that has had its job gets no second one. The clock of
        the queue's database decides what the future is: the clock of this machine can be the wrong one.
        """
        now = self._db.clock()
        if seen.fired_until <= now + AHEAD:
            return False
        rows = Schedule.objects.using(self._db.alias)
        return rows.filter(pk=seen.pk, fired_until=seen.fired_until).update(fired_until=now) > 0

    def enable(self, ids: Collection[int], enabled: bool, now: float) -> int:
        """Enable or disable schedules; return the number of schedules that this changed.

        Occurrences that pass while a schedule is disabled get no job: it continues with its next occurrence.
        """
        with self._db.transaction():
            rows = Schedule.objects.using(self._db.alias).filter(pk__in=ids, enabled=not enabled)
            if enabled:
                return rows.update(enabled=True, fired_until=now)
            return rows.update(enabled=False)

    def delete(self, ids: Collection[int]) -> None:
        """Delete schedules, with the records of their occurrences."""
        with self._db.transaction():
            Schedule.objects.using(self._db.alias).filter(pk__in=ids).delete()
            Occurrence.objects.using(self._db.alias).filter(schedule__in=ids).delete()

    def _record_occurrence(self, schedule: int, occurrence: float) -> bool:
        """Record an occurrence; return False if it was recorded before."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_RECORD, [schedule, occurrence])
            count: int = cursor.rowcount
            return count > 0

    def _plan(
        self, schedules: Sequence[Schedule], now: float
    ) -> tuple[list[Schedule], list[tuple[Schedule, Schedule]], list[int]]:
        """Return the schedules to create, to change (each with its row), and the rows to declare again."""
        rows = Schedule.objects.using(self._db.alias).filter(source=Source.CODE)
        known = {row.name: row for row in self.read(rows)} if schedules else {}
        new, changed, unchanged = [], [], []
        for schedule in schedules:
            before = known.get(schedule.name)
            if before is None:
                new.append(schedule)
            elif any(getattr(before, field) != getattr(schedule, field) for field in DECLARED):
                declared_lately = now - SILENCE < before.declared_at < now + AHEAD
                if not (declared_lately and _as_text(schedule) in before.replaced.splitlines()):
                    changed.append((schedule, before))
            elif before.replaced and not now - DECLARE_EVERY < before.declared_at < now + AHEAD:
                unchanged.append(before.pk)
        return new, changed, unchanged


def _id_in_queue(job: NewJob, held: KeyHolders) -> UUID:
    """Return the id of an enqueued job, or that of the job which holds its unique key."""
    holder = held.get(job.id)
    return job.id if holder is None else holder.id


def _is_sound(row: Schedule) -> bool:
    """Return False for a row by hand with a value of a type that no schedule has."""
    texts: list[object] = [
        *(row.name, row.job, row.cron, row.tz),
        *(row.arguments, row.catch_up, row.replaced),
    ]
    times: list[object] = [row.fired_until, row.declared_at]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(at, (int, float)) and isfinite(at) for at in times
    )


def _as_text(schedule: Schedule) -> str:
    """Return what the code declares of a schedule, in one line."""
    return json.dumps([str(getattr(schedule, field)) for field in DECLARED])
