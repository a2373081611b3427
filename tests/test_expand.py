"""`expand`: a step becomes one job for each item of the list from the step before."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.test import override_settings

from djjp import chain, expand, get_job, get_pipeline, group, job
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, JobFailed
from djjp.models import Attempt, Flag, Job, State
from djjp.monitoring import tagged_jobs
from djjp.pipelines import PipelineHandle, expansion
from djjp.testing import assert_enqueued, captured_jobs, drain, inline
from tests.project.shop.jobs import (
    add,
    call_api,
    echo,
    fail,
    greet,
    import_from,
    items,
    mail,
    repeat,
    require,
    serve_tenant,
)


def run(handle: PipelineHandle) -> PipelineHandle:
    drain()
    handle.refresh()
    return handle


@job(name="shop.length_of")
def length_of(values: list[object]) -> int:
    return len(values)


def states(handle: PipelineHandle) -> list[str]:
    return [str(step.state) for step in handle.steps]


def members(name: str) -> list[Job]:
    return list(Job.objects.filter(name=name, flags__lt=Flag.EXPANDS).order_by("pk"))


def test_each_item_is_a_job_and_the_results_go_on_in_order(engine: Engine) -> None:
    handle = chain(items.bind(12), expand(add), echo.bind("end")).run_later()
    assert (handle.state, handle.progress) == ("running", (0, 3))
    assert drain() == 1 + 1 + 12 + 1 + 1  # … and the two jobs that make and collect the twelve
    assert handle.join(0) == [[list(range(12)), "end"], {}]
    assert (handle.state, handle.progress) == ("succeeded", (14, 14))
    assert states(handle) == ["succeeded"] * 14
    assert [step.result for step in handle.steps[1:-1]] == list(range(12))


def test_further_arguments_come_behind_the_item(engine: Engine) -> None:
    handle = chain(
        items.bind(3), expand(repeat.bind(times=3)), expand(echo.bind("b", c=1))
    ).run_later()
    drain()
    assert handle.join(0) == [[[[n] * 3, "b"], {"c": 1}] for n in range(3)]
    again = chain(items.bind(2), expand(add.bind(b=10))).run_later()
    positional = chain(items.bind(2), expand(add.bind(10))).run_later()
    drain()
    assert again.join(0) == positional.join(0) == [10, 11]


def test_an_empty_list_goes_on_as_one(engine: Engine) -> None:
    handle = chain(items.bind(0), expand(add), echo.bind()).run_later()
    drain()
    assert (handle.join(0), handle.progress) == ([[[]], {}], (2, 2))
    last = chain(items.bind(0), expand(add)).run_later()
    drain()
    assert (last.join(0), last.state, last.progress) == ([], "succeeded", (1, 1))


def test_items_of_any_type_come_back_as_they_were(engine: Engine) -> None:
    @job(name="shop.values")
    def values() -> tuple[object, ...]:
        return (timedelta(1), {"a": [b"x"]}, None, "é\n", [1, [2]])

    handle = chain(values.bind(), expand(echo), expand(echo.bind())).run_later()
    drain()
    expected = [timedelta(1), {"a": [b"x"]}, None, "é\n", [1, [2]]]
    assert [inner[0][0][0][0] for inner in handle.join(0)] == expected


@pytest.mark.parametrize("value", [{"a": 1}, "text", 5, None, {1}])
def test_what_is_no_list_fails_the_step_and_is_named(engine: Engine, value: Any) -> None:
    @job(name="shop.given")
    def given() -> object:
        return value

    handle = chain(given.bind(), expand(add), echo.bind()).run_later()
    run(handle)
    assert states(handle) == ["succeeded", "failed", "cancelled"]
    with pytest.raises(JobFailed) as caught:
        handle.join(0)
    wanted = f"expand({add.name}) makes a job of each item of the list that the step before returns"
    assert wanted in str(caught.value)
    assert f"returned {value!r} of type {type(value).__name__}" in str(caught.value)
    assert caught.value.job_id == handle.steps[1].id
    assert (handle.state, [e.exception_class for e in handle.errors]) == (
        "failed",
        ["builtins.TypeError"],
    )


def test_as_the_first_step_it_is_refused(engine: Engine) -> None:
    for pipeline in (chain(expand(add), echo.bind()), group(add.bind(1), expand(add))):
        with pytest.raises(ValueError, match=r"is the first step: .*group\(.*add\.bind\(item\)"):
            pipeline.run_later()
    assert not Job.objects.exists()


def test_what_cannot_be_expanded_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a job, or a bound call: make it a job"):
        expand(states)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bind_alone"):
        expand(add.bind_alone(1))
    with pytest.raises(ValueError, match="has a unique key"):
        expand(import_from)
    with pytest.raises(TypeError, match="too many positional arguments"):
        expand(add.bind(1, 2))
    with pytest.raises(TypeError, match=r"it must be a bound call: .*add\.bind"):
        chain(items.bind(1), add)  # type: ignore[arg-type]


def test_expansions_nest_in_chains_and_groups(engine: Engine) -> None:
    nested = chain(expand(repeat), expand(echo))
    steps = chain(items.bind(2), group(expand(add), nested, add.bind_alone(5)), echo.bind())
    handle = steps.run_later()
    drain()
    assert handle.join(0) == [[[[0, 1], [[[[0, 0]], {}], [[[1, 1]], {}]], 5]], {}]
    after_group = chain(group(add.bind(1), add.bind(2)), expand(add.bind(b=1))).run_later()
    drain()
    assert after_group.join(0) == [2, 3]


def test_a_failed_member_cancels_what_is_behind_and_its_retry_goes_on(engine: Engine) -> None:
    handle = chain(items.bind(4), expand(require.bind(1)), echo.bind()).run_later()
    run(handle)
    assert states(handle) == ["succeeded", "failed", *["succeeded"] * 3, "cancelled"]
    assert (handle.state, handle.progress) == ("failed", (6, 6))
    with pytest.raises(JobFailed, match="0 is below 1") as caught:
        handle.join(0)
    failed = handle.steps[1]
    assert caught.value.job_id == failed.id
    Job.objects.filter(pk=failed.id).update(arguments='{"args":[7,1],"kwargs":{}}')
    failed.retry()
    handle.refresh()
    assert handle.state == "running"
    assert drain() == 3
    assert handle.join(0) == [[[7, 1, 2, 3]], {}]


def test_the_retry_of_the_pipeline_runs_the_failed_members_again(engine: Engine) -> None:
    handle = chain(items.bind(4), expand(require.bind(1))).run_later()
    run(handle)
    assert handle.state == "failed"
    Job.objects.filter(pk=handle.steps[1].id).update(arguments='{"args":[7,1],"kwargs":{}}')
    handle.retry()
    assert handle.state == "running"
    drain()
    assert handle.join(0) == [7, 1, 2, 3]
    handle.retry()
    assert (handle.state, drain()) == ("running", 5), "all have succeeded: the last jobs run again"
    assert handle.join(0) == [7, 1, 2, 3]


def test_the_failed_step_before_is_retried_first(engine: Engine) -> None:
    handle = chain(fail.bind("no"), expand(add), echo.bind()).run_later()
    run(handle)
    assert states(handle) == ["failed", "cancelled", "cancelled"]
    Job.objects.filter(pk=handle.steps[0].id).update(
        name=items.name, arguments='{"args":[2],"kwargs":{}}'
    )
    handle.retry()
    drain()
    assert handle.join(0) == [[[0, 1]], {}]


def test_failures_are_results_with_return_exceptions(engine: Engine) -> None:
    handle = chain(items.bind(3), expand(require.bind(1), return_exceptions=True)).run_later()
    run(handle)
    assert (handle.state, handle.errors, handle.progress) == ("succeeded", [], (4, 4))
    failed, *others = handle.join(0)
    assert (type(failed), others) == (JobFailed, [1, 2])
    assert failed.job_id == handle.steps[1].id
    assert (failed.exception_class, failed.message) == ("builtins.ValueError", "0 is below 1")
    handle = chain(
        items.bind(3), expand(require.bind(1), return_exceptions=True), repeat.bind(1)
    ).run_later()
    drain()
    [[failed, *others]] = handle.join(0)
    assert (str(failed), others) == (
        f"job {failed.job_id} failed: builtins.ValueError: 0 is below 1",
        [1, 2],
    )


def test_return_exceptions_tolerates_members_only(engine: Engine) -> None:
    handle = chain(mail.bind("a"), expand(add, return_exceptions=True), echo.bind()).run_later()
    run(handle)
    assert (handle.state, states(handle)) == ("failed", ["succeeded", "failed", "cancelled"])


def test_members_have_the_options_of_the_call(engine: Engine) -> None:
    step = expand(add.using(queue="slow", priority=7, run_after=timedelta(hours=1)))
    handle = chain(items.bind(2), step).run_later()
    drain()
    assert handle.progress == (1, 2), "the step is not due yet"
    Job.objects.filter(pk=handle.steps[1].id).update(run_after=None, state="ready")
    drain(max_jobs=1)
    rows = members(add.name)
    assert [(row.queue, row.priority, row.state) for row in rows] == [("slow", 7, "ready")] * 2
    assert {row.pipeline for row in rows} == {handle.id}
    drain()
    assert handle.join(0) == [0, 1]


def test_members_are_under_the_limit_of_the_job(engine: Engine) -> None:
    @job(name="shop.tenants")
    def tenants() -> list[str]:
        return ["a", "b", "a"]

    handle = chain(tenants.bind(), expand(serve_tenant.bind(seconds=0))).run_later()
    rate = chain(items.bind(3), expand(call_api)).run_later()
    run(handle)
    rows = members(serve_tenant.name)
    assert [row.limit_key for row in rows] == ["tenant-a", "tenant-b", "tenant-a"]
    assert (handle.state, run(rate).state) == ("succeeded", "succeeded")


def test_members_expire_with_the_step(engine: Engine) -> None:
    handle = chain(mail.using(run_after=timedelta(hours=1)).bind("x"), expand(greet)).run_later()
    expiry = Job.objects.get(pk=handle.steps[1].id).expires_at
    late = chain(items.bind(1), expand(greet)).run_later()
    assert expiry is not None
    Job.objects.filter(pipeline=late.id).update(expires_at="2020-01-01T00:00Z")
    Job.objects.filter(name=items.name).update(expires_at=None)
    run(late)
    assert (late.state, states(late)) == ("cancelled", ["succeeded", "cancelled"])


def test_a_member_too_large_fails_the_step(engine: Engine) -> None:
    with override_settings(DJJP={**settings.DJJP, "max_payload": 2000}):
        handle = chain(repeat.bind("x" * 800), expand(echo.bind("y" * 1500))).run_later()
        run(handle)
    assert states(handle) == ["succeeded", "failed"]
    assert "the arguments have 2,3" in handle.errors[0].message
    assert "DJJP['max_payload'] allows 2,000" in handle.errors[0].message


def test_a_list_is_written_in_pieces(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "MEMBERS_AT_ONCE", 4)
    handle = chain(items.bind(10), expand(add)).run_later()
    drain(max_jobs=2)
    assert handle.progress == (1, 11)
    drain()
    assert handle.join(0) == list(range(10))


def test_an_expansion_that_is_begun_anew_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item is one job, whichever pieces are there already, and whichever members have ended."""
    monkeypatch.setattr(expansion, "MEMBERS_AT_ONCE", 4)
    add_piece, pieces = type(engine.expansion).add, []

    def break_off(self: Any, *args: Any, **kwargs: Any) -> bool:
        pieces.append(args)
        if len(pieces) == 3:
            raise RuntimeError("the power is gone")
        return add_piece(self, *args, **kwargs)

    monkeypatch.setattr(type(engine.expansion), "add", break_off)
    handle = chain(items.bind(10), expand(add), echo.bind()).run_later()
    run(handle)
    assert states(handle) == ["succeeded", "failed", *["succeeded"] * 8, "cancelled"]
    handle.retry()
    drain()
    assert handle.join(0) == [[list(range(10))], {}]
    assert handle.progress == (12, 12)
    assert len(members(add.name)) == 10


