"""`group(…, return_exceptions=True)`: the reason takes the place of a missing result."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from djjp import JobHandle, chain, get_pipeline, group
from djjp.engine import Engine, pipelines
from djjp.exceptions import JobCancelled, JobFailed
from djjp.models import Job
from djjp.pipelines import PipelineHandle
from djjp.testing import drain
from tests.project.shop.jobs import add, echo, fail, mail


def run(handle: PipelineHandle) -> PipelineHandle:
    drain()
    handle.refresh()
    return handle


def states(handle: PipelineHandle) -> list[str]:
    return [str(step.state) for step in handle.steps]


def shown(value: Any) -> Any:
    """Return the results, with a text in place of each exception."""
    if isinstance(value, list):
        return [shown(each) for each in value]
    if isinstance(value, JobFailed):
        return f"failed: {value.message}"
    return f"cancelled: {value.reason}" if isinstance(value, JobCancelled) else value


def first_argument(handle: PipelineHandle) -> Any:
    """Return what the last step, an `echo`, received."""
    return shown(run(handle).join(0)[0][0])


def test_the_next_step_gets_a_failure_in_its_place(engine: Engine) -> None:
    steps = group(add.bind(1), fail.bind("no paper"), add.bind(3), return_exceptions=True)
    handle = run(chain(steps, echo.bind()).run_later())
    [[results], _] = handle.join(0)
    failed = results[1]
    assert (type(failed), results[0], results[2]) == (JobFailed, 1, 3)
    assert (failed.job_id, failed.exception_class, failed.message, failed.traceback) == (
        handle.steps[1].id,
        "builtins.ValueError",
        "no paper",
        "",
    )
    assert str(failed) == f"job {failed.job_id} failed: builtins.ValueError: no paper"
    assert (handle.state, handle.progress, handle.errors) == ("succeeded", (4, 4), [])


def test_a_turn_reads_no_error_that_it_writes_nowhere(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn can end hundreds of jobs whose failures are tolerated."""
    read: list[int] = []
    last_errors = pipelines.last_errors

    def count(alias: str, ids: list[UUID]) -> dict[UUID, tuple[str, str]]:
        read.append(len(ids))
        return last_errors(alias, ids)

    monkeypatch.setattr(pipelines, "last_errors", count)
    run(group(fail.bind("a"), fail.bind("b"), return_exceptions=True).run_later())
    chain(group(fail.bind("a"), fail.bind("b"), return_exceptions=True), add.bind(1)).run_later()
    drain(max_jobs=2)
    assert sum(read) == 0
    drain()
    chain(fail.bind("c"), echo.bind()).run_later()
    read.clear()
    drain()
    assert sum(read) == 1


def test_join_gets_it_too(engine: Engine) -> None:
    handle = run(group(fail.bind("no"), add.bind(1), return_exceptions=True).run_later())
    assert (handle.state, shown(handle.join(0))) == ("succeeded", ["failed: no", 1])
    assert shown(get_pipeline(handle.id).result) == ["failed: no", 1]


def test_a_cancelled_member_is_one_too(engine: Engine) -> None:
    handle = chain(group(add.bind(1), add.bind(2), return_exceptions=True), echo.bind()).run_later()
    handle.steps[0].cancel()
    [[[cancelled, other]], _] = run(handle).join(0)
    assert (type(cancelled), other) == (JobCancelled, 2)
    assert (cancelled.job_id, cancelled.reason) == (handle.steps[0].id, "cancelled on request")


def test_all_members_can_fail(engine: Engine) -> None:
    steps = group((fail.bind(str(n)) for n in range(3)), return_exceptions=True)
    assert first_argument(chain(steps, echo.bind()).run_later()) == [
        "failed: 0",
        "failed: 1",
        "failed: 2",
    ]


def test_the_place_of_a_longer_member_has_the_failure_that_stopped_it(engine: Engine) -> None:
    long = chain(add.bind(1), fail.bind_alone("early"), echo.bind(), echo.bind())
    wide = group(add.bind(4), fail.bind("one of two"))
    late = chain(add.bind(2), add.bind(3))
    steps = group(long, wide, late, return_exceptions=True)
    handle = chain(steps, echo.bind()).run_later()
    assert first_argument(handle) == ["failed: early", "failed: one of two", 5]


def test_the_nearest_group_tolerates(engine: Engine) -> None:
    inner = group(add.bind(1), fail.bind("in"), return_exceptions=True)
    handle = chain(group(inner, add.bind(2)), echo.bind()).run_later()
    assert first_argument(handle) == [[1, "failed: in"], 2]
    outer = group(inner, fail.bind("out"), group(fail.bind("deep")), return_exceptions=True)
    handle = chain(outer, echo.bind()).run_later()
    assert first_argument(handle) == [[1, "failed: in"], "failed: out", "failed: deep"]


