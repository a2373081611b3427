"""Explain: why one job does not run, or what has become of it, in a bounded number of statements."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djjp import chain, group, queues, run_many
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.engine import Engine
from djjp.engine.line import End
from djjp.exceptions import JobDoesNotExist
from djjp.ids import new_id
from djjp.jobs import registry
from djjp.models import FINISHED, Consumer, Job, Span, State, Total
from djjp.monitoring import estimate
from djjp.monitoring.causes import RANKS, Cause, start
from djjp.monitoring.explain import Explanation, aexplain, explain
from djjp.outbox.models import OutboxJob
from tests.monitoring.situations import (
    ELSEWHERE,
    SITUATIONS,
    Situation,
    consumer,
    end_cancelled,
    limited,
    run,
)
from tests.project.shop.jobs import add, echo, fail, nap
from tests.support.consumers import consuming, drain
from tests.support.factories import new_job
from tests.support.processes import eventually

#: The most statements that one explanation takes, on the queue's database.
MOST_STATEMENTS = 12


@pytest.fixture(params=SITUATIONS)
def situation(request: pytest.FixtureRequest) -> Situation:
    return SITUATIONS[request.param]


def first(id: UUID) -> Cause:
    return explain(id).causes[0]


# Each situation


def test_each_situation_has_its_causes_the_worst_first_and_sentences_that_end_in_a_remedy(
    engine: Engine, situation: Situation
) -> None:
    statements = CaptureQueriesContext(connections[engine.db.alias])
    with situation.begin(engine) as id, statements as queries:
        found = explain(id)

    assert found.codes == situation.codes, found.causes
    assert found.job.pk == id
    assert found.causes[0].remedy.startswith(situation.remedy)
    for cause in found.causes:
        assert cause.code in RANKS
        assert cause.sentence.endswith(cause.remedy)
        json.dumps(cause.facts, allow_nan=False)
    assert len(queries) <= MOST_STATEMENTS, [each["sql"] for each in queries.captured_queries]


@contextmanager
def typed(remedy: str) -> Iterator[None]:
    """Run a command in this process; a consumer until the end of the block."""
    python, program, name, *words = shlex.split(remedy)
    assert (python, program) == ("python", "manage.py")
    if name != "start_consumer":
        call_command(name, *words)
        yield
        return
    options = dict(zip(words[::2], words[1::2], strict=True))
    served = options.pop("--queues", None)
    assert not options
    with consuming(2, queues=served and served.split(",")):
        yield


# The first needs a consumer that gives up its read-ahead, the second another database.
NOT_TYPED = {"it is claimed ahead", "the queue is being transferred"}
# Those with jobs of a dead consumer, which must be rescued soon.
RESCUED = {
    "its consumer is dead",
    "the permits are held by a dead consumer",
    "without a consumer and over its limit",
}


@pytest.mark.one_database
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.end_to_end if name in RESCUED else ())
        for name in sorted(set(SITUATIONS) - NOT_TYPED)
    ],
)
def test_the_remedies_work_when_they_are_typed(
    engine: Engine, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Type the remedy of the worst cause, until the job has run, or is given up."""
    settings: dict[str, Any] = {"db_name": engine.db.alias}
    if name in RESCUED:
        settings["heartbeat_limit"] = 1
    with override_settings(DJJP=settings), ExitStack() as stack:
        id = stack.enter_context(SITUATIONS[name].begin(engine))
        before = Job.objects.filter(pk=id).first()
        for _ in range(len(RANKS)):
            remedy = first(id).remedy
            stack.enter_context(typed(remedy))
            if " show " in remedy:
                assert str(id) in capsys.readouterr().out
                return
            end_cancelled(engine)
            if "start_consumer" in remedy:
                eventually(partial(_goes_on, id, before, remedy), within=90)
            if _is_over(id, before):
                return
    raise AssertionError(f"{explain(id).causes}")


def _goes_on(id: UUID, before: Job | None, remedy: str) -> bool:
    """Return whether a job is over, or must be helped by another remedy, which does not only show something."""
    if _is_over(id, before):
        return True
    worst = first(id)
    codes = {worst.code, *(each["code"] for each in worst.facts.get("causes", ())[:1])}
    shows = worst.remedy in ("python manage.py djjp outbox", "python manage.py djjp consumers")
    return worst.remedy != remedy and not shows and "running" not in codes


