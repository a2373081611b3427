"""`manage.py djjp …`, as users and scripts call it."""

from __future__ import annotations

import io
import re
import sqlite3
import time
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.utils import timezone

from djjp import __version__, durations, group, job, run_many
from djjp.consumer import pruner
from djjp.consumer.pruner import Pruner
from djjp.engine import Engine
from djjp.exceptions import JobNotRegistered
from djjp.jobs import registry
from djjp.models import Attempt, Job, Queue, State
from djjp.schedules import declared
from tests.project.shop.jobs import add, echo, fail, hog, mail, nap
from tests.support.consumers import drain
from tests.support.factories import new_job
from tests.support.processes import Processes, eventually
from tests.support.schedules import by_hand, registered


@pytest.fixture
def djjp(engine: Engine, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process; return its output."""

    def run(*arguments: str) -> str:
        call_command("djjp", *arguments)
        return capsys.readouterr().out

    return run


def ended(state: State = State.SUCCEEDED, *, ago: float, **fields: Any) -> Job:
    """Create a job that ended this number of seconds ago."""
    then = timezone.now() - timedelta(seconds=ago)
    return Job.objects.create(
        id=id_of(then.timestamp()),
        name="shop.gone",
        state=state,
        arguments="{}",
        created_at=then,
        finished_at=then,
        **fields,
    )


def id_of(seconds: float) -> uuid.UUID:
    """Return an id of that time: ids grow with time."""
    text = f"{int(seconds * 1000):012x}7{uuid.uuid4().hex[13:]}"
    return uuid.UUID(text)


# status


def test_status_counts_the_live_jobs_of_each_queue_by_state(engine: Engine, djjp: Any) -> None:
    run_many(add.bind(n) for n in range(12))
    drain()
    run_many([mail.bind("a"), mail.bind("b"), fail.bind("no")])
    mail.using(run_after=timedelta(hours=1)).run_later("c")

    assert rows_of_queues(djjp("status")) == {
        "default": {"ready": "1", "running": "0", "scheduled": "0", "blocked": "0"},
        "mail": {"ready": "2", "running": "0", "scheduled": "1", "blocked": "0"},
    }


def rows_of_queues(shown: str) -> dict[str, dict[str, str]]:
    """Return the numbers in the table of queues."""
    lines = shown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("queue "))
    states = lines[start].split()[1:5]
    rows = (line.split() for line in lines[start + 1 : lines.index("", start)])
    return {name: dict(zip(states, numbers, strict=False)) for name, *numbers in rows}


def test_status_shows_the_live_consumers_and_their_jobs(
    processes: Processes, engine: Engine, djjp: Any
) -> None:
    run_many([hog.bind(600.0), nap.bind(600.0), nap.bind(600.0)])
    consumer = processes.consumer(
        *("--queues", "mail,default", "--exclude-queues", "m", "--concurrency-limit", "7")
    )
    eventually(lambda: Job.objects.filter(state="running").count() == 3)

    shown = djjp("status")

    ago = r"(now|[\d.]+ m?s ago)"
    name = rf"\S+:{consumer.pid}:\w+"
    assert re.search(
        rf"^{name} +alive +3/7 +0 +mail, default, not m +{ago} +{ago}$", shown, re.MULTILINE
    )
    for number, job_name in ((1, hog.name), (2, nap.name)):
        running = rf"^    {number} × {job_name} on {name}, the first started {ago}$"
        assert re.search(running, shown, re.MULTILINE)


def test_status_leaves_out_what_a_newer_version_may_have_written(engine: Engine, djjp: Any) -> None:
    run_many(add.bind(i) for i in range(3))
    odd = Job.objects.latest("pk").pk
    Job.objects.filter(pk=odd).update(state="dormant")
    assert rows_of_queues(djjp("status"))["default"]["ready"] == "2"


def test_status_of_an_empty_queue_reports_no_jobs(engine: Engine, djjp: Any) -> None:
    assert djjp("status") == "all is well\n\nno jobs\n\nno consumers\n"


# jobs


def test_jobs_lists_the_newest_first(engine: Engine, djjp: Any) -> None:
    handles = run_many(add.bind(n) for n in range(25))

    head, *rows = djjp("jobs").splitlines()

    assert head.split() == ["id", "state", "queue", "name", "attempts", "created", "finished"]
    assert [row.split()[0] for row in rows[:-1]] == [str(handle.id) for handle in handles[:4:-1]]
    assert rows[-1].startswith("more: python manage.py djjp jobs --cursor ")
    _, *more = djjp("jobs", "--cursor", rows[-1].split()[-1]).splitlines()
    assert [row.split()[0] for row in more] == [str(handle.id) for handle in handles[4::-1]]


def test_jobs_can_be_filtered(engine: Engine, djjp: Any) -> None:
    done, failed = add.run_later(1), fail.run_later("no")
    drain()
    mailed, waiting = mail.run_later("x"), add.run_later(2)

    def ids(*options: str) -> list[str]:
        lines = djjp("jobs", *options).splitlines()[1:]
        return [line.split()[0] for line in lines if not line.startswith("more: ")]

    assert ids("--state", "failed") == [str(failed.id)]
    assert ids("--queue", "mail") == [str(mailed.id)]
    assert ids("--name", add.name) == [str(waiting.id), str(done.id)]
    assert ids("--name", add.name, "--state", "ready") == [str(waiting.id)]
    assert ids("--limit", "2") == [str(waiting.id), str(mailed.id)]
    with pytest.raises(CommandError) as nothing:
        djjp("jobs", "--queue", "nowhere")
    assert nothing.value.returncode == 4


@pytest.mark.sqlite_only
def test_a_state_that_does_not_exist_is_refused_with_the_list_of_states(
    processes: Processes, engine: Engine
) -> None:
    done = processes.run("djjp", "jobs", "--state", "lost")

    assert done.returncode == 2
    assert "succeeded" in done.stderr


# retry and cancel


def test_retry_makes_ended_jobs_ready_and_does_not_change_others(engine: Engine, djjp: Any) -> None:
    failed, done = fail.run_later("no"), add.run_later(1)
    drain()
    waiting = add.run_later(2)

    shown = djjp("retry", str(failed.id), str(waiting.id), str(done.id))

    assert shown.splitlines() == [
        f"{failed.id} is ready",
        f"{waiting.id} is ready: not retried, because it has not ended",
        f"{done.id} is ready",
    ]
    assert set(Job.objects.values_list("state", "attempts")) == {("ready", 0)}


def test_cancel_cancels_waiting_jobs_and_does_not_change_ended_ones(
    engine: Engine, djjp: Any
) -> None:
    done = add.run_later(1)
    drain()
    waiting, later = add.run_later(2), add.using(run_after=timedelta(hours=1)).run_later(3)

    shown = djjp("cancel", str(waiting.id), later.id.hex, str(done.id), str(waiting.id))

    assert shown.splitlines() == [
        f"{waiting.id} is cancelled",
        f"{later.id} is cancelled",
        f"{done.id} is succeeded: not cancelled, because it has ended",
    ]


def test_retry_and_cancel_take_the_id_of_a_pipeline(engine: Engine, djjp: Any) -> None:
    handle = group(add.bind(1), add.bind(2)).run_later()
    assert "cancelled" in djjp("cancel", str(handle.id))
    assert [step.state for step in handle.steps] == ["cancelled"] * 2
    djjp("retry", str(handle.id))
    assert [step.state for step in handle.steps] == ["ready"] * 2


@pytest.mark.end_to_end
def test_cancel_from_one_process_stops_a_job_of_another(
    processes: Processes, engine: Engine
) -> None:
    handle = hog.run_later(600.0)
    processes.consumer()
    eventually(lambda: Job.objects.get().state == "running")

    done = processes.run("djjp", "cancel", str(handle.id))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in (
        f"{handle.id} is running; its consumer will stop it\n",
        f"{handle.id} is cancelled\n",
    )
    eventually(lambda: Job.objects.get().state == "cancelled")


@pytest.mark.parametrize("verb", ["retry", "cancel"])
@pytest.mark.sqlite_only
def test_an_id_of_no_job_is_an_error_of_one_line_after_what_was_done_to_the_others(
    processes: Processes, engine: Engine, verb: str
) -> None:
    handle = add.run_later(1)
    if verb == "retry":
        drain()
    after = "ready" if verb == "retry" else "cancelled"

    done = processes.run("djjp", verb, "nonsense", str(handle.id))

    assert done.returncode == 3
    assert done.stderr == "CommandError: there is no job nonsense in the queue\n"
    assert done.stdout == f"{handle.id} is {after}\n"
    assert Job.objects.get().state == after


def test_an_error_is_one_of_djangos_commands_when_called_from_python(
    engine: Engine, djjp: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError) as caught:
        djjp("cancel", str(uuid.uuid4()))

    assert caught.value.returncode == 3
    assert str(caught.value).startswith("there is no job")
    assert capsys.readouterr() == ("", "")


@pytest.mark.one_database
@pytest.mark.parametrize("command", ["djjp", "start_consumer"])
def test_the_usual_options_are_taken_from_python(
    engine: Engine, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words, said = (["status"], "no jobs") if command == "djjp" else (["--help"], "Run jobs until")
    for usual in ({"force_color": True}, {"no_color": True, "skip_checks": False}):
        out = io.StringIO()
        call_command(command, *words, stdout=out, stderr=io.StringIO(), **usual)
        assert said in out.getvalue()
        assert ("\x1b[" in out.getvalue()) is (command == "djjp" and "force_color" in usual)
    assert capsys.readouterr() == ("", "")


# pause and resume


def test_a_queue_is_paused_and_resumed_by_its_name(engine: Engine, djjp: Any) -> None:
    handle = mail.run_later("a@b.c")

    assert djjp("pause", "mail", "never seen") == "mail is paused\nnever seen is paused\n"
    for name in ("mail", "never seen"):
        assert re.search(rf"^{name} .* paused$", djjp("status"), re.MULTILINE)
    assert drain().executed == 0

    shown = djjp("resume", "mail", "default")
    assert shown == "mail is resumed\ndefault was not paused\n"
    assert not re.search(r"^mail .* paused$", djjp("status"), re.MULTILINE)
    assert drain().executed == 1
    assert handle.join(0) == "a@b.c"


def test_a_pause_for_some_seconds_shows_its_end(engine: Engine, djjp: Any) -> None:
    shown = djjp("pause", "mail", "--for", "3600")

    assert shown == "mail is paused; it resumes in 60 min\n"
    assert " paused, resumes in 60 min\n" in djjp("status")
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
def test_an_invalid_pause_is_refused_before_any_queue_is_paused(
    engine: Engine, djjp: Any, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(click.UsageError):
        djjp("pause", *arguments)
    assert not Queue.objects.exists()


# The queues of a consumer


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--queues", "mail:3,default", "either all queues have a weight"),
        ("--queues", "mail:0", "'mail:0': a weight is a whole number from 1 to 1000"),
        ("--queues", " , ", "name at least one queue"),
        ("--exclude-queues", "", "name at least one queue"),
    ],
)
def test_invalid_queues_are_refused(engine: Engine, option: str, value: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(message)):
        call_command("start_consumer", "--drain", option, value)


def test_excluded_queues_have_no_weights(engine: Engine) -> None:
    handle = add.using(queue="a:3").run_later(1)
    call_command("start_consumer", "--drain", "--exclude-queues", "a:3")
    handle.refresh()
    assert handle.state == "ready"
    call_command("start_consumer", "--drain", "--exclude-queues", "a")
    handle.refresh()
    assert handle.state == "succeeded"


# prune


def test_prune_keeps_jobs_that_just_ended_or_have_not_ended(engine: Engine, djjp: Any) -> None:
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
    waiting = new_job(id=id_of(time.time() - 400 * day), created_at=time.time() - 400 * day)
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
def test_prune_accepts_other_times(
    engine: Engine, djjp: Any, options: list[str], left: list[str]
) -> None:
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        ended(state, ago=100)

    assert djjp("prune", *options) == f"{3 - len(left)} job{'s' * (len(left) != 2)} pruned\n"

    assert sorted(Job.objects.values_list("state", flat=True)) == left


def test_prune_reads_all_rows_in_steps(
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


def test_prune_deletes_the_same_jobs_as_consumers(engine: Engine, djjp: Any) -> None:
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
    job = ended(ago=100)
    retried: list[int] = []

    def retry_first(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "DELETE" in sql and not retried:
            retried.append(engine.control.retry([job.pk]))
        return execute(sql, params, many, context)

    with engine.db.connection.execute_wrapper(retry_first):
        assert pruner.prune(0, 0) == 0

    assert retried == [1]
    assert Job.objects.get().state == "ready"


# Without a queue


def test_a_queue_without_tables_is_refused_with_the_command_that_creates_them(
    processes: Processes, tmp_path: Path
) -> None:
    done = processes.run("djjp", "status", DJJP_TEST_HOME=str(tmp_path), DJJP_TEST_ALIAS="sqlite")

    assert done.returncode == 1
    assert "python manage.py migrate --database=sqlite" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.sqlite_only
def test_help_describes_each_command(processes: Processes, engine: Engine) -> None:
    done = processes.run("djjp", "--help")

    assert done.returncode == 0
    for name in ("status", "jobs", "retry", "cancel", "pause", "resume", "prune"):
        assert re.search(rf"^  {name}  +\S", done.stdout, re.MULTILINE), name


# schedules


def test_schedules_are_listed_with_their_next_and_last_runs(
    engine: Engine, djjp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 1_767_225_600.0  # 2026-01-01 00:00 UTC
    daily = {"cron": "0 9 * * *", "tz": "Europe/Berlin", "last_occurrence": at - 3600}
    often = {"every": timedelta(minutes=5)}
    by_hand(echo.name, at, name="b daily", **daily)
    by_hand(echo.name, at, name="c off", enabled=False, **often)
    by_hand("long.gone", at, name="d gone", **often)
    with override_settings(TIME_ZONE="UTC"), registered("a.scheduled", every=90):
        engine.schedules.sync(declared(), at)
        monkeypatch.setattr(durations, "time", SimpleNamespace(time=lambda: at))
        head, *rows = djjp("schedules").splitlines()
    assert re.split(r"  +", head) == ["name", "job", "when", "enabled", "next", "last", "problem"]
    assert [re.split(r"  +", row) for row in rows] == [
        ["a.scheduled", "a.scheduled", "every 0:01:30", "yes", "in 90 s", "-"],
        [
            *("b daily", echo.name, "0 9 * * * Europe/Berlin", "yes"),
            *("in 8 h", "60 min ago"),
        ],
        ["c off", echo.name, "every 0:05:00", "no", "-", "-"],
        [
            *("d gone", "long.gone", "every 0:05:00", "yes", "-", "-"),
            str(JobNotRegistered("long.gone")),
        ],
    ]
    assert "no job named 'a.scheduled' is registered here" in djjp("schedules")


def test_no_schedules_are_reported_as_none(engine: Engine, djjp: Any) -> None:
    assert djjp("schedules") == "no schedules; consumers add those of the code when they start\n"


# Backup


@pytest.mark.sqlite_only
def test_backup_copies_the_queue_and_overwrites_nothing(
    djjp: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = add.run_later(1)
    target = tmp_path / "backup.sqlite3"

    assert djjp("backup", str(target)) == f"the queue is copied to {target}\n"

    with closing(sqlite3.connect(target)) as copied:
        assert copied.execute("SELECT id FROM djjp_job").fetchall() == [(handle.id.hex,)]
    texts = []
    for refused in (target, tmp_path / "missing" / "backup.sqlite3"):
        with pytest.raises(CommandError) as ended:
            djjp("backup", str(refused))
        texts.append(str(ended.value))
    exists, missing = texts
    assert exists == f"{target} exists; a backup overwrites no file"
    assert "No such file or directory" in missing


@pytest.mark.postgresql_only
def test_backup_names_the_tool_for_postgresql(
    djjp: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match="pg_dump"):
        djjp("backup", str(tmp_path / "backup"))
    assert not list(tmp_path.iterdir())


@pytest.mark.sqlite_only
def test_backup_inside_a_job_does_not_wait_for_its_own_consumer(
    engine: Engine, tmp_path: Path
) -> None:
    @job(name="test.backup")
    def copy() -> None:
        call_command("djjp", "backup", str(tmp_path / "backup"))

    try:
        handle = copy.run_later()
        drain()
    finally:
        del registry._jobs["test.backup"]

    assert handle.join(0) is None
    assert (tmp_path / "backup").exists()


def test_the_version_is_that_of_djjp(processes: Processes) -> None:
    done = processes.run("djjp", "--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
