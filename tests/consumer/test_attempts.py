"""Attempts: what becomes of a job that fails, until it has succeeded or failed for good."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from djjp import Discard, Retry, current_job, job, run_many
from djjp.engine import Engine
from djjp.engine.jobs import Jobs
from djjp.exceptions import JobCancelled, JobFailed
from djjp.jobs.handles import JobHandle
from djjp.models import Attempt, Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming, drain
from tests.support.processes import eventually


class OutOfStock(Exception):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


class BareRetry(Retry):
    def __init__(self, order: int) -> None:  # does not call Retry's own
        self.order = order


class OddRetry(Retry):
    """One whose pause is no pause."""

    after = "soon"  # type: ignore[assignment]  # that is the point


#: What a job that is called `flaky` raises, one after the other, before it succeeds.
TROUBLE: list[BaseException] = []
#: The attempts for which the backoff function was called.
BACKOFFS: list[int] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    TROUBLE.clear()
    BACKOFFS.clear()


def meet_trouble() -> str:
    if TROUBLE:
        raise TROUBLE.pop(0)
    return "done"


def recording_backoff(attempt: int) -> float:
    BACKOFFS.append(attempt)
    return 0


def useless(attempt: int) -> float:
    raise ZeroDivisionError("no pause for you")


def leaving(attempt: int) -> float:
    raise SystemExit


def trouble(*errors: BaseException) -> None:
    TROUBLE.extend(errors)


once = job(name="attempts.once")(meet_trouble)
thrice = job(name="attempts.thrice", max_attempts=3, backoff=0)(meet_trouble)
patient = job(name="attempts.patient", max_attempts=9)(meet_trouble)
with_recorded_backoff = job(
    name="attempts.with_recorded_backoff", max_attempts=4, backoff=recording_backoff
)(meet_trouble)
spoilt = job(name="attempts.spoilt", max_attempts=2, backoff=useless)(meet_trouble)
quitting = job(name="attempts.quitting", max_attempts=2, backoff=leaving)(meet_trouble)
picky = job(name="attempts.picky", max_attempts=3, backoff=0, retry_on=(OutOfStock, OSError))(
    meet_trouble
)
listed = job(name="attempts.listed", max_attempts=9, backoff=[60, timedelta(hours=1)])(meet_trouble)
fixed = job(name="attempts.fixed", max_attempts=9, backoff=timedelta(minutes=7))(meet_trouble)
ever = job(name="attempts.ever", max_attempts=2, backoff=10**15)(meet_trouble)


@job(name="attempts.odd_ones_fail_once", max_attempts=2, backoff=0)
def odd_ones_fail_once(number: int) -> int:
    current = current_job()
    if number % 2 and current.attempt == 1:
        raise OutOfStock(str(number))
    return current.attempt


@job(name="attempts.coroutine", max_attempts=2, backoff=0)
async def coroutine() -> str:
    return meet_trouble()


def drain_once(monkeypatch: pytest.MonkeyPatch, *slots: int, **options: Any) -> None:
    """Drain without the retries that come due meanwhile: on a busy machine that can be the first of them."""
    began, promote = time.time(), Jobs.promote
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "promote", lambda jobs, now: promote(jobs, min(now, began)))
        drain(*slots, **options)


def pause(handle: JobHandle) -> float:
    """Return the seconds until a job is due."""
    due = Job.objects.get(pk=handle.id).run_after
    assert due is not None
    return float((due - timezone.now()).total_seconds())


def backoff(handle: JobHandle) -> float:
    """Return the seconds from the end of a job's last attempt until it is due."""
    due = Job.objects.get(pk=handle.id).run_after
    assert due is not None
    ended = Attempt.objects.filter(job_id=handle.id).latest("pk").finished_at
    return float((due - ended).total_seconds())


def make_due(handle: JobHandle) -> None:
    Job.objects.filter(pk=handle.id).update(run_after=timezone.now() - timedelta(seconds=1))


def messages(handle: JobHandle) -> list[str]:
    return [error.message for error in handle.errors]


# max_attempts


def test_without_max_attempts_an_error_is_final(engine: Engine) -> None:
    trouble(OutOfStock("none left"))
    handle = once.run_later()

    assert drain().executed == 1

    with pytest.raises(JobFailed, match="none left"):
        handle.join(0)
    assert handle.attempts == 1