def _is_over(id: UUID, before: Job | None) -> bool:
    """Return whether a job is deleted, or has ended anew."""
    row = Job.objects.filter(pk=id).first()
    if row is None:
        return before is not None
    was = None if before is None else before.finished_at
    return row.state in FINISHED and row.finished_at != was


# The facts


def test_a_paused_queue_is_paused_until_a_time(engine: Engine) -> None:
    until = queues.pause("mail", 3600)
    assert until is not None
    cause = first(add.using(queue="mail").run_later(1).id)
    assert cause.facts["until"].startswith(f"{until:%Y-%m-%dT%H:%M}")
    local = timezone.localtime(until)
    assert f"queue mail is paused until {local:%Y-%m-%d %H:%M:%S}" in cause.sentence


def test_a_pause_that_is_over_is_no_cause(engine: Engine) -> None:
    consumer()
    id = add.using(queue="mail").run_later(1).id
    engine.queues.pause("mail", time.time() - 60, time.time() - 1)
    assert explain(id).codes == ["line"]


def test_the_holders_of_a_limit_are_named(engine: Engine) -> None:
    consumer()
    holder = limited.run_later()
    waiting = [limited.run_later() for _ in range(3)]
    run(engine, 4)
    assert "the only permit of its limit 'printer' is held, by" in first(waiting[0].id).sentence
    facts = first(waiting[2].id).facts
    assert facts["held_by"] == [{"id": str(holder.id), "name": limited.name, "consumer": ELSEWHERE}]
    assert (facts["limit"], facts["before"]) == (1, 2)


def test_a_permit_that_is_free_is_given_within_a_second(engine: Engine) -> None:
    consumer()
    holder = limited.run_later()
    waiting = limited.run_later()
    run(engine, 2)
    Job.objects.filter(pk=holder.id).delete()
    assert "a permit of its limit 'printer' is free" in first(waiting.id).sentence


def test_the_parents_are_named_and_the_deepest_is_explained(engine: Engine) -> None:
    consumer()
    handle = chain(
        group(add.bind(1), add.using(run_after=timedelta(hours=1)).bind(2)),
        nap.bind(),
        nap.bind(),
    ).run_later()
    cause = first(handle.id)
    [direct] = cause.facts["waiting_for"]
    assert (direct["name"], direct["state"]) == (nap.name, "blocked")
    deepest = Job.objects.get(state=State.SCHEDULED)
    assert cause.facts["deepest"] == {
        "id": str(deepest.pk),
        "name": add.name,
        "state": "scheduled",
    }
    assert [each["code"] for each in cause.facts["causes"]] == ["scheduled"]
    assert cause.remedy == f"python manage.py djjp run {deepest.pk}"


def test_many_parents_and_many_steps_are_explained_in_bounded_statements(engine: Engine) -> None:
    consumer(concurrency_limit=1)
    nap.run_later(0)
    run(engine)
    wide = chain(group(add.bind(n) for n in range(300)), echo.bind()).run_later()
    long = chain(*(nap.bind() if n else nap.bind(0) for n in range(200))).run_later()
    for id, count in ((wide.id, 20), (long.id, 1)):
        with CaptureQueriesContext(connections[engine.db.alias]) as queries:
            cause = first(id)
        assert cause.code == "parents"
        assert len(cause.facts["waiting_for"]) == count
        assert cause.facts["causes"][0]["code"] == "busy"
        assert len(queries) <= MOST_STATEMENTS
    assert "20+ of its parents" in first(wide.id).sentence


def test_a_job_that_waits_for_a_failure_says_so(engine: Engine) -> None:
    consumer()
    chain(nap.bind(0), on_failure=add.bind(1)).run_later()
    row = Job.objects.get(state=State.BLOCKED)
    assert "it runs only if one of its parents fails" in first(row.pk).sentence


