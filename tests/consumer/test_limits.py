"""Limits, rates, unique keys and expiry in consumers that are processes of their own."""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from djjp import run_many
from djjp.engine import Engine
from djjp.exceptions import JobCancelled
from djjp.models import Consumer, Job, RateStart
from djjp.queues import pause, resume
from tests.project.shop.jobs import (
    SPANS,
    acall_api,
    add,
    aserve_tenant,
    call_api,
    greet,
    import_from,
    serve_tenant,
)
from tests.support.processes import Processes, eventually

ENQUEUE = """
import django; django.setup()
from tests.project.shop.jobs import import_from
handles = [import_from.run_later(str(number)) for number in range(100)]
print(" ".join(str(handle.id) for handle in handles))
"""


class Event(NamedTuple):
    what: str
    key: str
    at: float
    process: int


@pytest.fixture(autouse=True)
def nothing_noted() -> None:
    SPANS.unlink(missing_ok=True)


def events() -> list[Event]:
    if not SPANS.exists():
        return []
    lines = [line.split() for line in SPANS.read_text().splitlines()]
    return [Event(what, key, float(at), int(process)) for what, key, at, process in lines]


def states() -> Counter[str]:
    return Counter(Job.objects.values_list("state", flat=True))


def most_at_once(recorded: list[Event], died: dict[int, float]) -> dict[str, int]:
    """Return the most jobs of each key that ran at once; a job without an end ended with its process."""
    steps = [(event.at, event.key, 1 if event.what == "start" else -1) for event in recorded]
    for process, at in died.items():
        open_there: Counter[str] = Counter()
        for event in recorded:
            if event.process == process:
                open_there[event.key] += 1 if event.what == "start" else -1
        steps += [(at, key, -count) for key, count in open_there.items()]
    running: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)
    for _, key, step in sorted(steps):
        running[key] += step
        most[key] = max(most[key], running[key])
    assert not any(running.values()), running
    return dict(most)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def most_in_any(window: float, times: list[float]) -> int:
    """Return the largest number of these times within any span of that length."""
    return max(sum(start <= at < start + window for at in times) for start in times)


@pytest.mark.end_to_end
def test_several_consumers_keep_a_limit_even_when_one_is_killed(
    processes: Processes, engine: Engine
) -> None:
    consumers = [
        processes.consumer("--concurrency-limit", "6", "--concurrency", kind)
        for kind in ("threads", "threads", "asyncio")
    ]
    eventually(lambda: Consumer.objects.count() == 3)
    run_many(
        job.bind(tenant, 0.05)
        for _ in range(12)
        for tenant in ("a", "b", "c")
        for job in (serve_tenant, aserve_tenant)
    )
    run_many(add.bind(1) for _ in range(50))
    eventually(lambda: states()["succeeded"] > 60)
    victim = consumers[0]
    # Stopped first, so that the time until which its jobs run is known: others can start them a second after it.
    victim.send_signal(signal.SIGSTOP)
    eventually(lambda: is_stopped(victim.pid))
    died = {victim.pid: time.time()}
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    eventually(lambda: states() == {"succeeded": 72 + 50})
    most = most_at_once(events(), died)
    assert most == {"a": 2, "b": 2, "c": 2}
    for consumer in consumers[1:]:
        code, err = processes.end(consumer)
        assert (code, "Traceback" in err, "refused" in err) == (0, False, False), err


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "concurrency", ["threads", pytest.param("asyncio", marks=pytest.mark.end_to_end)]
)
def test_a_rate_is_kept_in_every_span_and_nearly_used_up(
    processes: Processes, engine: Engine, concurrency: str
) -> None:
    consumers = [processes.consumer("--concurrency", concurrency) for _ in range(2)]
    eventually(lambda: Consumer.objects.count() == 2)
    count = 60
    job = call_api if concurrency == "threads" else acall_api
    run_many(job.bind(number) for number in range(count))
    run_many(add.bind(1) for _ in range(500))
    eventually(lambda: states() == {"succeeded": count + 500})
    recorded = sorted(events(), key=lambda event: event.at)
    # The consumer notes the time of a start before it looks at the deadline. The job's own clock can be later, by
    # whatever a busy machine takes in between.
    jobs = Job.objects.filter(name=job.name).order_by("started_at")
    times = [at.timestamp() for at in jobs.values_list("started_at", flat=True) if at is not None]
    assert len(times) == count
    assert Counter(event.key for event in recorded) == {str(number): 1 for number in range(count)}
    assert most_in_any(0.5, times) <= 10
    # 60 jobs at 10 in 0.5 s, the first 10 of them at once, are 2.5 s.
    assert times[-1] - times[0] < 2 * 2.5
    order = [int(event.key) for event in recorded]
    assert sum(abs(number - index) for index, number in enumerate(order)) < count * 10, order
    eventually(lambda: not RateStart.objects.exists())
    for consumer in consumers:
        code, err = processes.end(consumer)
        assert (code, err) == (0, "")


