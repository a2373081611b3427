"""A filter that no job matches: unknown words are named, with the closest known ones, where this is certain."""

from __future__ import annotations

import json
import time

import pytest

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Attempt, Job, Queue, Span, State, Total
from djjp.monitoring import Filter, jobs, search
from djjp.monitoring.known import known_words, nothing_matches
from tests.support.factories import consumer_row, new_job


@pytest.fixture
def words(engine: Engine) -> None:
    now = to_datetime(time.time())
    consumer_row("one", queues=json.dumps(["served", "wild-*"]), names=json.dumps(["other.known"]))
    Queue.objects.create(name="paused", paused_at=now)
    Total.objects.create(span=Span.EVER, starts_at=0, queue="ended", name="old.report")
    new = new_job(queue="ready-one")
    engine.jobs.enqueue(new)
    Attempt.objects.create(
        job=Job.objects.get(pk=new.id),
        number=1,
        started_at=now,
        finished_at=now,
        exception_class="shop.errors.Declined",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "there are no jobs"),
        ("state:failed", "no job matches state:failed"),
        ("queue:pausd", "no queue 'pausd' is known, the closest is 'paused'"),
        ("queue:serve", "no queue 'serve' is known, the closest is 'served'"),
        ("queue:endet", "no queue 'endet' is known, the closest is 'ended'"),
        ("queue:ready-on", "no queue 'ready-on' is known, the closest is 'ready-one'"),
        ("queue:xyz", "no queue 'xyz' is known"),
        ("name:shop.mial", "no job named 'shop.mial' is known, the closest is 'shop.mail'"),
        ("name:other.know", "no job named 'other.know' is known, the closest is 'other.known'"),
        ("name:old.reports", "no job named 'old.reports' is known, the closest is 'old.report'"),
        ("exception:Declind", "no exception 'Declind' is known, the closest is 'Declined'"),
    ],
)
def test_an_unknown_word_is_named_with_the_closest_known_one(
    words: None, text: str, expected: str
) -> None:
    found = nothing_matches(Filter.parse(text))
    assert (
        found == expected if "is known" not in expected else found.endswith(f"{text}; {expected}")
    )


@pytest.mark.parametrize(
    "text", ["queue:paused", "name:shop.mial*", "name:shop.mail", "exception:shop.errors.Declined"]
)
def test_a_known_word_and_a_pattern_are_not_called_unknown(words: None, text: str) -> None:
    assert nothing_matches(Filter.parse(text)) == f"no job matches {text}"


def test_a_word_that_a_job_has_is_known(engine: Engine) -> None:
    later = time.time() + 60
    engine.jobs.enqueue(new_job(queue="mine", run_after=later, state=State.SCHEDULED))
    assert nothing_matches(Filter.parse("queue:mine state:failed")).endswith(
        "state:failed queue:mine"
    )


def test_a_word_is_not_called_unknown_by_a_search_that_ended_before(
    words: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (jobs, search):
        monkeypatch.setattr(module, "SECONDS", -1.0)
    assert nothing_matches(Filter.parse("queue:xyz")) == "no job matches queue:xyz"


def test_known_words_are_offered_in_order_and_up_to_a_number(engine: Engine, words: None) -> None:
    offered = known_words("queue")
    assert offered == sorted(offered)
    assert {"served", "paused", "ended", "ready-one"} <= {*offered}
    assert not {each for each in offered if "*" in each}
    assert known_words("queue", most=2) == offered[:2]
    assert {"other.known", "old.report", "shop.echo"} <= {*known_words("name")}
    assert known_words("exception") == ["Declined", "shop.errors.Declined"]
