"""A turn keeps nothing: the memory of a consumer does not grow with the number of jobs that it has run."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from django.db import connections
from django.test import override_settings

from djjp import job, run_many
from djjp.consumer.consumer import Consumer
from djjp.engine import Engine
from djjp.models import Job
from tests.project.shop.jobs import add


@job(name="turn.memory")
def memory() -> int:
    """Return the bytes of Python's objects, after a garbage collection."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.end_to_end
@pytest.mark.one_database
@pytest.mark.parametrize("debug", [False, True])
def test_memory_does_not_grow_with_the_number_of_jobs_run(engine: Engine, debug: bool) -> None:
    """Also with `DEBUG`, where Django keeps the statements that each connection has run."""
    # By then the read-ahead has had its largest size.
    run_many(add.bind(i) for i in range(4000))
    first = memory.run_later()
    run_many(add.bind(i) for i in range(20_000))
    last = memory.run_later()
    tracemalloc.start()
    try:
        with override_settings(DEBUG=debug):
            assert Consumer(2, drain=True).run()
    finally:
        tracemalloc.stop()
        connections.close_all()

    assert Job.objects.filter(state="succeeded").count() == 24_002
    assert last.join(0) - first.join(0) < 400_000  # 20 bytes a job