def test_a_cancel_stops_an_expansion_between_two_pieces(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "MEMBERS_AT_ONCE", 4)
    add_piece = type(engine.expansion).add
    handle = chain(items.bind(10), expand(add), echo.bind(), on_failure=mail.bind()).run_later()

    def cancel_after(self: Any, *args: Any, **kwargs: Any) -> bool:
        added = add_piece(self, *args, **kwargs)
        handle.cancel()
        return added

    monkeypatch.setattr(type(engine.expansion), "add", cancel_after)
    assert drain() == 2
    assert states(handle) == ["succeeded", *["cancelled"] * 6]
    handle.refresh()
    assert handle.state == "cancelled"
    with pytest.raises(JobCancelled, match="its pipeline was cancelled on request"):
        handle.join(0)
    assert not Job.objects.exclude(state__in=["succeeded", "cancelled"]).exists()
    monkeypatch.undo()
    handle.retry()
    drain()
    assert handle.join(0) == [[list(range(10))], {}]


def test_a_member_that_fails_early_does_not_stop_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "MEMBERS_AT_ONCE", 1)
    add_piece = type(engine.expansion).add
    handle = chain(items.bind(3), expand(require.bind(1)), echo.bind()).run_later()

    def run_between(self: Any, *args: Any, **kwargs: Any) -> bool:
        added = add_piece(self, *args, **kwargs)
        monkeypatch.undo()
        drain(max_jobs=1)
        return added

    monkeypatch.setattr(type(engine.expansion), "add", run_between)
    run(handle)
    assert states(handle) == ["succeeded", "failed", "succeeded", "succeeded", "cancelled"]


