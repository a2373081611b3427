"""Schedules: when registered jobs run automatically, and which occurrences have had their job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.jobs import Jobs
from djjp.engine.records import NewJob
from djjp.models import Occurrence, Schedule, Source

_OCCURRENCES = Occurrence._meta.db_table
_RECORD = f"INSERT INTO {_OCCURRENCES} (schedule, occurs_at) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_FORGET = f"DELETE FROM {_OCCURRENCES} WHERE schedule = %s AND occurs_at < %s"

#: Seconds for which the record of an occurrence that has had its job is kept, counted back from the latest one.
#: After that only `Schedule.fired_until` prevents a second job for it.
KEEP_OCCURRENCES = 86_400.0

#: The fields that decide when a schedule is due, and all fields that the code declares.
WHEN = ("cron", "tz", "every")
DECLARED = ("job", *WHEN, "arguments", "catch_up")


class Schedules:
    """Keep schedules, and enqueue the jobs of their occurrences."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs

    def all(self) -> list[Schedule]:
        """Return all schedules, by name."""
        return list(Schedule.objects.using(self._db.alias).order_by("name", "pk"))

    def sync(self, schedules: Sequence[Schedule], now: float) -> None:
        """Write the schedules that the code declares; leave all others unchanged.

        A new schedule, and one whose times have changed, starts with its next occurrence. `fired_until` of the
        others, and whether a person has disabled a schedule, stay unchanged.
        """
        if not self._out_of_sync(schedules):
            return
        rows = Schedule.objects.using(self._db.alias)
        with self._db.transaction():
            for schedule, before in self._out_of_sync(schedules):
                if before is None:
                    schedule.fired_until = now
                    rows.bulk_create([schedule], ignore_conflicts=True)
                    continue
                changes = {field: getattr(schedule, field) for field in DECLARED}
                if any(getattr(before, field) != changes[field] for field in WHEN):
                    changes["fired_until"] = now
                rows.filter(pk=before.pk).update(**changes)

    def fire(self, seen: Schedule, due: Sequence[tuple[float, NewJob]]) -> int:
        """Enqueue the jobs of occurrences, in one transaction with a record of each; return their number.

        Does nothing if, since `seen` was read, the schedule was disabled or another consumer has fired
        occurrences of it. An occurrence that has had its job gets no second one. So the clocks of consumers
        need not agree.

        Args:
            due: the occurrences to fire, oldest first, each with its job.
        """
        fired_until = due[-1][0]
        rows = Schedule.objects.using(self._db.alias).filter(pk=seen.pk)
        with self._db.transaction():
            if not rows.filter(enabled=True, fired_until=seen.fired_until).update(
                fired_until=fired_until
            ):
                return 0
            fired = [
                (occurrence, self._enqueue(job))
                for occurrence, job in due
                if self._record_occurrence(seen.pk, occurrence)
            ]
            if fired:
                last_occurrence, last_job = fired[-1]
                rows.update(last_occurrence=last_occurrence, last_job=last_job)
                with self._db.connection.cursor() as cursor:
                    cursor.execute(_FORGET, [seen.pk, fired_until - KEEP_OCCURRENCES])
        return len(fired)

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

    def _enqueue(self, job: NewJob) -> UUID:
        """Enqueue a job; return its id, or the id of the job that holds its unique key."""
        holder = self._jobs.enqueue(job).get(job.id)
        return job.id if holder is None else holder.id

    def _out_of_sync(self, schedules: Sequence[Schedule]) -> list[tuple[Schedule, Schedule | None]]:
        """Return the schedules whose rows differ, each with its row, or None where it has none."""
        rows = Schedule.objects.using(self._db.alias).filter(source=Source.CODE)
        known = {row.name: row for row in rows} if schedules else {}
        found = [(each, known.get(each.name)) for each in schedules]
        return [
            (each, before)
            for each, before in found
            if before is None
            or any(getattr(before, field) != getattr(each, field) for field in DECLARED)
        ]
