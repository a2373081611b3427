"""`manage.py djjp …`, as people and scripts use it."""

from __future__ import annotations

import re
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from django.core.management import call_command
from django.test import override_settings
from django.utils import timezone

from djjp import run_many
from djjp.consumer import pruner
from djjp.consumer.pruner import Pruner
from djjp.engine import Engine
from djjp.exceptions import JobNotRegistered
from djjp.models import Attempt, Job, Queue, State
from djjp.schedules import declared
from tests.project.shop.jobs import add, echo, fail, hog, mail, nap
from tests.support.consumers import drain
from tests.support.factories import new_job
from tests.support.processes import Processes, eventually
from tests.support.schedules import by_hand, registered


@pytest.fixture
def djjp(engine: Engine, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process; returns what it printed."""

    def run(*arguments: str) -> str:
        call_command("djjp", *arguments)
        return capsys.readouterr().out

    return run


def ended(state: State = State.SUCCEEDED, *, ago: float, **fields: Any) -> Job:
    """A job that ended so many seconds ago."""
    then = timezone.now() - timedelta(seconds=ago)
    return Job.objects.create(
        id=overview_id(then.timestamp()),
        name="shop.gone",
        state=state,
        arguments="{}",
        created_at=then,
        finished_at=then,
        **fields,
    )


def overview_id(seconds: float) -> uuid.UUID:
    """An id as it was made then: ids grow with time."""
    text = f"{int(seconds * 1000):012x}7{uuid.uuid4().hex[13:]}"
    return uuid.UUID(text)


# status


def test_status_counts_the_jobs_of_each_queue_by_state(engine: Engine, djjp: Any) -> None:
    run_many(add.bind(n) for n in range(12))
    drain()
    run_many([mail.bind("a"), mail.bind("b"), fail.bind("no")])
    mail.using(run_after=timedelta(hours=1)).run_later("c")

    head, *rows = (line.split() for line in djjp("status").splitlines()[:3])

    assert head == ["queue", *(state.value for state in State)]
    counted = {name: dict(zip(head[1:], numbers, strict=True)) for name, *numbers in rows}
    assert {q: {s: n for s, n in by.items() if n != "0"} for q, by in counted.items()} == {
        "default": {"ready": "1", "succeeded": "12"},
        "mail": {"scheduled": "1", "ready": "2"},
    }


def test_status_shows_the_consumers_that_live_and_what_they_run(
    processes: Processes, engine: Engine, djjp: Any
) -> None:
    run_many([hog.bind(600.0), nap.bind(600.0), nap.bind(600.0)])
    consumer = processes.consumer(
        *("--queues", "mail,default", "--exclude-queues", "m", "--concurrency-limit", "7")
    )
    eventually(lambda: Job.objects.filter(state="running").count() == 3)

    shown = djjp("status")

    assert re.search(
        rf"consumer \S+:{consumer.pid}:\w+: serves mail, default, not m, up to 7 jobs at once; "
        r"started \d{4}-\d\d-\d\d [\d:]{8}, heartbeat \d+\.\d s ago\n",
        shown,
    )
    assert re.search(rf"^    1 × {hog.name}, the longest for \d+\.\d s$", shown, re.MULTILINE)
    assert re.search(rf"^    2 × {nap.name}, the longest for \d+\.\d s$", shown, re.MULTILINE)


def test_status_of_an_empty_queue_says_so(engine: Engine, djjp: Any) -> None:
    assert djjp("status") == "no jobs\n\nno consumers\n"


# jobs


def test_jobs_lists_the_newest_first(engine: Engine, djjp: Any) -> None:
    handles = run_many(add.bind(n) for n in range(25))

    head, *rows = djjp("jobs").splitlines()

    assert head.split() == ["id", "state", "queue", "name", "attempts", "created", "finished"]
    assert [row.split()[0] for row in rows] == [str(handle.id) for handle in handles[:4:-1]]


def test_jobs_can_be_narrowed_down(engine: Engine, djjp: Any) -> None:
    done, failed = add.run_later(1), fail.run_later("no")
    drain()
    mailed, waiting = mail.run_later("x"), add.run_later(2)

    def ids(*options: str) -> list[str]:
        return [line.split()[0] for line in djjp("jobs", *options).splitlines()[1:]]

    assert ids("--state", "failed") == [str(failed.id)]
    assert ids("--queue", "mail") == [str(mailed.id)]
    assert ids("--name", add.name) == [str(waiting.id), str(done.id)]
    assert ids("--name", add.name, "--state", "ready") == [str(waiting.id)]
    assert ids("--limit", "2") == [str(waiting.id), str(mailed.id)]
    assert djjp("jobs", "--queue", "nowhere") == "no jobs\n"


def test_a_state_that_does_not_exist_is_refused_with_those_that_do(
    processes: Processes, engine: Engine
) -> None:
    done = processes.run("djjp", "jobs", "--state", "lost")

    assert done.returncode == 2
    assert "succeeded" in done.stderr


# retry and cancel


def test_retry_makes_what_has_ended_ready_and_leaves_the_rest_alone(
    engine: Engine, djjp: Any
) -> None:
    failed, done = fail.run_later("no"), add.run_later(1)
    drain()
    waiting = add.run_later(2)

    shown = djjp("retry", str(failed.id), str(waiting.id), str(done.id))

    assert shown.splitlines() == [
        f"{failed.id} is ready",
        f"{waiting.id} is ready: left alone",
        f"{done.id} is ready",
    ]
    assert set(Job.objects.values_list("state", "attempts")) == {("ready", 0)}


def test_cancel_stops_what_waits_and_leaves_what_has_ended_alone(engine: Engine, djjp: Any) -> None:
    done = add.run_later(1)
    drain()
    waiting, later = add.run_later(2), add.using(run_after=timedelta(hours=1)).run_later(3)

    shown = djjp("cancel", str(waiting.id), later.id.hex, str(done.id), str(waiting.id))

    assert shown.splitlines() == [
        f"{waiting.id} is cancelled",
        f"{later.id} is cancelled",
        f"{done.id} is succeeded: left alone",
    ]


def test_cancel_from_one_process_stops_a_job_of_another(
    processes: Processes, engine: Engine
) -> None:
    handle = hog.run_later(600.0)
    processes.consumer()
    eventually(lambda: Job.objects.get().state == "running")

    done = processes.run("djjp", "cancel", str(handle.id))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in (
        f"{handle.id} is running, and told to stop\n",
        f"{handle.id} is cancelled\n",
    )
    eventually(lambda: Job.objects.get().state == "cancelled")


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_an_id_of_no_job_is_an_error_in_a_line_and_nothing_is_done(
    processes: Processes, engine: Engine, verb: str
) -> None:
    handle = add.run_later(1)
    if verb == "retry":
        drain()
    before = Job.objects.values().get()

    done = processes.run("djjp", verb, str(handle.id), "nonsense")

    assert done.returncode == 1
    assert done.stderr == "CommandError: there is no job nonsense in the queue\n"
    assert done.stdout == ""
    assert Job.objects.values().get() == before


def test_called_from_python_an_error_is_an_exit_too(
    engine: Engine, djjp: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(click.exceptions.Exit) as caught:
        djjp("cancel", str(uuid.uuid4()))

    assert caught.value.exit_code == 1
    assert "there is no job" in capsys.readouterr().err


# pause and resume


def test_a_queue_is_paused_and_resumed_by_its_name(engine: Engine, djjp: Any) -> None:
    handle = mail.run_later("a@b.c")

    assert djjp("pause", "mail", "never seen") == "mail is paused\nnever seen is paused\n"
    assert "\nmail is paused\nnever seen is paused\n" in djjp("status")
    assert drain().executed == 0

    said = djjp("resume", "mail", "default")
    assert said == "mail goes on\ndefault was not paused\n"
    assert "mail is paused" not in djjp("status")
    assert drain().executed == 1
    assert handle.join(0) == "a@b.c"


def test_a_pause_for_some_seconds_says_when_it_ends(engine: Engine, djjp: Any) -> None:
    said = djjp("pause", "mail", "--for", "3600")

    assert re.fullmatch(r"mail is paused until \d{4}-\d\d-\d\d [\d:]{8}\n", said)
    assert said in djjp("status")
    ends = Queue.objects.get().paused_until
    assert ends is not None
    assert 3500 < (ends - timezone.now()).total_seconds() <= 3600


@pytest.mark.parametrize(
    "arguments",
    [
        ("mail", "report.*"),
        ("mail", ""),
        ("mail", "x" * 101),
        ("mail", "--for", "0"),
        ("mail", "--for", "nan"),
        ("mail", "--for", "1e300"),
        (),
    ],
)
def test_what_cannot_be_paused_is_said_before_anything_is(
    engine: Engine, djjp: Any, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(click.UsageError):
        djjp("pause", *arguments)
    assert not Queue.objects.exists()


# The queues of a consumer


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--queues", "mail:3,default", "either all queues have a weight"),
        ("--queues", "mail:0", "'mail:0': a weight is a whole number from 1 to 1000"),
        ("--queues", " , ", "name at least one queue"),
        ("--exclude-queues", "", "name at least one queue"),
    ],
)
def test_queues_that_make_no_sense_are_refused(
    engine: Engine, option: str, value: str, said: str
) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(said)):
        call_command("start_consumer", "--drain", option, value)


def test_what_to_leave_out_has_no_weights(engine: Engine) -> None:
    handle = add.using(queue="a:3").run_later(1)
    call_command("start_consumer", "--drain", "--exclude-queues", "a:3")
    handle.refresh()
    assert handle.state == "ready"
    call_command("start_consumer", "--drain", "--exclude-queues", "a")
    handle.refresh()
    assert handle.state == "succeeded"


# prune


def test_prune_keeps_what_just_ended_and_what_has_not(engine: Engine, djjp: Any) -> None:
    day = 24 * 3600
    gone = [
        ended(ago=8 * day),
        ended(State.FAILED, ago=31 * day),
        ended(State.CANCELLED, ago=31 * day),
    ]
    Attempt.objects.create(
        job=gone[1], number=1, started_at=timezone.now(), finished_at=timezone.now()
    )
    kept = [ended(ago=6 * day), ended(State.FAILED, ago=8 * day), ended(ago=0)]
    waiting = new_job(id=overview_id(time.time() - 400 * day), created_at=time.time() - 400 * day)
    engine.jobs.enqueue(waiting)

    assert djjp("prune") == "3 jobs pruned\n"

    left = set(Job.objects.values_list("pk", flat=True))
    assert left == {waiting.id, *(job.pk for job in kept)}
    assert not Attempt.objects.exists()
    assert djjp("prune") == "0 jobs pruned\n"


def test_prune_follows_the_settings(engine: Engine, djjp: Any) -> None:
    ended(ago=100)
    ended(State.FAILED, ago=100)
    keep = {"keep_succeeded": timedelta(seconds=50), "keep_failed": None}
    with override_settings(DJJP={"db_name": engine.db.alias, **keep}):
        assert djjp("prune") == "1 job pruned\n"

    assert Job.objects.get().state == "failed"


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep-succeeded", "0"], ["cancelled", "failed"]),
        (["--keep-failed", "50.5"], ["succeeded"]),
        (
            ["--keep-succeeded", "1000", "--keep-failed", "1000"],
            ["cancelled", "failed", "succeeded"],
        ),
        (["--keep-succeeded", "0", "--keep-failed", "0"], []),
    ],
)
def test_prune_takes_other_spans(
    engine: Engine, djjp: Any, options: list[str], left: list[str]
) -> None:
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        ended(state, ago=100)

    assert djjp("prune", *options) == f"{3 - len(left)} job{'s' * (len(left) != 2)} pruned\n"

    assert sorted(Job.objects.values_list("state", flat=True)) == left


def test_prune_walks_over_all_rows_in_steps(
    engine: Engine, djjp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "PRUNE_ROWS", 7)
    for state in (State.SUCCEEDED, State.FAILED):
        for _ in range(15):
            ended(state, ago=100)
            ended(state, ago=10)
    young = ended(ago=1)

    assert djjp("prune", "--keep-succeeded", "50", "--keep-failed", "50") == "30 jobs pruned\n"
    assert Job.objects.count() == 31
    assert Job.objects.filter(pk=young.pk).exists()


def test_prune_does_what_consumers_do_in_their_turns(engine: Engine, djjp: Any) -> None:
    old = [ended(ago=40 * 24 * 3600), ended(State.FAILED, ago=40 * 24 * 3600), ended(ago=60)]
    walk = Pruner()
    while walk.step(engine):
        pass
    by_consumers = set(Job.objects.values_list("pk", flat=True))
    Job.objects.all().delete()
    Job.objects.bulk_create(old)

    djjp("prune")

    assert set(Job.objects.values_list("pk", flat=True)) == by_consumers == {old[2].pk}


def test_a_job_that_is_retried_while_it_is_pruned_stays(engine: Engine) -> None:
    job, retried = ended(ago=100), []

    def retry_first(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "DELETE" in sql and not retried:
            retried.append(engine.control.retry([job.pk]))
        return execute(sql, params, many, context)

    with engine.db.connection.execute_wrapper(retry_first):
        assert pruner.prune(0, 0) == 0

    assert retried == [1]
    assert Job.objects.get().state == "ready"


# When there is no queue


def test_a_queue_without_tables_is_refused_with_the_command_that_makes_them(
    processes: Processes, tmp_path: Path
) -> None:
    done = processes.run("djjp", "status", DJJP_TEST_HOME=str(tmp_path), DJJP_TEST_ALIAS="sqlite")

    assert done.returncode == 1
    assert "python manage.py migrate --database=sqlite" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_says_what_each_command_does(processes: Processes, engine: Engine) -> None:
    done = processes.run("djjp", "--help")

    assert done.returncode == 0
    for name in ("status", "jobs", "retry", "cancel", "pause", "resume", "prune"):
        assert re.search(rf"^  {name}  +\S", done.stdout, re.MULTILINE), name


# schedules


def test_schedules_are_listed_with_their_next_and_last_runs(engine: Engine, djjp: Any) -> None:
    at = 1_767_225_600.0  # 2026-01-01 00:00 UTC
    daily = {"cron": "0 9 * * *", "tz": "Europe/Berlin", "last_occurrence": at - 3600}
    often = {"every": timedelta(minutes=5)}
    by_hand(echo.name, at, name="b daily", **daily)
    by_hand(echo.name, at, name="c off", enabled=False, **often)
    by_hand("long.gone", at, name="d gone", **often)
    with override_settings(TIME_ZONE="UTC"), registered("a.scheduled", every=90):
        engine.schedules.sync(declared(), at)
        head, *rows = djjp("schedules").splitlines()
    assert re.split(r"  +", head) == ["name", "job", "when", "enabled", "next", "last"]
    assert [re.split(r"  +", row) for row in rows] == [
        ["a.scheduled", "a.scheduled", "every 0:01:30", "yes", "2026-01-01 00:01:30", "-"],
        [
            *("b daily", echo.name, "0 9 * * * Europe/Berlin", "yes"),
            *("2026-01-01 08:00:00", "2025-12-31 23:00:00"),
        ],
        ["c off", echo.name, "every 0:05:00", "no", "-", "-"],
        [
            *("d gone", "long.gone", "every 0:05:00", "yes", "-", "-"),
            f"not here: {JobNotRegistered('long.gone')}",
        ],
    ]
    assert "no job named 'a.scheduled' is registered here" in djjp("schedules")


def test_no_schedules_are_said_to_be_none(engine: Engine, djjp: Any) -> None:
    assert djjp("schedules") == "no schedules\n"
