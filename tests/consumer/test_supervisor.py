"""`start_consumer --processes`: a supervisor and its children, as users run them.

Most of it does not depend on the database, and runs on one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from djjp import job, run_many
from djjp.engine import Engine
from djjp.models import Consumer, Job
from tests.project.shop.jobs import add, linger, mail, nap, record
from tests.project.shop.models import Execution
from tests.support.engine_calls import one, register_consumer, row
from tests.support.processes import ROOT, Processes, eventually


# The scratch app of each test defines the function that consumers run under this name.
@job(name="scratch.speak")
def speak() -> object:
    raise NotImplementedError


def states() -> Counter[str]:
    return Counter(Job.objects.values_list("state", flat=True))


def held_by() -> set[int]:
    """Return the process ids of the consumers of running jobs."""
    names = Job.objects.filter(state="running").values_list("consumer", flat=True)
    return {int(str(name).split(":")[1]) for name in names}


def children(process: subprocess.Popen[str]) -> set[int]:
    """Return the child processes of a supervisor that are alive."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid) for pid in listed if alive(int(pid))}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def lines_until(process: subprocess.Popen[str], *texts: str) -> str:
    """Read the stderr of a process until each text has come in this order."""
    assert process.stderr is not None
    output = ""
    for text in texts:
        line = ""
        while text not in line:
            line = process.stderr.readline()
            assert line, f"ended before {text!r}:\n{output}"
            output += line
    return output


class App:
    """An additional app of the test project, with jobs that a test writes and edits."""

    def __init__(self, home: Path, jobs: str) -> None:
        self._jobs = home / "scratch_app" / "jobs.py"
        self._jobs.parent.mkdir()
        (home / "scratch_app" / "__init__.py").touch()
        (home / "scratch_settings.py").write_text(
            "from tests.project.settings import *\n"
            "INSTALLED_APPS = [*INSTALLED_APPS, 'scratch_app']\n"
        )
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "scratch_settings",
            "PYTHONPATH": os.pathsep.join([str(home), str(ROOT)]),
        }
        self.write(jobs)

    def go(self) -> None:
        """Let the jobs of `WAITING` end."""
        (self._jobs.parent / "go").touch()

    def write(self, jobs: str) -> None:
        self._jobs.write_text("from djjp import job\n" + dedent(jobs))


# A job that holds 150 MB and ends when its test lets it.
WAITING = """
import os, pathlib, time

@job(name="scratch.speak")
def speak():
    global hoard
    hoard = b"x" * 150_000_000
    while not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.05)
    return os.getpid()
"""


# Children


@pytest.mark.sqlite_only
def test_n_children_run_the_jobs_and_the_supervisor_runs_none(
    processes: Processes, engine: Engine
) -> None:
    run_many(nap.bind(60.0) for _ in range(3))
    supervisor = processes.consumer("--processes", "2", "--concurrency-limit", "1")
    eventually(lambda: states()["running"] == 2)

    mine = children(supervisor)
    assert held_by() == mine
    assert len(mine) == 2
    assert {os.getpgid(pid) for pid in mine} == {os.getpgid(supervisor.pid)}
    processes.end(supervisor, signal.SIGQUIT)
    assert not any(alive(pid) for pid in mine)


