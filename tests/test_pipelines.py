"""`chain` and `group`: pipelines are validated, written whole, and pass results on."""

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
from djjp.jobs import BoundJob, JobHandle, RegisteredJob, get_job
from djjp.models import Dependency, Job
from djjp.monitoring import counts, latest_jobs
from djjp.outbox.models import OutboxJob
from djjp.pipelines import GroupHandle, PipelineHandle, aget_pipeline, get_pipeline
from djjp.testing import assert_not_enqueued, drain
from tests.project.shop.jobs import add, echo, fail, hold_interpreter, mail, nap
from tests.support.processes import Processes


class Mistake(Exception):
    """The application's own."""


def states(handle: PipelineHandle) -> list[str]:
    return [str(step.state) for step in handle.steps]


# Inputs and results


def test_a_chain_passes_each_result_on(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(10), add.bind(b=100)).run_later()
    assert (handle.state, handle.progress, states(handle)) == (
        "running",
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


def test_a_group_passes_its_results_on_as_a_list_in_order(engine: Engine) -> None:
    """In any order of their ends."""
    members = [add.using(priority=number).bind(number) for number in range(12)]
    handle = chain(group(*members), echo.bind("end", key=1)).run_later()
    drain()
    assert handle.join(0) == [[list(range(12)), "end"], {"key": 1}]


def test_a_group_of_one_passes_a_list_of_one_on(engine: Engine) -> None:
    handle = chain(group(add.bind(1)), echo.bind()).run_later()
    drain()
    assert handle.join(0) == [[[1]], {}]


def test_a_group_alone_has_the_list_for_its_result(engine: Engine) -> None:
    handle = group(add.bind(1), chain(add.bind(2), add.bind(3)), group(add.bind(4))).run_later()
    assert (handle.state, handle.progress) == ("running", (0, 4))
    drain()
    assert (handle.join(0), handle.state) == ([1, 5, [4]], "succeeded")


def test_results_are_nested_as_the_groups_are(engine: Engine) -> None:
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


def test_a_step_that_is_bound_alone_gets_no_input(engine: Engine) -> None:
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
    assert get_job(handle.id).state == "running", "it has not ended"
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


# Refusals, after which nothing is written


WRONG: list[tuple[str, Any]] = [
    ("too many behind what it receives", lambda: chain(add.bind(1), add.bind(1, 2))),
    ("too many in a group", lambda: chain(add.bind(1), group(add.bind(1), add.bind(2, 3)))),
    ("too many deep inside", lambda: chain(add.bind(1), group(chain(add.bind(1, 2), add.bind(1))))),
    ("given twice", lambda: chain(add.bind(1), add.bind(a=1))),
    ("the first lacks one", lambda: chain(add.bind(), add.bind(1)).run_later()),
    ("one of the first lacks one", lambda: group(add.bind(1), chain(add.bind())).run_later()),
    ("alone and lacking", lambda: chain(add.bind(1), add.bind_alone())),  # type: ignore[call-arg]  # the mistake
    ("no such argument", lambda: chain(add.bind(1), add.bind(c=1))),  # type: ignore[call-overload]  # the mistake
    ("on failure", lambda: chain(add.bind(1), on_failure=add.bind(1, 2))),
    ("on failure is no bound job", lambda: chain(add.bind(1), on_failure=add)),  # type: ignore[arg-type]  # the mistake
    ("run alone", lambda: add.bind().run_later()),
    ("run with many", lambda: run_many([add.bind(1), add.bind()])),
    ("not bound", lambda: chain(add.bind(1), add)),  # type: ignore[arg-type]  # the mistake
    ("a list beside a step", lambda: group(add.bind(1), [add.bind(1)])),
    ("no steps", lambda: group([1])),  # type: ignore[list-item]  # the mistake
    ("a text", lambda: group("ab")),  # type: ignore[arg-type]  # the mistake
]


@pytest.mark.parametrize("wrong", [case for _, case in WRONG], ids=[name for name, _ in WRONG])
def test_arguments_that_do_not_fit_are_a_type_error_and_nothing_is_written(
    engine: Engine, wrong: Any
) -> None:
    with pytest.raises(TypeError):
        wrong()
    assert not Job.objects.exists()


def test_the_error_names_the_job_and_what_to_write() -> None:
    with pytest.raises(
        TypeError, match=r"shop\.jobs\.add with the input from its pipeline first: too many"
    ):
        chain(add.bind(1), add.bind(1, 2))
    with pytest.raises(TypeError, match=r"tests\.project\.shop\.jobs\.add\.bind\("):
        chain(add)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"group\(\*steps\)"):
        group(add.bind(1), [add.bind(1)])
    with pytest.raises(EncodeError, match="cannot encode seconds"):
        hold_interpreter.bind(object())  # type: ignore[call-overload]  # its key would need the input from another job


