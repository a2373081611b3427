"""How long a killed consumer's job waits until it runs again, in another that was idle."""

from __future__ import annotations

import time

from djjp.engine import Engine
from djjp.models import Consumer
from tests.chaos import jobs
from tests.chaos.crew import Crew
from tests.chaos.trace import Trace
from tests.support.processes import eventually


def rescue_times(engine: Engine, kills: int) -> list[float]:
    """Kill whoever runs one long job, again and again; the seconds until its next first line, sorted."""
    trace = Trace()
    crew = Crew(2, trace, engine.db.alias, "--concurrency-limit", "1")
    consumers = Consumer.objects.using(engine.db.alias)
    times = []
    try:
        id = jobs.slow.run_later(3600.0).id
        starts = trace.starts[id]
        for number in range(kills):
            eventually(lambda so_far=number: len(starts) > so_far, within=60)
            _, runs = starts[-1]
            # Another is there to take it, and has had time to get idle.
            eventually(lambda pid=runs: consumers.exclude(pid=pid).count() == 1, within=60)
            time.sleep(0.5)
            killed = time.monotonic()
            crew.kill(runs)
            eventually(lambda so_far=number: len(starts) > so_far + 1, within=60)
            times.append(starts[-1][0] - killed)
    finally:
        crew.kill_all()
        trace.close()
    return sorted(times)
