"""Times in projects of every kind: the time zone is the project's, and changes nothing.

Each is a process of its own, for Django reads these settings when it starts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import connections

from djjp.engine import Engine
from tests.support.projects import Scratch

SCRIPT = '''
import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import django
from django.conf import settings
from django.utils import timezone

django.setup()

from djjp import engine
from djjp.engine import Failure, NewJob, Outcome
from djjp.ids import new_id
from djjp.models import Attempt, Job, State

queue = engine.current()
choose = random.Random(5)
WHOLE = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC
times = [WHOLE, WHOLE + 0.000001, WHOLE + 0.5, WHOLE + 86_399.999999]
times += [choose.uniform(1.7e9, 1.9e9) for _ in range(30)]


def expected(seconds):
    """What a reader of the row should see, made without a line of djjp."""
    aware = datetime.fromtimestamp(seconds, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware, ZoneInfo(settings.TIME_ZONE))


# Written by the verbs, read by the ORM

for seconds in times:
    queue.jobs.enqueue(NewJob(new_id(), "j", "q", 0, State.READY, seconds, seconds, "[]"))
with queue.db.transaction():
    for seconds in times:
        [job] = queue.jobs.claim("c", 1, seconds)
        row = Job.objects.get(id=job.id)
        assert row.started_at == row.created_at == row.run_after == expected(seconds), row
        failure = Failure("E", "", "")
        assert queue.jobs.finish("c", [Outcome(job, State.FAILED, seconds, seconds, failure=failure)])
        row = Job.objects.get(id=job.id)
        assert row.finished_at == row.started_at == expected(seconds), row
        attempt = Attempt.objects.get(job_id=job.id)
        assert attempt.started_at == attempt.finished_at == expected(seconds), attempt
Job.objects.all().delete()

# Found by the ORM's own comparisons

id = new_id()
queue.jobs.enqueue(NewJob(id, "j", "q", 0, State.SCHEDULED, WHOLE, WHOLE, "[]"))
assert Job.objects.filter(run_after=expected(WHOLE)).exists()
assert Job.objects.filter(run_after__lt=expected(WHOLE + 0.000001)).exists()
assert not Job.objects.filter(run_after__lt=expected(WHOLE)).exists()

# Due when it is due

due = queue.jobs.next_due()
assert abs(due - WHOLE) <= 0.001, f"due in {due - WHOLE} s"
assert queue.jobs.promote(WHOLE - 0.000001) == 0
assert queue.jobs.promote(WHOLE) == 1

# Written by the ORM, understood by the verbs

Job.objects.filter(id=id).update(state="scheduled", run_after=expected(WHOLE + 0.25))
due = queue.jobs.next_due()
assert abs(due - (WHOLE + 0.25)) <= 0.001, f"due in {due - WHOLE} s"
assert queue.jobs.promote(WHOLE + 0.249999) == 0
assert queue.jobs.promote(WHOLE + 0.25) == 1
Job.objects.all().delete()
print("right")
'''


@pytest.mark.parametrize(
    "settings",
    [
        'USE_TZ = True\nTIME_ZONE = "America/New_York"\n',
        'USE_TZ = False\nTIME_ZONE = "Asia/Kolkata"\n',
        'USE_TZ = True\nDATABASES["queue"]["TIME_ZONE"] = "Asia/Kolkata"\n',
    ],
    ids=["aware", "naive", "a time zone of the database's own"],
)
def test_times_mean_the_same_to_the_verbs_and_to_the_orm(
    tmp_path: Path, engine: Engine, settings: str, request: pytest.FixtureRequest
) -> None:
    if engine.db.alias == "sqlite":
        url = f"sqlite:///{connections['sqlite'].settings_dict['NAME']}"
    else:
        url = request.getfixturevalue("postgres_url")
    project = Scratch(tmp_path, settings)
    project.write("script.py", SCRIPT)
    done = project.python("script.py", DJJP_DATABASE_URL=url)
    assert done.stdout == "right\n", done.stderr
