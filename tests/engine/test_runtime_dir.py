"""The folder of the consumers of one user, where the temporary directory is shared, or read-only, or missing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from djjp.engine import Engine
from djjp.engine.postgresql import runtime_dir
from tests.project.shop.jobs import add
from tests.support.processes import Processes

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users")


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory that other users can write to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system on which no folder can be made."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    runtime_dir._warn.cache_clear()
    yield
    runtime_dir._warn.cache_clear()


def test_all_consumers_of_a_user_find_one_folder_that_no_other_user_can_open(shared: Path) -> None:
    folder = runtime_dir.find()

    assert folder == shared / f"djjp-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert runtime_dir.find() == folder


@pytest.mark.parametrize("kind", ["file", "link", "folder of another user"])
def test_what_another_user_has_put_there_is_neither_used_nor_in_the_way(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    theirs = shared / f"djjp-{os.getuid()}"
    if kind == "file":
        theirs.write_text("")
    elif kind == "link":
        theirs.symlink_to(tmp_path_factory.mktemp("elsewhere"))
    elif os.getuid() == 0:
        theirs.mkdir()
        os.chown(theirs, 12345, 12345)
    else:
        pytest.skip("only root can give a folder away")

    folder = runtime_dir.find()

    assert folder is not None
    assert folder != theirs
    assert folder.parent == shared
    assert folder.stat().st_mode & 0o777 == 0o700
    assert runtime_dir.find() == folder


def test_without_a_folder_there_is_one_warning(
    unwritable: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert runtime_dir.find() is None
    assert runtime_dir.find() is None

    (message,) = caplog.messages
    assert message.startswith("there is no folder for start journals (")


@pytest.mark.end_to_end
@pytest.mark.postgresql_only
@pytest.mark.parametrize("directory", ["/proc", None])
def test_a_consumer_runs_jobs_without_a_temporary_directory(
    processes: Processes, engine: Engine, directory: str | None
) -> None:
    handle = add.run_later(1)
    code = f"""
import tempfile
tempfile.tempdir = {directory!r}
tempfile._candidate_tempdir_list = lambda: ["/proc"]
import django; django.setup()
from django.core.management import call_command
call_command("start_consumer", drain=True)
"""
    _, err = processes.python(code).communicate(timeout=60)

    assert handle.join(0) == 1
    assert err.startswith("there is no folder for start journals (")
    assert err.count("\n") == 1