def test_a_shutdown_that_releases_running_jobs_frees_their_permits(
    processes: Processes, engine: Engine
) -> None:
    run_many(serve_tenant.bind("a", 60.0) for _ in range(4))
    consumer = processes.start("start_consumer", DJJP_TEST_SHUTDOWN_TIMEOUT="0.2")
    eventually(lambda: states() == {"running": 2, "blocked": 2})
    processes.end(consumer)
    assert states() == {"ready": 4}
    assert set(Job.objects.values_list("attempts", flat=True)) == {0}


def test_the_permits_of_deleted_and_cancelled_jobs_are_reused(
    processes: Processes, engine: Engine
) -> None:
    handles = run_many(serve_tenant.bind("a", seconds) for seconds in (60.0, 60.0, 0.0, 0.0))
    processes.consumer()
    eventually(lambda: states() == {"running": 2, "blocked": 2})
    Job.objects.filter(pk=handles[0].id).delete()
    handles[2].join(30)
    handles[1].cancel()
    handles[3].join(30)
    eventually(lambda: states() == {"cancelled": 1, "succeeded": 2})


@pytest.mark.end_to_end
def test_two_processes_that_enqueue_one_key_get_the_same_jobs(
    processes: Processes, engine: Engine
) -> None:
    enqueuers = [processes.python(ENQUEUE) for _ in range(3)]
    ids = set()
    for enqueuer in enqueuers:
        out, err = enqueuer.communicate(timeout=120)
        assert (enqueuer.returncode, err) == (0, "")
        ids.add(out)
    [same] = ids
    assert len(same.split()) == Job.objects.count() == 100


@pytest.mark.end_to_end
def test_a_rescued_job_keeps_its_unique_key(processes: Processes, engine: Engine) -> None:
    handle = import_from.run_later("a", 60.0, 10.0)
    victim = processes.consumer()
    eventually(events)
    victim.send_signal(signal.SIGKILL)
    assert import_from.run_later("a") == handle
    consumer = processes.consumer()
    eventually(lambda: len(events()) == 2)
    assert import_from.run_later("a") == handle
    assert handle.join(60) == "a"
    pause("imports")  # its successor has not ended when it is retried
    later = import_from.run_later("a", 0.5)
    assert later != handle
    handle.retry()
    resume("imports")
    eventually(lambda: len(events()) == 4)
    assert later.join(30) == "a"
    assert Job.objects.get(pk=handle.id).unique_key is None
    assert consumer.poll() is None


def test_a_job_that_does_not_start_in_time_is_cancelled_wherever_it_waits(
    processes: Processes, engine: Engine
) -> None:
    pause("paused")
    handles = [
        greet.using(queue="unserved").run_later("a"),
        greet.using(queue="paused").run_later("b"),
        greet.using(queue="unserved", run_after=timedelta(seconds=0.1)).run_later("c"),
    ]
    processes.consumer("--queues", "default,paused")
    for handle in handles:
        with pytest.raises(JobCancelled, match="did not start in time"):
            handle.join(30)
    assert greet.using(expires_after=60).run_later("d").join(30) == "hello d"
    resume("paused")
    handles[1].retry()
    assert handles[1].join(30) == "hello b"
