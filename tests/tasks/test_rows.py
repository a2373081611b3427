"""What a row of a task may make a consumer do, and what becomes of one whose task is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from djjp import get_job
from djjp.jobs import registry
from djjp.models import Job, State
from tests.project.shop import jobs
from tests.support.consumers import drain
from tests.support.processes import Processes
from tests.support.tasks_env import FAILED, READY, SUCCESSFUL, ran, tasks
from tests.tasks.errands import elsewhere
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.tasks.settings"}


def renamed(name: str) -> Any:
    """A row of a task under another name, as whoever can write to the queue could make one."""
    result = errands.noop.enqueue()
    Job.objects.filter(pk=result.id).update(name=name)
    return tasks.default_task_backend.get_result(result.id)


def consume(processes: Processes, trace: Path, **settings: str) -> str:
    """Run a consumer process until the queue is empty; returns which traced module it imported."""
    env = SETTINGS | {"DJJP_TEST_TRACE": str(trace)} | settings
    done = processes.run("start_consumer", "--drain", **env)
    assert done.returncode == 0, done.stderr
    return trace.read_text(encoding="utf-8") if trace.exists() else ""


def test_consumers_know_the_tasks_of_every_app(processes: Processes, tmp_path: Path) -> None:
    results = [errands.echo.enqueue(1), errands.aecho.enqueue(k=2), errands.own_id.enqueue()]
    assert consume(processes, tmp_path / "trace") == ""
    for result in results:
        result.refresh()
    assert [r.return_value for r in results] == [[[1], {}], [[], {"k": 2}], results[2].id]


def test_a_task_outside_of_tasks_py_is_found_by_its_row(
    processes: Processes, tmp_path: Path
) -> None:
    result = elsewhere.found.enqueue()
    assert consume(processes, tmp_path / "trace") == elsewhere.__name__
    result.refresh()
    assert result.return_value == "found"


def test_tasks_of_no_app_are_known_where_options_name_their_module(
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
    "tests.tasks.errands.elsewhere.gone": ("AttributeError", "no task 'gone'"),
    "tests.tasks.errands.elsewhere.plain": ("AttributeError", "no task 'plain'"),
    "tests.tasks.errands.elsewhere.moved": ("AttributeError", "no task 'moved'"),
    "tests.tasks.trap.sprung": ("ModuleNotFoundError", "'tests.tasks.trap'"),
    "tests.tasks.errands...trap.sprung": ("ModuleNotFoundError", "trap"),
    "tests.tasks.errands./etc/x.run": ("ModuleNotFoundError", "/etc/x"),
    "os.system": ("AttributeError", "os has no task 'system'"),
    "antigravity.fly": ("ModuleNotFoundError", "'antigravity'"),
    "builtins.exec": ("AttributeError", "no task 'exec'"),
}


def test_a_row_makes_nothing_run_but_a_task(processes: Processes, tmp_path: Path) -> None:
    """Each fails alone and says why, and nothing is imported for what is no task."""
    bad = {name: renamed(name) for name in NO_TASKS}
    good = errands.echo.enqueue("fine")
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


def test_a_task_that_is_gone_can_be_looked_up_and_run_once_it_is_back() -> None:
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


def test_a_job_that_nobody_knows_is_left_to_others_while_tasks_fail() -> None:
    job = jobs.add.run_later(1)
    Job.objects.filter(pk=job.id).update(name="shop.jobs.unheard_of")
    task = renamed("shop.jobs.unheard_of")
    drain()
    job.refresh()
    task.refresh()
    assert (job.state, job.attempts, task.status) == (State.READY, 0, FAILED)


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
    registry.knows(errands.add.enqueue(0).task.module_path)
    drain()
    assert job.join(0) == 3


def test_a_row_of_a_task_that_became_a_job_says_so() -> None:
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
def test_a_damaged_mark_keeps_no_task_from_running(arguments: str) -> None:
    result = errands.noop.enqueue()
    Job.objects.update(arguments=arguments)
    drain()
    assert Job.objects.get(pk=result.id).state == State.SUCCEEDED


@pytest.mark.parametrize(
    "arguments", ['{"task":', '{"task":{},"args":3,"kwargs":{}}', '{"task":{},"args":[]']
)
def test_damaged_arguments_fail_alone(arguments: str) -> None:
    Job.objects.filter(pk=errands.noop.enqueue().id).update(arguments=arguments)
    good = errands.noop.enqueue()
    assert ran(good).status == SUCCESSFUL
    assert Job.objects.filter(state=State.FAILED).count() == 1


def test_a_task_of_another_backend_runs_where_it_was_enqueued(
    processes: Processes, tmp_path: Path
) -> None:
    """Its definition registered it with no backend of djjp; its row names one that did."""
    result = errands.for_another.using(backend="default").enqueue()
    consume(processes, tmp_path / "trace", DJANGO_SETTINGS_MODULE="tests.tasks.settings_two")
    result.refresh()
    assert result.return_value == "ran"