def test_without_it_the_next_step_is_cancelled(engine: Engine) -> None:
    tolerant = group(fail.bind("a"), return_exceptions=True)
    handle = run(chain(group(tolerant, fail.bind("b")), echo.bind()).run_later())
    assert (handle.state, states(handle)) == ("failed", ["failed", "failed", "cancelled"])
    with pytest.raises(JobFailed) as raised:
        handle.join(0)
    assert raised.value.message == "b", "the other failure is tolerated"
    assert [error.message for error in handle.errors] == ["b"]


def test_what_keeps_the_group_from_running_is_not_tolerated(engine: Engine) -> None:
    tolerant = group(echo.bind(), echo.bind(), return_exceptions=True)
    handle = run(chain(fail.bind("before"), tolerant, echo.bind()).run_later())
    assert (handle.state, states(handle)) == ("failed", ["failed", *["cancelled"] * 3])
    with pytest.raises(JobFailed, match="before"):
        handle.join(0)
    last = run(chain(fail.bind("before"), tolerant).run_later())
    assert (last.state, states(last)) == ("failed", ["failed", "cancelled", "cancelled"])
    Job.objects.filter(name=fail.name).update(name=echo.name, arguments='{"args":[],"kwargs":{}}')
    handle.retry()
    last.retry()
    assert first_argument(handle) == [[[[[], {}]], {}]] * 2
    assert run(last).state == "succeeded"


def test_it_is_tolerated_by_a_group_around_both(engine: Engine) -> None:
    inner = chain(fail.bind("before"), group(echo.bind(), return_exceptions=True))
    outer = group(inner, add.bind(1), return_exceptions=True)
    assert first_argument(chain(outer, echo.bind()).run_later()) == ["failed: before", 1]
    strict = run(chain(group(inner, add.bind(1)), echo.bind()).run_later())
    assert (strict.state, states(strict)[-1]) == ("failed", "cancelled")
    both = chain(
        add.bind(1), group(group(fail.bind_alone("x"), return_exceptions=True), add.bind(1))
    )
    assert shown(run(both.run_later()).join(0)) == [["failed: x"], 2]


def test_two_such_groups_follow_each_other(engine: Engine) -> None:
    first = group(fail.bind("a"), add.bind(1), return_exceptions=True)
    second = group(echo.bind(), fail.bind_alone("b"), return_exceptions=True)
    handle = chain(first, second, echo.bind()).run_later()
    [[given], _], failed = run(handle).join(0)[0][0]
    assert (shown(given), shown(failed)) == (["failed: a", 1], "failed: b")


def test_an_on_failure_job_runs_for_the_group_and_not_for_a_chain_around_it(
    engine: Engine,
) -> None:
    own = group(fail.bind("x"), return_exceptions=True, on_failure=echo.bind("own"))
    chain(own, add.bind_alone(1), on_failure=mail.bind()).run_later()
    chain(group(fail.bind("x"), return_exceptions=True), on_failure=mail.bind()).run_later()
    drain()
    assert Job.objects.filter(name=echo.name).get().state == "succeeded"
    assert {job.reason for job in Job.objects.filter(name=mail.name)} <= {"nothing failed"}


def test_a_step_behind_it_can_be_retried_alone(engine: Engine) -> None:
    handle = chain(group(fail.bind("x"), return_exceptions=True), fail.bind_alone("y")).run_later()
    run(handle)
    assert (handle.state, states(handle)) == ("failed", ["failed", "failed"])
    handle.steps[1].retry()
    assert states(handle) == ["failed", "ready"]
    drain()
    handle.retry()
    assert states(handle) == ["ready", "blocked"], "the pipeline retries all that failed"


def test_it_can_be_an_argument_and_a_result(engine: Engine) -> None:
    error = JobFailed(UUID(int=1), "builtins.ValueError", "no", "Traceback …")
    cancelled = JobCancelled(UUID(int=2))
    handle: JobHandle = echo.run_later([error], why=cancelled)
    drain()
    [[[same]], options] = handle.join(0)
    assert (type(same), same.facts(), str(same)) == (JobFailed, error.facts(), str(error))
    assert (type(options["why"]), options["why"].facts()) == (JobCancelled, cancelled.facts())


def test_steps_can_be_given_as_an_iterable(engine: Engine) -> None:
    handle = chain([group(add.bind(n) for n in range(3)), echo.bind()]).run_later()
    assert first_argument(handle) == [0, 1, 2]
    assert run(group({1: add.bind(1)}.values()).run_later()).join(0) == [1]
    for kind in (chain, group):
        with pytest.raises(ValueError, match="at least one step"):
            kind(iter(()))
