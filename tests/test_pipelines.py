"""`chain` and `group`: what is put together is checked, written at once, and its results come together."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

import djjp
from djjp import chain, group, run_many
from djjp.engine import Engine
from djjp.exceptions import EncodeError, JobCancelled, JobDoesNotExist, JobFailed
from djjp.jobs import BoundJob, RegisteredJob
from djjp.jobs.handles import JobHandle, get_job
from djjp.models import Dependency, Job
from djjp.outbox.models import OutboxJob
from djjp.pipelines import PipelineHandle, aget_pipeline, get_pipeline
from djjp.testing import drain
from tests.project.shop.jobs import add, echo, fail, hold_interpreter, mail, nap
from tests.support.processes import Processes


class Mistake(Exception):
    """The application's own."""


def states(handle: PipelineHandle) -> list[str]:
    return [str(get_job(step.id).state) for step in handle.steps]


# What travels


def test_a_chain_hands_each_result_on(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(10), add.bind(b=100)).run_later()
    assert (handle.state, handle.progress, states(handle)) == (
        "blocked",
        (0, 3),
        ["ready", "blocked", "blocked"],
    )
    assert drain() == 3
    assert (handle.join(0), handle.state, handle.result) == (111, "succeeded", 111)
    assert handle.progress == (3, 3)


def test_the_handle_of_a_chain_is_its_last_jobs(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(2)).run_later()
    assert handle == handle.steps[-1] == JobHandle(handle.id)
    drain()
    assert get_job(handle.id).result == 3


def test_a_group_hands_its_results_on_as_a_list_in_order(engine: Engine) -> None:
    """In whichever order they end."""
    members = [add.using(priority=number).bind(number) for number in range(12)]
    handle = chain(group(*members), echo.bind("end", key=1)).run_later()
    drain()
    assert handle.join(0) == [[list(range(12)), "end"], {"key": 1}]


def test_a_group_of_one_hands_a_list_of_one_on(engine: Engine) -> None:
    handle = chain(group(add.bind(1)), echo.bind()).run_later()
    drain()
    assert handle.join(0) == [[[1]], {}]


def test_a_group_alone_has_the_list_for_its_result(engine: Engine) -> None:
    handle = group(add.bind(1), chain(add.bind(2), add.bind(3)), group(add.bind(4))).run_later()
    assert (handle.state, handle.progress) == ("ready", (0, 4))
    drain()
    assert (handle.join(0), handle.state) == ([1, 5, [4]], "succeeded")


def test_what_is_nested_any_way_comes_together_that_way(engine: Engine) -> None:
    inner = chain(add.bind(1), group(add.bind(10), group(add.bind(20), add.bind(30))))
    handle = chain(add.bind(100), group(inner, echo.bind(), inner), echo.bind()).run_later()
    assert len(handle.steps) == Job.objects.count() == 1 + 4 + 1 + 4 + 1
    drain()
    one = [111, [121, 131]]
    assert handle.join(0) == [[[one, [[100], {}], one]], {}]


def test_each_member_of_a_group_behind_a_group_gets_the_whole_list(engine: Engine) -> None:
    handle = chain(
        group(add.bind(1), add.bind(2)), group(echo.bind("x"), echo.bind("y"))
    ).run_later()
    drain()
    assert handle.join(0) == [[[[1, 2], "x"], {}], [[[1, 2], "y"], {}]]


def test_a_step_that_is_bound_alone_receives_nothing(engine: Engine) -> None:
    handle = chain(add.bind(1), echo.bind_alone("x"), echo.bind()).run_later()
    drain()
    assert handle.join(0) == [[[["x"], {}]], {}]


def test_any_value_that_the_codec_carries_travels_exactly(engine: Engine) -> None:
    value = {"span": timedelta(days=1), 3: (1, {2}), "text": 'q"\\\n\u20ac'}
    handle = chain(echo.bind(value), group(echo.bind(), echo.bind()), echo.bind()).run_later()
    drain()
    first = [[value], {}]
    assert handle.join(0) == [[[[[first], {}], [[first], {}]]], {}]


