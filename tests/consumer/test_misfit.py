"""A call that no longer fits its function fails with the release of the code that enqueued it."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from djjp import chain, job, run_many
from djjp.engine import Engine
from djjp.models import Job
from tests.project.shop.jobs import add, anap
from tests.support.consumers import drain


@job(name="misfit.raises")
def raises(a: int) -> None:
    raise TypeError("its own")


def release(name: str) -> Any:
    return override_settings(DJJP={**settings.DJJP, "release": name})


@pytest.mark.parametrize("task", [add, anap])
def test_the_error_names_both_releases(engine: Engine, task: Any) -> None:
    with release("2026.11"):
        one, (many,) = task.run_later(1), run_many([task.bind(1)])
        step = chain(add.bind(1), task.bind()).run_later().steps[1]
    for row in Job.objects.filter(name=task.name):
        text = row.arguments.replace('"kwargs":{}', '"kwargs":{"gone":1}')
        Job.objects.filter(pk=row.pk).update(arguments=text)
    with release("2026.12"):
        drain()
    for handle in (one, many) if task is add else (one, many, step):
        (error,) = handle.errors
        assert error.exception_class == "builtins.TypeError"
        assert (
            "unexpected keyword argument 'gone'; other code, of release '2026.11', enq"
            in error.message
        )
        assert error.message.endswith("of the code here, which is of release '2026.12'")


def test_without_a_release_nothing_is_stored_and_the_error_gives_the_time(engine: Engine) -> None:
    handle = add.run_later(1)
    Job.objects.update(arguments='{"args":[],"kwargs":{}}')
    drain()
    (error,) = handle.errors
    assert (
        "other code, whose DJJP['release'] was not set, enqueued this call at 20" in error.message
    )
    assert add.bind(1).to_row().arguments == add.bind(1).arguments


def test_an_error_of_the_function_itself_stays_as_it_is(engine: Engine) -> None:
    with release("1"):
        handle = raises.run_later(1)
        assert add.run_later(1).name == add.name
    drain()
    assert [error.message for error in handle.errors] == ["its own"]
