"""Pipelines: their state and progress are those of their handles; what a retry runs again is known exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from djjp import chain, expand, group, queues
from djjp.engine import Engine
from djjp.exceptions import JobDoesNotExist
from djjp.ids import new_id
from djjp.models import FINISHED, Dependency, Flag, Job
from djjp.monitoring import pipelines, shapes
from djjp.monitoring.explain import explain_pipeline
from djjp.monitoring.pipelines import pipeline, rerun_of_jobs, rerun_of_pipeline
from djjp.pipelines import Pipeline, PipelineHandle
from djjp.testing import drain
from tests.project.shop.jobs import add, echo, fail, items, mail
from tests.support.json_schema import problems
from tests.support.schedules import registered

#: The words for which the job `step` fails, and the calls of it in order.
failing: set[str] = set()
ran: list[str] = []


def step(*given: object) -> list[int]:
    """Run a step whose last argument is its name; return a list, so that every step can come next."""
    name = str(given[-1])
    ran.append(name)
    if name in failing or f"{name}@{given[0]}" in failing:
        raise ValueError(f"{name} cannot")
    return [1, 2, 3]


@pytest.fixture
def s() -> Iterator[Callable[[str], Any]]:
    """Return a function that binds a step with a name."""
    with registered("test.step", step) as job:
        failing.clear()
        ran.clear()
        yield job.bind


def _shapes(s: Callable[[str], Any]) -> dict[str, Pipeline]:
    return {
        "chain": chain(s("a"), s("b"), s("c")),
        "chain with on_failure": chain(s("a"), s("b"), s("c"), on_failure=s("f")),
        "group": group(s("a"), s("b"), s("c")),
        "group in a chain": chain(s("a"), group(s("b"), s("c")), s("d"), on_failure=s("f")),
        "chains in a group": chain(group(chain(s("a"), s("b")), chain(s("c"), s("d"))), s("e")),
        "nested on_failure": chain(
            s("a"),
            group(chain(s("b"), s("c"), on_failure=s("f")), s("d"), on_failure=s("g")),
            s("e"),
            on_failure=s("h"),
        ),
        "tolerant group": chain(s("a"), group(s("b"), s("c"), return_exceptions=True), s("d")),
        "tolerant chains": chain(
            group(chain(s("a"), s("b")), s("c"), return_exceptions=True, on_failure=s("f")),
            s("d"),
            s("e"),
        ),
        "expansion": chain(s("a"), expand(s("b")), s("c"), on_failure=s("f")),
        "tolerant expansion": chain(s("a"), expand(s("b"), return_exceptions=True), s("c")),
        "expansion at the end": chain(s("a"), expand(s("b"))),
        "expansions in a row": chain(s("a"), expand(s("b")), expand(s("c")), s("d")),
        "wide": chain(group(s("a"), s("b")), group(s("c"), s("d")), s("e")),
    }


def rows(pipeline: UUID) -> dict[UUID, dict[str, Any]]:
    return {row["id"]: dict(row) for row in Job.objects.filter(pipeline=pipeline).values()}


def check_prediction(
    engine: Engine, pipeline: UUID, predicted: pipelines.Rerun, retry: Callable[[], int]
) -> None:
    """Compare a prediction with the rows before and after the retry, which is rolled back."""
    before = rows(pipeline)
    with transaction.atomic(using=engine.db.alias):
        count = retry()
        after = rows(pipeline)
        transaction.set_rollback(True, using=engine.db.alias)
    changed = {id for id in before if is_shown(before[id]) and before[id] != after[id]}
    again, on_failure, waiting = ({step.id for step in steps} for steps in predicted)
    ended = {id for id in before if before[id]["state"] in FINISHED}
    assert changed & ended == again | on_failure & ended
    assert changed - ended <= waiting | on_failure
    assert {after[id]["state"] for id in again} <= {"ready", "blocked"}
    assert {after[id]["state"] for id in waiting | on_failure} <= {"blocked"}
    assert bool(count) == bool(again)


def is_shown(row: dict[str, Any]) -> bool:
    return not row["flags"] & Flag.UNLISTED or bool(row["flags"] & Flag.ON_FAILURE)


def check_state(handle: PipelineHandle) -> None:
    info = pipeline(handle.id)
    handle.refresh()
    assert (info.state, info.progress) == (handle.state, handle.progress)


@pytest.mark.parametrize(
    "bad",
    [
        *["", "b", "c", "f b"],
        *(pytest.param(each, marks=pytest.mark.end_to_end) for each in ["a", "b c", "d", "b@2"]),
    ],
)
def test_the_steps_that_a_retry_runs_again_are_predicted_exactly(
    engine: Engine, s: Callable[[str], Any], bad: str
) -> None:
    """For a retry of the pipeline and for one of each of its jobs; and no other step runs after it."""
    handles = {name: shape.run_later() for name, shape in _shapes(s).items()}
    failing.update(bad.split())
    for handle in handles.values():
        check_state(handle)
    drain()
    for handle in handles.values():
        check_state(handle)
        id = handle.id
        predicted = rerun_of_pipeline(id)
        check_prediction(engine, id, predicted, partial(engine.control.retry_pipeline, id))
        for job in [id for id, row in rows(id).items() if is_shown(row)]:
            predicted = rerun_of_jobs([job])
            check_prediction(engine, id, predicted, partial(engine.control.retry, [job]))

    predictions = {name: rerun_of_pipeline(each.id) for name, each in handles.items()}
    known = {name: set(rows(each.id)) for name, each in handles.items()}
    failing.clear()
    Job.objects.update(started_at=None)
    for name, handle in handles.items():
        assert handle.retry() == bool(predictions[name].again)
    drain()
    for name, handle in handles.items():
        check_state(handle)
        now = rows(handle.id)
        started = {id for id, row in now.items() if row["started_at"] and is_shown(row)}
        again = {step.id for step in predictions[name].again if is_shown(now[step.id])}
        # Besides, the jobs of an expansion that expands now.
        assert (name, started & known[name]) == (name, again)


@pytest.mark.parametrize("verb", ["cancel", "cancel_pipeline", "delete", "ready"])
def test_the_prediction_holds_after_cancels_and_deletions_and_while_steps_wait(
    engine: Engine, s: Callable[[str], Any], verb: str
) -> None:
    handles = [shape.run_later() for shape in _shapes(s).values()]
    firsts = {handle.id: handle.steps[0].id for handle in handles}
    if verb == "cancel":
        engine.control.cancel(firsts.values(), time.time())
    elif verb == "cancel_pipeline":
        for handle in handles:
            engine.control.cancel_pipeline(handle.id, time.time())
    elif verb == "delete":
        engine.pipelines.cancel_dependents([*firsts.values()])
        Job.objects.filter(pk__in=firsts.values()).delete()
    else:  # a step that was cancelled can run by now
        failing.add("b")
        drain()
        Job.objects.filter(state="cancelled").exclude(flags=0).update(state="ready")
    for id, first in firsts.items():
        predicted = rerun_of_pipeline(id)
        check_prediction(engine, id, predicted, partial(engine.control.retry_pipeline, id))
        for job in (first, id):
            predicted = rerun_of_jobs([job])
            check_prediction(engine, id, predicted, partial(engine.control.retry, [job]))


def test_a_job_outside_pipelines_runs_again_alone(engine: Engine) -> None:
    job, live = fail.run_later("no"), add.run_later(1)
    drain()
    live = add.run_later(1)
    assert [step.id for step in rerun_of_jobs([job.id, live.id]).again] == [job.id]
    assert rerun_of_jobs([]) == rerun_of_jobs([new_id()]) == ([], [], [])


def test_a_prediction_changes_nothing(engine: Engine, s: Callable[[str], Any]) -> None:
    handle = _shapes(s)["nested on_failure"].run_later()
    failing.add("c")
    drain()
    before = rows(handle.id)
    rerun_of_pipeline(handle.id)
    assert rows(handle.id) == before


# State and progress


def test_a_cancelled_pipeline_is_cancelled(engine: Engine) -> None:
    handle = group(add.bind(1), add.bind(2)).run_later()
    handle.cancel()
    info = pipeline(handle.id)
    assert (info.state, info.counts, info.progress) == ("cancelled", {"cancelled": 2}, (2, 2))
    assert "Cancelled: shop.add was cancelled" in info.sentence.replace(add.name, "shop.add")


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("", "Succeeded in"),
        ("a", "Failed: test.step failed; 2 of 3 steps did not run."),
        ("c", "Failed: test.step failed."),
    ],
)
def test_the_sentence_names_state_progress_and_the_failing_step(
    engine: Engine, s: Callable[[str], Any], bad: str, expected: str
) -> None:
    handle = chain(s("a"), s("b"), s("c")).run_later()
    assert pipeline(handle.id).sentence == ("Waits: 0 of 3 steps have ended (0 %), none runs now.")
    failing.update(bad.split())
    drain()
    assert pipeline(handle.id).sentence.startswith(expected)


def test_a_pipeline_that_does_not_go_on_has_the_causes(
    engine: Engine, s: Callable[[str], Any]
) -> None:
    queues.pause("mail")
    try:
        handle = chain(mail.bind("a"), echo.bind()).run_later()
        assert explain_pipeline(pipeline(handle.id))[0].code == "paused"
    finally:
        queues.resume("mail")


def test_a_running_pipeline_names_the_step_that_has_failed(
    engine: Engine, s: Callable[[str], Any]
) -> None:
    handle = group(s("a"), mail.bind("x")).run_later()
    failing.add("a")
    queues.pause("mail")
    try:
        drain()
        info = pipeline(handle.id)
    finally:
        queues.resume("mail")
    assert info.state == "running"
    assert info.sentence == (
        "Waits: 1 of 2 steps has ended (50 %), none runs now; test.step failed."
    )
    [culprit] = info.culprits
    assert (culprit.exception_class, culprit.message) == ("builtins.ValueError", "a cannot")


def test_an_unknown_id_is_no_pipeline(engine: Engine) -> None:
    job = add.run_later(1)
    for id in (new_id(), job.id):
        with pytest.raises(JobDoesNotExist):
            pipeline(id)
    assert pipelines.pipeline_of(job.id) is None
    handle = chain(add.bind(1), add.bind(2)).run_later()
    assert pipelines.pipeline_of(handle.steps[0].id) == handle.id


def test_a_pipeline_in_an_outbox_is_found(engine: Engine) -> None:
    with transaction.atomic(using="default"):
        handle = group(add.bind(1), add.bind(2)).run_later()
        info = pipeline(handle.id)
        transaction.set_rollback(True, using="default")
    assert (info.state, info.outbox, info.progress) == ("running", "default", (0, 0))
    assert (
        info.sentence == "Waits: its jobs are in the outbox of default, and not in the queue yet."
    )


def test_of_a_longer_pipeline_the_first_steps_are_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "MOST_STEPS", 5)
    handle = group(*[add.bind(n) for n in range(8)]).run_later()
    info = pipeline(handle.id)
    assert (info.progress, info.is_exact, len(info.graph.steps)) == ((0, 5), False, 5)
    assert info.sentence == "Waits: 0 of 5+ steps have ended, none runs now."
    drain()
    assert pipeline(handle.id).state == "succeeded"
    last = Job.objects.filter(pipeline=handle.id).order_by("pk").last()
    assert last is not None
    Job.objects.filter(pk=last.pk).update(state="running")
    assert pipeline(handle.id).state == "running", "a step that was not read runs"


def test_the_number_of_statements_does_not_depend_on_the_number_of_steps(engine: Engine) -> None:
    sent = []
    for count in (3, 60):
        handle = chain(items.bind(count), expand(fail.bind()), echo.bind()).run_later()
        drain()
        for read in (pipeline, rerun_of_pipeline):
            with CaptureQueriesContext(connections[engine.db.alias]) as queries:
                read(handle.id)
            sent.append(len(queries))
    assert sent[:2] == sent[2:]


def test_edges_by_hand_that_lead_in_a_circle_are_left_out(engine: Engine) -> None:
    handle = chain(add.bind(1), add.bind(2)).run_later()
    first, last = handle.steps
    Dependency.objects.create(parent=last.id, child=first.id, result_path="")
    Dependency.objects.create(parent=first.id, child=first.id, result_path="")
    Dependency.objects.create(parent=new_id(), child=first.id, result_path="0")
    assert [edge[:2] for edge in pipeline(handle.id).graph.edges] == [(0, 1)]


def test_the_document_has_the_steps_with_states_and_the_progress(engine: Engine) -> None:
    handle = chain(add.bind(1), expand(fail.bind()), on_failure=echo.bind()).run_later()
    drain()
    found = shapes.pipeline(pipeline(handle.id))
    schema = shapes.schema()
    assert problems(found, schema["$defs"]["Pipeline"], schema) == []
    assert found["id"] == str(handle.id)
    assert (found["state"], found["progress"]) == ("failed", {"done": 2, "total": 2})
    assert [step["state"] for step in found["steps"]] == ["succeeded", "failed", "succeeded"]
    assert [step["on_failure"] for step in found["steps"]] == [False, False, True]
    assert found["counts"] == {"failed": 1, "succeeded": 1}
