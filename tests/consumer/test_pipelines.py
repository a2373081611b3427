"""Pipelines in real consumer processes: each dependent runs once, whichever process dies."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from djjp import chain, expand, get_job, group
from djjp.consumer import consumer as coordinator
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, JobFailed
from djjp.models import Consumer, Dependency, Job
from djjp.pipelines import Pipeline, expansion
from tests.project.shop.jobs import (
    add,
    anap,
    echo,
    fail,
    fail_once,
    items,
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


def test_a_drain_runs_the_dependents_of_its_jobs(engine: Engine, processes: Processes) -> None:
    handle = chain(
        add.bind(1), group(add.bind(10), chain(add.bind(20), add.bind(300))), echo.bind("end")
    ).run_later()
    soon = chain(add.bind(1), add.using(run_after=timedelta(hours=1)).bind(1)).run_later()
    done = processes.run("start_consumer", "--drain")
    assert (done.returncode, done.stderr) == (0, "")
    assert handle.join(0) == [[[11, 321], "end"], {}]
    assert handle.progress == (5, 5)
    soon.refresh()
    assert [step.state for step in soon.steps] == ["succeeded", "scheduled"], "not due yet, left"


def test_a_step_with_a_time_of_its_own_runs_when_it_is_due_without_a_poll(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose end lets it go knows that there is a time to be read."""
    monkeypatch.setattr(coordinator, "_POLL_EVERY", 3600.0)
    soon = timedelta(seconds=0.5)
    notice = chain(fail.bind("no"), on_failure=echo.using(run_after=soon).bind_alone("notice"))
    with consuming(2):
        eventually(lambda: not Job.objects.filter(state="ready").exists())
        handles = [
            chain(add.bind(1), add.using(run_after=soon).bind(1)).run_later(),
            group(add.bind(1), chain(add.bind(1), add.using(run_after=soon).bind(1))).run_later(),
        ]
        assert [handle.join(30) for handle in handles] == [2, [1, 2]]
        notice.run_later()
        eventually(lambda: Job.objects.filter(name=echo.name, state="succeeded").exists())


@pytest.mark.end_to_end
@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_max_jobs_ends_between_two_steps_and_another_consumer_continues(
    engine: Engine, processes: Processes, concurrency: str
) -> None:
    handle = chain(*[add.bind(1)] * 5).run_later()
    options = ["--max-jobs", "2", "--concurrency", concurrency]
    assert processes.run("start_consumer", *options).returncode == 0
    assert handle.progress == (2, 5)
    processes.run("start_consumer", "--drain", "--concurrency", concurrency)
    assert handle.join(0) == 5


def fan(key: str) -> Pipeline:
    """Return a group of jobs that take no time, so that they end together, and a job after all of them."""
    return chain(group(*[add.bind(1)] * 40), record.bind_alone(key))


@pytest.mark.end_to_end
def test_four_consumers_that_end_siblings_at_once_run_the_dependent_once(
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


@pytest.mark.end_to_end
def test_a_killed_consumer_loses_no_step_and_doubles_none(
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
    # A step runs once more for each of its consumers that died, or that was so slow that it was declared dead.
    rescued = sum(Job.objects.filter(name=record.name).values_list("rescues", flat=True))
    assert set(executions()) == {f"{key} {step}" for key in keys for step in "ab"}
    assert executions().total() <= 2 * len(keys) + rescued
    assert [processes.end(consumer)[0] for consumer in others] == [0, 0]


@pytest.mark.end_to_end
def test_a_group_ends_although_a_member_dies_with_its_consumer(
    engine: Engine, processes: Processes
) -> None:
    """A job that must not run twice fails with its consumer, so its dependents are cancelled."""
    handle = chain(
        group(add.bind(1), kill_consumer_once.bind("deadly")),
        echo.bind(),
        on_failure=echo.bind("notice"),
    ).run_later()
    processes.consumer("--concurrency-limit", "1")
    eventually(lambda: executions()["deadly"])
    processes.consumer("--concurrency-limit", "1")
    with pytest.raises(JobFailed, match="ConsumerDied"):
        handle.join(60)
    [notice] = Job.objects.filter(arguments__contains="notice")
    [[reason, _], _] = get_job(notice.id).join(60)
    assert "ConsumerDied" in reason


def test_a_cancelled_pipeline_stops_running_steps_and_starts_none(
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


def test_an_idle_consumer_starts_a_dependent_of_another_consumers_job(
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


@pytest.mark.end_to_end
def test_a_step_whose_parents_are_gone_fails_with_a_clear_error(
    engine: Engine, processes: Processes
) -> None:
    handle = chain(add.bind(1), add.using(queue="other").bind(1)).run_later()
    processes.run("start_consumer", "--drain", "--queues", "default")
    Job.objects.filter(pk=handle.steps[0].id)._raw_delete(engine.db.alias)
    processes.run("start_consumer", "--drain")
    handle.refresh()
    assert (handle.state, "has no result any more" in handle.errors[0].message) == ("failed", True)


def test_a_failing_step_is_followed_by_its_on_failure_step(
    engine: Engine, processes: Processes
) -> None:
    chain(fail.bind("no paper"), echo.bind(), on_failure=record.bind_alone("notice")).run_later()
    processes.run("start_consumer", "--drain")
    assert executions() == {"notice": 1}


def test_a_consumer_expands_beside_other_jobs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With functions and coroutine functions for members, and the first of them done before the last is made."""
    monkeypatch.setattr(expansion, "MEMBERS_AT_ONCE", 3)
    with consuming(2):
        quick = chain(items.bind(20), expand(add), expand(add.bind(1)), echo.bind()).run_later()
        naps = chain(items.bind(4), expand(anap), group(echo.bind(), add.bind_alone(7))).run_later()
        again = chain(items.bind(3), expand(fail_once), echo.bind()).run_later()
        assert quick.join(60) == [[list(range(1, 21))], {}]
        assert [len(naps.join(60)[0][0][0]), naps.join(60)[1]] == [4, 7]
        assert again.join(60) == [[["at last"] * 3], {}]
    assert quick.progress == (42, 42)
