"""`start_consumer --reload`: what counts as a change of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.apps import apps

from djjp.consumer.recycling import code_changed

pytestmark = pytest.mark.one_pair


@pytest.mark.parametrize("name", ["jobs.py", "jobs/__init__.py", "tasks.py", "tasks/__init__.py"])
def test_the_first_module_of_jobs_in_an_app_is_a_change(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.get_app_config("contenttypes"), "path", str(tmp_path))
    file = tmp_path / name
    check = code_changed()
    assert check() is None

    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert check() == f"runs code that has changed ({file})"

    # The next process has imported it, or has no use for it: it does not restart for ever.
    assert code_changed()() is None
