"""Two consumers of one SQLite queue find each other's locks, whatever name the file has and whatever jobs do."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from djjp.engine import Engine
from djjp.jobs.handles import JobHandle
from djjp.models import Consumer
from tests.project.shop.jobs import linger, read_folder
from tests.project.shop.models import Execution
from tests.support.processes import ROOT, Processes, eventually

pytestmark = pytest.mark.sqlite_only


@pytest.fixture
def file(engine: Engine) -> Path:
    return Path(engine.db.connection.settings_dict["NAME"])


@pytest.fixture
def folder(engine: Engine) -> Path:
    folder = engine.db.runtime_dir()
    assert folder is not None
    return folder


@pytest.fixture
def start(processes: Processes, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a consumer that opens the queue's file by a name."""

    def start(name: object, number: str = "1") -> subprocess.Popen[str]:
        module = f"named_settings_{number}"
        (tmp_path / f"{module}.py").write_text(
            f"from tests.project.settings import *\nDATABASES['sqlite']['NAME'] = {str(name)!r}\n"
        )
        environment = {
            "DJANGO_SETTINGS_MODULE": module,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            # Where no lock is seen, heartbeats would decide: after an hour, for which no test waits.
            "DJJP_TEST_SETTINGS": '{"heartbeat_limit": 3600}',
        }
        return processes.django("start_consumer", "--concurrency-limit", "1", **environment)

    return start


def ran_by(key: str) -> list[int]:
    return list(Execution.objects.filter(key=key).order_by("at").values_list("process", flat=True))


def runs_once_until_its_consumer_dies(
    handle: JobHandle, key: str, first: subprocess.Popen[str], second: subprocess.Popen[str]
) -> None:
    """The other consumer looks on for some seconds; then it finds the death as soon as usual."""
    eventually(lambda: Consumer.objects.count() == 2)
    time.sleep(2.5)
    assert ran_by(key) == [first.pid]
    first.kill()
    assert handle.join(60) == second.pid


def test_a_file_with_a_second_name_has_one_folder_of_locks(
    start: Callable[..., subprocess.Popen[str]], file: Path, tmp_path: Path
) -> None:
    """As with a symlink in the folder of each release."""
    link = tmp_path / "release" / "queue.sqlite3"
    link.parent.mkdir()
    link.symlink_to(file)
    handle = linger.run_later("job", 600)
    first = start(file)
    eventually(lambda: ran_by("job"))

    runs_once_until_its_consumer_dies(handle, "job", first, start(link, "2"))
    assert [path.name for path in link.parent.iterdir()] == ["queue.sqlite3"]


def test_a_relative_name_is_refused(
    start: Callable[..., subprocess.Popen[str]], file: Path
) -> None:
    """It would be another file in each working directory, and after a job has changed it."""
    refused = start(os.path.relpath(file, ROOT))
    _, err = refused.communicate(timeout=60)

    assert refused.returncode == 1
    assert "(djjp.E023)" in err
    assert f"sqlite:///{file}" in err


@pytest.mark.end_to_end
def test_a_job_that_reads_the_whole_folder_leaves_the_locks_alone(
    start: Callable[..., subprocess.Popen[str]], file: Path, folder: Path
) -> None:
    handle = read_folder.run_later("job", str(folder))
    first = start(file)
    eventually(lambda: ran_by("job"))

    runs_once_until_its_consumer_dies(handle, "job", first, start(file, "2"))


@pytest.mark.end_to_end
def test_a_folder_that_was_removed_makes_nobody_dead_and_the_locks_are_taken_again(
    start: Callable[..., subprocess.Popen[str]], file: Path, folder: Path
) -> None:
    handle = linger.run_later("job", 600)
    first = start(file)
    eventually(lambda: ran_by("job"))
    second = start(file, "2")
    eventually(lambda: Consumer.objects.count() == 2)

    # At once: a consumer that misses its lock makes the folder anew.
    removed = folder.rename(folder.with_name("removed"))
    shutil.rmtree(removed)

    eventually(lambda: len([*folder.glob(f"*-{first.pid}-*.lock")]) == 1)
    runs_once_until_its_consumer_dies(handle, "job", first, second)