@pytest.mark.parametrize("work", [thrice, coroutine], ids=["function", "coroutine"])
def test_a_job_that_fails_and_then_succeeds_has_its_result_and_its_errors(
    engine: Engine, work: Any
) -> None:
    trouble(OutOfStock("first"))
    handle = work.run_later()

    assert drain().executed == 2

    assert handle.join(0) == "done"
    assert (handle.state, handle.attempts, messages(handle)) == ("succeeded", 2, ["first"])


def test_a_job_runs_up_to_max_attempts_and_has_then_failed(engine: Engine) -> None:
    trouble(*(OutOfStock(f"number {n}") for n in (1, 2, 3, 4)))
    handle = thrice.run_later()

    assert drain().executed == 3

    with pytest.raises(JobFailed, match="number 3"):
        handle.join(0)
    assert (handle.state, handle.attempts) == ("failed", 3)
    assert Job.objects.get().finished_at is not None


def test_each_failed_attempt_leaves_one_entry_oldest_first(engine: Engine) -> None:
    trouble(OutOfStock("first"), ValueError("second"), OutOfStock("third"))
    handle = thrice.run_later()

    consumer = drain()

    assert messages(handle) == ["first", "second", "third"]
    assert [error.exception_class.rpartition(".")[2] for error in handle.errors] == [
        "OutOfStock",
        "ValueError",
        "OutOfStock",
    ]
    assert all("in meet_trouble" in error.traceback for error in handle.errors)
    kept = Attempt.objects.order_by("pk").values_list("number", "consumer")
    assert list(kept) == [(n, consumer.name) for n in (1, 2, 3)]


def test_a_job_between_two_attempts_has_no_consumer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble(OutOfStock("later"))
    handle = patient.run_later()

    drain_once(monkeypatch, max_jobs=1)  # the retry is due soon

    row = Job.objects.get(pk=handle.id)
    assert (row.state, row.attempts, row.consumer) == ("scheduled", 1, None)
    assert (row.started_at, row.finished_at, row.result) == (None, None, None)


def test_many_jobs_are_retried_independently(engine: Engine) -> None:
    handles = run_many(odd_ones_fail_once.bind(n) for n in range(100))

    assert drain().executed == 150

    assert [handle.join(0) for handle in handles] == [1 + n % 2 for n in range(100)]
    assert [messages(handle) for handle in handles] == [
        [str(n)] if n % 2 else [] for n in range(100)
    ]


# When


def test_by_default_the_pauses_double_with_a_spread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = run_many(patient.bind() for _ in range(20))
    seen: list[list[float]] = []
    for _ in range(3):
        trouble(*(OutOfStock() for _ in handles))
        drain_once(monkeypatch, max_jobs=20)
        seen.append([backoff(handle) for handle in handles])
        for handle in handles:
            make_due(handle)

    for pauses, around in zip(seen, (1, 2, 4), strict=True):
        assert len(set(pauses)) > 15
        # At least three quarters, less what passes until the end of the attempt is noted.
        assert min(pauses) >= around * 0.7
    assert sum(seen[0]) < sum(seen[1]) < sum(seen[2])


def test_a_list_gives_a_pause_for_each_retry_and_its_last_one_for_the_rest(engine: Engine) -> None:
    handle = listed.run_later()
    pauses = []
    for _ in range(3):
        trouble(OutOfStock())
        drain()
        pauses.append(pause(handle))
        make_due(handle)

    assert [round(seconds / 60) for seconds in pauses] == [1, 60, 60]


def test_a_timedelta_is_the_pause_before_each_retry(engine: Engine) -> None:
    trouble(OutOfStock())
    handle = fixed.run_later()
    drain()

    assert round(pause(handle) / 60) == 7


def test_a_backoff_function_gets_the_number_of_the_failed_attempt(engine: Engine) -> None:
    trouble(*(OutOfStock() for _ in range(4)))
    with_recorded_backoff.run_later()

    drain()

    assert BACKOFFS == [1, 2, 3]


@pytest.mark.parametrize("work", [spoilt, quitting], ids=["raises", "exits"])
def test_a_backoff_function_that_raises_costs_no_attempt_and_is_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble(OutOfStock("first"))
    handle = work.run_later()

    with caplog.at_level(logging.ERROR, "djjp"):
        drain_once(monkeypatch, max_jobs=1)

    handle.refresh()
    assert (handle.state, messages(handle)) == ("scheduled", ["first"])
    assert 0 < backoff(handle) < 1.5
    assert f"backoff of job {work.name} raised or returned no duration" in caplog.text
    make_due(handle)
    drain()
    assert handle.join(0) == "done"


