"""The released files are the checked ones: version, metadata, extras, the workflow, and docs/releasing.md."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

import djjp
from tests.docs.markdown import read
from tests.installed import __main__ as installed
from tests.installed.from_nothing import PROMISED
from tests.support.processes import ROOT

pytestmark = pytest.mark.one_pair

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
JOBS = WORKFLOW["jobs"]


# The package


def test_the_newest_heading_of_the_changelog_is_the_version_with_its_day() -> None:
    versions = re.findall(
        r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", read("CHANGELOG.md"), re.MULTILINE
    )
    version, day = next(each for each in versions if each[0] != "Unreleased")

    assert version == djjp.__version__
    assert day


def test_the_classifiers_are_the_tested_pythons_and_djangos() -> None:
    classifiers = PROJECT["classifiers"]
    pythons, djangos = zip(*installed.pairs(), strict=True)

    assert [c.split(" :: ")[-1] for c in classifiers if re.search(r"Python :: 3\.", c)] == [
        *pythons
    ]
    assert [
        c.split(" :: ")[-1] for c in classifiers if c.startswith("Framework :: Django :: ")
    ] == sorted(set(djangos))
    assert PROJECT["requires-python"] == f">={pythons[0]}"


def test_each_extra_for_users_is_installed_and_imported_by_make_package() -> None:
    extras = PROJECT["optional-dependencies"]
    for_users = {name for name in installed.EXTRAS if not any("djjp[" in e for e in extras[name])}
    others = {"browser", "demo", "dev", "docs", "package", "test"}

    assert extras.keys() == for_users | others
    assert PROMISED.keys() == for_users


def test_the_lowest_versions_are_the_bounds_of_pyproject() -> None:
    lowest = installed.lowest_versions()

    assert f"Django=={djangos()[0]}" in lowest
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?==[\d.]+", each) for each in lowest)
    assert len(lowest) >= len(PROJECT["dependencies"]) + len(installed.EXTRAS)


def djangos() -> list[str]:
    return sorted(django for _, django in installed.pairs())


def test_an_environment_that_fails_is_reported_with_its_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def environments() -> list[installed.Environment]:
        return [
            installed.Environment("fails", "3.11", ("--no-such-option",), ()),
            installed.Environment("left out", "2.0", (), ()),
        ]

    monkeypatch.setattr(installed, "environments", environments)
    python = PROJECT["requires-python"].removeprefix(">=")
    assert python == "3.11"

    assert installed.main() == 1
    out = capsys.readouterr().out
    assert "no such option: --no-such-option" in out
    assert "left out: left out, its Python is not on this machine" in out


# The workflow


def test_a_tag_starts_the_release_and_nothing_else_does() -> None:
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true


def test_the_package_is_built_once_and_published_after_all_checks() -> None:
    builds = [name for name, job in JOBS.items() if "make package" in commands(job)]
    uploads = [name for name, job in JOBS.items() if "actions/upload-artifact" in str(job)]

    assert builds == uploads == ["build"]
    assert ".ci/run" in commands(JOBS["check"])
    assert JOBS["check"]["needs"] == "build"
    assert JOBS["publish"]["needs"] == ["build", "check"]
    assert commands(JOBS["publish"]).strip() == ""  # it runs no code of the repository
    kept, loaded = (artifact(JOBS[name]) for name in ("build", "publish"))
    assert kept["name"] == loaded["name"]
    assert kept["path"] == loaded["path"] == "dist/"


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def artifact(job: dict[str, Any]) -> dict[str, Any]:
    (step,) = [step for step in job["steps"] if "-artifact@" in step.get("uses", "")]
    given: dict[str, Any] = step["with"]
    return given


def test_only_the_last_job_may_publish_and_no_secret_is_used() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "publish": {"id-token": "write"}
    }
    assert JOBS["publish"]["environment"] == "pypi"
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert not re.search("secrets|password|api-token", text)


@pytest.mark.parametrize("workflow", ["ci", "release"])
def test_actions_are_pinned_by_version(workflow: str) -> None:
    text = (ROOT / f".github/workflows/{workflow}.yml").read_text()
    used = re.findall(r"uses: (\S+)", text)

    assert used
    assert all(re.search(r"@v\d+(\.\d+)*$", each) for each in used), used


@pytest.mark.parametrize(("tag", "code"), [(f"v{djjp.__version__}", 0), ("v0.0.1", 1)])
def test_a_tag_that_is_not_the_version_is_refused(tag: str, code: int) -> None:
    (step,) = [s for s in JOBS["build"]["steps"] if "GITHUB_REF_NAME" in s.get("run", "")]
    environment = os.environ | {"GITHUB_REF_NAME": tag}
    ran = subprocess.run(["sh", "-ec", step["run"]], cwd=ROOT, env=environment, check=False)

    assert ran.returncode == code


def test_the_workflow_has_each_python_that_the_package_is_tested_with() -> None:
    (setup,) = [s for s in JOBS["build"]["steps"] if "actions/setup-python" in s.get("uses", "")]

    assert sorted(setup["with"]["python-version"].split()) == [p for p, _ in installed.pairs()]


# The page


def test_what_the_page_names_exists() -> None:
    page = read("docs/releasing.md")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert set(re.findall(r"`make (\w+)", page)) <= set(targets)
    for name in ("release.yml", ".ci/run"):
        assert name in page
    assert f"the environment `{JOBS['publish']['environment']}`" in page
    assert {"build", "publish"} <= JOBS.keys()
    step = "make package"
    assert "twine check --strict" in (ROOT / "Makefile").read_text().partition("package:")[2], step
