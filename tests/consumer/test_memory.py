"""A turn keeps nothing: the memory of a consumer does not grow with the number of jobs that it has run."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from django.db import reset_queries
from django.test import override_settings

from djjp import job, queues, run_many
from djjp.engine import Engine
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.processes import eventually


@job(name="turn.memory")
def memory() -> int:
    """Return the bytes of Python's objects, after a garbage collection."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def memory_after(jobs: int) -> int:
    """Return the memory once so many jobs are done, and nothing else is under way."""
    eventually(lambda: Job.objects.filter(state="succeeded").count() == jobs)
    reset_queries()
    used: int = memory.run_later().join(60)
    return used


@pytest.mark.end_to_end
@pytest.mark.one_database
@pytest.mark.parametrize("debug", [False, True])
def test_memory_does_not_grow_with_the_number_of_jobs_run(engine: Engine, debug: bool) -> None:
    """Also with `DEBUG`, where Django keeps the statements that each connection has run."""
    # By the first look the read-ahead has had its largest size.
    run_many(add.bind(i) for i in range(4000))
    queues.pause("later")
    run_many(add.using(queue="later").bind(i) for i in range(20_000))
    tracemalloc.start()
    try:
        with override_settings(DEBUG=debug), consuming():
            first = memory_after(4000)
            queues.resume("later")
            last = memory_after(24_001)
    finally:
        tracemalloc.stop()

    assert last - first < 400_000  # 20 bytes a job