def test_a_pause_beyond_all_calendars_affects_only_its_job(engine: Engine) -> None:
    trouble(OutOfStock(), Retry(after=float("inf")), Retry(after=timedelta.max))
    handles = [ever.run_later(), ever.run_later(), ever.run_later()]
    other = add.run_later(1)

    drain()

    assert other.join(0) == 1
    for handle in handles:
        handle.refresh()
        assert handle.state == "scheduled"
        assert pause(handle) > 365 * 24 * 3600


def test_a_consumer_runs_a_retry_when_it_is_due(engine: Engine) -> None:
    trouble(Retry(after=0.3))
    handle = once.run_later()

    with consuming():
        assert handle.join(30) == "done"

    row = Job.objects.get()
    first = Attempt.objects.get()
    assert row.started_at is not None
    assert row.started_at - first.finished_at >= timedelta(seconds=0.3)


def test_drain_runs_the_retries_that_are_due_and_leaves_the_others(engine: Engine) -> None:
    trouble(OutOfStock("in a minute"), OutOfStock("at once"))
    later, due = listed.run_later(), thrice.run_later()

    assert drain(1).executed == 3

    later.refresh()
    assert due.join(0) == "done"
    assert later.state == "scheduled"


# Which


def test_only_the_errors_of_retry_on_are_retried(engine: Engine) -> None:
    trouble(OutOfStock("comes again"), ConnectionError("is an OSError"), ValueError("a bug"))
    handle = picky.run_later()

    drain()

    with pytest.raises(JobFailed, match="a bug"):
        handle.join(0)
    assert messages(handle) == ["comes again", "is an OSError", "a bug"]

    trouble(KeyError("another bug"))
    other = picky.run_later()
    drain()
    other.refresh()
    assert (other.state, other.attempts) == ("failed", 1)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exceptions_that_end_programs_are_not_retried(engine: Engine, error: BaseException) -> None:
    trouble(error)
    handle = thrice.run_later()

    drain()

    handle.refresh()
    assert (handle.state, handle.attempts) == ("failed", 1)


# Retry and Discard


def test_a_retry_is_unbounded_without_max_attempts(engine: Engine) -> None:
    trouble(*(Retry(f"not yet {n}", after=0) for n in range(25)))
    handle = once.run_later()

    assert drain().executed == 26

    assert handle.join(0) == "done"
    assert handle.attempts == 26
    assert messages(handle) == [f"not yet {n}" for n in range(25)]


def test_a_retry_is_bounded_by_max_attempts(engine: Engine) -> None:
    trouble(*(Retry(f"not yet {n}", after=0) for n in range(25)))
    handle = thrice.run_later()

    assert drain().executed == 3

    with pytest.raises(JobFailed, match="not yet 2"):
        handle.join(0)


def test_a_retry_does_not_depend_on_retry_on(engine: Engine) -> None:
    trouble(Retry(after=0), Retry(after=0))
    handle = picky.run_later()

    drain()

    assert handle.join(0) == "done"


@pytest.mark.parametrize(("after", "minutes"), [(180, 3), (timedelta(minutes=90), 90)])
def test_a_retry_waits_for_its_own_time(engine: Engine, after: Any, minutes: int) -> None:
    trouble(Retry(after=after), Retry(after=after))
    handles = [once.run_later(), thrice.run_later()]

    drain()

    assert [round(pause(handle) / 60) for handle in handles] == [minutes, minutes]


def test_a_retry_without_a_time_waits_for_the_backoff(engine: Engine) -> None:
    trouble(Retry())
    handle = listed.run_later()

    drain()

    assert 30 < pause(handle) <= 60


