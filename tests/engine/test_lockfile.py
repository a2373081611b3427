"""Lock files, between real processes: a lock ends with its process, however the process ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from djjp.engine import Engine, lockfile
from tests.support.processes import ROOT, eventually

HOLD = """
import django; django.setup()
import pathlib, sys, time
from djjp.engine import lockfile
assert lockfile.acquire(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""
HOLD_SHARED = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(600)
"""
# As any program can see it.
TRY = """
import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("held")
else:
    print("free")
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "one.lock"
    yield path
    lockfile.release(path)


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def state_for_others(path: Path) -> str:
    tried = subprocess.run(
        [sys.executable, "-c", TRY, path], capture_output=True, text=True, check=True
    )
    return tried.stdout.strip()


def descriptors(path: Path) -> int:
    """Return the number of descriptors that this process has of a file; other threads have others."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            count += str(each.readlink()).startswith(str(path))
    return count


def test_others_see_a_lock_of_this_process_until_it_is_released(path: Path) -> None:
    assert lockfile.acquire(path)
    assert lockfile.is_locked(path)
    assert state_for_others(path) == "held"

    before = descriptors(path)
    lockfile.release(path)

    assert lockfile.is_locked(path) is None
    assert not path.exists()
    assert descriptors(path) == before - 1
    assert lockfile.acquire(path), "it can be acquired again"
    assert state_for_others(path) == "held"


def test_a_lock_of_another_process_is_held_until_that_process_is_killed(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    before = descriptors(path)
    assert lockfile.is_locked(path)
    assert not lockfile.acquire(path)
    assert descriptors(path) == before

    holder.kill()

    eventually(lambda: lockfile.is_locked(path) is False)
    assert lockfile.acquire(path)
    assert state_for_others(path) == "held"


def test_a_process_that_is_refused_leaves_the_lock_to_its_holder(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    assert not lockfile.acquire(path)
    lockfile.release(path)
    assert path.exists()
    assert state_for_others(path) == "held"


def test_checking_or_acquiring_ones_own_lock_again_does_not_end_it(path: Path) -> None:
    assert lockfile.acquire(path)
    before = descriptors(path)
    assert lockfile.is_locked(path)
    assert lockfile.acquire(path)
    assert descriptors(path) == before
    assert state_for_others(path) == "held"


def test_checking_a_free_lock_does_not_acquire_it(path: Path) -> None:
    left_behind(path)
    before = descriptors(path)
    assert lockfile.is_locked(path) is False
    assert state_for_others(path) == "free"
    assert descriptors(path) == before


def test_concurrent_checks_do_not_take_each_other_for_the_holder(
    path: Path,
) -> None:
    left_behind(path)
    asking = subprocess.Popen(
        [sys.executable, "-c", HOLD_SHARED, path], stdout=subprocess.PIPE, text=True
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "held\n"
    assert lockfile.is_locked(path) is False
    asking.kill()
    asking.communicate()


# What cannot be seen is unknown


def test_a_missing_file_says_nothing_and_a_check_does_not_create_it(path: Path) -> None:
    assert lockfile.is_locked(path) is None
    assert not path.exists()
    lockfile.release(path)


@pytest.mark.end_to_end
def test_a_file_that_cannot_be_read_says_nothing() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "one.lock"
        folder.chmod(0o755)
        left_behind(path)
        assert as_nobody(path) == "False False"
        path.chmod(0o600)
        assert as_nobody(path) == "None False"
        path.chmod(0o644)
        folder.chmod(0o700)
        assert as_nobody(path) == "None False"


def test_a_copy_of_a_lock_file_says_nothing(path: Path) -> None:
    """As when a backup of the whole folder is put back in place of it."""
    assert lockfile.acquire(path)
    text = path.read_bytes()
    path.unlink()
    path.with_suffix(".new").write_bytes(text)  # with an inode of its own, whatever became free
    path.with_suffix(".new").rename(path)
    assert lockfile.is_locked(path) is None


def test_without_locks_of_the_system_nothing_is_known(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(path)
    monkeypatch.setattr(lockfile, "fcntl", None)
    assert not lockfile.acquire(path)
    assert lockfile.is_locked(path) is None


# What happens to the files of a process that lives


def test_reading_the_file_does_not_end_the_lock(path: Path) -> None:
    """As a job does that packs the whole folder."""
    assert lockfile.acquire(path)
    path.read_bytes()
    path.open("r+b").close()
    assert state_for_others(path) == "held"


def test_a_lock_whose_folder_was_removed_is_taken_again(path: Path) -> None:
    folder = path.parent / "folder"
    folder.mkdir()
    path = folder / "one.lock"
    assert lockfile.acquire(path)
    shutil.rmtree(folder)
    assert lockfile.is_locked(path) is None
    assert not lockfile.acquire(path)
    folder.mkdir()
    assert lockfile.acquire(path)
    assert state_for_others(path) == "held"
    lockfile.release(path)


def test_a_lock_whose_descriptor_was_closed_is_taken_again(path: Path) -> None:
    """As a job does that becomes a daemon, and closes all that is open."""
    assert lockfile.acquire(path)
    number = lockfile._held[path].descriptor
    other = os.open(path.parent, os.O_RDONLY)
    os.dup2(other, number)  # closes it, and the number is in use again
    os.close(other)
    assert lockfile.acquire(path)
    os.fstat(number)
    assert state_for_others(path) == "held"
    os.close(number)


def test_a_forked_child_does_not_keep_its_parents_lock(path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORK, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert lockfile.is_locked(path) is True
    parent.kill()
    parent.wait()
    eventually(lambda: lockfile.is_locked(path) is False)
    os.kill(child, signal.SIGKILL)
    parent.communicate()


def test_who_can_use_the_folder_can_read_the_file_whatever_the_umask(path: Path) -> None:
    path.parent.chmod(0o770)
    before = os.umask(0o077)
    try:
        assert lockfile.acquire(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o660


def left_behind(path: Path) -> None:
    """Leave a lock file as a process does that was killed."""
    assert lockfile.acquire(path)
    lockfile.abandon_all()


FORK = """
import django; django.setup()
import os, pathlib, sys, time
from djjp.engine import lockfile
assert lockfile.acquire(pathlib.Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""
CHECK = """
import django; django.setup()
import os, pathlib, sys
from djjp.engine import lockfile
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
path = pathlib.Path(sys.argv[1])
print(lockfile.is_locked(path), lockfile.acquire(path))
"""


def as_nobody(path: Path) -> str:
    """Return what a process of another user sees: whether it is locked, and whether it can be acquired."""
    tried = subprocess.run(
        [sys.executable, "-c", CHECK, path], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return tried.stdout.strip()


@pytest.mark.sqlite_only
def test_a_file_in_the_place_of_the_folder_is_logged_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    folder = engine.db.runtime_dir()
    assert folder is not None
    kept = folder.rename(folder.with_name("kept"))
    folder.write_text("in the way")
    try:
        assert [engine.db.runtime_dir() for _ in range(3)] == [None] * 3
        assert not engine.consumers.acquire_lock("one")
    finally:
        folder.unlink()
        kept.rename(folder)
    assert caplog.text.count("consumers have no folder for their locks") == 1
    assert engine.db.runtime_dir() == folder
