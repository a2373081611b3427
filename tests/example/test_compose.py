"""`example_multidb/compose.yaml` starts the project: its commands run here with its environment."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import yaml

from djjp.conf import Settings
from djjp.databases import ENV
from djjp.management.commands.start_consumer import command as start_consumer
from tests.support.processes import ROOT, eventually

pytestmark = pytest.mark.one_pair

EXAMPLE = ROOT / "example_multidb"
COMPOSE = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT = {name: each for name, each in SERVICES.items() if "build" in each}
CONSUMERS = {name: each for name, each in PROJECT.items() if "start_consumer" in each["command"]}


def test_services_depend_on_services_that_become_healthy_or_end() -> None:
    for service in SERVICES.values():
        for name, needed in service.get("depends_on", {}).items():
            ends = needed["condition"] == "service_completed_successfully"
            assert ends or (
                needed["condition"] == "service_healthy" and SERVICES[name]["healthcheck"]
            )


def test_consumers_serve_all_queues_and_have_a_health_check_and_time_to_stop() -> None:
    assert set(CONSUMERS) == {"consumer", "mail"}
    served = []
    for service in CONSUMERS.values():
        words = shlex.split(service["command"])
        given = start_consumer.make_context("start_consumer", words[3:]).params
        served.append((given["queues"], given["exclude_queues"]))
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        assert given["health_file"] in check
        assert int(service["stop_grace_period"].rstrip("s")) > float(
            str(Settings().shutdown_timeout)
        )
        assert service["restart"] == "always"
    assert served[0][1] == served[1][0]  # the one leaves out what the other serves


def test_the_settings_read_each_variable_of_the_environment() -> None:
    source = (EXAMPLE / "project/deployed.py").read_text()
    read = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }
    for service in PROJECT.values():
        names = set(service["environment"]) - {"DJANGO_SETTINGS_MODULE", ENV}
        assert names <= read
        assert ENV in service["environment"]
        assert (
            service["environment"]["DJANGO_SETTINGS_MODULE"] == "example_multidb.project.deployed"
        )


def test_the_addresses_are_those_of_the_servers() -> None:
    environment = SERVICES["web"]["environment"]
    for name, server in (("DATABASE_URL", "application"), (ENV, "queue")):
        account = SERVICES[server]["environment"]
        user, password = account["POSTGRES_USER"], account["POSTGRES_PASSWORD"]
        assert environment[name] == f"postgres://{user}:{password}@{server}/{user}"
        assert SERVICES[server]["volumes"][0].split(":")[0] in COMPOSE["volumes"]


def test_the_image_has_the_files_that_it_is_made_of() -> None:
    build = PROJECT["web"]["build"]
    assert (EXAMPLE / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    kept = (ROOT / f"{build['dockerfile']}.dockerignore").read_text().splitlines()
    for name in ("djjp", "example_multidb", "pyproject.toml", "README.md", "LICENSE"):
        assert f"!{name}" in kept
        assert (ROOT / name).exists()
    assert any(fnmatch("db.sqlite3", pattern.removeprefix("**/")) for pattern in kept)


class Deployment:
    """The services of the project as processes on this machine, on SQLite files in place of the servers."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.port = 0  # the web server takes one that is free, and tells which
        programs = folder / "bin"
        programs.mkdir()
        for name, module in (("python", ""), ("gunicorn", "-m gunicorn ")):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
            script.chmod(0o755)
        self.environment = {
            **os.environ,
            **SERVICES["web"]["environment"],
            "SECRET_KEY": "a test has nothing to hide",
            "RELEASE": "test",
            "DATABASE_URL": f"sqlite:///{folder}/application.sqlite3",
            ENV: f"sqlite:///{folder}/queue.sqlite3",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    def here(self, text: str) -> str:
        """Return a command with the file and the port that it has on this machine."""
        text = text.replace("$$", "$").replace("0.0.0.0:8000", f"127.0.0.1:{self.port}")
        return text.replace("/tmp/alive", f"{self.folder}/alive").replace("8000", str(self.port))  # noqa: S108

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def manage(self, *words: str) -> str:
        ran = self.run(["python", "example_multidb/manage.py", *words])
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def start(self, service: str) -> subprocess.Popen[bytes]:
        command = shlex.split(self.here(SERVICES[service]["command"]))
        log = self.stack.enter_context((self.folder / f"{service}.log").open("wb"))
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        if service == "web":
            eventually(self._is_told_port)
        return process

    def _is_told_port(self) -> bool:
        """Read the port of the web server from its log; return whether it is there."""
        log = (self.folder / "web.log").read_text()
        found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+) ", log)
        if found is not None:
            self.port = int(found[1])
        return found is not None

    def is_healthy(self, service: str) -> bool:
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        command = [*map(self.here, command)]
        return self.run(["sh", "-c", *command] if kind == "CMD-SHELL" else command).returncode == 0

    def fetch(self, path: str, token: str, body: dict[str, Any] | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urlopen(request) as answer:  # noqa: S310  (the scheme is above)
            content: bytes = answer.read()
            return content


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(folder, stack)


@pytest.mark.end_to_end
def test_the_services_run_an_order_over_http_and_stop_gracefully(tmp_path: Path) -> None:
    with deployed(tmp_path) as project:
        migrated = project.run(shlex.split(SERVICES["migrate"]["command"]))
        assert migrated.returncode == 0, migrated.stderr
        assert not project.is_healthy("consumer")

        started = [project.start(name) for name in ("web", "consumer")]

        token = project.manage("djjp", "token", "create", "shop", "--scope", "enqueue")
        eventually(lambda: project.is_healthy("web"))
        eventually(lambda: project.is_healthy("consumer"))
        order = {"name": "shop.take_order", "args": [4711, 9.9]}
        job = json.loads(project.fetch("/djjp/v1/jobs", token, order))["id"]
        eventually(lambda: b'"succeeded"' in project.fetch(f"/djjp/v1/jobs/{job}", token))
        assert b"djjp_up" in project.fetch("/djjp/v1/metrics", token)
        assert b"djjp" in project.fetch("/static/djjp/admin.css", token)
        # The job's own jobs have gone through the outbox.
        assert "shop.charge" in project.manage("djjp", "jobs", "--name", "shop.charge")

        for process in started:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=90) for process in started] == [0, 0]
        with pytest.raises(URLError):
            project.fetch("/", token)
