"""Projects with tasks: discovery, checks, and the queue in the application's own database."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import django
import pytest

from djjp.engine import Engine
from djjp.tasks.compat import PACKAGE
from tests.support.postgres import postgres_database
from tests.support.processes import ROOT
from tests.support.projects import Scratch

APPS = "" if django.VERSION >= (6, 0) else 'INSTALLED_APPS += ["django_tasks"]'
TASKS = 'TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend"}}'
SEND = f"""
from {PACKAGE} import task

@task
def send(number):
    return number
"""
REGISTERED = """
import django
django.setup()
from djjp.jobs import registry
print(registry.can_run("shop.tasks.send"), registry.can_run("shop.send"))
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("order", ['["shop"]', '["shop", *INSTALLED_APPS]'], ids=["last", "first"])
def test_tasks_are_found_at_any_position_of_the_app(tmp_path: Path, order: str) -> None:
    """A model may need a task, and so be imported before djjp's models are there."""
    apps = "INSTALLED_APPS += " if order == '["shop"]' else "INSTALLED_APPS = "
    project = Scratch(tmp_path, f"{APPS}\n{apps}{order}\n{TASKS}")
    project.app("shop", tasks=SEND, models="from shop.tasks import send")
    done = project.python("-c", REGISTERED)
    assert done.stdout == "True False\n", done.stderr


def test_a_task_can_be_defined_before_the_models_are_loaded(tmp_path: Path) -> None:
    project = Scratch(tmp_path, f"{APPS}\nINSTALLED_APPS = ['shop', *INSTALLED_APPS]\n{TASKS}")
    project.app("shop", apps="from shop.tasks import send", tasks=SEND)
    done = project.python("-c", REGISTERED)
    assert done.stdout == "True False\n", done.stderr


def test_modules_of_other_backends_are_not_imported(tmp_path: Path) -> None:
    project = Scratch(tmp_path, f"{APPS}\nINSTALLED_APPS += ['shop']")
    project.app("shop", tasks="raise RuntimeError('imported')")
    done = project.python("-c", REGISTERED)
    assert done.stdout == "False False\n", done.stderr


def test_the_check_reports_wrong_options(tmp_path: Path) -> None:
    options = "TASKS['default']['OPTIONS'] = {'timeout': -1}"
    project = Scratch(tmp_path, f"{APPS}\n{TASKS}\n{options}")
    done = project.run("check")
    assert done.returncode == 1
    assert "(djjp.E031) TASKS['default']['OPTIONS']: timeout is -1" in done.stderr


def test_the_check_reports_a_name_of_both_a_job_and_a_task(tmp_path: Path) -> None:
    project = Scratch(tmp_path, f"{APPS}\nINSTALLED_APPS += ['shop']\n{TASKS}")
    clash = "from djjp import job\nfrom shop.tasks import send\njob(send.func)"
    project.app("shop", tasks=SEND, jobs=clash)
    done = project.run("check")
    assert done.returncode == 1
    assert "(djjp.E009) 'shop.tasks.send' is a job and a task" in done.stderr


@pytest.mark.skipif(
    django.VERSION >= (6, 0),
    reason="Django runs no checks of task backends by itself, and djjp does where it is installed",
)
def test_djjp_must_be_installed(tmp_path: Path) -> None:
    without = "INSTALLED_APPS.remove('djjp')\nDATABASE_ROUTERS = []"
    project = Scratch(tmp_path, f"{APPS}\n{without}\n{TASKS}")
    done = project.run("check")
    assert done.returncode == 1
    assert "(djjp.E030)" in done.stderr


def test_without_a_framework_the_extra_is_named(tmp_path: Path) -> None:
    """As on Django 5.2 without the backport."""
    project = Scratch(tmp_path, TASKS)
    hide = f"import sys; sys.modules[{PACKAGE!r}] = None; "
    done = project.python("-c", f"{hide}import djjp.backend")
    assert done.returncode == 1
    if PACKAGE == "django_tasks":
        assert "pip install 'djjp[tasks]'" in done.stderr


@pytest.mark.end_to_end
def test_the_contract_holds_with_the_queue_in_the_applications_database(
    engine: Engine, tmp_path: Path
) -> None:
    """All of it, in a session of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DJJP_", "DJANGO_", "PYTEST_"))}
    env |= {"DJJP_TEST_HOME": str(tmp_path), "DJJP_TEST_QUEUES": "default"}
    files = [f"tests/tasks/test_{name}.py" for name in ("contract", "signals", "options")]
    options = ["-q", "-p", "no:cacheprovider", "--ds=tests.tasks.settings_together"]
    with ExitStack() as stack:
        if engine.db.alias == "postgresql":
            server = postgres_database(os.environ["DJJP_TEST_SERVER_URL"])
            env["DJJP_TEST_TOGETHER_URL"] = stack.enter_context(server)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
