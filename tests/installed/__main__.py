"""`make package`: install what is in dist/ into clean environments, and use djjp there as a newcomer does.

The wheel is installed with all extras for each pair of Python and Django in tox.ini whose Python is found here;
the wheel with the lowest versions that pyproject.toml allows; and the sdist without any extra.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What each extra is for, as opposed to those for working on djjp.
EXTRAS = ("api", "metrics", "opentelemetry", "postgres", "sentry", "tasks")
#: What the processes inherit: nothing of a project, and bytecode is kept even if the environment forbids it.
ENVIRON = {
    k: v for k, v in os.environ.items() if not k.startswith(("DJJP_", "DJANGO_", "PYTHONDONTWRITE"))
}


@dataclass(frozen=True)
class Environment:
    """One installation: the Python that it is for, and what pip installs."""

    title: str
    python: str
    requirements: tuple[str, ...]
    extras: tuple[str, ...] = EXTRAS


def main(only: str = "") -> int:
    """Run all environments whose titles contain a text; return the exit code."""
    chosen = [each for each in environments() if only in each.title]
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(run, chosen))
    for environment, problem in zip(chosen, results, strict=True):
        left_out = "left out, its Python is not on this machine"
        print(f"{environment.title}: {left_out if problem is None else problem or 'works'}")
    return 1 if any(results) or not chosen else 0


def environments() -> Iterator[Environment]:
    wheel, sdist = (the_only(pattern).as_uri() for pattern in ("*.whl", "*.tar.gz"))
    whole = f"djjp[{','.join(EXTRAS)}] @ {wheel}"
    for python, django in pairs():
        title = f"the wheel on Python {python} with Django {django}"
        yield Environment(title, python, (whole, f"Django=={django}.*"))
    oldest = PROJECT["requires-python"].removeprefix(">=")
    title = f"the wheel on Python {oldest} with the lowest versions"
    yield Environment(title, oldest, (whole, *lowest_versions()))
    here = "{}.{}".format(*sys.version_info[:2])
    title = f"the sdist on Python {here} without extras"
    yield Environment(title, here, (f"djjp @ {sdist}",), extras=())


def the_only(pattern: str) -> Path:
    (path,) = (ROOT / "dist").glob(pattern)
    return path


def pairs() -> list[tuple[str, str]]:
    """Return the pairs of Python and Django that tox.ini has."""
    names = re.findall(
        r"^    py3(\d+)-django(\d)(\d)$", (ROOT / "tox.ini").read_text(), re.MULTILINE
    )
    return [(f"3.{minor}", f"{major}.{feature}") for minor, major, feature in names]


def lowest_versions() -> list[str]:
    """Return the requirements of djjp and of its extras, each with its lowest version alone."""
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(each for extra in EXTRAS for each in extras[extra])]
    return [each.replace(">=", "==") for each in wanted]


def find_python(version: str) -> str | None:
    """Return an interpreter of a version, from PATH or from pyenv; a shim in PATH can lead nowhere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        sys.executable,
        shutil.which(f"python{version}"),
        *map(str, pyenv.glob(f"versions/{version}.*/bin/python{version}")),
    ]
    check = (
        f"import sys, sqlite3, ssl, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    )
    for each in filter(None, candidates):
        ran = subprocess.run([each, "-c", check], stderr=subprocess.DEVNULL, check=False)
        if ran.returncode == 0:
            return each
    return None


def run(environment: Environment) -> str | None:
    """Make the environment, and run a project in it; return the problem, "" for none, None without a Python."""
    python = find_python(environment.python)
    if python is None:
        return None
    with tempfile.TemporaryDirectory(prefix="djjp-installed-") as name:
        folder = Path(name)
        own = folder / "venv/bin/python"
        pip = [sys.executable, "-m", "pip", "--python", own, "--disable-pip-version-check", "-q"]
        project = folder / "project"
        project.mkdir()
        script = ROOT / "tests/installed/from_nothing.py"
        for command in (
            [python, "-m", "venv", "--without-pip", folder / "venv"],
            [*pip, "install", "--no-compile", *environment.requirements],
            [own, "-I", script, *environment.extras],
        ):
            ran = subprocess.run(
                [*map(str, command)],
                cwd=project,
                env=ENVIRON | {"DJANGO_SETTINGS_MODULE": "mysite.settings"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if ran.returncode:
                return f"{shlex.join(map(str, command))}\n{ran.stdout}"
    return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
