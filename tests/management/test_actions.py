"""`retry`, `cancel`, `run`, `delete`, `move` and `priority`: by ids, or on all that match a filter."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click
import pytest
from django.db import transaction
from django.db.models import Q

from djjp import chain, run_many
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.management import bulk
from djjp.models import Job, Operation, State
from djjp.monitoring import Filter, operations
from tests.management.conftest import Djjp
from tests.project.shop.jobs import add, fail, mail
from tests.support.consumers import consuming, drain
from tests.support.processes import eventually

VERBS = ["retry", "cancel", "run", "delete", "move", "priority"]


def words(verb: str) -> list[str]:
    return {"move": ["move", "bulk"], "priority": ["priority", "7"]}.get(verb, [verb])


def states() -> dict[str, int]:
    found: dict[str, int] = {}
    for state in Job.objects.values_list("state", flat=True):
        found[state] = found.get(state, 0) + 1
    return found


# By ids


def test_each_verb_is_done_to_ids(engine: Engine, djjp: Djjp) -> None:
    failed = fail.run_later("no")
    drain()
    later = add.using(run_after=timedelta(hours=1)).run_later(1)
    moved, raised = add.run_later(2), add.run_later(3)

    assert djjp("retry", str(failed.id)).out == f"{failed.id} is ready\n"
    assert djjp("run", str(later.id)).out == f"{later.id} is ready\n"
    assert djjp("move", "bulk", str(moved.id)).out == f"{moved.id} is moved\n"
    assert djjp("priority", "7", str(raised.id)).out == f"{raised.id} is ready\n"
    assert Job.objects.get(pk=moved.id).queue == "bulk"
    assert Job.objects.get(pk=raised.id).priority == 7
    assert djjp("priority", str(raised.id), "--", "-5").code == 2
    assert djjp("priority", "--", "-5", str(raised.id)).code == 0
    assert Job.objects.get(pk=raised.id).priority == -5
    document = djjp("delete", str(later.id), str(later.id), "--json").document("Deeds")
    assert document == {
        "verb": "delete",
        "jobs": [{"id": str(later.id), "state": None, "done": True, "reason": None}],
    }
    assert not Job.objects.filter(pk=later.id).exists()


def test_what_cannot_be_done_to_a_job_is_said_with_its_reason(engine: Engine, djjp: Djjp) -> None:
    done = add.run_later(1)
    drain()
    ran = djjp("move", "bulk", str(done.id))
    assert (ran.code, ran.out) == (
        0,
        f"{done.id} is succeeded: not moved, because it has ended\n",
    )
    ready = add.run_later(1)
    assert djjp("run", str(ready.id)).out == (
        f"{ready.id} is ready: not made ready, because it is ready already\n"
    )


def test_an_id_in_two_spellings_is_one_job(engine: Engine, djjp: Djjp) -> None:
    id = str(add.run_later(1).id)
    preview = djjp("cancel", id, id.upper(), "--dry-run", "--json").document("Preview")
    assert preview["matched"] == 1
    ran = djjp("cancel", id.upper(), id, id.replace("-", ""))
    assert (ran.code, ran.lines) == (0, [f"{id} is cancelled"])


def test_ids_of_no_job_are_counted_by_a_dry_run(engine: Engine, djjp: Djjp) -> None:
    id = str(add.run_later(1).id)
    ran = djjp("cancel", id, "nonsense", str(new_id()), "--dry-run")
    assert (ran.code, ran.err) == (3, "CommandError: no job has 2 of the ids\n")
    assert states() == {"ready": 1}


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_ids_give_3_after_the_known_ones(engine: Engine, djjp: Djjp, verb: str) -> None:
    done, later = add.run_later(1), add.using(run_after=timedelta(hours=1)).run_later(1)
    known = later
    if verb == "retry":
        known = done
        drain()
    ran = djjp(*words(verb), "gone", str(known.id))
    assert ran.code == 3
    assert ran.err == "CommandError: there is no job gone in the queue\n"
    two = djjp(*words(verb), "gone", "lost")
    assert two.err == (
        "CommandError: there is no job gone in the queue; there is no job lost in the queue\n"
    )
    assert ran.out.startswith(f"{known.id} is ")
    dry = djjp(*words(verb), "gone", "--dry-run", "--json")
    assert dry.code == 3
    assert dry.document("Preview")["error"]["slug"] == "job-not-found"


@pytest.mark.parametrize("verb", ["run", "delete", "move", "priority"])
def test_the_id_of_a_pipeline_whose_last_job_is_deleted_gives_3(
    engine: Engine, djjp: Djjp, verb: str
) -> None:
    handle = chain(add.bind(1), add.bind(2)).run_later()
    Job.objects.filter(pk=handle.id).delete()
    ran = djjp(*words(verb), str(handle.id))
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == f"CommandError: there is no job {handle.id} in the queue\n"


@pytest.mark.parametrize("verb", ["run", "delete", "move", "priority"])
def test_a_job_that_only_an_outbox_has_is_left_alone_with_this_reason(
    engine: Engine, djjp: Djjp, verb: str
) -> None:
    with transaction.atomic():
        handle = add.run_later(1)
        ran = djjp(*words(verb), str(handle.id))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("because it is still in an outbox\n")


# By a filter


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_shows_what_would_be_done_and_changes_nothing(
    engine: Engine, djjp: Djjp, verb: str
) -> None:
    run_many([fail.bind("no"), add.bind(1)])
    drain()
    run_many([add.using(run_after=timedelta(hours=1)).bind(1), mail.bind("a")])
    before = list(Job.objects.order_by("pk").values())

    ran = djjp(*words(verb), "--name", "*", "--dry-run")
    document = djjp(*words(verb), "--name", "*", "--dry-run", "--json").document("Preview")

    assert (ran.code, document["matched"]) == (0, 4)
    assert re.match(r"4 match(; \d cannot, because .*)?; nothing was changed\n", ran.out)
    assert document["possible"] == {"delete": 4, "run": 1}.get(verb, 2)
    assert list(Job.objects.order_by("pk").values()) == before
    assert not Operation.objects.exists()


def test_all_that_match_are_done_and_those_left_alone_are_counted_by_reason(
    engine: Engine, djjp: Djjp
) -> None:
    run_many(fail.bind("no") for _ in range(3))
    drain()
    run_many([add.bind(1), mail.bind("a")])

    ran = djjp("retry", "--queue", "default", "--yes")
    assert (ran.code, ran.out) == (
        0,
        "3 jobs retried; 1 left alone: 1 has not ended\n",
    )
    assert states() == {"ready": 5}
    document = djjp("move", "bulk", "--queue", "mail", "--yes", "--json").document("Operation")
    assert (document["verb"], document["argument"], document["state"]) == ("move", "bulk", "done")
    assert (document["matched"], document["done"], document["skipped"]) == (1, 1, {})
    assert document["requested_by"].startswith("cli:")
    assert Job.objects.get(queue="bulk").name == "shop.mail"


def test_more_than_a_thousand_are_worked_off_here_while_no_consumer_is_alive(
    engine: Engine, djjp: Djjp
) -> None:
    run_many(add.using(run_after=timedelta(hours=1)).bind(n) for n in range(1200))
    ran = djjp("cancel", "--state", "scheduled", "--yes")
    assert ran.out == "1,200 jobs cancelled\n"
    assert states() == {"cancelled": 1200}
    (listed,) = djjp("operations", "--json").document("Operations")["operations"]
    assert (listed["verb"], listed["done"]) == ("cancel", 1200)
    assert "state:scheduled" in djjp("operations").out


def test_with_a_live_consumer_the_command_ends_at_once_or_waits_if_it_must(
    engine: Engine, djjp: Djjp
) -> None:
    run_many(add.using(run_after=timedelta(hours=1)).bind(n) for n in range(2200))
    with consuming(queues=["other"]):
        eventually(lambda: djjp("consumers", "--json").document("Consumers")["consumers"])
        ran = djjp("cancel", "--state", "scheduled", "--yes")
        assert re.match(r"the operation \S+ is (waiting|running): consumers work on it", ran.out)
        eventually(lambda: Job.objects.filter(state="cancelled").count() == 2200)
        waited = djjp("delete", "--state", "cancelled", "--yes", "--wait", "--json")
        assert waited.document("Operation")["done"] == 2200
    assert not Job.objects.exists()


def test_an_operation_can_be_stopped(engine: Engine, djjp: Djjp) -> None:
    run_many(add.using(run_after=timedelta(hours=1)).bind(n) for n in range(1100))
    info = operations.start("cancel", filter=Filter(state=(State.SCHEDULED,)))
    assert djjp("operations", "stop", str(info.id)).out == f"the operation {info.id} is stopped\n"
    assert states() == {"scheduled": 1100}
    ran = djjp("operations", "stop", str(info.id), "--json")
    assert ran.document("Operation")["state"] == "stopped"
    for unknown in ("x", "01a20ea1-30c5-7899-9bf1-a6a7d8c6d722"):
        ran = djjp("operations", "stop", unknown, "--json")
        assert ran.code == 3
        assert ran.document("Failure")["error"]["slug"] == "operation-not-found"


def test_an_interrupted_wait_leaves_the_operation_and_says_how_to_stop_it(
    engine: Engine, djjp: Djjp, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_many(add.using(run_after=timedelta(hours=1)).bind(n) for n in range(1100))

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "work_off", interrupted)
    ran = djjp("cancel", "--state", "scheduled", "--yes")
    assert ran.code == 1
    operation = Operation.objects.get()
    assert ran.err.rstrip().endswith(f"python manage.py djjp operations stop {operation.pk}")


# Guards


@pytest.mark.parametrize("verb", VERBS)
def test_without_ids_and_filter_or_with_both_it_is_a_usage_error(
    engine: Engine, djjp: Djjp, verb: str
) -> None:
    handle = add.run_later(1)
    for given in ([], [str(handle.id), "--queue", "default"]):
        ran = djjp(*words(verb), *given, "--yes", "--json")
        assert ran.code == 2
        assert "by their ids or by a filter" in ran.document("Failure")["error"]["detail"]
    assert states() == {"ready": 1}


@pytest.mark.parametrize("verb", VERBS)
def test_a_filter_given_twice_is_a_usage_error(engine: Engine, djjp: Djjp, verb: str) -> None:
    add.using(tags=["b"]).run_later(1)
    ran = djjp(*words(verb), "--tag", "a", "--tag", "b", "--yes", "--json")
    assert ran.code == 2
    assert ran.document("Failure")["error"]["slug"] == "invalid-filter"
    assert states() == {"ready": 1}


@pytest.mark.parametrize("verb", VERBS)
def test_a_filter_that_matches_nothing_gives_4(engine: Engine, djjp: Djjp, verb: str) -> None:
    ran = djjp(*words(verb), "--queue", "nowhere", "--yes", "--json")
    assert ran.code == 4
    assert ran.document("Failure")["error"]["slug"] == "nothing-matched"
    assert not Operation.objects.exists()


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_terminal_a_filter_needs_yes(engine: Engine, djjp: Djjp, verb: str) -> None:
    add.run_later(1)
    ran = djjp(*words(verb), "--queue", "default")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert states() == {"ready": 1}


@pytest.mark.parametrize(("answer", "left"), [(True, {"cancelled": 2}), (False, {"ready": 2})])
def test_on_a_terminal_it_asks_before_it_changes_anything(
    engine: Engine,
    djjp: Djjp,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
    left: dict[str, int],
) -> None:
    run_many([add.bind(1), add.bind(2)])
    asked: list[str] = []
    monkeypatch.setattr(bulk, "is_interactive", lambda: True)

    def confirm(text: str) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(click, "confirm", confirm)
    ran = djjp("cancel", "--queue", "default")
    assert asked == ["Cancel them?"]
    assert ran.lines[0] == "2 match"
    assert ran.code == (0 if answer else 1)
    assert states() == left


@pytest.mark.parametrize(
    "arguments",
    [("move", "x" * 101), ("move", ""), ("priority", "99999"), ("priority", "high")],
)
def test_a_wrong_argument_is_a_usage_error(
    engine: Engine, djjp: Djjp, arguments: tuple[str, ...]
) -> None:
    handle = add.run_later(1)
    assert djjp(*arguments, str(handle.id)).code == 2
    assert Job.objects.filter(~Q(queue="default") | ~Q(priority=0)).count() == 0
