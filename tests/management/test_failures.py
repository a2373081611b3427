"""`djjp failures` groups failed attempts, and names the command that retries a group."""

from __future__ import annotations

import shlex

from djjp import run_many
from djjp.engine import Engine
from djjp.models import Job
from tests.management.conftest import Djjp
from tests.project.shop.jobs import fail, require
from tests.support.consumers import drain


def test_failures_are_grouped_by_job_exception_and_frame(engine: Engine, djjp: Djjp) -> None:
    run_many(fail.using(queue="mail").bind(f"no {n}") for n in range(3))
    run_many([require.bind(1, 5)])
    drain()

    document = djjp("failures", "--json").document("Failures")
    first, second = document["failures"]
    assert (first["name"], first["exception_class"], first["count"]) == (
        *(fail.name, "builtins.ValueError"),
        3,
    )
    assert first["frame"]["function"] == "fail"
    assert sum(first["counts"]) == 3
    assert second["frame"]["function"] == "require"
    assert document["looked_back_to"] is None

    shown = djjp("failures").out
    assert f"3 times: {fail.name}: builtins.ValueError\n" in shown
    assert "in fail" in shown
    (only,) = djjp("failures", "--queue", "default", "--json").document("Failures")["failures"]
    assert only["name"] == require.name


def test_the_command_that_retries_a_group_works_when_it_is_typed(
    engine: Engine, djjp: Djjp
) -> None:
    run_many(fail.bind(f"no {n}") for n in range(3))
    run_many([require.bind(1, 5)])
    drain()
    first = next(line for line in djjp("failures").lines if "retry them: " in line)
    words = shlex.split(first.partition("manage.py djjp ")[2])
    assert djjp(*words, "--yes").out == "3 jobs retried\n"
    assert set(Job.objects.filter(state="ready").values_list("name", flat=True)) == {fail.name}


def test_no_failures_and_a_filter_without_any(engine: Engine, djjp: Djjp) -> None:
    assert djjp("failures").out == "no failures\n"
    ran = djjp("failures", "--queue", "mail", "--json")
    assert ran.code == 4
    assert ran.document("Failures")["failures"] == []
