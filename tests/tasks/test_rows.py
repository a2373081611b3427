"""A task's row makes a consumer run registered tasks only; the rows of removed tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from djjp import get_job
from djjp.exceptions import PayloadTooLarge
from djjp.jobs import registry
from djjp.models import Job, State
from djjp.tasks.compat import AnyResult
from tests.project.shop import jobs
from tests.support.consumers import drain
from tests.support.processes import Processes
from tests.support.tasks_env import FAILED, READY, SUCCESSFUL, ran, tasks
from tests.tasks.errands import elsewhere
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.tasks.settings"}


def renamed(name: str) -> Any:
    """Return the result of a task whose row has another name, as anybody with access could write it."""
    result = errands.noop.enqueue()
    Job.objects.filter(pk=result.id).update(name=name)
    return tasks.default_task_backend.get_result(result.id)


def consume(processes: Processes, trace: Path, **settings: str) -> str:
    """Run a consumer process until the queue is empty; returns which traced module it imported."""
    env = SETTINGS | {"DJJP_TEST_TRACE": str(trace)} | settings
    done = processes.run("start_consumer", "--drain", **env)
    assert done.returncode == 0, done.stderr
    return trace.read_text(encoding="utf-8") if trace.exists() else ""


def test_consumers_find_the_tasks_of_each_app(processes: Processes, tmp_path: Path) -> None:
    results: list[AnyResult] = [
        errands.echo.enqueue(1),
        errands.aecho.enqueue(k=2),
        errands.own_id.enqueue(),
    ]
    assert consume(processes, tmp_path / "trace") == ""
    for result in results:
        result.refresh()
    assert [r.return_value for r in results] == [[[1], {}], [[], {"k": 2}], results[2].id]


@pytest.mark.sqlite_only
def test_a_task_outside_of_tasks_py_is_found_by_its_row(
    processes: Processes, tmp_path: Path
) -> None:
    result = elsewhere.found.enqueue()
    assert consume(processes, tmp_path / "trace") == elsewhere.__name__
    result.refresh()
    assert result.return_value == "found"


@pytest.mark.sqlite_only
def test_a_task_that_is_no_decorated_function_is_found_by_its_row(
    processes: Processes, tmp_path: Path
) -> None:
    result: AnyResult = elsewhere.doubled.enqueue(4)
    assert consume(processes, tmp_path / "trace") == elsewhere.__name__
    result.refresh()
    assert result.return_value == 8


@pytest.mark.sqlite_only
def test_a_module_of_an_app_is_imported_and_what_is_no_task_does_not_run(
    processes: Processes, tmp_path: Path
) -> None:
    names = [f"{elsewhere.__name__}.{name}" for name in ("gone", "plain", "moved", "os.getcwd")]
    bad = [renamed(name) for name in names]
    consume(processes, tmp_path / "trace", DJJP_TEST_LOG="CRITICAL")

    for result in bad:
        result.refresh()
        assert result.status == FAILED
        assert result.attempts == 1


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_tasks_outside_of_apps_are_found_if_the_options_name_their_module(
    processes: Processes, tmp_path: Path
) -> None:
    from tests.tasks import trap

    first, second = trap.sprung.enqueue(), trap.sprung.enqueue()
    Job.objects.filter(pk=second.id).update(queue="other")
    assert consume(processes, tmp_path / "none", DJJP_TEST_LOG="CRITICAL") == ""
    first.refresh()
    assert first.status == FAILED
    assert "OPTIONS['modules']" in first.errors[0].traceback

    get_job(first.id).retry()
    get_job(second.id).retry()
    modules = {"DJANGO_SETTINGS_MODULE": "tests.tasks.settings_modules"}
    assert consume(processes, tmp_path / "trace", **modules) == trap.__name__
    first.refresh()
    assert first.return_value == "sprung"


#: What a row could name, and why it does not run.
NO_TASKS = {
    "tests.tasks.errands.gone.send": ("ModuleNotFoundError", "'tests.tasks.errands.gone'"),
    "tests.tasks.errands.tasks.gone": ("AttributeError", "no task 'gone'"),
    "tests.tasks.errands.tasks.time.sleep": ("ModuleNotFoundError", "errands.tasks.time"),
    "tests.tasks.errands.tasks.gift": ("AttributeError", "no task 'gift'"),
    "tests.tasks.errands.__main__.run": ("ModuleNotFoundError", "errands.__main__"),
    "tests.tasks.errandsx.send": ("ModuleNotFoundError", "'tests.tasks.errandsx'"),
    "tests.tasks.trap.sprung": ("ModuleNotFoundError", "'tests.tasks.trap'"),
    "tests.tasks.errands...trap.sprung": ("ModuleNotFoundError", "trap"),
    "tests.tasks.errands./etc/x.run": ("ModuleNotFoundError", "/etc/x"),
    "os.system": ("AttributeError", "os has no task 'system'"),
    "antigravity.fly": ("ModuleNotFoundError", "'antigravity'"),
    "builtins.exec": ("AttributeError", "no task 'exec'"),
}


@pytest.mark.sqlite_only
def test_a_row_can_run_tasks_only(processes: Processes, tmp_path: Path) -> None:
    """Each other row fails alone, with the reason, and nothing is imported for it."""
    bad = {name: renamed(name) for name in NO_TASKS}
    good: AnyResult = errands.echo.enqueue("fine")
    assert consume(processes, tmp_path / "trace", DJJP_TEST_LOG="CRITICAL") == ""

    for name, (kind, reason) in NO_TASKS.items():
        bad[name].refresh()
        assert bad[name].status == FAILED
        assert bad[name].task.module_path == name
        assert bad[name].attempts == 1
        (error,) = bad[name].errors
        assert error.exception_class_path == f"builtins.{kind}"
        assert reason in error.traceback
    good.refresh()
    assert good.return_value == [["fine"], {}]


def test_a_removed_task_can_be_looked_up_and_runs_after_its_return() -> None:
    result = renamed("tests.project.shop.tasks.lost")
    assert result.status == READY
    assert ran(result).status == FAILED
    assert result.task.name == "lost"
    with pytest.raises(ModuleNotFoundError):
        result.task.call()

    get_job(result.id).retry()
    Job.objects.filter(pk=result.id).update(name=errands.noop.module_path)
    assert ran(result).status == SUCCESSFUL
    assert len(result.errors) == 1


def test_an_unregistered_job_stays_for_other_consumers_while_tasks_fail() -> None:
    job = jobs.add.run_later(1)
    Job.objects.filter(pk=job.id).update(name="shop.jobs.unheard_of")
    task = renamed("shop.jobs.unheard_of")
    drain()
    job.refresh()
    task.refresh()
    assert (job.state, job.attempts, task.status) == (State.READY, 0, FAILED)


@pytest.mark.sqlite_only
def test_a_consumer_without_the_backend_leaves_tasks_to_others(
    processes: Processes, tmp_path: Path
) -> None:
    result = errands.noop.enqueue()
    consume(processes, tmp_path / "trace", DJANGO_SETTINGS_MODULE="tests.project.settings")
    result.refresh()
    assert (result.status, result.attempts) == (READY, 0)


def test_a_row_of_a_job_that_became_a_task_runs() -> None:
    job = jobs.add.run_later(1, b=2)
    Job.objects.filter(pk=job.id).update(name=errands.add.module_path)
    registry.can_run(errands.add.enqueue(0).task.module_path)
    drain()
    assert job.join(0) == 3


def test_a_row_of_a_task_that_became_a_job_fails_with_the_reason() -> None:
    result = ran(renamed(jobs.add.name))
    assert result.status == FAILED
    assert "is a job now, and no task" in result.errors[0].traceback


@pytest.mark.parametrize(
    "arguments",
    [
        '{"task":3,"args":[],"kwargs":{}}',
        '{"task":{"backend":"unheard of","colour":1},"args":[],"kwargs":{}}',
        '{"task":{"backend":["default"]},"args":[],"kwargs":{}}',
        '{"task":{"run_after":"soon"},"args":[],"kwargs":{}}',
    ],
)
def test_a_task_with_a_damaged_mark_runs(arguments: str) -> None:
    result = errands.noop.enqueue()
    Job.objects.update(arguments=arguments)
    drain()
    assert Job.objects.get(pk=result.id).state == State.SUCCEEDED


@pytest.mark.parametrize(
    "arguments", ['{"task":', '{"task":{},"args":3,"kwargs":{}}', '{"task":{},"args":[]']
)
def test_damaged_arguments_fail_only_their_own_task(arguments: str) -> None:
    Job.objects.filter(pk=errands.noop.enqueue().id).update(arguments=arguments)
    good = errands.noop.enqueue()
    assert ran(good).status == SUCCESSFUL
    assert Job.objects.filter(state=State.FAILED).count() == 1


@pytest.mark.sqlite_only
def test_a_task_of_another_backend_runs_where_it_was_enqueued(
    processes: Processes, tmp_path: Path
) -> None:
    """Its definition names a backend that is not djjp's; its row names one that is."""
    result = errands.for_another.using(backend="default").enqueue()
    consume(processes, tmp_path / "trace", DJANGO_SETTINGS_MODULE="tests.tasks.settings_two")
    result.refresh()
    assert result.return_value == "ran"


def test_arguments_and_results_of_a_task_are_bounded() -> None:
    with override_settings(DJJP=settings.DJJP | {"max_payload": 1000}):
        with pytest.raises(PayloadTooLarge, match="DJJP"):
            errands.echo.enqueue("x" * 1000)
        result: AnyResult = errands.echo.enqueue("x" * 900)
        with override_settings(DJJP=settings.DJJP | {"max_payload": 900}):
            drain()
    result.refresh()
    assert result.status == FAILED
    assert result.errors[0].exception_class is PayloadTooLarge
