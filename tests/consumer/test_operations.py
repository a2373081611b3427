"""Operations beside turns: a crowd of jobs, and a worker that is killed between two steps."""

from __future__ import annotations

import os
import signal
from uuid import UUID

import pytest

from djjp.engine import Engine
from djjp.models import Job
from djjp.monitoring.filters import Filter
from djjp.monitoring.operations import OperationInfo, get, start, work_off
from tests.support.plans import run
from tests.support.processes import Processes, eventually

COLUMNS = "id, name, queue, priority, state, created_at, finished_at, arguments, attempts, rescues"
ROWS = "{id}, 'shop.echo', 'crowd', 0, 'failed', {time}, {time}, '[[],{{}}]', 3, 0"
FILL = {
    "sqlite": f"""INSERT INTO djjp_job ({COLUMNS})
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < CROWD)
        SELECT {ROWS.format(id="printf('%032x', i)", time="datetime('now')")} FROM n""",
    "postgresql": f"""INSERT INTO djjp_job ({COLUMNS})
        SELECT {ROWS.format(id="lpad(to_hex(i), 32, '0')::uuid", time="now()")}
        FROM generate_series(1, CROWD) AS i""",
}
FAILED = Filter.parse("state:failed queue:crowd")


def read(id: UUID) -> OperationInfo:
    info = get(id)
    assert info is not None
    return info


def assert_each_was_retried_once(id: UUID, crowd: int) -> None:
    info = read(id)
    assert (info.state, info.matched, info.done, info.skipped) == ("done", crowd, crowd, {})
    assert Job.objects.filter(state="ready", attempts=0).count() == crowd


@pytest.fixture(params=[20_000, pytest.param(100_000, marks=pytest.mark.long)])
def crowd(engine: Engine, request: pytest.FixtureRequest) -> int:
    """Fill the queue with failed jobs and return their number."""
    run(engine, FILL[engine.db.connection.vendor].replace("CROWD", str(request.param)))
    return int(request.param)


@pytest.mark.end_to_end
@pytest.mark.both_databases
def test_of_a_crowd_none_is_left_out_or_done_twice_when_the_worker_is_killed(
    engine: Engine, crowd: int, processes: Processes
) -> None:
    for _ in range(2):
        processes.consumer("--queues", "other")
    id = start("retry", filter=FAILED).id
    eventually(lambda: 0 < read(id).done < crowd)
    killed = read(id).worker
    os.kill(int(killed.rsplit(":", 2)[1]), signal.SIGKILL)
    assert read(id).done < crowd
    eventually(lambda: read(id).has_ended, 120)
    assert read(id).worker != killed
    assert_each_was_retried_once(id, crowd)


@pytest.mark.end_to_end
def test_of_a_crowd_none_is_left_out_or_done_twice_without_a_consumer(
    engine: Engine, crowd: int
) -> None:
    info = start("retry", filter=FAILED)
    assert info.state == "waiting"
    work_off(info.id)
    assert_each_was_retried_once(info.id, crowd)
