"""How tasks run: by the backend's OPTIONS and by `@task_options`, as jobs run by those of `@job`."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from djjp import Limit
from djjp.backend import as_job, task_options
from djjp.exceptions import JobNameTaken
from djjp.jobs import job
from djjp.models import Job, OnCrash
from djjp.tasks.compat import InvalidTask
from tests.support.tasks_env import DJJP, FAILED, ran, tasks
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")


def with_options(**options: Any) -> override_settings:
    return override_settings(TASKS={"default": {"BACKEND": DJJP, "OPTIONS": options}})


def above(number: int) -> int:
    return number


def below(number: int) -> int:
    return number


def plain(number: int) -> int:
    return number


def keyed(number: int) -> int:
    return number


def unkeyed(number: int) -> int:
    return number


def test_options_can_decorate_the_task_or_its_function() -> None:
    one = task_options(max_attempts=4, timeout=5)(tasks.task(above))
    other = tasks.task(task_options(max_attempts=4, timeout=5)(below))
    for task in (one, other, one.using(priority=3)):
        options = as_job(task).options
        assert (options.max_attempts, options.timeout) == (4, 5)
    assert type(one) is type(other)


def test_keys_of_a_task_are_formatted_with_its_arguments() -> None:
    options = {"unique_key": "unique-{number}", "limit": Limit("limit-{number}", 2)}
    task = task_options(**options, expires_after=60)(tasks.task(keyed))
    first, same, other = task.enqueue(1), task.enqueue(number=1), task.enqueue(2)
    assert first.id == same.id != other.id
    keys = Job.objects.order_by("pk").values_list("unique_key", "limit_key", "limit_max")
    assert list(keys) == [("unique-1", "limit-1", 2), ("unique-2", "limit-2", 2)]
    assert (ran(other).return_value, ran(first).return_value) == (2, 1)
    with pytest.raises(InvalidTask, match="names 'order', which is no parameter"):
        task_options(unique_key="{order}")(tasks.task(unkeyed))


def test_options_of_the_backend_are_the_defaults_of_its_tasks() -> None:
    with with_options(max_attempts=2, backoff=0, on_crash="fail"):
        assert as_job(errands.flaky).options.max_attempts == 3  # its own
        assert as_job(errands.flaky).options.on_crash == "fail"
        result = ran(errands.fail.enqueue("broken"))
        assert Job.objects.get().on_crash == OnCrash.FAIL
    assert (result.status, result.attempts, len(result.errors)) == (FAILED, 2, 2)
    assert as_job(errands.fail).options.max_attempts is None


def test_using_keeps_the_options() -> None:
    result = ran(errands.flaky.using(queue_name="mail", priority=5).enqueue(3))
    assert result.attempts == 3


def test_a_task_is_stopped_at_its_timeout() -> None:
    result = ran(errands.slow.enqueue(60.0))
    assert result.status == FAILED
    assert "timeout of 0.2 s" in result.errors[0].traceback


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_atempts": 3}, "max_atempts"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"call": {"timeout": 1}}, "call"),
        ({"queue": "mail"}, "queue: an option of @task or of its using()"),
        ({"name": "x", "priority": 1}, "name, priority: an option of @task"),
        ({"cron": "* * * * *", "tz": "UTC"}, "cron, tz: a task has no schedule in the code"),
    ],
    ids=["misspelt", "out of range", "internal", "the queue", "the name", "a schedule"],
)
def test_a_wrong_option_raises_at_the_decorator(options: dict[str, Any], complaint: str) -> None:
    def fresh() -> None: ...

    fresh.__qualname__ = "fresh"
    with pytest.raises(InvalidTask, match=complaint):
        tasks.task(task_options(**options)(fresh))
    with with_options(**options):
        (error,) = tasks.task_backends["default"].check()
        with pytest.raises(InvalidTask, match=complaint):
            errands.noop.enqueue()
    assert error.id == "djjp.E031"
    assert complaint in error.msg
    assert not Job.objects.exists()


def test_right_options_pass_the_check() -> None:
    with with_options(max_attempts=3, timeout=30, modules=["tests.tasks.errands.elsewhere"]):
        assert tasks.task_backends["default"].check() == []


def test_a_function_is_a_job_or_a_task() -> None:
    job(plain)
    with pytest.raises(JobNameTaken, match="plain' is a job and a task"):
        tasks.task(plain)
    as_job(errands.noop)
    with pytest.raises(JobNameTaken, match="noop' is a job and a task"):
        job(errands.noop.func)


def test_arguments_are_checked_against_the_signature_of_a_decorated_function() -> None:
    """The decorator may add arguments: the signature of its wrapper counts."""
    result = errands.with_a_gift.enqueue(2)
    assert ran(result).return_value == ["gift", 2]
