"""Locks on files, between real processes: a system's lock ends with its process, however that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from djjp.engine.sqlite import lockfile
from tests.harness import eventually

# Bare locks, as any program could take them.
HOLD = """
import fcntl, os, sys, time
fcntl.lockf(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""
WATCH = HOLD.replace("fcntl.LOCK_EX", "fcntl.LOCK_SH")
ASK = """
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
    lockfile.let_go(path)


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


def others_see(path: Path) -> str:
    asked = subprocess.run(
        [sys.executable, "-c", ASK, path], capture_output=True, text=True, check=True
    )
    return asked.stdout.strip()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_lock_of_this_process_is_seen_by_others_until_it_is_let_go(path: Path) -> None:
    assert lockfile.hold(path)
    assert lockfile.is_held(path)
    assert others_see(path) == "held"

    before = descriptors()
    lockfile.let_go(path)

    assert not lockfile.is_held(path)
    assert not path.exists()
    assert descriptors() == before - 1
    assert lockfile.hold(path), "and can be taken anew"
    assert others_see(path) == "held"


def test_a_lock_of_another_process_is_held_until_that_process_is_killed(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    before = descriptors()
    assert lockfile.is_held(path)
    assert not lockfile.hold(path)
    assert descriptors() == before

    holder.kill()

    eventually(lambda: not lockfile.is_held(path))
    assert lockfile.hold(path)
    assert others_see(path) == "held"


def test_who_is_refused_leaves_the_lock_to_its_holder(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    assert not lockfile.hold(path)
    lockfile.let_go(path)
    assert path.exists()
    assert others_see(path) == "held"


def test_asking_about_ones_own_lock_or_taking_it_again_does_not_end_it(path: Path) -> None:
    """As closing a second descriptor of the file would."""
    assert lockfile.hold(path)
    before = descriptors()
    assert lockfile.is_held(path)
    assert lockfile.hold(path)
    assert descriptors() == before
    assert others_see(path) == "held"


def test_asking_about_a_free_lock_does_not_take_it(path: Path) -> None:
    path.touch()
    before = descriptors()
    assert not lockfile.is_held(path)
    assert others_see(path) == "free"
    assert descriptors() == before


def test_those_who_ask_at_the_same_moment_do_not_take_each_other_for_the_holder(
    path: Path,
) -> None:
    path.touch()
    asking = subprocess.Popen(
        [sys.executable, "-c", WATCH, path], stdout=subprocess.PIPE, text=True
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "held\n"
    assert not lockfile.is_held(path)
    asking.kill()
    asking.communicate()


def test_a_file_that_is_not_there_is_held_by_nobody_and_not_made_by_asking(path: Path) -> None:
    assert not lockfile.is_held(path)
    assert not path.exists()
    lockfile.let_go(path)


def test_where_the_system_has_no_such_locks_nothing_is_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    monkeypatch.setattr(lockfile, "fcntl", None)
    assert not lockfile.hold(path)
    assert not lockfile.is_held(path)
