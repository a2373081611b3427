"""At night somebody who has never seen the code learns from the first line what is wrong, and what to do.

Ten broken queues, each as consumers and jobs leave it: the sentence of the dashboard, its button or command, and
that the page is green again once the remedy was taken.
"""

from __future__ import annotations

import html
import json
import re
import time
from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.utils import timezone

from djjp import queues
from djjp.admin import snapshot
from djjp.admin.rights import Rights
from djjp.admin.snapshot import Cost
from djjp.admin.summary import folded, summary
from djjp.consumer import rescue
from djjp.durations import to_datetime, to_seconds
from djjp.engine import Engine
from djjp.engine.incidents import Found
from djjp.ids import new_id
from djjp.models import Consumer, Incident, Job, Release, Schedule, State
from djjp.monitoring import Incident as OpenIncident
from djjp.monitoring import detection, incidents
from djjp.monitoring.consumers import Life
from djjp.monitoring.detection import IncidentDetector
from djjp.monitoring.overview import overview
from djjp.outbox.models import OutboxJob
from tests.monitoring.situations import ELSEWHERE, consumer, end_cancelled, limited, run
from tests.project.shop.jobs import add, echo
from tests.support.admin import make_attempt, make_job, text
from tests.support.engine_calls import register_consumer
from tests.support.schedules import by_hand

BOARD = "/admin/djjp/"
ALL = Rights(*[True] * len(Rights._fields))


