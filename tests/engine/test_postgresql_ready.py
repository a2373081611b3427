"""Claims from several queues on PostgreSQL: in order, and without a lock on the jobs they leave."""

from __future__ import annotations

import random

import pytest

from djjp.engine import Engine
from djjp.engine.postgresql import watermark
from djjp.models import Job
from tests.support.engine_calls import NOW, at_once, claim, enqueue
from tests.support.factories import new_job

pytestmark = pytest.mark.postgresql_only

NAMES = [f"q{number}" for number in range(20)]


@pytest.fixture(autouse=True, params=["from the beginning", "behind marks"])
def where(engine: Engine, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the claims start where they do in a session that has read no dead entries, or many."""
    behind = request.param == "behind marks"
    monkeypatch.setattr(watermark, "DEAD_ENTRIES", -1_000_000 if behind else 1_000_000)
    monkeypatch.setattr(watermark, "SHORTEST_PAUSE", 3600.0)
    monkeypatch.setattr(watermark, "LONGEST_PAUSE", 3600.0)
    engine.db.connection.close()  # a new session has no marks


@pytest.mark.parametrize("names", [NAMES, NAMES[:3], [*NAMES[:2], "empty", NAMES[0]]])
@pytest.mark.parametrize("limit", [1, 7, 50])
def test_claims_from_several_queues_are_in_one_order(
    engine: Engine, names: list[str], limit: int
) -> None:
    """Also where one queue has far more jobs than the others."""
    chance = random.Random(limit)
    jobs = [
        new_job(
            queue=chance.choice([*NAMES, *[NAMES[1]] * 20]), priority=chance.choice([0, 0, 5, -3])
        )
        for _ in range(400)
    ]
    engine.jobs.enqueue_many(chance.sample(jobs, len(jobs)))
    wanted = sorted((-job.priority, job.id) for job in jobs if job.queue in names)
    taken = []
    while batch := claim(engine, limit=limit, queues=names):
        taken += [job.id for job in batch]
    assert taken == [id for _, id in wanted]


@pytest.mark.parametrize("each", [1, 3, 20])
def test_jobs_that_are_not_claimed_stay_unlocked(engine: Engine, each: int) -> None:
    """The claim takes one job of each queue in turn, some of each, or all of some."""

    def unlocked(elsewhere: Engine) -> int:
        ready = Job.objects.filter(state="ready").select_for_update(skip_locked=True)
        with elsewhere.db.transaction():
            return len(ready)

    claim(
        engine, queues=NAMES
    )  # where there are many dead entries, the session has marks from now on
    for number in range(60):
        enqueue(engine, queue=NAMES[number // each % 20])
    with engine.db.transaction():
        mine = engine.jobs.claim("one", 10, NOW, queues=NAMES)
        assert (len(mine), *at_once(unlocked)) == (10, 50)


def test_where_others_have_locked_the_first_jobs_the_next_are_claimed(engine: Engine) -> None:
    claim(engine, queues=NAMES)
    for name in NAMES:
        enqueue(engine, 2, queue=name)
    with engine.db.transaction():
        assert len(engine.jobs.claim("one", 10, NOW, queues=NAMES)) == 10
        [theirs] = at_once(lambda elsewhere: claim(elsewhere, "two", 30, queues=NAMES))
        assert len(theirs) == 30