def test_each_step_has_the_options_of_its_own_job(engine: Engine) -> None:
    handle = chain(mail.bind("a"), echo.using(queue="bulk", priority=3).bind()).run_later()
    rows = [Job.objects.get(pk=step.id) for step in handle.steps]
    assert [(row.queue, row.priority) for row in rows] == [("mail", 5), ("bulk", 3)]


def test_a_step_with_a_time_waits_for_it_too(engine: Engine) -> None:
    later = add.using(run_after=timedelta(hours=1))
    handle = chain(add.bind(1), later.bind(2), add.bind(3)).run_later()
    drain()
    assert states(handle) == ["succeeded", "scheduled", "blocked"]
    first = chain(later.bind(1), add.bind(2)).run_later()
    assert states(first) == ["scheduled", "blocked"]


def test_the_same_bound_job_or_chain_can_be_used_again(engine: Engine) -> None:
    bound = add.bind(1)
    twice = chain(bound, bound)
    handles = [twice.run_later(), twice.run_later(), chain(twice, bound).run_later()]
    drain()
    assert [handle.join(0) for handle in handles] == [2, 2, 3]


def test_coroutines_enqueue_and_wait_too(engine: Engine) -> None:
    async def main() -> Any:
        handle = await group(add.bind(1), add.bind(2)).arun_later()
        again = await aget_pipeline(handle.id)
        await djjp.testing.adrain()
        return await handle.ajoin(5), await again.ajoin(5)

    assert asyncio.run(main()) == ([1, 2], [1, 2])


# What is refused, and then nothing is written


WRONG: list[tuple[str, Any]] = [
    ("too many behind what it receives", lambda: chain(add.bind(1), add.bind(1, 2))),
    ("too many in a group", lambda: chain(add.bind(1), group(add.bind(1), add.bind(2, 3)))),
    ("too many deep inside", lambda: chain(add.bind(1), group(chain(add.bind(1, 2), add.bind(1))))),
    ("given twice", lambda: chain(add.bind(1), add.bind(a=1))),
    ("the first lacks one", lambda: chain(add.bind(), add.bind(1)).run_later()),
    ("one of the first lacks one", lambda: group(add.bind(1), chain(add.bind())).run_later()),
    ("alone and lacking", lambda: chain(add.bind(1), add.bind_alone())),
    ("no such argument", lambda: chain(add.bind(1), add.bind(c=1))),
    ("on failure", lambda: chain(add.bind(1), on_failure=add.bind(1, 2))),
    ("on failure is no bound job", lambda: chain(add.bind(1), on_failure=add)),
    ("run alone", lambda: add.bind().run_later()),
    ("run with many", lambda: run_many([add.bind(1), add.bind()])),
    ("not bound", lambda: chain(add.bind(1), add)),
    ("a list", lambda: group([add.bind(1)])),
]


@pytest.mark.parametrize("wrong", [case for _, case in WRONG], ids=[name for name, _ in WRONG])
def test_what_does_not_fit_is_a_type_error_and_nothing_is_written(
    engine: Engine, wrong: Any
) -> None:
    with pytest.raises(TypeError):
        wrong()
    assert not Job.objects.exists()


def test_the_error_says_which_job_and_what_to_write() -> None:
    with pytest.raises(
        TypeError, match=r"shop\.jobs\.add with the input from its pipeline first: too many"
    ):
        chain(add.bind(1), add.bind(1, 2))
    with pytest.raises(TypeError, match=r"tests\.project\.shop\.jobs\.add\.bind\("):
        chain(add)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"group\(\*steps\)"):
        group([add.bind(1)])  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="cannot encode seconds"):
        hold_interpreter.bind(object())  # its key is to come from another job


@pytest.mark.parametrize("kind", [chain, group])
def test_nothing_is_no_pipeline(kind: Any) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        kind()


def test_two_groups_that_would_make_too_many_pairs_are_refused() -> None:
    large = group(*[add.bind(1)] * 1001)
    with pytest.raises(ValueError, match="put one job between the two groups"):
        chain(large, group(*[echo.bind()] * 100))
    chain(large, group(*[echo.bind()] * 99))
    chain(large, echo.bind(), group(*[echo.bind()] * 1001))


# With the application's transaction