@pytest.fixture
def operator(engine: Engine, log_in_for: Any, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client of a superuser; each search is complete, and opens what it finds."""
    monkeypatch.setattr(detection, "FIGURES_EVERY", 0.0)
    monkeypatch.setattr(detection, "OPEN_AFTER", {})
    monkeypatch.setattr(
        engine.db, "up_for", lambda: 1e6
    )  # the server has just started for the tests
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    return client


def first_lines(client: Client) -> str:
    """Return the HTML of the summary as it is now."""
    snapshot.clear()
    page = text(client.get(BOARD))
    found = re.search(r'<section[^>]* data-djjp="summary".*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def words(shown: str) -> str:
    """Return the text of HTML as a reader sees it."""
    return html.unescape(" ".join(re.sub(r"<[^>]+>", "", shown).split()))


def address_of(shown: str, label: str) -> str:
    """Return the address of a link, or of the form of a button."""
    link = re.search(rf'<a [^>]*href="([^"]+)"[^>]*>{label}</a>', shown)
    form = re.search(rf'<form [^>]*action="([^"]+)">(?:(?!</form>).)*<button[^>]*>{label}<', shown)
    found = link or form
    assert found is not None, f"nothing is labelled {label!r}"
    return html.unescape(found[1])


def press(client: Client, shown: str, label: str) -> str:
    """Press a button of the page, and return the page where it leads."""
    return text(client.post(address_of(shown, label), {"next": BOARD}, follow=True))


def pass_unseen(seconds: float = 45.0) -> None:
    """Let the open incidents be last found some time ago."""
    at = timezone.now() - timedelta(seconds=seconds)
    Incident.objects.filter(closed_at__isnull=True).update(seen_at=at)


def assert_its_consumer_can_be_stopped(operator: Client) -> None:
    """A thread cannot be stopped from outside, so a cancel can stay without effect."""
    advice = words(first_lines(operator)).partition("; ")[2]
    assert advice.startswith(
        "it was cancelled and has not stopped; see its stack, and stop its consumer:"
        " python manage.py djjp consumers stop elsewhere:1:a"
    )


def is_green(client: Client) -> bool:
    shown = first_lines(client)
    return "djjp-bad" not in shown and words(shown).startswith("All is well")


# Ten broken queues


def test_the_consumer_is_gone(engine: Engine, operator: Client) -> None:
    consumer(ago=1000)
    make_job(State.READY, created_at=timezone.now() - timedelta(minutes=3))
    shown = words(first_lines(operator))
    assert shown.startswith(
        "no consumer serves the queue 'default', where 1 job waits, the oldest for 3 min;"
        " start one: python manage.py start_consumer --queues default"
    )
    Consumer.objects.all().delete()
    consumer()
    pass_unseen()
    assert is_green(operator)


def test_the_consumer_is_gone_and_only_the_jobs_that_it_ran_are_left(
    engine: Engine, operator: Client
) -> None:
    consumer(ago=1000)
    make_job(State.RUNNING, consumer=ELSEWHERE)
    shown = first_lines(operator)
    assert words(shown).startswith(
        "no consumer serves the queue 'default', where 1 job that ran on dead consumers waits for a rescue; start"
    )
    assert "state=running" in address_of(shown, "See its running jobs")


def test_a_consumer_that_may_be_restarted_at_once_is_named_without_an_incident(
    engine: Engine, operator: Client
) -> None:
    consumer()
    make_job(State.RUNNING)
    found = overview()
    dead = [each._replace(life=Life.DEAD, heartbeat_age=4.0) for each in found.consumers]
    shown = summary(found._replace(consumers=dead), [], Cost(1, 0.0), ALL, "admin", has_jobs=True)
    [note] = shown["notes"]
    assert note.text.startswith("No consumer is alive: the last heartbeat came 4 s ago.")
    assert note.command == "python manage.py start_consumer"
    assert (shown["worst"], shown["well"]) == (None, "")


def test_a_wrong_queue_is_served(engine: Engine, operator: Client) -> None:
    consumer(queues='["mial"]')
    make_job(State.READY, queue="mail", created_at=timezone.now() - timedelta(minutes=3))
    IncidentDetector().search(engine)
    assert words(first_lines(operator)).startswith(
        "no consumer serves the queue 'mail', where 1 job waits, the oldest for 3 min; 1 consumer serves other"
        " queues; start one: python manage.py start_consumer --queues mail"
    )
    Consumer.objects.update(queues='["mial", "mail"]')
    pass_unseen()
    assert is_green(operator)


def test_no_consumer_knows_the_name(engine: Engine, operator: Client) -> None:
    consumer(names='["shop.other"]')
    old = timezone.now() - timedelta(minutes=6)
    job = make_job(State.READY, name="shop.gone", created_at=old)
    IncidentDetector().search(engine)
    shown = first_lines(operator)
    assert words(shown).startswith(
        "a job named 'shop.gone' in the queue 'default' has waited for 6 min: the only consumer of this queue has"
        " no such job; start one with the release that has it: python manage.py start_consumer --queues default"
    )
    assert "shop.gone" in text(operator.get(address_of(shown, "See these jobs")))
    preview = address_of(shown, "Cancel these")
    assert "shop.gone" in text(operator.get(preview))
    job.refresh_from_db()
    assert job.state == State.READY
    consumer("other:1:b", names='["shop.gone"]')
    pass_unseen()
    assert is_green(operator)


def test_the_queue_is_paused(engine: Engine, operator: Client) -> None:
    consumer()
    make_job(State.READY, queue="mail")
    queues.pause("mail")
    shown = first_lines(operator)
    assert words(shown).startswith("The queue mail is paused until it is resumed. 1 job waits.")
    assert "Apart from that, nothing is wrong: 1 consumer" in words(shown)
    press(operator, shown, "Resume mail")
    assert queues.paused() == {}
    assert is_green(operator)


def hung(engine: Engine, seconds: float = 400.0) -> tuple[Any, Any]:
    """Have a job hold the only permit of a limit, and another one wait for it; return their ids."""
    consumer()
    holder, waiting = limited.run_later().id, limited.run_later().id
    run(engine, 2)
    ago = to_datetime(time.time() - seconds)
    Job.objects.update(created_at=ago)
    Job.objects.filter(pk=holder).update(started_at=ago)
    assert Job.objects.get(pk=waiting).state == State.BLOCKED
    return holder, waiting


def test_a_limit_is_held_by_a_job_that_hangs(engine: Engine, operator: Client) -> None:
    holder, _ = hung(engine)
    IncidentDetector().search(engine)
    shown = first_lines(operator)
    assert words(shown).startswith(
        "the job 'situations.limited' has held the only permit of the limit 'printer' for 7 min on elsewhere:1:a,"
        " and 1 job waits for a permit in the queue 'default', for 7 min; see its stack, and cancel it:"
        f" python manage.py djjp cancel {holder}"
    )
    assert address_of(shown, "See its stack") == f"/admin/djjp/job/{holder}/stack/"
    confirmation = text(operator.get(address_of(shown, "Cancel it")))
    operator.post(re.findall(r'<form method="post" action="([^"]+)"', confirmation)[-1])
    assert Job.objects.get(pk=holder).cancel_requested

    # A thread cannot be stopped from outside while it waits for something.
    pass_unseen(10)
    IncidentDetector().search(engine)
    assert_its_consumer_can_be_stopped(operator)
    end_cancelled(engine)
    pass_unseen()
    assert is_green(operator)


def test_a_job_kills_each_consumer_that_runs_it(engine: Engine, operator: Client) -> None:
    job = add.run_later(1, 2).id
    for death in (1, 2):
        peer = register_consumer(engine, f"host:{death}:dead", time.time())
        run(engine, 1, peer.name)
        if not Job.objects.filter(
            state=State.RUNNING
        ).exists():  # a suspect, which is claimed alone
            Job.objects.update(state=State.RUNNING, consumer=peer.name, started_at=timezone.now())
        assert rescue.rescue(engine, peer).jobs == 1
    consumer()
    shown = first_lines(operator)
    assert words(shown).startswith(
        "2 consumers have died on 'host', the last one host:2:dead; 2 jobs were rescued; the job"
        f" {add.name!r} ran when 2 consumers died, and runs again alone; cancel it if it is the cause:"
        f" python manage.py djjp cancel {job}"
    )
    assert address_of(shown, "See the job") == f"/admin/djjp/job/{job}/change/"
    operator.post(f"/admin/djjp/job/{job}/cancel/")
    assert Job.objects.get(pk=job).state == State.CANCELLED
    pass_unseen()
    assert not is_green(operator)  # it has killed two: others may do so too


def test_an_outbox_is_stuck(engine: Engine, operator: Client) -> None:
    consumer()
    found = detection.behind("default", 40.0, consumers=True)
    IncidentDetector().search(engine, [found])
    shown = first_lines(operator)
    assert words(shown).startswith(
        "a job in the outbox of 'default' has waited for its relay for 40 s; see what waits: python manage.py djjp"
    )
    assert operator.get(address_of(shown, "See what waits")).status_code == 200
    pass_unseen()
    assert is_green(operator)


def test_the_queue_has_refused_jobs_of_an_outbox(engine: Engine, operator: Client) -> None:
    consumer()
    OutboxJob.objects.create(
        id=new_id(), job="{", created_at=timezone.now(), problem="it is no JSON"
    )
    shown = first_lines(operator)
    assert words(shown).startswith(
        "1 job in the outbox of default will not run: the queue has refused what was enqueued. See why"
    )
    assert "it is no JSON" in text(operator.get(address_of(shown, "See the outbox")))
    OutboxJob.objects.all().delete()
    assert is_green(operator)


def test_the_job_of_a_schedule_is_gone(engine: Engine, operator: Client) -> None:
    consumer(names=f'["{echo.name}"]')
    by_hand("long.gone", time.time(), name="nightly", cron="0 4 * * *", tz="UTC")
    IncidentDetector().search(engine)
    shown = first_lines(operator)
    assert words(shown).startswith(
        "the schedule 'nightly' cannot be fired: no job named 'long.gone' is registered"
    )
    press(operator, shown, "Disable it")
    assert not Schedule.objects.get().enabled
    assert is_green(operator)  # at once, before a search has found it
    assert Incident.objects.get().closed_at is not None


def test_the_database_is_slow(engine: Engine, operator: Client) -> None:
    consumer()
    shown = summary(overview(), [], Cost(14, 4.2), ALL, "admin", has_jobs=True)
    [note] = shown["notes"]
    assert note.text.startswith(
        "The queue's database is slow: 14 statements for this page took 4.2 s."
    )
    assert note.command == "python manage.py djjp check"
    assert shown["well"] == "Apart from that, nothing is wrong: 1 consumer, 0 jobs running."
    assert summary(overview(), [], Cost(400, 4.2), ALL, "admin", has_jobs=True)["notes"] == []
    assert is_green(operator)


def test_the_database_takes_no_heartbeats(
    engine: Engine, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = to_seconds(consumer(ago=20).heartbeat_at)
    # However long the page takes, its clock shows 20 s.
    clock = SimpleNamespace(time=lambda: beat + 20)
    # The package has the function under this name.
    monkeypatch.setattr(import_module("djjp.monitoring.consumers"), "time", clock)
    shown = words(first_lines(operator))
    assert shown.startswith("The consumer elsewhere:1:a has sent no heartbeat for 20 s")
    assert "All is well" not in shown


def test_a_release_makes_a_job_fail(engine: Engine, operator: Client) -> None:
    consumer()
    Release.objects.create(name="2.4.2", appeared_at=timezone.now() - timedelta(minutes=4))
    failed = make_job(State.FAILED, name="shop.mail", finished_at=timezone.now())
    attempt = make_attempt(failed, message="no price")
    type(attempt).objects.update(finished_at=timezone.now())
    engine.incidents.record(
        [
            Found("consumer_lost", "host", {"consumers": 1, "jobs": 0, "failed": 0, "name": "x"}),
            Found("failing", "shop.mail", {"failed": 9, "ended": 10}),
        ],
        time.time(),
    )
    shown = first_lines(operator)
    assert words(shown).startswith(
        "9 of the 10 jobs 'shop.mail' that ended in 5 min have failed; see why: python manage.py djjp failures"
        " --name shop.mail The release 2.4.2 had appeared 4 min before."
    )
    assert "no price" in text(operator.get(address_of(shown, "See why")))


def hung_slots(engine: Engine, slots: int = 2, seconds: float = 400.0) -> list[Any]:
    """Have jobs hold all slots of a consumer, one claimed ahead, and a ready one behind; return their ids."""
    consumer(concurrency_limit=slots)
    ids = [add.run_later(n, n).id for n in range(slots)] + [
        echo.run_later().id,
        echo.run_later().id,
    ]
    run(engine, slots + 1)
    ago = time.time() - seconds
    for number, id in enumerate(ids):  # in the order in which they were claimed
        Job.objects.filter(pk=id).update(created_at=to_datetime(ago))
        if number <= slots:
            Job.objects.filter(pk=id).update(started_at=to_datetime(ago - 60 + number))
    assert Job.objects.get(pk=ids[-1]).state == State.READY
    return ids


def test_all_slots_are_held_by_jobs_that_hang(engine: Engine, operator: Client) -> None:
    first, second, ahead, waiting = hung_slots(engine)
    IncidentDetector().search(engine)
    shown = first_lines(operator)
    assert words(shown).startswith(
        "a job in the queue 'default' has waited for 7 min: all 2 slots of the only consumer of this queue are"
        f" held for over 5 min, by 2 × '{add.name}', one of them for 8 min on elsewhere:1:a; see its stack,"
        f" and cancel it: python manage.py djjp cancel {first}"
    )
    assert "another consumer" not in words(shown)
    assert address_of(shown, "See its stack") == f"/admin/djjp/job/{first}/stack/"
    assert address_of(shown, "See the waiting jobs") == "/admin/djjp/job/?queue=default&state=ready"
    confirmation = text(operator.get(address_of(shown, "Cancel it")))
    operator.post(re.findall(r'<form method="post" action="([^"]+)"', confirmation)[-1])

    # The next one is offered, and the stop of the consumer once all were cancelled without effect.
    pass_unseen(10)
    IncidentDetector().search(engine)
    assert address_of(first_lines(operator), "Cancel it").startswith(f"/admin/djjp/job/{second}/")
    Job.objects.filter(pk=second).update(cancel_requested=True)
    pass_unseen(10)
    IncidentDetector().search(engine)
    assert_its_consumer_can_be_stopped(operator)
    end_cancelled(engine)
    Job.objects.filter(pk__in=[ahead, waiting]).update(state=State.RUNNING)
    pass_unseen()
    assert is_green(operator)


@pytest.mark.parametrize("helps", ["a free slot", "a slot given lately", "another consumer"])
def test_slots_that_do_not_hang_need_another_consumer(
    engine: Engine, operator: Client, helps: str
) -> None:
    ids = hung_slots(engine, slots=1)
    if helps == "a free slot":
        Consumer.objects.update(concurrency_limit=3)
    elif helps == "a slot given lately":
        Job.objects.filter(pk__in=ids[:2]).update(started_at=timezone.now())
    else:
        consumer("elsewhere:2:b")
    IncidentDetector().search(engine)
    assert "start another consumer" in words(first_lines(operator))


# One cause, one incident


def opened(*found: tuple[str, str, dict[str, Any]]) -> list[OpenIncident]:
    """Open incidents of kinds and subjects, with their facts."""
    at = timezone.now()
    for kind, subject, facts in found:
        row = Incident(kind=kind, subject=subject, opened_at=at, seen_at=at)
        row.facts = json.dumps(facts)
        row.save()
    return incidents(open_only=True)


UNSERVED = ("no_consumer", "mail", {"jobs": 2, "wait": 400, "quiet": None})
WAIT = ("wait", "mail", {"wait": 400, "limit": 300})
BACKLOG = ("backlog", "mail", {"before": 1, "ready": 900, "seconds": None})
BEHIND = ("outbox_behind", "default", {"wait": 40, "consumers": False})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([UNSERVED, WAIT, BACKLOG, BEHIND], {"no_consumer": ["wait", "backlog", "outbox_behind"]}),
        ([WAIT, BACKLOG], {"wait": ["backlog"]}),
        ([UNSERVED, ("wait", "bulk", WAIT[2])], {"no_consumer": [], "wait": []}),
        (
            [UNSERVED, ("outbox_behind", "default", {"wait": 40, "consumers": True})],
            {"no_consumer": [], "outbox_behind": []},
        ),
        ([WAIT, BEHIND], {"wait": [], "outbox_behind": []}),
    ],
)
def test_what_follows_from_a_worse_incident_is_folded_under_it(
    engine: Engine, found: list[Any], expected: dict[str, list[str]]
) -> None:
    shown = {each.kind: [one.kind for one in others] for each, others in folded(opened(*found))}
    assert shown == expected


def test_a_cause_is_shown_once_with_what_follows_from_it(engine: Engine, operator: Client) -> None:
    consumer(queues='["default"]')
    opened(WAIT, UNSERVED)
    shown = words(first_lines(operator))
    assert shown.startswith("no consumer serves the queue 'mail'")
    assert "Because of that: a job in the queue 'mail' has waited for 7 min" in shown
    assert "more incident" not in shown
    assert shown.count("start_consumer") == 1


@pytest.mark.parametrize(
    ("kind", "facts", "after"),
    [
        ("no_consumer", UNSERVED[2], 16),
        ("wait", WAIT[2], 16),
        ("failing", {"failed": 9, "ended": 10}, 41),
        ("consumer_lost", {"consumers": 1, "jobs": 2, "failed": 0, "name": "x"}, 41),
        ("consumer_lost", {"consumers": 1, "jobs": 2, "failed": 1, "name": "x"}, None),
        ("loop_blocked", {"times": 1, "longest": 2, "at": "x.py:1"}, None),
    ],
)
def test_an_incident_that_is_found_no_longer_does_not_keep_the_page_red(
    engine: Engine, operator: Client, kind: str, facts: dict[str, Any], after: float | None
) -> None:
    consumer()
    opened((kind, "mail", facts))
    pass_unseen(200 if after is None else after - 8)
    assert not is_green(operator)
    if after is not None:
        pass_unseen(after)
        assert is_green(operator)
        over = words(first_lines(operator)).partition("Seems to be over, last found")[2]
        assert over
        assert "last seen" not in over


def test_without_a_live_consumer_nothing_seems_to_be_over(engine: Engine, operator: Client) -> None:
    consumer(ago=20)  # it is silent: nobody searches
    opened(UNSERVED)
    pass_unseen(30)
    assert "djjp-bad" in first_lines(operator)


# Limits that are held


@pytest.mark.parametrize("seconds", [200, 290])
def test_a_permit_that_is_held_for_less_than_the_alert_is_no_incident(
    engine: Engine, operator: Client, seconds: float
) -> None:
    hung(engine, seconds)
    IncidentDetector().search(engine)
    assert not Incident.objects.exists()


def test_a_limit_that_gives_permits_is_no_incident(engine: Engine, operator: Client) -> None:
    holder, _ = hung(engine)
    Job.objects.filter(pk=holder).update(started_at=timezone.now())
    IncidentDetector().search(engine)
    assert not Incident.objects.exists()


@pytest.mark.parametrize("alert", [None, 1000])
def test_a_held_limit_counts_from_the_alert_of_the_settings(
    engine: Engine, operator: Client, alert: float | None
) -> None:
    hung(engine)
    with override_settings(DJJP={**settings.DJJP, "wait_alert": alert}):
        IncidentDetector().search(engine)
    assert not Incident.objects.exists()


def test_a_held_limit_of_a_paused_queue_is_no_incident(engine: Engine, operator: Client) -> None:
    hung(engine)
    queues.pause("default")
    IncidentDetector().search(engine)
    assert not Incident.objects.exists()


def test_several_permits_are_named_with_the_one_that_is_held_for_longest(
    engine: Engine, operator: Client
) -> None:
    holder, waiting = hung(engine)
    other = limited.run_later().id
    at = to_datetime(time.time() - 350)
    held = {"state": State.RUNNING, "consumer": ELSEWHERE, "started_at": at}
    Job.objects.filter(pk=other).update(**held)
    Job.objects.filter(pk=waiting).update(limit_max=2)
    IncidentDetector().search(engine)
    [found] = incidents()
    assert found.facts["permits"] == 2
    assert found.facts["job"] == str(holder)
    assert "has held the oldest of the 2 permits of the limit 'printer' for 7 min" in found.sentence
    assert found.facts["wait"] == pytest.approx(350, abs=30)


def test_a_job_that_a_consumer_knows_is_not_named_as_unknown(
    engine: Engine, operator: Client
) -> None:
    consumer(names='["shop.other"]')
    consumer("old:1:b")  # of a version that does not report its names
    make_job(State.READY, name="shop.gone", created_at=timezone.now() - timedelta(minutes=6))
    IncidentDetector().search(engine)
    [found] = incidents()
    assert "unknown" not in found.facts
    assert found.sentence.startswith("a job in the queue 'default' has waited for 6 min")
