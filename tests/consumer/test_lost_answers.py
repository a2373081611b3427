"""A commit arrives and its answer does not: the consumer finds out what took place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from djjp import run_many
from djjp.engine import Engine
from djjp.models import Job
from djjp.monitoring import ever
from tests.project.shop.jobs import TALLY, tally
from tests.support.processes import Processes, eventually
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.postgresql_only, pytest.mark.end_to_end]


@pytest.fixture
def proxy(engine: Engine) -> Iterator[Proxy]:
    proxy = Proxy(os.environ["DJJP_TEST_SERVER_URL"])
    yield proxy
    proxy.close()


def test_no_job_is_lost_or_run_twice_when_answers_to_commits_are_lost(
    engine: Engine, processes: Processes, proxy: Proxy
) -> None:
    Path(TALLY).unlink(missing_ok=True)
    run_many(tally.bind(str(number)) for number in range(3000))
    consumer = processes.start("start_consumer", DJJP_TEST_SERVER_URL=proxy.url)
    eventually(lambda: Job.objects.filter(state="succeeded").exists())
    unended = Job.objects.exclude(state="succeeded")
    for _ in range(5):
        lost = proxy.lost
        proxy.lose()
        if not unended.exists():
            break
        # The commit of the last jobs may have passed the proxy, and not have been there at the look for it.
        eventually(lambda lost=lost: proxy.lost > lost or not unended.exists())  # type: ignore[misc]
    eventually(lambda: not unended.exists(), within=60)
    code, _ = processes.end(consumer)

    assert code == 0
    assert proxy.lost
    runs = Counter(line.split()[0] for line in Path(TALLY).read_text().splitlines())
    assert set(runs.values()) == {1}
    assert len(runs) == 3000
    assert set(Job.objects.values_list("attempts", "rescues")) == {(1, 0)}
    assert [(figures.succeeded, figures.ended) for figures in ever()] == [(3000, 3000)]
