"""The stack of a running job: its calls at this moment, or why there are none."""

from __future__ import annotations

import pytest
from django.test import Client

from djjp.admin import job_stack as module
from djjp.engine import Engine
from djjp.models import Job, State
from tests.monitoring.situations import ELSEWHERE, SITUATIONS, consumer
from tests.support.admin import JOBS, LogIn, make_job, text
from tests.support.consumers import consuming
from tests.support.processes import eventually
from tests.support.staying import let_end, stay

# The requests have tests on each database.
pytestmark = pytest.mark.one_database


def test_a_running_job_shows_its_calls_with_those_of_the_project_marked(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 30.0)
    handle = stay.run_later()
    shown: list[str] = []

    def is_shown() -> bool:
        shown.append(text(admin.get(f"{JOBS}{handle.id}/stack/")))
        return "_over.wait(120)" in shown[-1] and "in stay" in shown[-1]

    with consuming(1):
        eventually(lambda: Job.objects.get().state == State.RUNNING)
        eventually(is_shown)
        let_end()
    assert '<pre class="djjp-part-project">' in shown[-1]


@pytest.mark.parametrize("name", ["it has failed", "it is the next one", "it is in an outbox"])
def test_a_job_that_does_not_run_has_no_stack(engine: Engine, admin: Client, name: str) -> None:
    with SITUATIONS[name].begin(engine) as id:
        assert "The job does not run" in text(admin.get(f"{JOBS}{id}/stack/"))


def test_a_consumer_that_does_not_answer_or_is_gone_is_named(
    engine: Engine, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.1)
    job = make_job(State.RUNNING, consumer=ELSEWHERE)
    assert "there is no consumer" in text(admin.get(f"{JOBS}{job.pk}/stack/")).lower()
    consumer()
    shown = text(admin.get(f"{JOBS}{job.pk}/stack/"))
    assert "The consumer on elsewhere has not answered" in shown


def test_a_stack_needs_the_right_to_see_arguments(engine: Engine, log_in: LogIn) -> None:
    job = make_job(State.RUNNING)
    for rights in (("view", "operate"), ("view_arguments",)):
        assert log_in(*rights).get(f"{JOBS}{job.pk}/stack/").status_code == 403
    shown = text(log_in("view", "view_arguments").get(f"{JOBS}{job.pk}/stack/"))
    assert "Stack of" in shown