def test_a_job_whose_parents_are_gone_is_to_be_given_up(engine: Engine) -> None:
    consumer()
    handle = chain(add.bind(1), add.bind(2)).run_later()
    Job.objects.exclude(pk=handle.id).delete()
    cause = first(handle.id)
    assert cause.facts["waiting_for"] == []
    assert cause.remedy == f"python manage.py djjp cancel {handle.id}"


def test_jobs_with_a_higher_priority_and_older_ones_come_before_a_job(engine: Engine) -> None:
    consumer()
    for _ in range(2):
        add.run_later(1)
    mine = add.run_later(2)
    add.run_later(3)
    add.using(priority=5).run_later(4)
    add.using(priority=-5).run_later(5)
    add.using(queue="other", priority=1).run_later(6)
    paused = [add.using(queue="paused", priority=9).run_later(7) for _ in range(5)]
    queues.pause("paused")
    assert first(mine.id).facts["before"] == 4  # one of them in the other queue
    assert "4 jobs come before it" in first(mine.id).sentence
    Consumer.objects.update(queues='["default"]')
    assert first(mine.id).facts["before"] == 3
    assert explain(paused[4].id).codes[0] == "paused"


def test_the_number_of_jobs_before_it_is_capped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djjp.monitoring.obstacles.MOST_COUNTED", 10)
    consumer()
    run_many(add.bind(n) for n in range(12))
    facts = first(add.run_later(1).id).facts
    assert (facts["before"], facts["capped"]) == (10, True)


def test_busy_slots_are_named_by_what_they_run(engine: Engine) -> None:
    consumer(concurrency_limit=3)
    for _ in range(2):
        nap.run_later(0)
    add.run_later(1)
    run(engine, 3)
    cause = first(add.run_later(2).id)
    assert cause.facts["taken_by"] == [{"name": nap.name, "jobs": 2}, {"name": add.name, "jobs": 1}]
    assert f"taken, by 2 × {nap.name}, 1 × {add.name}" in cause.sentence


def test_a_free_slot_of_another_consumer_is_enough(engine: Engine) -> None:
    consumer(concurrency_limit=1)
    nap.run_later(0)
    run(engine)
    consumer("elsewhere:2:b", concurrency_limit=1)
    assert explain(add.run_later(2).id).codes == ["line"]
    Consumer.objects.filter(pk="elsewhere:2:b").update(names='["other"]')
    assert explain(add.run_later(2).id).codes == ["busy", "line"]


def test_a_running_job_shows_its_progress_and_a_requested_cancellation(engine: Engine) -> None:
    consumer()
    handle = nap.run_later(0)
    run(engine)
    Job.objects.update(progress_done=3, progress_total=9)
    handle.cancel()
    cause = first(handle.id)
    assert cause.facts["progress"] == {"done": 3, "total": 9}
    assert cause.facts["cancel_requested"] is True
    assert cause.facts["consumer"] == ELSEWHERE
    assert "3 of 9 done" in cause.sentence
    assert "its cancellation was requested" in cause.sentence
    assert cause.remedy == f"python manage.py djjp consumers stack {ELSEWHERE}"


def test_a_job_that_reports_progress_is_not_taken_for_claimed_ahead(engine: Engine) -> None:
    with SITUATIONS["it is claimed ahead"].begin(engine) as id:
        Job.objects.filter(pk=id).update(progress_done=1)
        assert explain(id).codes == ["running"]


def test_a_frozen_consumer_is_to_be_killed(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    handle = nap.run_later(0)
    run(engine, 1, presence.name)
    Consumer.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=60))
    cause = first(handle.id)
    assert (cause.code, cause.facts["life"]) == ("running", "silent")
    assert cause.remedy == f"kill -9 {presence.name.split(':')[1]}"
    assert explain(add.run_later(1).id).codes == ["no_consumer"]
    presence.deregister()


def test_a_failed_job_shows_its_last_error(engine: Engine) -> None:
    handle = fail.run_later("out of paper")
    drain()
    cause = first(handle.id)
    assert cause.facts["exception_class"] == "builtins.ValueError"
    assert cause.facts["message"] == "out of paper"
    assert (cause.facts["how"], cause.facts["attempts"]) == ("failed", 1)
    assert "builtins.ValueError: out of paper" in cause.sentence


