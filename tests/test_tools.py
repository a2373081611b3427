"""The tools of the repository run on the files and versions that they must."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT


def hook_pattern(hook: str) -> str:
    """Return the pattern of the files for which a pre-commit hook runs."""
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    _, _, entry = text.partition(f"- id: {hook}\n")
    found = re.search(r"^ +files: (.+)$", entry.partition("- id: ")[0], re.MULTILINE)
    assert found, f"the hook {hook} has no files"
    return found[1]


@pytest.mark.parametrize(
    ("path", "runs"),
    [
        ("djjp/models/job.py", True),
        ("djjp/outbox/models.py", True),
        ("djjp/migrations/0001_initial.py", True),
        ("tests/project/shop/models.py", True),
        ("djjp/jobs/options.py", False),
        ("docs/models.md", False),
        ("tests/test_models.py", False),
    ],
)
def test_the_hook_for_missing_migrations_runs_for_models_wherever_they_are(
    path: str, runs: bool
) -> None:
    assert bool(re.search(hook_pattern("migrations"), path)) is runs


def test_every_target_of_the_makefile_that_makes_no_file_is_phony() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = {
        name for line in re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE) for name in line.split()
    }
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))

    assert targets == phony


def test_ci_and_tox_have_the_same_pairs_of_python_and_django() -> None:
    ci = re.search(r"^PAIRS=\((.+)\)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    tox = re.findall(
        r"^    py(\d)(\d+)-django(\d)(\d)$", (ROOT / "tox.ini").read_text(), re.MULTILINE
    )

    assert ci
    pairs = [re.sub("-(sqlite|postgresql)$", "", pair) for pair in ci[1].split()]
    assert pairs == ["{}.{}-{}.{}".format(*pair) for pair in tox]
