"""`djjp status`, `queues` and `stats`: what the queue does, in one screen and in exact figures."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import click
import pytest
from django.test.utils import CaptureQueriesContext

from djjp import queues, run_many
from djjp.engine import Engine
from djjp.management import output
from djjp.management.output import display_width, table_lines
from djjp.management.status import lines, screen
from djjp.models import Consumer, Depth, Job
from djjp.monitoring import overview
from djjp.monitoring.overview import overview as read_overview
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add, echo, fail, mail
from tests.support.consumers import consuming, drain
from tests.support.factories import new_job
from tests.support.processes import eventually
from tests.support.schedules import by_hand


def status(djjp: Djjp) -> Any:
    return djjp("status", "--json").document("Status")


def test_an_idle_queue_is_well(engine: Engine, djjp: Djjp) -> None:
    assert djjp("status").lines[0] == "all is well"
    document = status(djjp)
    assert (document["ok"], document["sentence"]) == (True, "all is well")


def test_the_first_line_is_the_worst_incident_with_its_remedy(engine: Engine, djjp: Djjp) -> None:
    engine.jobs.enqueue(new_job(queue="mail", created_at=time.time() - 60))
    first = djjp("status").lines[0]
    document = status(djjp)
    assert first == document["sentence"] == document["incidents"][0]["sentence"]
    assert not document["ok"]
    assert first.endswith("python manage.py start_consumer --queues mail")


def test_queues_are_shown_with_their_jobs_waits_rates_and_consumers(
    engine: Engine, djjp: Djjp
) -> None:
    run_many(add.bind(n) for n in range(10))
    fail.run_later("no")
    drain()
    mail.run_later("a")
    add.using(queue="later", run_after=timedelta(hours=1)).run_later(1)
    queues.pause("bulk", 3600)
    with consuming(queues=["default", "mail"]) as consumer:
        eventually(lambda: Consumer.objects.exists() and not Job.objects.filter(state="ready"))
        found = djjp("queues", "--json").document("Queues")["queues"]
        shown = djjp("queues").lines
    by_name = {each["name"]: each for each in found}
    assert by_name.keys() == {"bulk", "default", "later", "mail"}
    assert by_name["default"]["out_per_minute"] == pytest.approx(11 / 5)
    assert by_name["default"]["served_by"] == [consumer.name]
    assert (by_name["later"]["scheduled"], by_name["later"]["served_by"]) == (1, [])
    assert by_name["bulk"]["paused"]
    assert by_name["bulk"]["paused_until"]
    assert any(line.startswith("bulk ") and "paused, resumes in 60 min" in line for line in shown)


def test_a_long_queue_is_counted_up_to_a_bound_or_by_its_sample(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST", 5)
    run_many(add.bind(n) for n in range(9))
    (queue,) = djjp("queues", "--json").document("Queues")["queues"]
    assert (queue["ready"], queue["lower_bounds"]) == (5, ["ready"])
    assert " 5+ " in djjp("queues").lines[1]
    Depth.objects.create(queue="default", minute=int(time.time() // 60) * 60, ready=900)
    (queue,) = djjp("queues", "--json").document("Queues")["queues"]
    assert queue["ready"] == 900


def test_a_short_queue_is_counted_exactly_beside_a_long_one(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST", 5)
    run_many([*(add.bind(n) for n in range(9)), *(mail.bind("to") for _ in range(2))])
    found = djjp("queues", "--json").document("Queues")["queues"]
    by_name = {each["name"]: (each["ready"], each["lower_bounds"]) for each in found}
    assert by_name == {"default": (5, ["ready"]), "mail": (2, [])}


def test_other_states_are_counted_together_up_to_the_bound(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST", 5)
    later = add.using(run_after=3600)
    run_many([*(later.bind(n) for n in range(9)), add.bind(1)])
    (queue,) = djjp("queues", "--json").document("Queues")["queues"]
    assert (queue["scheduled"], queue["ready"]) == (5, 1)
    assert queue["lower_bounds"] == ["scheduled"]


def test_the_oldest_wait_is_shown(engine: Engine, djjp: Djjp) -> None:
    engine.jobs.enqueue(new_job(created_at=time.time() - 600))
    (queue,) = djjp("queues", "--json").document("Queues")["queues"]
    assert 599 < queue["oldest_wait"] < 700


def test_jobs_that_come_in_are_those_that_end_and_those_by_which_it_grows(
    engine: Engine, djjp: Djjp
) -> None:
    minute = int(time.time() // 60) * 60
    for ago, ready in ((4, 100), (2, 300), (0, 500)):
        Depth.objects.create(queue="default", minute=minute - ago * 60, ready=ready)
    add.run_later(1)
    (queue,) = djjp("queues", "--json").document("Queues")["queues"]
    assert queue["in_per_minute"] == pytest.approx(100)


def test_overdue_schedules_are_shown(engine: Engine, djjp: Djjp) -> None:
    by_hand(echo.name, time.time() - 600, name="late", every=timedelta(minutes=5))
    by_hand(echo.name, time.time(), name="in time", every=timedelta(minutes=5))
    assert [each["name"] for each in status(djjp)["overdue_schedules"]] == ["late"]
    assert any(line.startswith("the schedule late is overdue") for line in djjp("status").lines)


def test_the_status_reads_no_job_that_has_ended(engine: Engine) -> None:
    """The statements and their number do not depend on the jobs; their plans are those of their engine verbs."""
    run_many(add.bind(n) for n in range(50))
    drain()
    with CaptureQueriesContext(engine.db.connection) as captured:
        read_overview()
    few = len(captured)
    run_many(add.bind(n) for n in range(500))
    drain()
    with CaptureQueriesContext(engine.db.connection) as captured:
        read_overview()
    assert len(captured) == few


@pytest.mark.one_database
@pytest.mark.parametrize("width", [40, 80, 132])
def test_no_line_is_wider_than_the_terminal(engine: Engine, width: int) -> None:
    for name in ("x" * 100, "ж" * 100, "漢" * 100, "\x1b[31m"):
        engine.jobs.enqueue(new_job(queue=name))
        queues.pause(name)
    with click.Context(click.Command("status")):
        shown = [line for line, _ in lines(read_overview(), width)]
        table = [line for line in shown if "paused" in line or line.startswith("queue ")]
        assert len(table) >= 1
        assert all(display_width(line) <= width for line in table)
        assert not any("\x1b" in line for line in table)


def test_on_a_watched_screen_the_remedy_goes_on_in_the_next_line(engine: Engine) -> None:
    engine.jobs.enqueue(new_job(queue="mail", created_at=time.time() - 60))
    with click.Context(click.Command("status")):
        shown = [line for line, _ in screen(read_overview(), 60)]
    assert all(display_width(line) <= 60 for line in shown)
    whole = " ".join(line.strip() for line in shown[: shown.index("")])
    assert whole.endswith("python manage.py start_consumer --queues mail")


def test_a_table_cuts_the_widest_columns_first_and_then_leaves_out_the_last() -> None:
    head, rows = ["id", "name", "state"], [["i" * 36, "n" * 80, "ready"]]
    assert table_lines(head, rows, None)[1] == f"{'i' * 36}  {'n' * 80}  ready"
    assert table_lines(head, rows, 60)[1] == f"{'i' * 36}  …{'n' * 14}  ready"
    assert table_lines(head, rows, 46) == [f"{'id':<36}  name", f"{'i' * 36}  …{'n' * 7}"]
    assert table_lines(head, rows, 40) == ["id", "i" * 36]


def test_a_job_name_in_a_table_keeps_its_end_which_distinguishes_it() -> None:
    head, rows = ["name", "queue"], [["shop.jobs.send", "mail"], ["shop.送る", "bulk"]]
    assert table_lines(head, rows, 16)[1:] == ["…obs.send  mail", "shop.送る  bulk"]
    assert table_lines(head, [["shop.jobs.送る", "m"]], 15)[1] == "…bs.送る  m"
    assert table_lines(["queue", "state"], [["m" * 20, "x"]], 15)[1] == f"{'m' * 7}…  x"


def test_a_long_cell_costs_as_many_steps_as_it_has_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[str] = []
    columns = output._columns

    def noting(character: str) -> int:
        measured.append(character)
        return columns(character)

    monkeypatch.setattr(output, "_columns", noting)

    def steps(length: int) -> int:
        measured.clear()
        [_, line] = table_lines(["name", "queue"], [["é" * length, "mail"]], 40)
        assert line == f"…{'é' * 32}  mail"
        return len(measured)

    assert steps(20_000) < 3 * steps(10_000)


# stats


def test_stats_are_exact_and_grouped(engine: Engine, djjp: Djjp) -> None:
    run_many([*(add.bind(n) for n in range(7)), fail.bind("no"), mail.bind("a")])
    drain()

    (all_of_them,) = djjp("stats", "--json").document("Stats")["stats"]
    assert (all_of_them["succeeded"], all_of_them["failed"]) == (8, 1)
    assert all_of_them["run"]["count"] == 9
    by_queue = djjp("stats", "--by", "queue", "--json").document("Stats")["stats"]
    assert {each["queue"]: each["succeeded"] for each in by_queue} == {"default": 7, "mail": 1}
    by_name = djjp("stats", "--by", "name", "--queue", "default", "--json").document("Stats")
    assert {each["name"]: each["failed"] for each in by_name["stats"]} == {
        add.name: 0,
        fail.name: 1,
    }
    minutes = djjp("stats", "--since", "5m", "--by", "minute", "--json").document("Stats")["stats"]
    assert sum(each["succeeded"] for each in minutes) == 8
    assert all(each["starts_at"] for each in minutes)
    head, row = djjp("stats", "--name", add.name).lines
    assert dict(zip(head.split()[:2], row.split()[:2], strict=True)) == {
        "succeeded": "7",
        "failed": "0",
    }


def test_the_document_of_stats_has_the_number_of_live_jobs(engine: Engine, djjp: Djjp) -> None:
    """For programs that start and stop consumers."""
    run_many([*(add.bind(n) for n in range(3)), mail.bind("a")])
    mail.using(run_after=timedelta(hours=1)).run_later("c")
    running = add.run_later(4)
    Job.objects.filter(pk=running.id).update(state="running", consumer="h:1:a")

    assert djjp("stats", "--json").document("Stats")["live"] == 5
    assert djjp("stats", "--queue", "mail", "--json").document("Stats")["live"] == 1
    assert djjp("stats", "--queue", "none", "--json").document("Stats")["live"] == 0


def test_stats_of_nothing_and_wrong_options(engine: Engine, djjp: Djjp) -> None:
    assert djjp("stats", "--by", "name").out == "nothing has ended\n"
    assert djjp("stats", "--by", "day", "--json").document("Stats")["stats"] == []
    assert djjp("stats", "--by", "moon").code == 2
    assert djjp("stats", "--since", "moon").code == 2


@pytest.mark.parametrize("value", ["a\0", "\udc80", ""])
@pytest.mark.parametrize("option", ["--queue", "--name"])
def test_stats_of_a_text_that_no_database_takes_are_a_usage_error(
    engine: Engine, djjp: Djjp, option: str, value: str
) -> None:
    ran = djjp("stats", f"{option}={value}", "--json")
    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == "invalid-filter"


@pytest.mark.parametrize(
    "words",
    [
        ("prune", "--keep-succeeded", "nan"),
        ("prune", "--keep-failed", "nan"),
        ("status", "--interval", "nan"),
    ],
)
def test_nan_is_no_number_of_seconds(engine: Engine, djjp: Djjp, words: tuple[str, ...]) -> None:
    ran = djjp(*words)
    assert ran.code == 2
    assert "'nan' is no number of seconds" in ran.err
