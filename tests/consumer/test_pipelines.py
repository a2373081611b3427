"""Pipelines in consumers that are processes of their own: what is let go is let go once, whoever dies."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from djjp import chain, get_job, group
from djjp.consumer import consumer as coordinator
from djjp.engine import Engine
from djjp.exceptions import JobCancelled
from djjp.models import Consumer, Dependency, Job
from djjp.pipelines import Pipeline
from tests.project.shop.jobs import (
    add,
    echo,
    fail,
    fail_once,
    kill_consumer_once,
    linger,
    nap,
    record,
)
from tests.project.shop.models import Execution
from tests.support.consumers import consuming
from tests.support.processes import Processes, eventually


def executions() -> Counter[str]:
    return Counter(Execution.objects.values_list("key", flat=True))


def test_a_drain_runs_what_its_jobs_release(engine: Engine, processes: Processes) -> None:
    handle = chain(
        add.bind(1), group(add.bind(10), chain(add.bind(20), add.bind(300))), echo.bind("end")
    ).run_later()
    soon = chain(add.bind(1), add.using(run_after=timedelta(hours=1)).bind(1)).run_later()
    done = processes.run("start_consumer", "--drain")
    assert (done.returncode, done.stderr) == (0, "")
    assert handle.join(0) == [[[11, 321], "end"], {}]
    assert handle.progress == (5, 5)
    soon.refresh()
    assert soon.state == "scheduled", "not due yet, it is left"


def test_a_step_with_a_time_of_its_own_runs_when_it_is_due_though_nobody_looks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose end lets it go knows that there is a time to be read."""
    monkeypatch.setattr(coordinator, "_POLL_EVERY", 3600.0)
    soon = timedelta(seconds=0.5)
    told = chain(fail.bind("no"), on_failure=echo.using(run_after=soon).bind_alone("told"))
    with consuming(2):
        eventually(lambda: not Job.objects.filter(state="ready").exists())
        handles = [
            chain(add.bind(1), add.using(run_after=soon).bind(1)).run_later(),
            group(add.bind(1), chain(add.bind(1), add.using(run_after=soon).bind(1))).run_later(),
        ]
        assert [handle.join(30) for handle in handles] == [2, [1, 2]]
        told.run_later()
        eventually(lambda: Job.objects.filter(name=echo.name, state="succeeded").exists())


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_max_jobs_ends_between_two_steps_and_another_consumer_goes_on(
    engine: Engine, processes: Processes, concurrency: str
) -> None:
    handle = chain(*[add.bind(1)] * 5).run_later()
    options = ["--max-jobs", "2", "--concurrency", concurrency]
    assert processes.run("start_consumer", *options).returncode == 0
    assert handle.progress == (2, 5)
    processes.run("start_consumer", "--drain", "--concurrency", concurrency)
    assert handle.join(0) == 5


def fan(key: str) -> Pipeline:
    """A group whose members are of no length, so that they end together, and what comes when all have."""
    return chain(group(*[add.bind(1)] * 40), record.bind_alone(key))


def test_four_consumers_that_end_siblings_at_the_same_instant_run_what_follows_once(
    engine: Engine, processes: Processes
) -> None:
    keys = [f"pipeline {number}" for number in range(60)]
    consumers = [processes.consumer("--concurrency-limit", "4") for _ in range(4)]
    eventually(lambda: Consumer.objects.count() == 4)
    handles = [fan(key).run_later() for key in keys]
    for handle in handles:
        handle.join(90)
    assert executions() == dict.fromkeys(keys, 1)
    assert {handle.progress for handle in handles} == {(41, 41)}
    shares = Counter(Job.objects.exclude(consumer=None).values_list("consumer", flat=True))
    assert len(shares) > 1, "one of them has done it all"
    for consumer in consumers:
        code, err = processes.end(consumer)
        assert code == 0
        assert "Traceback" not in err
    assert not Job.objects.exclude(state="succeeded").exists()


