"""A new job as text: exact, and read by older and newer code."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from djjp.engine import NewJob
from djjp.models import OnCrash, State
from djjp.outbox import serialization
from tests.project.shop.jobs import echo
from tests.support.factories import new_job


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"state": State.SCHEDULED, "run_after": 1_800_000_000.123456, "priority": -5},
        {"name": "shop.Ünïcode", "queue": "\N{SNOWMAN}", "on_crash": OnCrash.FAIL},
        {"arguments": echo.bind("\x00", {"$djjp": 1}, timedelta.max, 2**80).arguments},
    ],
)
def test_a_job_comes_back_as_it_was(given: dict[str, object]) -> None:
    job = new_job(**given)
    back = serialization.from_text(serialization.to_text(job))
    assert back == job
    assert [type(value) for value in back] == [type(value) for value in job]


def test_a_field_that_an_older_text_lacks_has_its_default() -> None:
    given = json.loads(serialization.to_text(new_job()))
    for name in NewJob._field_defaults:
        given.pop(name, None)
    back = serialization.from_text(json.dumps(given))
    assert {name: getattr(back, name) for name in NewJob._field_defaults} == NewJob._field_defaults


def test_an_unknown_field_of_a_newer_text_is_ignored() -> None:
    job = new_job()
    given = json.loads(serialization.to_text(job)) | {"invented_later": [1]}
    assert serialization.from_text(json.dumps(given)) == job


@pytest.mark.parametrize("text", ["", "no JSON", "{}", "[]", "7", '{"id": 3}', '{"id": "x"}'])
def test_a_text_that_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        serialization.from_text(text)