def test_the_rows_beside_the_members_are_no_jobs_of_the_user(engine: Engine) -> None:
    with captured_jobs() as captured:
        handle = chain(items.bind(2), expand(add), echo.bind()).run_later()
    assert [each.name for each in captured] == [items.name, add.name, echo.name]
    assert_enqueued(add, count=1)
    drain()
    assert len(assert_enqueued(add, count=2)) == 2
    assert get_job(handle.id) == get_pipeline(handle.steps[1].id) == handle


def test_an_expansion_at_the_end_has_the_id_of_the_pipeline(engine: Engine) -> None:
    handle = chain(items.bind(2), expand(add)).run_later()
    drain()
    found = get_job(handle.id)
    assert (type(found), found.result, found.state) == (PipelineHandle, [0, 1], "succeeded")
    assert get_pipeline(handle.steps[1].id).result == [0, 1]


def test_a_pipeline_with_an_expansion_passes_the_outbox(engine: Engine) -> None:
    with transaction.atomic():
        handle = chain(items.bind(2), expand(add, return_exceptions=True), echo.bind()).run_later()
        assert (handle.progress, handle.state) == ((0, 3), "running")
    drain()
    assert handle.join(0) == [[[0, 1]], {}]


def test_inline_runs_all_of_it(engine: Engine) -> None:
    @job(name="shop.echo_later")
    async def echo_later(item: object) -> object:
        return item

    with inline():
        handle = chain(echo.bind(), expand(echo_later), echo.bind()).run_later()
    assert handle.join(0) == [[[[], {}]], {}]


