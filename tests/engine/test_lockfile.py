"""Lock files, between real processes: a lock ends with its process, however the process ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from djjp.engine.sqlite import lockfile
from tests.support.processes import eventually

# Plain fcntl locks, as any program could take them.
HOLD = """
import fcntl, os, sys, time
fcntl.lockf(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""
HOLD_SHARED = HOLD.replace("fcntl.LOCK_EX", "fcntl.LOCK_SH")
TRY = """
import fcntl, os, sys
try:
    fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True
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


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_others_see_a_lock_of_this_process_until_it_is_released(path: Path) -> None:
    assert lockfile.acquire(path)
    assert lockfile.is_locked(path)
    assert state_for_others(path) == "held"

    before = descriptors()
    lockfile.release(path)

    assert not lockfile.is_locked(path)
    assert not path.exists()
    assert descriptors() == before - 1
    assert lockfile.acquire(path), "it can be acquired again"
    assert state_for_others(path) == "held"


def test_a_lock_of_another_process_is_held_until_that_process_is_killed(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    before = descriptors()
    assert lockfile.is_locked(path)
    assert not lockfile.acquire(path)
    assert descriptors() == before

    holder.kill()

    eventually(lambda: not lockfile.is_locked(path))
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
    """Closing a second descriptor of the file would end it."""
    assert lockfile.acquire(path)
    before = descriptors()
    assert lockfile.is_locked(path)
    assert lockfile.acquire(path)
    assert descriptors() == before
    assert state_for_others(path) == "held"


def test_checking_a_free_lock_does_not_acquire_it(path: Path) -> None:
    path.touch()
    before = descriptors()
    assert not lockfile.is_locked(path)
    assert state_for_others(path) == "free"
    assert descriptors() == before


def test_those_who_ask_at_the_same_moment_do_not_take_each_other_for_the_holder(
    path: Path,
) -> None:
    path.touch()
    asking = subprocess.Popen(
        [sys.executable, "-c", HOLD_SHARED, path], stdout=subprocess.PIPE, text=True
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "held\n"
    assert not lockfile.is_locked(path)
    asking.kill()
    asking.communicate()


def test_a_file_that_is_not_there_is_held_by_nobody_and_not_made_by_asking(path: Path) -> None:
    assert not lockfile.is_locked(path)
    assert not path.exists()
    lockfile.release(path)


def test_where_the_system_has_no_such_locks_nothing_is_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    monkeypatch.setattr(lockfile, "fcntl", None)
    assert not lockfile.acquire(path)
    assert not lockfile.is_locked(path)
