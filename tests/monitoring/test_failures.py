"""Failures: failed attempts in groups of one job, one exception and one place in the project's code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Attempt, Flag, Job
from djjp.monitoring import Filter, failures
from djjp.monitoring.frames import Frame, innermost
from djjp.testing import drain
from tests.support.factories import new_job

NOW = 0.0


@pytest.fixture(autouse=True)
def now() -> None:
    """Take the time anew for each test: spans back are from the present, and a whole run takes minutes."""
    global NOW
    NOW = time.time()


OWN = """Traceback (most recent call last):
  File "/srv/shop/jobs.py", line 12, in charge
    card.pay()
  File "/srv/shop/cards.py", line {line}, in pay
    client.post(url)
  File "/srv/venv/lib/python3.12/site-packages/client/api.py", line 7, in post
    raise Refused
shop.Refused: no
"""
PAY = Frame("/srv/shop/cards.py", 40, "pay")


def fail(
    engine: Engine,
    name: str = "shop.charge",
    kind: str = "shop.Refused",
    *,
    ago: Sequence[float] = (10.0,),
    text: str = OWN.format(line=40),
    consumer: str = "one",
    **job: Any,
) -> Job:
    """Write a job with a failed attempt for each time."""
    new = new_job(name=name, **job)
    engine.jobs.enqueue(new)
    row = Job.objects.get(pk=new.id)
    for number, seconds in enumerate(ago, 1):
        at = to_datetime(NOW - seconds)
        Attempt.objects.create(
            job=row,
            number=number,
            consumer=consumer,
            started_at=at,
            finished_at=at,
            exception_class=kind,
            message=f"{name} {number}",
            traceback=text,
        )
    return row


def test_attempts_are_grouped_by_job_exception_and_frame(engine: Engine) -> None:
    fail(engine, ago=[300.0, 200.0])
    last = fail(engine, ago=[100.0])
    fail(engine, "shop.refund", ago=[50.0])
    fail(engine, kind="builtins.KeyError", ago=[40.0])
    fail(engine, text=OWN.format(line=41), ago=[30.0])
    fail(engine, text="", ago=[20.0])
    found = failures(Filter())
    first = found.groups[0]
    assert (first.name, first.exception_class, first.frame) == ("shop.charge", "shop.Refused", PAY)
    assert (first.count, first.example, first.message) == (3, last.pk, "shop.charge 1")
    assert (first.oldest, first.newest) == (to_datetime(NOW - 300), to_datetime(NOW - 100))
    assert [(group.count, group.frame and group.frame.line) for group in found.groups[1:]] == [
        (1, None),
        (1, 41),
        (1, 40),
        (1, 40),
    ]
    assert found.looked_back_to is None
    assert found.since == to_datetime(NOW - 300)


def test_attempts_are_counted_in_equal_parts_of_the_time(engine: Engine) -> None:
    fail(engine, ago=[86_000.0, 40_000.0, 39_999.0, 1.0])
    (group,) = failures(Filter.parse("since:24h")).groups
    assert len(group.counts) == 24
    assert {hour: n for hour, n in enumerate(group.counts) if n} == {0: 1, 12: 2, 23: 1}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["a", "b", "c", "d"]),
        ("name:a", ["a"]),
        ("queue:other", ["b"]),
        ("exception:KeyError", ["c"]),
        ("exception:builtins.KeyError", ["c"]),
        ("consumer:two", ["d"]),
        ("since:1h", ["b", "c", "d"]),
        ("until:1h", ["a"]),
        ("since:1h until:5m", []),
        ("state:failed", []),
        ("attempts:0 queue:other", ["b"]),
    ],
)
def test_a_filter_takes_the_attempts_of_its_jobs(
    engine: Engine, text: str, names: list[str]
) -> None:
    fail(engine, "a", ago=[7_200.0])
    fail(engine, "b", queue="other")
    fail(engine, "c", kind="builtins.KeyError")
    fail(engine, "d", consumer="two")
    fail(engine, "unlisted", flags=Flag.UNLISTED)
    assert sorted(group.name for group in failures(Filter.parse(text)).groups) == names


def test_the_search_ends_with_its_time_and_names_the_time_that_it_has_reached(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(engine, ago=[float(seconds) for seconds in range(300, 0, -1)])
    module = import_module(
        "djjp.monitoring.failures"
    )  # the package has the function under this name
    monkeypatch.setattr(module, "SECONDS", -1.0)
    found = failures(Filter())
    assert found.groups[0].count == 100
    assert found.looked_back_to == found.since == to_datetime(NOW - 100)
    monkeypatch.setattr(module, "SECONDS", 60.0)
    monkeypatch.setattr(module, "MOST", 250)
    found = failures(Filter())
    assert (found.groups[0].count, found.looked_back_to) == (250, to_datetime(NOW - 250))


def test_the_largest_groups_come_first_up_to_a_number(engine: Engine) -> None:
    for number in range(1, 4):
        fail(engine, f"job{number}", ago=[1.0] * number)
    assert [group.name for group in failures(Filter(), limit=2).groups] == ["job3", "job2"]


def test_without_failures_there_are_no_groups(engine: Engine) -> None:
    found = failures(Filter())
    assert (found.groups, found.looked_back_to) == ([], None)
    assert found.since == found.until


def test_a_failure_of_a_real_job_has_the_frame_of_its_function(engine: Engine) -> None:
    from tests.project.shop.jobs import fail as failing_job

    failing_job.run_later("broken")
    drain()
    (group,) = failures(Filter()).groups
    assert group.frame is not None
    assert (group.name, group.frame.function) == (failing_job.name, "fail")
    assert group.frame.file.endswith("shop/jobs.py")


# Frames


def lines(*files: str) -> str:
    return "".join(f'  File "{file}", line 3, in f{at}\n    x()\n' for at, file in enumerate(files))


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("", None),
        ("Traceback (most recent call last):\nKeyError: 1\n", None),
        (lines("/srv/a.py", "/srv/b.py"), "f1"),
        (lines("/srv/a.py", "/v/lib/python3.12/site-packages/x.py"), "f0"),
        (lines("/srv/a.py", "/usr/lib/python3/dist-packages/x.py"), "f0"),
        (lines("/srv/a.py", "/usr/lib/python3.12/json/decoder.py"), "f0"),
        (lines("/srv/a.py", "<frozen importlib._bootstrap>"), "f0"),
        (lines("/srv/a.py", "<string>"), "f0"),
        (lines("C:\\shop\\a.py", "C:\\venv\\Lib\\site-packages\\x.py"), "f0"),
        # Only packages: the project can be one of them.
        (lines("/v/site-packages/shop/a.py", "/usr/lib/python3.12/json/x.py"), "f0"),
        (lines("/v/site-packages/shop/a.py", "/v/site-packages/djjp/jobs/x.py"), "f0"),
        (lines("/usr/lib/python3.12/json/x.py"), None),
        # The frames of the last exception come last.
        (lines("/srv/a.py") + "KeyError\n\nDuring handling …:\n\n" + lines("/srv/b.py"), "f0"),
        (
            '  + Exception Group Traceback (most recent call last):\n  |   File "/srv/a.py", line 3, in f\n',
            "f",
        ),
    ],
)
def test_the_innermost_frame_of_the_project_is_found(text: str, function: str | None) -> None:
    found = innermost(text)
    assert (found and found.function) == function


def test_a_frame_is_shown_with_its_place() -> None:
    assert str(PAY) == "/srv/shop/cards.py:40 in pay"
