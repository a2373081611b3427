"""`djjp enqueue` takes a call as JSON, with its options, and refuses what the job would refuse."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.test import override_settings

from djjp.engine import Engine
from djjp.models import Job
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add, echo
from tests.support.consumers import drain


def test_a_call_is_enqueued_with_its_arguments_and_options(engine: Engine, djjp: Djjp) -> None:
    ran = djjp(
        *("enqueue", add.name, "--args", "[1]", "--kwargs", '{"b": 2}', "--queue", "mail"),
        *("--priority", "7", "--unique-key", "k", "--tag", "a", "--tag", "b c", "--json"),
    )
    document = ran.document("WholeJob")
    job = Job.objects.get()
    assert document["id"] == str(job.pk)
    assert (document["args"], document["kwargs"]) == ([1], {"b": 2})
    assert (job.queue, job.priority, job.unique_key, job.tags) == ("mail", 7, "k", ["a", "b c"])
    assert drain().executed == 1


def test_a_unique_key_that_is_held_gives_its_holder(engine: Engine, djjp: Djjp) -> None:
    first, second = (
        djjp("enqueue", add.name, "--args", "[1]", "--unique-key", "k").out for _ in range(2)
    )
    assert first == second
    assert Job.objects.count() == 1


def test_values_that_json_lacks_are_written_as_the_codec_writes_them(
    engine: Engine, djjp: Djjp
) -> None:
    value = '{"$djjp": "decimal", "value": "9.90"}'
    document = djjp("enqueue", echo.name, "--args", f"[{value}]", "--json").document("WholeJob")
    assert document["args"] == [{"$djjp": "decimal", "value": "9.90"}]
    drain()
    assert djjp("show", document["id"], "--json").document("WholeJob")["result"] == [
        [{"$djjp": "decimal", "value": "9.90"}],
        {},
    ]
    assert echo.bind(Decimal("9.90")).arguments == Job.objects.get().arguments


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("2h", 7200), ("45", 45)])
def test_a_start_can_be_given_from_now(
    engine: Engine, djjp: Djjp, given: str, seconds: float
) -> None:
    before = time.time()
    assert djjp("enqueue", add.name, "--args", "[1]", "--run-after", given).out.endswith(
        " is scheduled\n"
    )
    run_after = Job.objects.get().run_after
    assert run_after is not None
    assert before + seconds <= run_after.timestamp() <= time.time() + seconds


def test_a_start_can_be_a_time(engine: Engine, djjp: Djjp) -> None:
    djjp("enqueue", add.name, "--args", "[1]", "--run-after", "2100-01-31T12:00:00+00:00")
    assert Job.objects.get().run_after == datetime(2100, 1, 31, 12, tzinfo=UTC)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("options", "slug"),
    [
        (["--args", "1"], "usage"),
        (["--args", "{"], "usage"),
        (["--kwargs", "[]"], "usage"),
        (["--run-after", "soon"], "usage"),
        (["--args", "[]"], "invalid-job"),
        (["--args", "[1]", "--kwargs", '{"c": 2}'], "invalid-job"),
        (["--args", "[1]", "--priority", "99999"], "invalid-job"),
        (["--args", "[1]", "--queue", ""], "invalid-job"),
        (["--args", '[{"$djjp": "nothing"}]'], "invalid-job"),
        (["--args", f'["{"x" * 200}"]'], "payload-too-large"),
    ],
)
def test_a_wrong_call_is_refused_and_enqueues_nothing(
    engine: Engine, djjp: Djjp, options: list[str], slug: str
) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "max_payload": 150}):
        ran = djjp("enqueue", add.name, *options, "--json")
    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == slug
    assert not Job.objects.exists()


@pytest.mark.one_database
def test_an_unknown_job_gives_3_and_the_closest_name(djjp: Djjp) -> None:
    ran = djjp("enqueue", "tests.project.shop.jobs.ad", "--json")
    assert ran.code == 3
    error = ran.document("Failure")["error"]
    assert error["slug"] == "not-registered"
    assert f"did you mean {add.name!r}?" in error["detail"]
