"""The facts about consumers: what they serve, know and run, how full they are, and whether they are alive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djjp import monitoring, run_many
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.serving import QueueSelector, parse
from djjp.engine import Engine
from djjp.engine.consumers import Consumers
from djjp.jobs import registry
from djjp.models import Consumer, Incident, Job, State
from djjp.monitoring.consumers import Life, consumers, jobs_of, names_missing, read
from djjp.monitoring.detection import IncidentDetector
from djjp.monitoring.explain import explain
from djjp.monitoring.listing import described
from djjp.monitoring.overview import queue_infos
from djjp.served import serves
from tests.project.shop.jobs import add
from tests.support.consumers import consuming
from tests.support.engine_calls import at_once
from tests.support.factories import consumer_row, new_job
from tests.support.processes import eventually
from tests.support.staying import let_end, stay
from tests.support.steps import steps


def row(name: str = "elsewhere:1:a", **given: Any) -> Consumer:
    """Write the row of a consumer on another machine, with two slots."""
    return consumer_row(name, **{"concurrency_limit": 2, **given})


def hold(consumer: str, *ago: float, name: str = "shop.nap") -> None:
    """Have a consumer hold jobs that it has claimed this number of seconds ago."""
    for seconds in ago:
        Job.objects.create(
            name=name,
            state=State.RUNNING,
            consumer=consumer,
            started_at=timezone.now() - timedelta(seconds=seconds),
            created_at=timezone.now(),
            arguments="{}",
        )


def test_a_consumer_shows_its_release_and_knows_the_registered_jobs(engine: Engine) -> None:
    with override_settings(DJJP={"db_name": engine.db.alias, "release": "2026.11"}):
        presence = Heartbeat(engine, ConsumerName.new().text, queues=["mail"], slots=3)
        presence.register()
    try:
        [(found, knows)] = read(engine, [add.name, "shop.unheard", add.name.upper()])
        assert (found.release, found.queues, found.limit) == ("2026.11", ["mail"], 3)
        assert (found.quiet, found.life, knows) == (False, Life.ALIVE, [add.name])
        assert json.loads(Consumer.objects.get().names or "") == registry.names()
    finally:
        presence.deregister()


def test_without_a_release_the_row_has_none(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    presence.deregister()
    row()
    [found] = monitoring.consumers()
    assert (found.release, found.queues) == ("", None)


def test_a_consumer_without_a_list_of_names_may_know_any_job(engine: Engine) -> None:
    row()
    assert [knows for _, knows in read(engine, ["any.job"])] == [["any.job"]]


def test_running_jobs_and_those_that_are_claimed_ahead_are_told_apart(engine: Engine) -> None:
    row("a:1:x", concurrency_limit=2)
    row("b:1:x", concurrency_limit=5)
    hold("a:1:x", 60.0, 50.0)
    hold("a:1:x", 9.0, 8.0, 7.0, name="shop.add")
    hold("b:1:x", 3.0)

    full, other = monitoring.consumers()

    assert (full.busy, full.claimed_ahead, full.is_full) == (2, 3, True)
    assert [(each.name, each.jobs) for each in full.runs] == [("shop.nap", 2)]
    assert [(each.name, each.jobs) for each in full.ahead] == [("shop.add", 3)]
    assert 59 < (timezone.now() - full.runs[0].since).total_seconds() < 90
    assert (other.busy, other.claimed_ahead, other.is_full) == (1, 0, False)


def test_jobs_whose_consumer_has_no_row_are_no_consumers(engine: Engine) -> None:
    hold("gone:1:x", 1.0)
    assert monitoring.consumers() == []
    [held] = engine.consumers.held()
    assert (held.consumer, held.jobs, held.is_ahead) == ("gone:1:x", 1, False)


def test_a_consumer_in_this_process_shows_what_it_runs(engine: Engine) -> None:
    run_many(stay.bind() for _ in range(3))
    with consuming(2) as consumer:
        eventually(lambda: Job.objects.filter(state=State.RUNNING).count() >= 2)
        [found] = monitoring.consumers()
        assert found.name == consumer.name
        assert [each.name for each in found.runs] in ([], [stay.name])
        assert found.life is Life.ALIVE
        let_end()
    assert monitoring.consumers() == []


def test_a_consumer_is_dead_once_its_process_has_ended(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    assert [each.life for each in monitoring.consumers()] == [Life.ALIVE]
    engine.consumers.release_lock(presence.name)
    assert [each.life for each in monitoring.consumers()] != [Life.SILENT]
    Consumer.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert [each.life for each in monitoring.consumers()] == [Life.DEAD]
    presence.deregister()


def test_a_consumer_with_its_lock_and_without_heartbeats_is_silent(engine: Engine) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    Consumer.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    [found] = monitoring.consumers()
    assert found.life is Life.SILENT
    assert 59 < found.heartbeat_age < 90
    presence.deregister()


@pytest.mark.parametrize(
    ("age", "life"), [(0.0, Life.ALIVE), (20.0, Life.SILENT), (31.0, Life.DEAD), (-5.0, Life.ALIVE)]
)
def test_without_a_lock_the_heartbeat_alone_decides(engine: Engine, age: float, life: Life) -> None:
    row(heartbeat_at=timezone.now() - timedelta(seconds=age))
    assert [each.life for each in monitoring.consumers()] == [life]


@pytest.mark.postgresql_only
def test_on_another_machine_the_lock_of_the_session_shows_that_a_consumer_lives(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence = Heartbeat(engine, ConsumerName.new().text, queues=None, slots=1)
    presence.register()
    row("elsewhere:1:gone", locked=True)
    monkeypatch.setattr(Consumers, "_lock_file", lambda self, name: None)

    # On a session of its own, as another process has.
    [found] = at_once(lambda own: [(each.name, each.life) for each, _ in read(own)])

    assert dict(found) == {presence.name: Life.ALIVE, "elsewhere:1:gone": Life.DEAD}
    presence.deregister()


def test_the_consumers_take_three_statements(engine: Engine) -> None:
    for number in range(20):
        row(f"elsewhere:{number}:a", locked=True)
        hold(f"elsewhere:{number}:a", 1.0)
    with CaptureQueriesContext(connections[engine.db.alias]) as queries:
        assert len(monitoring.consumers()) == 20
    assert len(queries) <= 3


@pytest.mark.parametrize(
    ("options", "served", "others"),
    [
        (None, ["mail", "any"], []),
        (["mail"], ["mail"], ["mails", "a"]),
        (["mail:3", "report.*:1"], ["mail", "report.daily"], ["report"]),
        (["*"], ["mail"], []),
    ],
)
def test_a_queue_is_served_as_the_consumer_itself_decides(
    options: list[str] | None, served: list[str], others: list[str]
) -> None:
    selector = QueueSelector(None if options is None else parse(options), ["internal.*"])
    for name in [*served, *others, "internal.x"]:
        wanted = bool(selector.ranked([name]))
        assert wanted is (name in served)
        assert serves(selector.names(), name) is wanted


def test_a_row_by_hand_serves_nothing(engine: Engine) -> None:
    row(queues="nonsense")
    [found] = monitoring.consumers()
    assert not found.serves("mail")


def crowd(engine: Engine, count: int) -> None:
    """Replace all rows by consumers that each serve two queues and run two jobs, with an old job in each queue."""
    for model in (Consumer, Job, Incident):
        model.objects.all().delete()
    for number in range(count):
        row(f"elsewhere:{number}:a", queues=json.dumps([f"q{number}", f"r{number}:2"]))
        hold(f"elsewhere:{number}:a", 500.0, name="shop.long")
        hold(f"elsewhere:{number}:a", 400.0)
    old = time.time() - 300
    engine.jobs.enqueue_many([new_job(queue=f"q{n}", created_at=old) for n in range(count)])


def listed(engine: Engine) -> None:
    assert len(described([*Job.objects.filter(state=State.READY)], texts=False)) >= 40


def explained(engine: Engine) -> None:
    job = Job.objects.filter(state=State.READY)[0]
    assert explain(job.pk).codes[-1] == "line"


@pytest.mark.one_pair
@pytest.mark.parametrize(
    "view",
    [
        lambda engine: queue_infos(),
        lambda engine: IncidentDetector().search(engine),
        lambda engine: consumers(),
        listed,
        explained,
    ],
    ids=["queues", "incidents", "consumers", "list of jobs", "explain"],
)
def test_a_view_costs_what_consumers_and_queues_add_up_to_and_not_their_product(
    engine: Engine, view: Callable[[Engine], object]
) -> None:
    taken = []
    for count in (40, 80):
        crowd(engine, count)
        taken.append(steps(lambda: view(engine)))
    assert taken[1] < 2.5 * taken[0]


def test_the_jobs_of_a_consumer_are_in_the_order_in_which_it_starts_them(engine: Engine) -> None:
    row()
    hold("elsewhere:1:a", 10, 30, 20)
    hold("other:1:a", 5)
    with CaptureQueriesContext(connections[engine.db.alias]) as sent:
        jobs = jobs_of("elsewhere:1:a", 2)
    starts = Job.objects.filter(consumer="elsewhere:1:a").values_list("started_at", flat=True)
    assert [job.started_at for job in jobs] == [*starts.order_by("started_at")[:2]]
    assert len(sent) == 2
    assert jobs_of("nobody:1:a") == []


def test_names_that_others_know_are_missing_at_a_consumer(engine: Engine) -> None:
    row("old:1:a", names=json.dumps(registry.names()[1:]))
    row("new:1:a", names=json.dumps([*registry.names(), "brand.new"]))
    row("odd:1:a", names="{")
    row("none:1:a", names=None)

    assert names_missing("old:1:a") == sorted(["brand.new", registry.names()[0]])
    assert names_missing("new:1:a") == []
    assert names_missing("odd:1:a") is None
    assert names_missing("none:1:a") is None