def test_a_retried_member_passes_its_new_result_on(engine: Engine) -> None:
    handle = chain(items.bind(2), expand(add)).run_later()
    drain()
    step = handle.steps[1]
    Job.objects.filter(pk=step.id).update(arguments='{"args":[40,2],"kwargs":{}}')
    step.retry()
    handle.refresh()
    assert handle.state == "running"
    drain()
    assert handle.join(0) == [42, 1]


def test_a_missing_registration_is_left_to_other_consumers(engine: Engine) -> None:
    handle = chain(items.bind(2), expand(add)).run_later()
    Job.objects.filter(name=add.name).update(name="gone.for.now")
    run(handle)
    assert states(handle) == ["succeeded", "ready"]
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("tolerant", [False, True])
def test_results_that_are_too_large_to_be_stored_again_are_read_from_the_members(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tolerant: bool
) -> None:
    monkeypatch.setattr(expansion, "COLLECTED_AT_ONCE", 2)
    monkeypatch.setattr(expansion, "STORED_AT_MOST", 2000)
    with override_settings(DJJP={**settings.DJJP, "max_payload": 2000}):
        step = expand(repeat.bind(100), return_exceptions=tolerant)
        handle = chain(items.bind(11), step, repeat.bind(1)).run_later()
        small = chain(items.bind(3), step).run_later()
        run(handle)
        run(small)
    stored = dict(Job.objects.filter(flags__gte=Flag.UNLISTED).values_list("flags", "result"))
    collects = Flag.COLLECTS | Flag.UNLISTED | (Flag.TOLERATES if tolerant else 0)
    assert stored[collects | Flag.HAS_DEPENDENTS] is None
    assert (stored[collects] or "").startswith("[[0,0,")
    assert "allows 2,000" in handle.errors[0].message, "that of the last step's own result"
    handle.retry()
    run(handle)
    assert handle.join(0) == [[[n] * 100 for n in range(11)]]
    assert small.join(0) == [[n] * 100 for n in range(3)]