@pytest.mark.sqlite_only
def test_a_child_that_is_killed_is_replaced(processes: Processes, engine: Engine) -> None:
    supervisor = processes.consumer("--processes", "2")
    eventually(lambda: len(children(supervisor)) == 2)
    victim, other = children(supervisor)

    os.kill(victim, signal.SIGKILL)

    eventually(lambda: len(children(supervisor)) == 2 and not alive(victim))
    assert other in children(supervisor)
    handle = add.run_later(1)
    handle.join(30)
    code, err = processes.end(supervisor)
    assert code == 0, err
    assert f"child {victim} was ended by SIGKILL" in err


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_consumer_in_another_container_is_not_taken_for_the_dead_child(
    processes: Processes, engine: Engine
) -> None:
    """Its hostname and its process id are the same, as in two containers of one image."""
    supervisor = processes.consumer("--processes", "1", "--concurrency-limit", "1")
    eventually(lambda: Consumer.objects.count() == 1)
    child = Consumer.objects.get()
    linger.run_later("job", 600, 600)
    eventually(lambda: Execution.objects.filter(process=child.pid).exists())
    other = child.name.rpartition(":")[0] + ":other"
    peer = register_consumer(engine, other, float(int(time.time())), locked=False)
    theirs = one(engine, other)

    os.kill(child.pid, signal.SIGKILL)

    lines_until(supervisor, f"consumer {child.name} is dead")
    eventually(lambda: Job.objects.filter(state="running", rescues=1).exists())
    assert row(theirs.id)["consumer"] == other
    assert peer in engine.consumers.peers()
    processes.end(supervisor, signal.SIGQUIT)


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_programs_that_a_job_starts_do_not_inherit_the_supervisor(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(
        tmp_path,
        """
        import subprocess, sys

        @job(name="scratch.speak")
        def speak():
            program = "import os, signal; print(os.getppid(), signal.getsignal(2) == signal.SIG_IGN, "
            program += "signal.pthread_sigmask(signal.SIG_BLOCK, []), *os.environ)"
            return subprocess.check_output([sys.executable, "-c", program], text=True)
        """,
    )
    handle = speak.run_later()
    supervisor = processes.django("start_consumer", "--processes", "1", **app.environment)
    parent, ignored, blocked, *environment = str(handle.join(30)).split()

    assert {int(parent)} == children(supervisor)
    assert not any("SUPERVISOR" in name for name in environment)
    assert (ignored, blocked) == ("False", "set()")
    assert processes.end(supervisor)[0] == 0


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_children_get_the_options_of_a_call_from_python(
    processes: Processes, engine: Engine
) -> None:
    mail.run_later("a@b.c")
    add.run_later(1)
    caller = processes.python(
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('start_consumer', queues=['mail', 'other'], processes=2, drain=True)\n"
        "print('and goes on')"
    )
    out, err = caller.communicate(timeout=60)

    assert (caller.returncode, out, err) == (0, "and goes on\n", "")
    assert dict(Job.objects.values_list("queue", "state")) == {
        "mail": "succeeded",
        "default": "ready",
    }


# Planned ends


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_drain_ends_when_no_child_finds_more_jobs_although_each_ends_at_max_jobs(
    processes: Processes, engine: Engine
) -> None:
    run_many(record.bind(str(i)) for i in range(8))
    ended = processes.run("start_consumer", "--processes", "2", "--drain", "--max-jobs", "3")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert states() == {"succeeded": 8}
    shares = Counter(Execution.objects.values_list("process", flat=True))
    assert max(shares.values()) <= 3
    assert len(shares) >= 3


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_child_that_crashes_during_a_drain_is_replaced(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(tmp_path, WAITING)
    first = speak.run_later()
    options = ["--processes", "1", "--drain"]
    supervisor = processes.django("start_consumer", *options, **app.environment)
    eventually(lambda: states()["running"])
    late = add.run_later(1)
    (victim,) = children(supervisor)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: not alive(victim))
    app.go()
    _, err = supervisor.communicate(timeout=60)

    assert supervisor.returncode == 0, err
    assert late.join(0) == 1
    assert first.join(0) != victim


@pytest.mark.sqlite_only
def test_a_consumer_that_holds_too_much_memory_ends_after_its_running_job(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(tmp_path, WAITING)
    first = speak.run_later()
    consumer = processes.django("start_consumer", "--max-rss", "150", **app.environment)
    lines_until(consumer, "more than the 150 allowed")
    second = speak.run_later()
    app.go()
    consumer.communicate(timeout=60)

    assert consumer.returncode == 0
    assert first.join(0) == consumer.pid
    second.refresh()
    assert (second.state, second.attempts) == ("ready", 0)


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_child_that_holds_too_much_memory_is_replaced_however_long_its_job_runs(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(tmp_path, WAITING)
    first = speak.run_later()
    options = ["--max-rss", "150", "--processes", "1", "--drain"]
    environment = app.environment | {"DJJP_TEST_SHUTDOWN_TIMEOUT": "0"}
    supervisor = processes.django("start_consumer", *options, **environment)
    lines_until(supervisor, "more than the 150 allowed")
    second = speak.run_later()
    app.go()
    supervisor.communicate(timeout=60)

    assert supervisor.returncode == 0
    assert first.join(0) != second.join(0)
    assert (first.attempts, second.attempts) == (1, 1)


@pytest.mark.end_to_end
@pytest.mark.borrowed
@pytest.mark.sqlite_only
def test_changed_code_is_run_and_broken_code_is_survived(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    text = "@job(name='scratch.speak')\ndef speak():\n    return '{}'\n"
    app = App(tmp_path, text.format("old"))
    supervisor = processes.django("start_consumer", "--reload", **app.environment)
    assert speak.run_later().join(30) == "old"

    app.write(text.format("half a word") + "def broken(:\n")
    lines_until(supervisor, "SyntaxError", "another starts in")
    app.write(text.format("something new"))

    assert speak.run_later().join(30) == "something new"
    assert processes.end(supervisor)[0] == 0


# Crashes


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_children_that_keep_crashing_are_restarted_ever_more_slowly_until_a_signal(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(
        tmp_path,
        """
        import os
        if "DJJP_SUPERVISOR" in os.environ:
            raise RuntimeError("only in a child")
        """,
    )
    supervisor = processes.django("start_consumer", "--processes", "1", **app.environment)
    output = lines_until(supervisor, "another starts in 1 s", "another starts in 2 s")
    code, rest = processes.end(supervisor)

    # On a busy machine a child can live for five seconds: then the next one starts at once, and it begins anew.
    pauses = re.findall(r"another starts in (\d+) s", output)
    assert output.count("RuntimeError: only in a child") == len(pauses)
    assert pauses[-2:] == ["1", "2"]
    assert "RuntimeError" not in rest
    assert code == 1


@pytest.mark.sqlite_only
def test_children_whose_supervisor_is_killed_end_after_their_jobs(
    processes: Processes, engine: Engine
) -> None:
    handle = linger.run_later("long", 1.5)
    supervisor = processes.consumer("--processes", "1")
    eventually(Execution.objects.count)
    orphans = children(supervisor)

    supervisor.kill()

    eventually(lambda: not any(alive(pid) for pid in orphans))
    assert handle.join(0)


# Signals


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_counts_once(
    processes: Processes, engine: Engine, number: int
) -> None:
    """The terminal sends Ctrl-C to the group, systemd sends SIGTERM; and the supervisor passes it on."""
    handle = linger.run_later("long", 1.0)
    supervisor = processes.consumer("--processes", "1")
    eventually(Execution.objects.count)

    os.killpg(supervisor.pid, number)
    _, err = supervisor.communicate(timeout=60)

    assert (supervisor.returncode, err) == (0, "")
    assert handle.join(0)
    assert handle.attempts == 1


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_child_takes_any_number_of_signals_as_one(processes: Processes, engine: Engine) -> None:
    handle = linger.run_later("long", 5)
    supervisor = processes.consumer("--processes", "1")
    eventually(Execution.objects.count)
    (child,) = children(supervisor)

    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(child, number)
        with pytest.raises(subprocess.TimeoutExpired):
            supervisor.wait(0.2)

    handle.join(30)
    assert handle.attempts == 1
    eventually(lambda: children(supervisor) - {child})
    assert processes.end(supervisor) == (0, "")


# A child that takes its time to start.
SLOW = """
import os, sys, time
if "DJJP_SUPERVISOR" in os.environ:
    sys.stderr.write("a child is starting\\n")
    time.sleep(2)
"""


@pytest.mark.sqlite_only
def test_a_signal_while_a_child_is_starting_is_not_lost(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(tmp_path, SLOW)
    handle = add.run_later(1)
    supervisor = processes.django("start_consumer", "--processes", "1", **app.environment)
    lines_until(supervisor, "a child is starting")

    assert processes.end(supervisor) == (0, "")
    handle.refresh()
    assert (handle.state, handle.attempts) == ("ready", 0)


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_child_that_is_starting_ignores_the_interrupt_of_a_terminal(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    app = App(tmp_path, SLOW)
    handle = add.run_later(1)
    supervisor = processes.django("start_consumer", "--processes", "1", **app.environment)
    lines_until(supervisor, "a child is starting")
    (child,) = children(supervisor)

    os.kill(child, signal.SIGINT)

    handle.join(30)
    assert children(supervisor) == {child}
    assert processes.end(supervisor) == (0, "")


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_second_signal_releases_running_jobs_without_an_attempt_spent(
    processes: Processes, engine: Engine
) -> None:
    run_many(linger.bind(str(i), 60.0) for i in range(3))
    options = ["--processes", "2", "--concurrency-limit", "1"]
    patient = {"DJJP_TEST_SHUTDOWN_TIMEOUT": "600", "DJJP_TEST_LOG": ""}
    supervisor = processes.start("start_consumer", *options, **patient)
    eventually(lambda: Execution.objects.count() == 2)
    mine = children(supervisor)

    supervisor.send_signal(signal.SIGTERM)
    lines_until(
        supervisor, "stopping: waits for 2 processes"
    )  # before it, a second one would be none
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.wait(0.5)
    code, _ = processes.end(supervisor)

    assert code == 1
    assert not any(alive(pid) for pid in mine)
    assert set(Job.objects.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("options", [[], ["--processes", "1"]])
def test_sigquit_releases_running_jobs_at_once(
    processes: Processes, engine: Engine, options: list[str]
) -> None:
    linger.run_later("begun", 60.0)
    consumer = processes.start("start_consumer", *options, DJJP_TEST_SHUTDOWN_TIMEOUT="600")
    # A job that is claimed and has not begun is given back, and the consumer ends well.
    eventually(Execution.objects.exists)

    assert processes.end(consumer, signal.SIGQUIT)[0] == 1
    assert set(Job.objects.values_list("state", "attempts", "consumer")) == {("ready", 0, None)}


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
def test_a_child_that_does_not_react_is_killed_and_its_jobs_released(
    processes: Processes, engine: Engine
) -> None:
    nap.run_later(60.0)
    supervisor = processes.consumer("--processes", "1")
    eventually(lambda: states()["running"])
    (child,) = children(supervisor)
    os.kill(child, signal.SIGSTOP)

    code, err = processes.end(supervisor, signal.SIGQUIT)

    assert code == 1
    assert f"child {child} was ended by SIGKILL" in err
    assert not alive(child)
    assert states() == {"ready": 1}
