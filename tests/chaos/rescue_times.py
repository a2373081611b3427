"""Measure the time until the job of a killed consumer runs again, on another consumer that was idle."""

from __future__ import annotations

import time
from functools import partial

from django.db.models import QuerySet

from djjp.engine import Engine
from djjp.models import Consumer
from tests.chaos import jobs
from tests.chaos.crew import Crew
from tests.chaos.trace import Trace
from tests.support.processes import eventually


def has_one(consumers: QuerySet[Consumer]) -> bool:
    return consumers.count() == 1


def rescue_times(engine: Engine, kills: int) -> list[float]:
    """Kill the consumer of one long job N times; return the seconds until the job starts again, sorted."""
    trace = Trace()
    crew = Crew(2, trace, engine.db.alias, "--concurrency-limit", "1")
    consumers = Consumer.objects.using(engine.db.alias)
    times = []
    try:
        id = jobs.slow.run_later(3600.0).id
        starts = trace.starts[id]

        def is_started(times: int) -> bool:
            return len(starts) >= times

        for number in range(kills):
            eventually(partial(is_started, number + 1), within=60)
            _, runs = starts[-1]
            # Another consumer is registered, and gets time to become idle.
            others = consumers.exclude(pid=runs)
            eventually(partial(has_one, others), within=60)
            time.sleep(0.5)
            killed = time.monotonic()
            crew.kill(runs)
            eventually(partial(is_started, number + 2), within=60)
            times.append(starts[-1][0] - killed)
    finally:
        crew.kill_all()
        trace.close()
    return sorted(times)