def test_an_expired_job_and_one_that_is_about_to_expire_say_so(engine: Engine) -> None:
    consumer()
    soon = add.using(expires_after=3600).run_later(1)
    cause = first(soon.id)
    assert "it is cancelled unless it starts in time, before" in cause.sentence
    assert cause.facts["expires_at"] is not None
    with SITUATIONS["it has expired"].begin(engine) as id:
        assert first(id).facts["how"] == "expired"


def test_a_job_in_an_outbox_shows_since_when(engine: Engine) -> None:
    with SITUATIONS["it is in an outbox"].begin(engine) as id:
        cause = first(id)
        assert cause.facts["alias"] == "default"
        assert cause.facts["since"] is not None
        assert "it is in the outbox of 'default' since" in cause.sentence
        consumer()
        assert first(id).remedy == "python manage.py djjp outbox"


def test_a_job_in_an_outbox_is_explained_while_the_queue_is_away(
    engine: Engine, tmp_path: Path
) -> None:
    with SITUATIONS["it is in an outbox"].begin(engine) as id:
        away = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "no" / "folder.sqlite3"}
        connections.settings["away"] = {**connections.settings["sqlite"], **away}
        try:
            with override_settings(DJJP={"db_name": "away"}):
                cause = first(id)
        finally:
            connections["away"].close()
            del connections.settings["away"]
    assert cause.code == "outbox"
    assert "the queue's database does not answer" in cause.sentence


def test_a_row_of_an_outbox_that_cannot_be_read_is_explained(engine: Engine) -> None:
    with SITUATIONS["the queue has refused it"].begin(engine) as id:
        OutboxJob.objects.update(job="nonsense")
        cause = first(id)
        assert cause.facts["problem"] == "its queue is none"


@pytest.mark.parametrize(
    "id", ["nonsense", str(new_id()), new_id()], ids=["nonsense", "unknown as text", "unknown"]
)
def test_there_is_no_explanation_of_an_unknown_job(engine: Engine, id: Any) -> None:
    with pytest.raises(JobDoesNotExist, match=str(id)):
        explain(id)


def test_coroutines_have_a_variant(engine: Engine) -> None:
    handle = add.run_later(1)

    async def work() -> Explanation:
        found = await aexplain(str(handle.id))
        await sync_to_async(connections.close_all)()
        return found

    assert asyncio.run(work()).codes == ["no_consumer"]


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "dormant"},
        {"state": State.BLOCKED},
        {"state": State.BLOCKED, "limit_key": "key", "limit_max": 0},
        {"state": State.RUNNING, "consumer": None},
    ],
)
def test_a_row_by_hand_is_unknown(engine: Engine, changes: dict[str, Any]) -> None:
    consumer()
    id = add.run_later(1).id
    Job.objects.filter(pk=id).update(**changes)
    assert explain(id).codes == ["unknown"]


def test_names_are_written_as_a_shell_reads_them(engine: Engine) -> None:
    queues.pause("it's; rm -rf")
    consumer()
    id = add.using(queue="it's; rm -rf").run_later(1).id
    assert shlex.split(first(id).remedy) == [
        "python",
        "manage.py",
        "djjp",
        "resume",
        "it's; rm -rf",
    ]
    assert start("a b") == "start_consumer --queues 'a b'"
    # What the option cannot name is served with all queues.
    assert {start(name) for name in ("a,b", "mail:3", "a*", "-x", "")} == {"start_consumer"}


def test_a_task_is_known_to_every_consumer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_resolver", None)
    registry.register_resolver(lambda arguments: arguments.startswith('{"task":'), registry.get)
    consumer(names='["shop.other"]')
    row = new_job(name="tests.gone.task", arguments='{"task":{},"args":[],"kwargs":{}}')
    engine.jobs.enqueue(row)
    assert explain(row.id).codes == ["line"]


# The estimate


def ends(*times: tuple[float, float]) -> list[End]:
    return [End("default", started, finished) for started, finished in times]