def test_a_pipeline_commits_or_vanishes_with_the_data(engine: Engine) -> None:
    with pytest.raises(Mistake):
        _enqueue_and_roll_back()
    assert not Job.objects.exists()
    with transaction.atomic():
        handle = chain(add.bind(1), group(*map(add.bind, range(700))), echo.bind()).run_later()
        assert OutboxJob.objects.count() == 1, "it travels as one"
        assert handle.state == "blocked"
        handle.refresh()
        assert (handle.state, handle.progress) == ("blocked", (0, 702))
        assert get_pipeline(handle.id).state == "blocked"
        assert not Job.objects.exists()
    assert (Job.objects.count(), OutboxJob.objects.count()) == (702, 0)
    drain()
    assert handle.join(0) == [[list(range(1, 701))], {}]


def _enqueue_and_roll_back() -> None:
    with transaction.atomic():
        chain(add.bind(1), add.bind(2)).run_later()
        raise Mistake


def test_a_group_is_found_on_its_way_too(engine: Engine) -> None:
    with transaction.atomic():
        handle = group(add.bind(1), add.bind(2)).run_later()
        handle.refresh()
        again = get_pipeline(handle.id)
        assert (handle.state, again.state) == ("ready", "ready")
    drain()
    assert again.join(0) == [1, 2]


def test_a_pipeline_that_was_left_behind_is_swept_up_once(engine: Engine) -> None:
    from djjp.outbox import relay

    with transaction.atomic():
        handle = chain(add.bind(1), add.bind(2)).run_later()
        rows = list(OutboxJob.objects.values())
    OutboxJob.objects.bulk_create(
        OutboxJob(**row) for row in rows
    )  # it died before it deleted them
    assert drain() == 2
    relay.sweep()
    assert drain() == 0
    assert (handle.join(0), Job.objects.count(), OutboxJob.objects.count()) == (3, 2, 0)


# What fails, and how it is taken up again


def test_a_failure_cancels_what_follows_and_the_retry_takes_it_up_again(engine: Engine) -> None:
    handle = chain(
        add.bind(1),
        fail.bind_alone("no paper"),
        group(add.bind_alone(2), add.bind_alone(3)),
        echo.bind(),
    ).run_later()
    drain()
    assert states(handle) == ["succeeded", "failed", "cancelled", "cancelled", "cancelled"]
    with pytest.raises(JobCancelled, match=f"{fail.name} .* failed: builtins.ValueError: no paper"):
        handle.join(0)
    assert handle.progress == (1, 5)
    Job.objects.filter(name=fail.name).update(name=nap.name, arguments='{"args":[0],"kwargs":{}}')
    handle.retry()
    assert (handle.state, states(handle)[1]) == ("blocked", "ready")
    drain()
    assert handle.join(0) == [[[2, 3]], {}]


def test_a_group_has_failed_once_a_member_has(engine: Engine) -> None:
    handle = group(add.bind(1), fail.bind("no paper"), add.using(queue="other").bind(2)).run_later()
    drain("default")
    with pytest.raises(JobFailed, match="no paper") as raised:
        handle.join(0)
    assert raised.value.job_id == handle.id
    assert [error.message for error in handle.errors] == ["no paper"]
    assert (handle.state, handle.progress) == ("failed", (1, 3))


def test_a_group_can_be_cancelled_and_retried_as_a_whole(engine: Engine) -> None:
    handle = group(add.bind(1), chain(add.bind(2), add.bind(3))).run_later()
    handle.cancel()
    assert states(handle) == ["cancelled"] * 3
    with pytest.raises(JobCancelled, match="its pipeline was cancelled on request"):
        handle.join(0)
    handle.retry()
    assert (handle.state, states(handle)) == ("ready", ["ready", "ready", "blocked"])
    drain()
    assert handle.join(0) == [1, 5]


def test_a_pipeline_that_has_succeeded_runs_its_last_jobs_again(engine: Engine) -> None:
    handles = [
        chain(add.bind(1), add.bind(2)).run_later(),
        group(add.bind(1), add.bind(2)).run_later(),
    ]
    drain()
    for handle in handles:
        handle.retry()
    assert drain() == 3
    assert [handle.join(0) for handle in handles] == [3, [1, 2]]