def test_the_next_step_reads_one_row_though_its_list_is_larger_than_a_result(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim reads it in its turn, which must not take seconds for 100,000 results."""
    with override_settings(DJJP={**settings.DJJP, "max_payload": 2000}):
        handle = chain(items.bind(11), expand(repeat.bind(100)), length_of.bind()).run_later()
        drain(max_jobs=2 + 11 + 1)
        read = engine.db.rows
        counts: list[int] = []

        def counting(*args: Any) -> Any:
            rows = read(*args)
            counts.append(len(rows))
            return rows

        monkeypatch.setattr(engine.db, "rows", counting)
        drain()
        monkeypatch.undo()
    assert handle.join(0) == 11
    assert max(counts) == 1


def test_tags_and_options_of_the_call_are_those_of_each_member(engine: Engine) -> None:
    step = expand(add.using(tags=["tenant-42"], max_attempts=3))
    handle = chain(items.bind(2), step).run_later()
    assert [job.name for job in tagged_jobs("tenant-42")] == [add.name]
    run(handle)
    assert [(step.tags, step.options) for step in handle.steps[1:]] == [
        (["tenant-42"], {"max_attempts": 3})
    ] * 2
    assert {job.pk for job in tagged_jobs("tenant-42")} == {step.id for step in handle.steps[1:]}
    assert tagged_jobs("tenant-42", live=True) == []


def test_members_are_kept_until_the_next_step_has_read_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "STORED_AT_MOST", 2000)
    steps = chain(items.bind(5), expand(repeat.bind(200)), repeat.using(queue="later").bind(1))
    handle = steps.run_later()
    drain("default")
    for _ in range(3):
        engine.pruning.prune([State.SUCCEEDED], time.time() + 60, None, 1000)
    assert len(members(repeat.name)) == 5 + 1, "and the next step"
    drain("later")
    assert [len(each) for each in handle.join(0)[0]] == [200] * 5
    for _ in range(6):
        engine.pruning.prune([State.SUCCEEDED], time.time() + 60, None, 1000)
    assert not Job.objects.exists()