@pytest.mark.parametrize("kind", [chain, group])
def test_a_pipeline_needs_a_step(kind: Any) -> None:
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
        assert handle.state == "running"
        handle.refresh()
        assert (handle.state, handle.progress) == ("running", (0, 702))
        assert get_pipeline(handle.id).state == get_job(handle.id).state == "running"
        assert not Job.objects.exists()
    assert (Job.objects.count(), OutboxJob.objects.count()) == (702, 0)
    drain()
    assert handle.join(0) == [[list(range(1, 701))], {}]


def _enqueue_and_roll_back() -> None:
    with transaction.atomic():
        chain(add.bind(1), add.bind(2)).run_later()
        raise Mistake


def test_a_group_is_found_in_the_outbox_too(engine: Engine) -> None:
    with transaction.atomic():
        handle = group(add.bind(1), add.bind(2)).run_later()
        handle.refresh()
        again = get_pipeline(handle.id)
        assert (handle.state, again.state) == ("running", "running")
        assert type(get_job(handle.id)) is GroupHandle
    drain()
    assert again.join(0) == [1, 2]


def test_a_pipeline_left_in_the_outbox_is_swept_once(engine: Engine) -> None:
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


# Failure and retry


def test_a_failure_cancels_the_dependents_and_the_retry_revives_them(engine: Engine) -> None:
    handle = chain(
        add.bind(1),
        fail.bind_alone("no paper"),
        group(add.bind_alone(2), add.bind_alone(3)),
        echo.bind(),
    ).run_later()
    drain()
    assert states(handle) == ["succeeded", "failed", "cancelled", "cancelled", "cancelled"]
    with pytest.raises(JobFailed, match="ValueError: no paper") as raised:
        handle.join(0)
    assert (raised.value.job_id, raised.value.message) == (handle.steps[1].id, "no paper")
    assert "ValueError" in raised.value.traceback
    assert (handle.state, handle.progress) == ("failed", (5, 5))
    assert [error.message for error in handle.errors] == ["no paper"]
    assert get_job(handle.steps[2].id).reason == (
        f"{fail.name} {handle.steps[1].id} failed: builtins.ValueError: no paper"
    )
    Job.objects.filter(name=fail.name).update(name=nap.name, arguments='{"args":[0],"kwargs":{}}')
    handle.retry()
    assert (handle.state, states(handle)[1]) == ("running", "ready")
    drain()
    assert handle.join(0) == [[[2, 3]], {}]


def test_a_group_with_a_failed_member_has_failed_once_all_have_ended(engine: Engine) -> None:
    handle = group(add.bind(1), fail.bind("no paper"), add.using(queue="other").bind(2)).run_later()
    drain("default")
    with pytest.raises(TimeoutError):
        handle.join(0)
    assert [error.message for error in handle.errors] == ["no paper"]
    assert (handle.state, handle.progress) == ("running", (2, 3))
    drain()
    with pytest.raises(JobFailed, match="no paper") as raised:
        handle.join(0)
    assert raised.value.job_id == handle.steps[1].id
    assert (handle.state, handle.progress) == ("failed", (3, 3))


def test_a_pipeline_is_cancelled_only_when_it_was_cancelled(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(2), add.bind(3)).run_later()
    drain(max_jobs=1)
    handle.steps[1].cancel()
    with pytest.raises(JobCancelled, match="cancelled on request") as raised:
        handle.join(0)
    assert raised.value.job_id == handle.steps[1].id
    assert (handle.state, handle.reason) == ("cancelled", "cancelled on request")
    failed = group(fail.bind("no paper"), add.using(queue="other").bind(2)).run_later()
    drain("default")
    failed.cancel()
    assert (failed.state, states(failed)) == ("failed", ["failed", "cancelled"])


