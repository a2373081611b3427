"""Tasks of the framework as steps of pipelines, beside jobs."""

from __future__ import annotations

import pytest

from djjp import chain, group
from djjp.backend import as_job
from djjp.models import Job
from tests.project.shop import jobs
from tests.support.consumers import drain
from tests.support.tasks_env import SUCCESSFUL, tasks
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")


def test_tasks_and_jobs_pass_their_results_on() -> None:
    add, own = as_job(errands.add), as_job(errands.own_id)
    handle = chain(
        add.bind(1),
        group(add.bind(10), jobs.add.bind(100), own.bind_alone()),
        as_job(errands.echo).bind("end"),
    ).run_later()
    drain()
    [received, word], _ = handle.join(0)
    assert (received[:2], word) == ([11, 101], "end")
    assert received[2] == str(handle.steps[3].id)
    result = tasks.default_task_backend.get_result(str(handle.steps[1].id))
    assert (result.status, result.return_value) == (SUCCESSFUL, 11)


def test_a_call_that_does_not_fit_a_task_is_refused() -> None:
    add = as_job(errands.add)
    with pytest.raises(TypeError):
        chain(add.bind(1), add.bind(1, 2))
    with pytest.raises(TypeError):
        add.bind().run_later()
    assert not Job.objects.exists()
