"""The examples of `docs/deploying.md` can be read, and fit the consumer that they start and check."""

from __future__ import annotations

import configparser
import inspect
import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.test import override_settings

from djjp.conf import Settings
from djjp.consumer import claiming, health, health_port
from djjp.engine import Engine
from djjp.management.commands.start_consumer import command as start_consumer
from tests.api.conftest import API
from tests.docs.markdown import blocks, code, read, table
from tests.project.shop.jobs import add
from tests.support.processes import ROOT

pytestmark = pytest.mark.one_pair

PAGE = "docs/deploying.md"
SHUTDOWN = float(str(Settings().shutdown_timeout))


def documents(title: str) -> list[Any]:
    """Return the documents of the block whose first line is this comment."""
    (block,) = [each for each in blocks(PAGE) if each.text.startswith(f"# {title}\n")]
    return list(yaml.safe_load_all(block.text))


def options(words: list[str]) -> dict[str, Any]:
    """Return the options with which a command line starts a consumer."""
    assert words[words.index("manage.py") + 1] == "start_consumer"
    rest = words[words.index("start_consumer") + 1 :]
    params: dict[str, Any] = start_consumer.make_context("start_consumer", rest).params
    return params


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_the_unit_of_systemd_starts_a_consumer_and_gives_it_time() -> None:
    (unit,) = [block for block in blocks(PAGE) if block.language == "ini"]
    parsed = configparser.ConfigParser()
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # as Python's manual has it
    parsed.read_string(unit.text)
    service = parsed["Service"]

    assert options(service["ExecStart"].split())["concurrency_limit"] == 20
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > health.LIVE_WITHIN
    assert int(service["TimeoutStopSec"]) > SHUTDOWN


def test_the_services_of_compose_fit_together() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
    consumer = services["consumer"]
    given = options(shlex.split(consumer["command"]))
    kind, check = consumer["healthcheck"]["test"]

    assert kind == "CMD-SHELL"
    assert given["health_file"] in check
    assert seconds(consumer["stop_grace_period"]) > SHUTDOWN
    # The variable goes to all, and is that of queue_database().
    assert services["web"]["environment"] == consumer["environment"]
    assert "DJJP_DATABASE_URL" in consumer["environment"]


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_the_check_of_the_file_fails_when_it_is_older_than_the_bound(
    place: str, tmp_path: Path
) -> None:
    if place == "compose":
        (compose,) = documents("compose.yaml")
        check = compose["services"]["consumer"]["healthcheck"]["test"][1].replace("$$", "$")
    else:
        (probe,) = documents("probes of a container, by file")
        *shell, check = probe["livenessProbe"]["exec"]["command"]
        assert shell == ["sh", "-c"]
    file = tmp_path / "alive"

    def passes() -> bool:
        command = ["sh", "-c", check.replace("/tmp/alive", str(file))]  # noqa: S108
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    assert not passes()  # there is none
    file.touch()
    assert passes()
    now = time.time()
    os.utime(file, (now, now - health.LIVE_WITHIN - 1))
    assert not passes()


def test_the_deployment_of_kubernetes_probes_the_port_and_gives_time() -> None:
    (deployment,) = documents("consumer.yaml")
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    given = options(container["command"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}

    assert template["spec"]["terminationGracePeriodSeconds"] > SHUTDOWN
    assert {ports[probe["httpGet"]["port"]] for probe in probes.values()} == {given["health_port"]}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/ready",
        "liveness": "/live",
        "readiness": "/ready",
    }
    liveness = probes["liveness"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > health.LIVE_WITHIN
    # An answer can wait for a round.
    assert all(p.get("timeoutSeconds", 1) > health_port._GRACE for p in probes.values())
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in template["spec"]["volumes"]
    }
    assert "preStop" not in str(container)


def test_the_hook_of_a_web_pod_can_be_read() -> None:
    (part,) = documents("part of the container of a web pod")
    assert part["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_the_scaler_reads_a_number_that_the_document_has() -> None:
    scaled, authentication = documents("scaling.yaml")
    (deployment,) = documents("consumer.yaml")
    (trigger,) = scaled["spec"]["triggers"]
    given = trigger["metadata"]
    schema = json.loads((ROOT / "djjp/monitoring/schema.json").read_text())
    shape = schema["$defs"]["Stats"]

    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert (trigger["type"], given["authMode"]) == ("metrics-api", "bearer")
    assert "/v1/stats" in given["url"]
    assert given["valueLocation"] in shape["required"]
    assert shape["properties"][given["valueLocation"]] == {"type": "integer"}


@pytest.mark.one_database
def test_the_scaler_finds_its_number_in_a_real_answer(engine: Engine) -> None:
    scaled, _ = documents("scaling.yaml")
    (trigger,) = scaled["spec"]["triggers"]
    host, path, rest = trigger["metadata"]["url"].partition("/djjp")
    assert (host, path) == ("http://mysite-web", "/djjp")
    add.run_later(1)
    add.using(queue="mail").run_later(1)
    add.using(run_after=3600).run_later(1)
    with override_settings(ROOT_URLCONF="tests.api.urls"):
        status, found, _ = API("read")("GET", rest)
        of_one = API("read")("GET", f"{rest}&queue=mail")[1]
    assert status == 200
    for answer, live in ((found, 2), (of_one, 1)):
        for key in trigger["metadata"]["valueLocation"].split("."):
            answer = answer[key]  # noqa: PLW2901  (one step of the path)
        assert answer == live


def test_the_reasons_of_the_table_are_djjps() -> None:
    texts = "".join(map(inspect.getsource, (health, claiming)))
    reasons = [code(row[3]) for row in table(PAGE, "A consumer") if row[3]]
    assert len(reasons) >= 5
    for reason in reasons:
        assert re.sub(r"\d+ s$", "", reason) in texts, reason


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    assert health.LIVE_WITHIN == 60
    assert "has not gone round for a minute" in read(PAGE)