def test_a_consumer_that_is_killed_in_the_middle_loses_no_step_and_doubles_none(
    engine: Engine, processes: Processes
) -> None:
    """Each of the members that it ran is run again by another one; what follows them runs once."""
    keys = [f"pipeline {number}" for number in range(30)]
    handles = [
        chain(
            group(*[nap.bind(0.02)] * 6),
            record.bind_alone(f"{key} a"),
            record.bind_alone(f"{key} b"),
        ).run_later()
        for key in keys
    ]
    first = processes.consumer("--concurrency-limit", "8")
    eventually(lambda: Execution.objects.count() >= 5)
    others = [processes.consumer("--concurrency-limit", "4") for _ in range(2)]
    first.kill()
    for handle in handles:
        handle.join(90)
    assert {handle.progress for handle in handles} == {(8, 8)}
    # One that ran when its consumer died runs again: its row of the application may be there twice.
    rescued = Job.objects.filter(rescues__gt=0, name=record.name).count()
    assert set(executions()) == {f"{key} {step}" for key in keys for step in "ab"}
    assert executions().total() <= 2 * len(keys) + rescued
    assert [processes.end(consumer)[0] for consumer in others] == [0, 0]


def test_trap_13_the_end_of_a_group_comes_when_a_member_dies_with_its_consumer(
    engine: Engine, processes: Processes
) -> None:
    """A job that must not run twice has failed by it, and so what waits for it is over."""
    handle = chain(
        group(add.bind(1), kill_consumer_once.bind("deadly")),
        echo.bind(),
        on_failure=echo.bind("told"),
    ).run_later()
    processes.consumer("--concurrency-limit", "1")
    eventually(lambda: executions()["deadly"])
    processes.consumer("--concurrency-limit", "1")
    with pytest.raises(JobCancelled, match="ConsumerDied"):
        handle.join(60)
    [told] = Job.objects.filter(arguments__contains="told")
    [[reason, _], _] = get_job(told.id).join(60)
    assert "ConsumerDied" in reason


def test_a_cancelled_pipeline_stops_what_runs_and_starts_nothing(
    engine: Engine, processes: Processes
) -> None:
    handle = chain(linger.bind("slow", 60), record.bind("never")).run_later()
    consumer = processes.consumer()
    eventually(lambda: executions()["slow"])
    handle.cancel()
    with pytest.raises(JobCancelled):
        handle.join(30)
    first, _ = handle.steps
    eventually(lambda: get_job(first.id).state == "cancelled")
    assert processes.end(consumer)[0] == 0
    assert executions() == {"slow": 1}


def test_retries_inside_a_step_do_not_disturb_the_others(
    engine: Engine, processes: Processes
) -> None:
    """The step fails once, while its siblings go on, and what follows waits for its second attempt."""
    handle = chain(add.bind(1), group(add.bind(1), fail_once.bind()), echo.bind()).run_later()
    processes.consumer()
    assert handle.join(60) == [[[2, "at last"]], {}]
    [step] = Job.objects.filter(name=fail_once.name)
    assert step.attempts == 2


def test_an_idle_consumer_begins_what_another_one_has_released(
    engine: Engine, processes: Processes
) -> None:
    handle = chain(
        add.using(queue="a").bind(1), add.using(queue="b").bind(1), add.using(queue="a").bind(1)
    )
    for name in "ab":
        processes.consumer("--queues", name)
    made = handle.run_later()
    assert made.join(60) == 3
    consumers = [Job.objects.get(pk=step.id).consumer for step in made.steps]
    assert consumers[0] == consumers[2] != consumers[1]
    assert Dependency.objects.count() == 2


def test_a_step_whose_parents_are_gone_fails_and_says_so(
    engine: Engine, processes: Processes
) -> None:
    handle = chain(add.bind(1), add.using(queue="other").bind(1)).run_later()
    processes.run("start_consumer", "--drain", "--queues", "default")
    Job.objects.filter(pk=handle.steps[0].id)._raw_delete(engine.db.alias)
    processes.run("start_consumer", "--drain")
    handle.refresh()
    assert (handle.state, "has no result any more" in handle.errors[0].message) == ("failed", True)


def test_a_failing_step_is_followed_by_what_runs_on_failure(
    engine: Engine, processes: Processes
) -> None:
    chain(fail.bind("no paper"), echo.bind(), on_failure=record.bind_alone("told")).run_later()
    processes.run("start_consumer", "--drain")
    assert executions() == {"told": 1}