def test_the_rate_is_that_of_the_slots_together() -> None:
    now = 1_000.0
    in_turn = ends(*((now - 20 + n, now - 19 + n) for n in range(20)))
    assert estimate.of_ends(in_turn, now) == pytest.approx(1.0)
    three_slots = ends(*((now - 20 + 10 * (n // 3), now - 10 + 10 * (n // 3)) for n in range(6)))
    assert estimate.of_ends(three_slots, now) == pytest.approx(0.3)
    one_long_job = [*in_turn, *ends((now - 900, now - 15))]
    assert estimate.of_ends(one_long_job, now) == pytest.approx(1.05)
    batches = ends(
        *((now - 1.0 + 0.1 * (n // 100), now - 1.0 + 0.1 * (n // 100)) for n in range(1000))
    )
    assert estimate.of_ends(batches, now) == pytest.approx(1000)


def test_there_is_no_rate_of_hardly_any_or_old_ends() -> None:
    assert estimate.of_ends(ends((900, 901), (901, 902)), 1_000.0) is None
    assert estimate.of_ends(ends(*((n, n + 1) for n in range(20))), 1_000.0) is None


def test_the_next_job_starts_now_if_a_slot_is_free_and_else_when_one_becomes_free() -> None:
    assert estimate.starts_at(100.0, 0, None, busy=False) == 100.0
    assert estimate.starts_at(100.0, 0, None, busy=True) is None
    assert estimate.starts_at(100.0, 9, 2.0, busy=True) == 105.0


def test_a_rate_is_free_when_enough_starts_no_longer_count() -> None:
    starts = [(10.0, 1), (20.0, 2), (30.0, 1)]
    assert estimate.rate_frees_at(starts, 5) is None
    assert estimate.rate_frees_at(starts, 4) == 10.0
    assert estimate.rate_frees_at(starts, 3) == 20.0
    assert estimate.rate_frees_at(starts, 1) == 30.0


def test_where_the_rows_are_pruned_the_totals_give_the_rate(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer(concurrency_limit=1)
    nap.run_later(0)
    run(engine)
    for _ in range(9):
        add.run_later(1)
    id = add.run_later(1).id
    assert explain(id).causes[1].facts["starts_at"] is None
    minute = int(time.time() // 60) * 60
    # The minute that is not over yet stays the same.
    clock = SimpleNamespace(time=lambda: minute + 30.0)
    monkeypatch.setattr(import_module("djjp.monitoring.explain"), "time", clock)
    for back in (1, 2):
        Total.objects.create(
            span=Span.MINUTE, starts_at=minute - 60 * back, queue="default", name="a", succeeded=120
        )
    facts = explain(id).causes[1].facts
    assert facts["per_minute"] == pytest.approx(120)
    assert facts["starts_at"] is not None


@pytest.mark.end_to_end
@pytest.mark.parametrize("queue", [None, "default"])
def test_in_a_steady_drain_the_estimate_is_within_a_factor_of_two(
    engine: Engine, queue: str | None
) -> None:
    handles = run_many(nap.bind(0.1) for _ in range(160))
    with consuming(2, queues=queue and [queue]):
        eventually(lambda: Job.objects.filter(state=State.SUCCEEDED).count() >= 30)
        found = {}
        for number in (110, 135, 159):
            asked = time.time()
            line = explain(handles[number].id).causes[-1]
            found[number] = asked, _seconds(line.facts["starts_at"]) - asked
        eventually(lambda: not Job.objects.filter(state__in=[State.READY, State.RUNNING]).exists())
    rows = Job.objects.order_by("started_at").values_list("pk", "started_at", "finished_at")
    times = {id: (_timestamp(started), _timestamp(ended)) for id, started, ended in rows}
    first = min(started for started, _ in times.values())
    for number, (asked, expected) in found.items():
        # The drain is steady, and the machine may not be: a later job waits for as long as those before it would
        # take at the pace until it was asked for.
        ended = sum(end <= asked for _, end in times.values())
        before = sum(asked < start < times[handles[number].id][0] for start, _ in times.values())
        waited = before * (asked - first) / ended
        assert waited / 2 < expected < waited * 2, number


def _timestamp(at: datetime | None) -> float:
    assert at is not None
    return at.timestamp()


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