@pytest.mark.parametrize("retry", [BareRetry(7), OddRetry()], ids=["bare", "odd"])
def test_a_subclass_of_retry_is_a_retry(
    engine: Engine, retry: Retry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its class has made of `after`; and the thread goes on to the next job."""
    trouble(retry)
    handle, other = once.run_later(), add.run_later(1)

    drain_once(monkeypatch, 1, max_jobs=2)

    assert other.join(0) == 1
    handle.refresh()
    assert handle.state == "scheduled"
    make_due(handle)
    drain()
    assert handle.join(0) == "done"


def test_a_discarded_job_is_cancelled_with_its_reason_and_not_retried(engine: Engine) -> None:
    trouble(Discard("the order was withdrawn"))
    handle = thrice.run_later()

    assert drain().executed == 1

    with pytest.raises(JobCancelled, match="the order was withdrawn") as caught:
        handle.join(0)
    assert caught.value.reason == handle.reason == "the order was withdrawn"
    assert (handle.state, handle.attempts, handle.errors) == ("cancelled", 1, [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Discard(), "the job discarded itself"),
        (Discard("nul\0 and \ud800"), "nul\\x00 and \\ud800"),
        (Discard("begin" + "x" * 5_000_000), "begin"),
    ],
    ids=["none", "odd", "huge"],
)
def test_a_reason_is_text_that_any_database_accepts(
    engine: Engine, error: Discard, reason: str
) -> None:
    trouble(error)
    handle = once.run_later()

    drain()

    handle.refresh()
    assert handle.state == "cancelled"
    assert handle.reason is not None
    assert handle.reason.startswith(reason)
    assert len(handle.reason) <= 10_000


def test_a_discard_after_failed_attempts_keeps_their_errors(engine: Engine) -> None:
    trouble(OutOfStock("first"), Discard("never mind"))
    handle = thrice.run_later()

    drain()

    handle.refresh()
    assert (handle.state, handle.reason, messages(handle)) == ("cancelled", "never mind", ["first"])


# The stored errors


def test_an_error_is_kept_in_less_than_a_megabyte_on_each_attempt(engine: Engine) -> None:
    cause = ValueError("y" * 5_000_000)
    trouble(*(OutOfStock("x" * 5_000_000).with_traceback(None) for _ in range(3)))
    for error in TROUBLE:
        error.__cause__ = cause
    handle = thrice.run_later()

    drain()

    handle.refresh()
    assert handle.state == "failed"
    assert len(handle.errors) == 3
    for attempt in handle.errors:
        texts = (attempt.exception_class, attempt.message, attempt.traceback)
        assert sum(len(text.encode()) for text in texts) < 1_000_000
        assert attempt.message.startswith("xxx")


def test_an_error_that_cannot_be_printed_is_retried(engine: Engine) -> None:
    round_about = OutOfStock("a\0b\ud800")
    round_about.__cause__ = round_about
    trouble(Unprintable(), round_about)
    handle, other = thrice.run_later(), add.run_later(1)

    drain(1)

    assert (handle.join(0), other.join(0)) == ("done", 1)
    assert messages(handle) == ["<its __str__ raised RuntimeError>", "a\\x00b\\ud800"]


# By hand


def test_a_failed_job_can_be_retried_with_new_attempts(engine: Engine) -> None:
    trouble(*(OutOfStock(str(n)) for n in range(5)))
    handle = thrice.run_later()
    drain()
    handle.refresh()
    assert (handle.state, handle.attempts) == ("failed", 3)

    handle.retry()

    assert (handle.state, handle.attempts) == ("ready", 0)
    assert Job.objects.get().run_after is None
    assert drain().executed == 3
    assert handle.join(0) == "done"
    assert (handle.attempts, messages(handle)) == (3, ["0", "1", "2", "3", "4"])


def test_a_cancelled_job_can_be_retried_and_forgets_the_reason(engine: Engine) -> None:
    trouble(Discard("out of season"))
    handle = once.run_later()
    drain()

    handle.retry()

    assert (handle.state, handle.reason) == ("ready", None)
    drain()
    assert handle.join(0) == "done"


def test_an_interrupted_execution_uses_up_no_attempt(engine: Engine) -> None:
    """Its consumer died: `attempts` counts that execution, `max_attempts` does not."""
    handle = thrice.run_later()
    Job.objects.update(attempts=2, rescues=2)
    trouble(OutOfStock("first"), OutOfStock("second"))

    drain()

    assert handle.join(0) == "done"
    assert handle.attempts == 5


def test_a_retry_can_run_on_another_consumer(engine: Engine) -> None:
    trouble(OutOfStock("on the first"), Retry("and once more", after=0.2))
    handle = with_recorded_backoff.run_later()

    first = drain(max_jobs=1)
    with consuming() as second:
        eventually(lambda: Job.objects.get().state == "succeeded")

    assert handle.join(0) == "done"
    consumers = Attempt.objects.order_by("pk").values_list("consumer", flat=True)
    assert list(consumers) == [first.name, second.name]
