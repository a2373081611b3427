"""Headline: one sentence about a job, whatever its state and whatever keeps it from running."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from djjp.durations import to_seconds
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.models import Attempt, Consumer, Flag, Job, State
from djjp.monitoring.explain import explain
from djjp.monitoring.headline import described, headline, host_of, most_attempts
from tests.monitoring.situations import SITUATIONS
from tests.project.shop.jobs import add, fail
from tests.support.admin import make_attempt, make_job

LIMIT = r"Waits: the only permit of its limit 'printer' is held, by situations\.limited [-0-9a-f]+"
RATE = r"Waits: its rate 'api', 1 start in 3600 s, lets it start at [-0-9]+ [0-9:]+"
CLOCK = r"([-0-9]{10} )?[0-9]{2}:[0-9]{2}"
OUTBOX = r"Waits: it is in the outbox of 'default' since .+, "
#: The sentence of each situation, as a pattern.
SENTENCES = {
    "the queue is paused": "Waits: queue mail is paused until somebody resumes it",
    "the queue is paused for a time": f"Waits: queue mail is paused until {CLOCK}",
    "no consumer is there": "Waits: no consumer is alive",
    "no consumer serves the queue": "Waits: none of the 1 living consumers serves queue mail",
    "the queue is excluded": "Waits: none of the 1 living consumers serves queue mail",
    "the consumer is dead": "Waits: no living consumer serves queue default: elsewhere:1:a .+",
    "the consumer is quiet": "Waits: the consumers that serve queue default are quiet: .+",
    "no consumer knows the name": "Waits: none of the 1 consumers .+ has a job named .+add",
    "the code of the job is gone": "Waits: none of the 1 consumers .+ has a job named shop.gone",
    "the limit is full": LIMIT,
    "the limit is full for a ready job": LIMIT,
    "the permits are held by a dead consumer": f"{LIMIT}; 1 of them belong to consumers that are dead.+",
    "the rate is used up": RATE,
    "the rate is used up for a ready job": RATE,
    "its time has not come": f"Waits: scheduled in 60 min, for {CLOCK}",
    "it waits for its next attempt": r"Will be retried in 60 min \(attempt 2 of 3\)",
    "the queue of its parent is paused": r"Waits for .+add \(blocked\): queue mail is paused until .+",
    "its parent runs": r"Waits for .+add \(running\)",
    "the limit of its parent is full": r"Waits for .+nap \(blocked\): the only permit .+",
    "others come before it": "Waits: 3 jobs come before it",
    "it is the next one": "Ready: it is the next one",
    "it is a suspect": "Waits: it is the next one, and suspects run one at a time: .+",
    "all slots are busy": "Waits: all 2 slots of elsewhere:1:a are taken, by 2 × .+nap",
    "it is claimed ahead": "Waits: all 2 slots of elsewhere:1:a are taken, by 2 × .+nap",
    "it is in an outbox": f"{OUTBOX}and no consumer is alive that would relay it",
    "the queue has refused it": f"{OUTBOX}set aside because the queue refuses it: its queue is none",
    "it runs": r"Runs for [0-9.]+ m?s on elsewhere",
    "its consumer is dead": r"Ran for [0-9.]+ m?s on elsewhere, whose consumer is dead",
    "it has succeeded": r"Succeeded (now|[0-9.]+ m?s ago) after [0-9.]+ m?s",
    "it has failed": "Failed after 1 attempt: ValueError: no",
    "it was cancelled": r"Cancelled on request (now|[0-9.]+ m?s ago)",
    "its parent has failed": r"Cancelled by its pipeline .+: .+fail [-0-9a-f]+ failed: .+ValueError: no",
    "it has expired": r"Cancelled .+: it did not start in time: its expires_after has passed",
    "paused and without a consumer": "Waits: queue mail is paused until somebody resumes it",
    "without a consumer and over its limit": "Waits: no consumer is alive",
    "without a consumer before its time": "Waits: no consumer is alive",
    "paused and after a parent that waits": "Waits: queue default is paused until somebody resumes it",
    "paused while all slots are busy": "Waits: queue mail is paused until somebody resumes it",
    "over its limit while all slots are busy": LIMIT,
    "paused and over its rate": "Waits: queue default is paused until somebody resumes it",
    "its state is unknown": "Cannot run: its state is 'dormant': written by hand, .+",
    "the queue is being transferred": "Waits: the queue is on its way to another database since .+",
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_situation_has_its_sentence(engine: Engine, name: str) -> None:
    with SITUATIONS[name].begin(engine) as id:
        said = headline(explain(id))
    assert re.fullmatch(SENTENCES[name], said), said


def headline_of(job: Job, **options: Any) -> str:
    return headline(explain(job.pk), **options)


# The states in detail. They need no second database.


@pytest.mark.one_database
def test_the_sentence_of_a_success_has_its_time_and_its_attempt(engine: Engine) -> None:
    end = timezone.now()
    times = {"started_at": end - timedelta(seconds=2.1), "finished_at": end}
    now = to_seconds(end) + 180
    for attempts, tail in ((1, ""), (2, " on its 2nd attempt"), (11, " on its 11th attempt")):
        job = make_job(State.SUCCEEDED, attempts=attempts, **times)
        assert headline_of(job, now=now) == f"Succeeded 3 min ago after 2.1 s{tail}"


@pytest.mark.one_database
def test_the_sentence_of_a_failure_has_the_attempts_and_the_last_error(engine: Engine) -> None:
    job = make_job(State.FAILED, attempts=5)
    make_attempt(job, 4, message="no answer")
    make_attempt(job, 5, exception_class="shop.PaymentRefused", message="card declined\nsee log")
    assert headline_of(job) == "Failed after 5 attempts: shop.PaymentRefused: card declined"
    hidden = headline_of(job, shows_errors=False)
    assert hidden == "Failed after 5 attempts: shop.PaymentRefused"


@pytest.mark.one_database
def test_a_failure_without_an_error_has_its_reason(engine: Engine) -> None:
    job = make_job(State.FAILED, reason="its row was damaged")
    assert headline_of(job) == "Failed after 1 attempt: its row was damaged"
    assert headline_of(job, shows_errors=False) == "Failed after 1 attempt"


@pytest.mark.one_database
def test_a_running_job_has_its_share_its_attempt_and_its_host(engine: Engine) -> None:
    with SITUATIONS["it runs"].begin(engine) as id:
        Job.objects.update(consumer="elsewhere:1:a", progress_done=40, progress_total=100)
        now = to_seconds(Job.objects.get().started_at or timezone.now()) + 180
        assert headline(explain(id), now=now) == "Runs for 3 min on elsewhere, 40 %"
        Job.objects.update(progress_total=None, attempts=3, options='{"max_attempts":5}')
        Job.objects.update(cancel_requested=True)
        assert headline(explain(id), now=now) == (
            "Runs for 3 min on elsewhere, 40 done, attempt 3 of 5, and is being cancelled"
        )


@pytest.mark.one_database
def test_a_job_between_attempts_has_the_time_the_number_and_the_last_error(engine: Engine) -> None:
    with SITUATIONS["it waits for its next attempt"].begin(engine) as id:
        now = to_seconds(Job.objects.get().run_after or timezone.now()) - 240
        found, error = explain(id), Attempt.objects.get()
    text = "Will be retried in 4 min (attempt 2 of 3): ValueError"
    assert headline(found, error, now=now) == f"{text}: no"
    assert headline(found, error, now=now, shows_errors=False) == text


@pytest.mark.one_database
def test_what_keeps_a_retry_comes_before_its_time(engine: Engine) -> None:
    with SITUATIONS["it waits for its next attempt"].begin(engine) as id:
        Consumer.objects.all().delete()
        said = headline(explain(id), Attempt.objects.get())
    assert said == (
        "Waits: no consumer is alive; it will be retried in 60 min (attempt 2 of 3): ValueError: no"
    )


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("fields", "said", "hidden"),
    [
        ({"reason": "the order is gone"}, "Cancelled 3 min ago: the order is gone", "3 min ago"),
        (
            {"reason": "nothing failed", "flags": Flag.ON_FAILURE | Flag.UNLISTED},
            "Not needed: nothing failed",
            "nothing failed",
        ),
        (
            {"reason": "shop.a 1 failed: E: 4711", "flags": Flag.CANCELLED_BY_PARENT},
            "Cancelled by its pipeline 3 min ago: shop.a 1 failed: E: 4711",
            "pipeline 3 min ago",
        ),
        ({}, "Cancelled 3 min ago", "3 min ago"),
    ],
)
def test_a_cancelled_job_has_its_reason_which_can_be_hidden(
    engine: Engine, fields: dict[str, Any], said: str, hidden: str
) -> None:
    job = make_job(State.CANCELLED, finished_at=timezone.now() - timedelta(minutes=3), **fields)
    assert headline_of(job) == said
    assert headline_of(job, shows_errors=False).endswith(hidden)


@pytest.mark.one_database
@override_settings(USE_TZ=False)
def test_without_time_zones_the_sentences_are_the_same(engine: Engine) -> None:
    for name in ("the queue is paused for a time", "its time has not come", "it has failed"):
        with SITUATIONS[name].begin(engine) as id:
            assert re.fullmatch(SENTENCES[name], headline(explain(id)))
        Job.objects.all().delete()


@pytest.mark.one_database
def test_an_error_of_any_size_is_one_short_line() -> None:
    assert described("builtins.ValueError", "") == "ValueError"
    assert described("builtins.ValueError", "\n\n first \nsecond") == "ValueError: first"
    assert len(described("E", "x" * 1_000_000)) <= 301


@pytest.mark.one_database
def test_the_host_of_a_consumer_is_the_beginning_of_its_name() -> None:
    assert host_of("web-2:4711:abcd") == "web-2"
    assert host_of("2001:db8::1:4711:abcd") == "2001:db8::1"
    assert host_of("by hand") == "by hand"
    assert host_of(None) == ""


@pytest.mark.one_database
def test_the_most_attempts_are_those_of_the_call_else_of_the_registered_job(engine: Engine) -> None:
    fail.using(max_attempts=7).run_later("no")
    assert most_attempts(Job.objects.get()) == 7
    assert most_attempts(make_job(name=add.name)) is None
    assert most_attempts(make_job(name="shop.gone")) is None
    assert registry.find("shop.gone") is None
    assert most_attempts(make_job(options="nonsense")) is None


@pytest.mark.one_database
def test_a_pause_of_another_day_has_its_date(engine: Engine) -> None:
    with SITUATIONS["the queue is paused for a time"].begin(engine) as id:
        said = headline(explain(id), now=time.time() - 3 * 86_400)
    assert re.fullmatch(r"Waits: queue mail is paused until [-0-9]{10} [0-9:]{5}", said), said
