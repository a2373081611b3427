"""Use an installed djjp as a newcomer does: from an empty folder to jobs, pages and answers over HTTP.

`tests.installed` runs it with the Python of an environment of its own: `from_nothing.py EXTRA …` with the extras
that are installed there.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path.cwd()
#: What each extra makes importable.
PROMISED = {
    "api": "djjp.api.urls",
    "metrics": "djjp.contrib.prometheus",
    "opentelemetry": "djjp.contrib.opentelemetry",
    "postgres": "psycopg",
    "sentry": "djjp.contrib.sentry",
    "tasks": "djjp.tasks.job",
}
SETTINGS = """
from djjp.databases import queue_database

INSTALLED_APPS += ["djjp", "djjp.outbox", "shop"]
DATABASES["queue"] = queue_database(BASE_DIR / "queue.sqlite3")
DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]
"""
TASKS = 'TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend"}}\n'
TASK = """

@task
def triple(number: int) -> int:
    return 3 * number
"""
URLS = """
from django.urls import include

urlpatterns.append(path("djjp/", include("djjp.api.urls")))
"""
JOBS = """
from djjp import job


@job(api=True)
def double(number: int) -> int:
    return 2 * number
"""


def main(extras: list[str]) -> None:
    has_tasks = make_project(extras)
    import django
    from django.core.management import call_command

    import djjp

    assert "site-packages" in djjp.__file__, djjp.__file__
    sys.path.insert(0, str(HERE))
    django.setup()
    for alias in ("default", "queue"):
        call_command("migrate", database=alias, verbosity=0)
    call_command(
        "check", databases=["default", "queue"], fail_level="WARNING", stdout=io.StringIO()
    )
    import_what_is_promised(extras)
    run_jobs("api" in extras, has_tasks)
    open_pages()


def make_project(extras: list[str]) -> bool:
    """Make a project with an app by Django's own commands; return True if Django's tasks run on the queue."""
    import django

    has_tasks = django.VERSION >= (6, 0) or "tasks" in extras
    without_settings = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    for command in (("startproject", "mysite", "."), ("startapp", "shop")):
        started = [sys.executable, "-m", "django", *command]
        subprocess.run(started, env=without_settings, check=True)
    append("mysite/settings.py", SETTINGS)
    append("shop/jobs.py", JOBS)
    if "api" in extras:
        append("mysite/urls.py", URLS)
    if has_tasks:
        package = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
        append("mysite/settings.py", TASKS)
        append("shop/tasks.py", f"from {package} import task\n{TASK}")
    return has_tasks


def append(path: str, text: str) -> None:
    with (HERE / path).open("a") as file:
        file.write(text)


def import_what_is_promised(extras: list[str]) -> None:
    for extra in extras:
        import_module(PROMISED[extra])
    for extra in PROMISED.keys() - set(extras) - {"tasks"}:
        try:
            import_module(PROMISED[extra])
        except ImportError:
            continue
        raise AssertionError(f"{PROMISED[extra]} needs no extra {extra!r}")


def run_jobs(over_http: bool, has_tasks: bool) -> None:
    """Enqueue a job in each way, and run all of them in a consumer process."""
    from djjp import get_job

    double: Any = import_module("shop.jobs").double
    expected = {double.run_later(21).id: 42}
    if over_http:
        expected[enqueue_over_http()] = 44
    if has_tasks:
        expected[import_module("shop.tasks").triple.enqueue(20).id] = 60
    subprocess.run([sys.executable, "manage.py", "start_consumer", "--drain"], check=True)
    for job_id, result in expected.items():
        assert get_job(job_id).join(timeout=0) == result, job_id
    assert "succeeded" in djjp_command("stats")


def djjp_command(*words: str) -> str:
    """Return what the installed command `djjp` prints."""
    command = [str(Path(sys.executable).with_name("djjp")), *words]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return str(ran.stdout)


def enqueue_over_http() -> str:
    """Enqueue a job with a token; return its id."""
    from django.test import Client

    token = djjp_command("token", "create", "newcomer", "--scope", "enqueue").strip()
    client = Client(SERVER_NAME="localhost", HTTP_AUTHORIZATION=f"Bearer {token}")
    body = {"name": "shop.jobs.double", "args": [22]}
    answer = client.post("/djjp/v1/jobs", body, content_type="application/json")
    assert answer.status_code == 201, answer.content
    metrics = client.get("/djjp/v1/metrics")
    assert metrics.status_code == 200, metrics.content
    job_id: str = answer.json()["id"]
    return job_id


def open_pages() -> None:
    """Open the dashboard and the list of jobs, also in German, and find what they load."""
    from django.contrib.auth.models import User
    from django.contrib.staticfiles import finders
    from django.test import Client
    from django.utils import translation

    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create_superuser("admin"))
    for page in ("/admin/djjp/", "/admin/djjp/job/"):
        answer = client.get(page)
        assert answer.status_code == 200, page
    assert finders.find("djjp/admin.css")
    with translation.override("de"):
        assert "Warteschlange" in client.get("/admin/djjp/job/").content.decode()


if __name__ == "__main__":
    main(sys.argv[1:])