def test_a_pipeline_runs_until_its_on_failure_job_has_ended(engine: Engine) -> None:
    handle = chain(fail.bind("no"), on_failure=echo.using(queue="other").bind()).run_later()
    drain("default")
    handle.refresh()
    assert (handle.state, handle.progress) == ("running", (1, 1))
    drain()
    handle.refresh()
    assert handle.state == "failed"


def test_a_group_can_be_cancelled_and_retried_as_a_whole(engine: Engine) -> None:
    handle = group(add.bind(1), chain(add.bind(2), add.bind(3))).run_later()
    handle.cancel()
    assert states(handle) == ["cancelled"] * 3
    with pytest.raises(JobCancelled, match="its pipeline was cancelled on request"):
        handle.join(0)
    handle.retry()
    assert (handle.state, states(handle)) == ("running", ["ready", "ready", "blocked"])
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


def test_the_state_of_a_running_group_is_running(engine: Engine) -> None:
    handle = group(add.bind(1), add.using(queue="other").bind(2)).run_later()
    drain("default")
    handle.refresh()
    assert (handle.state, handle.progress) == ("running", (1, 2))


@pytest.mark.parametrize("kind", [chain, group])
def test_an_on_failure_job_gets_the_reason_and_is_no_step(engine: Engine, kind: Any) -> None:
    handle = kind(fail.bind("no paper"), on_failure=echo.bind("told", to="a@b.c")).run_later()
    assert (len(handle.steps), Job.objects.count()) == (1, 2)
    assert drain() == 2
    [told] = Job.objects.filter(name=echo.name)
    [[reason, word], options] = get_job(told.id).join(0)
    assert reason == f"{fail.name} {handle.steps[0].id} failed: builtins.ValueError: no paper"
    assert (word, options) == ("told", {"to": "a@b.c"})
    assert handle.progress == (1, 1)


def test_an_on_failure_job_does_not_run_when_all_succeed(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(2), on_failure=echo.bind()).run_later()
    assert drain() == 2
    assert (handle.join(0), handle.progress) == (3, (2, 2))
    [unused] = Job.objects.filter(name=echo.name)
    assert unused.reason == "nothing failed"
    assert counts() == {"default": {"succeeded": 2}}
    assert {job.name for job in latest_jobs(limit=9)} == {add.name}
    assert latest_jobs(state="cancelled", limit=9) == []
    assert_not_enqueued(echo)


def test_an_on_failure_job_is_listed_again_once_it_may_be_needed(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(2), on_failure=echo.bind("why")).run_later()
    drain()
    changes = {"name": fail.name, "arguments": '{"args":[],"kwargs":{}}'}
    Job.objects.filter(pk=handle.id).update(**changes)
    handle.steps[1].retry()
    assert [job.state for job in latest_jobs(name=echo.name, limit=9)] == ["blocked"]
    drain()
    assert [job.state for job in latest_jobs(name=echo.name, limit=9)] == ["succeeded"]


def test_a_part_of_a_pipeline_has_an_on_failure_job_of_its_own(engine: Engine) -> None:
    """Also if an earlier job has failed, because then the part does not succeed either."""
    inner = chain(add.bind(1), add.bind(2), on_failure=echo.bind("inner"))
    chain(fail.bind("no paper"), inner, add.bind(3), on_failure=echo.bind("outer")).run_later()
    drain()
    told = Job.objects.filter(name=echo.name, state="succeeded")
    assert sorted(get_job(row.id).join(0)[0][1] for row in told) == ["inner", "outer"]


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
        assert type(get_job(str(made.id))) is type(made)
        assert type(get_job(made.steps[0].id)) is JobHandle
    drain()
    assert (get_pipeline(line.id).result, get_pipeline(pair.id).result) == (3, [1, 2])
    for wrong in ("nonsense", djjp.ids.new_id()):
        with pytest.raises(JobDoesNotExist, match="there is no job"):
            get_pipeline(wrong)
    single = add.run_later(1)
    with pytest.raises(JobDoesNotExist, match=f"the job {single.id} is in no pipeline"):
        get_pipeline(single.id)


# Sizes


@pytest.mark.end_to_end
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
    with pytest.raises(JobFailed, match="no"):
        handle.join(0)
    handle.retry()
    assert Job.objects.filter(state="blocked").count() == 999


def test_types_are_public_where_they_are_documented() -> None:
    assert isinstance(add, RegisteredJob)
    assert isinstance(add.bind(1), BoundJob)
    assert (djjp.chain, djjp.group) == (chain, group)