def test_a_running_group_says_so(engine: Engine) -> None:
    handle = group(add.bind(1), add.using(queue="other").bind(2)).run_later()
    drain("default")
    handle.refresh()
    assert (handle.state, handle.progress) == ("running", (1, 2))


@pytest.mark.parametrize("kind", [chain, group])
def test_what_runs_on_failure_is_told_the_reason_and_is_no_step(engine: Engine, kind: Any) -> None:
    handle = kind(fail.bind("no paper"), on_failure=echo.bind("told", to="a@b.c")).run_later()
    assert (len(handle.steps), Job.objects.count()) == (1, 2)
    assert drain() == 2
    [told] = Job.objects.filter(name=echo.name)
    [[reason, word], options] = get_job(told.id).result
    assert reason == f"{fail.name} {handle.steps[0].id} failed: builtins.ValueError: no paper"
    assert (word, options) == ("told", {"to": "a@b.c"})
    assert handle.progress == (0, 1)


def test_what_runs_on_failure_is_not_needed_when_all_goes_well(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(2), on_failure=echo.bind()).run_later()
    assert drain() == 2
    assert (handle.join(0), handle.progress) == (3, (2, 2))
    [unused] = Job.objects.filter(name=echo.name)
    assert (unused.state, unused.reason) == ("cancelled", "nothing failed")


def test_a_part_of_a_pipeline_has_its_own_job_for_its_failure(engine: Engine) -> None:
    """Also where something before it has failed, for then it does not come to its end either."""
    inner = chain(add.bind(1), add.bind(2), on_failure=echo.bind("inner"))
    chain(fail.bind("no paper"), inner, add.bind(3), on_failure=echo.bind("outer")).run_later()
    drain()
    told = Job.objects.filter(name=echo.name, state="succeeded")
    assert sorted(get_job(row.id).result[0][1] for row in told) == ["inner", "outer"]


def test_the_cancel_of_a_pipeline_is_no_failure(engine: Engine) -> None:
    chain(add.bind(1), on_failure=echo.bind()).run_later().cancel()
    assert drain() == 0


# Handles


def test_a_pipeline_is_found_by_its_id_or_by_that_of_any_of_its_jobs(engine: Engine) -> None:
    line = chain(add.bind(1), add.bind(2)).run_later()
    pair = group(add.bind(1), add.bind(2)).run_later()
    for made in (line, pair):
        for id in (made.id, *(step.id for step in made.steps)):
            found = get_pipeline(str(id))
            assert (found.id, type(found), found.steps) == (made.id, type(made), made.steps)
    drain()
    assert (get_pipeline(line.id).result, get_pipeline(pair.id).result) == (3, [1, 2])
    for wrong in (add.run_later(1).id, "nonsense", djjp.ids.new_id()):  # type: ignore[attr-defined]
        with pytest.raises(JobDoesNotExist):
            get_pipeline(wrong)


# Sizes


def test_a_chain_of_a_thousand_and_a_group_of_ten_thousand(
    engine: Engine, processes: Processes
) -> None:
    long = chain(add.bind(0), *[add.bind(1)] * 999).run_later()
    wide = chain(add.bind(1), group(*map(add.bind, range(10_000))), echo.bind()).run_later()
    assert (Job.objects.count(), Dependency.objects.count()) == (11_002, 999 + 20_000)
    processes.run("start_consumer", "--drain")
    assert long.join(0) == 999
    assert wide.join(0) == [[list(range(1, 10_001))], {}]


def test_a_failure_at_the_head_of_a_long_chain_cancels_all_of_it(engine: Engine) -> None:
    handle = chain(fail.bind("no"), *[echo.bind()] * 999).run_later()
    assert drain() == 1
    assert Job.objects.filter(state="cancelled").count() == 999
    with pytest.raises(JobCancelled):
        handle.join(0)
    handle.retry()
    assert Job.objects.filter(state="blocked").count() == 999


def test_types_are_public_where_they_are_documented() -> None:
    assert isinstance(add, RegisteredJob)
    assert isinstance(add.bind(1), BoundJob)
    assert (djjp.chain, djjp.group) == (chain, group)
