"""The timetable: when registered jobs are to run by themselves, and which slots have had their job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.jobs import Jobs
from djjp.engine.records import NewJob
from djjp.models import Occurrence, Schedule, Source

_OCCURRENCES = Occurrence._meta.db_table
_TAKE = f"INSERT INTO {_OCCURRENCES} (schedule, occurs_at) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_FORGET = f"DELETE FROM {_OCCURRENCES} WHERE schedule = %s AND occurs_at < %s"

#: Seconds for which it is remembered that a slot has had its job, counted back from the latest one. After
#: that `Schedule.fired_until` alone keeps it from getting another.
KEEP_OCCURRENCES = 86_400.0

#: What the code says of a schedule, and of that what says when it is due.
WHEN = ("cron", "tz", "every")
DECLARED = ("job", *WHEN, "arguments", "catch_up")


class Schedules:
    """Keep schedules, and enqueue the jobs of their occurrences."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs

    def all(self) -> list[Schedule]:
        """All schedules, by name."""
        return list(Schedule.objects.using(self._db.alias).order_by("name", "pk"))

    def sync(self, schedules: Sequence[Schedule], now: float) -> None:
        """Write what the code says of its schedules; those that it does not name are left as they are.

        A new one, and one that is to be due at other times than before, begins with its next slot. Nobody
        else's marks are touched, nor whether people have disabled one.
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
        """Enqueue the jobs of slots, in one transaction with a note of each; returns how many there were.

        Nothing is done if since it was seen the schedule was disabled, or others have settled slots of it;
        a slot that has had its job gets no other one. So consumers need not agree on the time.

        Args:
            due: the slots to settle, oldest first, each with its job.
        """
        settled = due[-1][0]
        rows = Schedule.objects.using(self._db.alias).filter(pk=seen.pk)
        with self._db.transaction():
            if not rows.filter(enabled=True, fired_until=seen.fired_until).update(
                fired_until=settled
            ):
                return 0
            fired = [
                (slot, self._enqueued(job))
                for slot, job in due
                if self._record_occurrence(seen.pk, slot)
            ]
            if fired:
                last_occurrence, last_job = fired[-1]
                rows.update(last_occurrence=last_occurrence, last_job=last_job)
                with self._db.connection.cursor() as cursor:
                    cursor.execute(_FORGET, [seen.pk, settled - KEEP_OCCURRENCES])
        return len(fired)

    def enable(self, ids: Collection[int], enabled: bool, now: float) -> int:
        """Enable or disable schedules; returns how many were not so before.

        What comes while a schedule is disabled is not made up for: it goes on with its next slot.
        """
        with self._db.transaction():
            rows = Schedule.objects.using(self._db.alias).filter(pk__in=ids, enabled=not enabled)
            return (
                rows.update(enabled=True, fired_until=now)
                if enabled
                else rows.update(enabled=False)
            )

    def delete(self, ids: Collection[int]) -> None:
        """Delete schedules, with what is remembered of their slots."""
        with self._db.transaction():
            Schedule.objects.using(self._db.alias).filter(pk__in=ids).delete()
            Occurrence.objects.using(self._db.alias).filter(schedule__in=ids).delete()

    def _record_occurrence(self, schedule: int, slot: float) -> bool:
        """Whether a slot has had no job yet; now it has."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_TAKE, [schedule, slot])
            count: int = cursor.rowcount
            return count > 0

    def _enqueued(self, job: NewJob) -> UUID:
        """Enqueue a job; the id of the one that is in the queue for it now, which may have its unique key."""
        holder = self._jobs.enqueue(job).get(job.id)
        return job.id if holder is None else holder.id

    def _out_of_sync(self, schedules: Sequence[Schedule]) -> list[tuple[Schedule, Schedule | None]]:
        """Those of which something else is written, with what is; or nothing."""
        rows = Schedule.objects.using(self._db.alias).filter(source=Source.CODE)
        known = {row.name: row for row in rows} if schedules else {}
        found = [(each, known.get(each.name)) for each in schedules]
        return [
            (each, before)
            for each, before in found
            if before is None
            or any(getattr(before, field) != getattr(each, field) for field in DECLARED)
        ]
