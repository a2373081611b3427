"""The metrics of the queue: exact, from its rows, with bounded labels, and harmless while its database is away."""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")

import yaml
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from djjp import job, queues
from djjp.contrib import prometheus
from djjp.engine import Engine
from djjp.models import Job
from djjp.monitoring import metrics
from tests.admin.test_outage import away
from tests.docs.markdown import table
from tests.project.shop.jobs import add
from tests.support.consumers import drain
from tests.support.processes import ROOT

BOARD = ROOT / "docs/grafana.json"
ALERTS = ROOT / "docs/alerts.yaml"


@job(name="metrics.fails")
def fails() -> None:
    raise ValueError("no")


def values(text: bytes | None = None) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples of a scrape, as another program reads them: by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    text = prometheus.render() if text is None else text
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), "a series comes once"
            found[sample.name][labels] = sample.value
    return found


def of(found: Any, metric: str, /, **labels: str) -> float | None:
    value: float | None = found[metric].get(tuple(sorted(labels.items())))
    return value


def test_the_ends_of_jobs_are_counted_by_queue_name_and_state(engine: Engine) -> None:
    add.run_later(1)
    add.using(queue="mail").run_later(1)
    add.using(queue="mail").run_later(2)
    fails.run_later()
    drain()
    found = values()
    ended = "djjp_jobs_finished_total"
    assert of(found, ended, queue="mail", name=add.name, state="succeeded") == 2
    assert of(found, ended, queue="default", name=add.name, state="succeeded") == 1
    assert of(found, ended, queue="default", name=fails.name, state="failed") == 1
    assert of(found, ended, queue="default", name=fails.name, state="succeeded") == 0
    assert of(found, "djjp_up") == 1


def test_histograms_have_the_buckets_of_the_totals_and_their_sums(engine: Engine) -> None:
    for _ in range(3):
        add.run_later(1)
    drain()
    found = values()
    for metric in ("djjp_job_run_seconds", "djjp_job_wait_seconds"):
        buckets = [
            (float(dict(labels)["le"]), value)
            for labels, value in found[f"{metric}_bucket"].items()
            if dict(labels)["name"] == add.name
        ]
        bounds, counts = zip(*sorted(buckets), strict=True)
        assert bounds == (*(2.0**each for each in range(-10, 20)), float("inf"))
        assert list(counts) == sorted(counts)
        assert counts[-1] == of(found, f"{metric}_count", queue="default", name=add.name) == 3
        total = of(found, f"{metric}_sum", queue="default", name=add.name)
        assert total is not None
        assert 0 < total < 600


def test_live_facts_are_those_of_the_overview(engine: Engine) -> None:
    add.run_later(1)
    add.using(queue="mail", run_after=3600).run_later(1)
    queues.pause("mail")
    found = values()
    assert of(found, "djjp_ready", queue="default") == 1
    assert of(found, "djjp_scheduled", queue="mail") == 1
    assert of(found, "djjp_running", queue="default") == 0
    assert of(found, "djjp_queue_paused", queue="mail") == 1
    assert of(found, "djjp_queue_paused", queue="default") == 0
    wait = of(found, "djjp_oldest_wait_seconds", queue="default")
    assert wait is not None
    assert wait >= 0
    assert of(found, "djjp_consumers", life="alive") == 0
    assert of(found, "djjp_outbox_waiting", alias="default") == 0


def test_a_queue_that_is_empty_has_zeros_and_no_gaps(engine: Engine) -> None:
    add.using(queue="mail").run_later(1)
    drain()
    assert of(values(), "djjp_ready", queue="mail") == 0


def test_counters_do_not_fall_when_jobs_are_deleted_and_entries_added_up(engine: Engine) -> None:
    add.run_later(1)
    drain()
    Job.objects.all().delete()
    before = values()
    while engine.history.add_entries().more:
        pass
    after = values()
    labels = {"queue": "default", "name": add.name}
    ended = "djjp_jobs_finished_total"
    assert of(before, ended, **labels, state="succeeded") == 1
    assert of(after, ended, **labels, state="succeeded") == 1


def test_each_metric_has_a_help_text_and_the_documented_labels(engine: Engine) -> None:
    add.run_later(1)
    drain()
    rows = {row[0].strip("`"): (row[1], row[2]) for row in table("docs/metrics.md", "Metric")}
    for family in _families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {tuple(k for k in sample.labels if k != "le") for sample in family.samples}
        assert family.documentation.endswith(".")
        assert rows[name][0] == family.type
        documented = re.findall(r"`(\w+)`", rows.pop(name)[1])
        assert all(sorted(each) == sorted(documented) for each in labels), name
    assert not rows, "documented, and does not exist"


def _families() -> list[Metric]:
    return list(text_string_to_metric_families(prometheus.render().decode()))


def test_a_registry_reads_nothing_when_the_metrics_are_registered(engine: Engine) -> None:
    registry = CollectorRegistry()
    with away(engine):
        prometheus.register(registry)
        prometheus.register(registry)
    assert b"djjp_up 1.0" in generate_latest(registry)


def test_a_database_that_is_away_is_zero_and_no_exception(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    add.run_later(1)
    with away(engine), caplog.at_level(logging.WARNING, "djjp.contrib.prometheus"):
        assert values() == {"djjp_up": {(): 0.0}}
    assert "the metrics of the queue cannot be read" in caplog.text
    assert of(values(), "djjp_up") == 1


def test_each_scrape_reads_the_totals_and_the_overview_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counted(name: str) -> None:
        real = getattr(metrics, name)

        def read() -> Any:
            reads.append(name)
            return real()

        monkeypatch.setattr(metrics, name, read)

    counted("ever")
    counted("overview")
    prometheus.render()
    assert reads == ["ever", "overview"]


def test_the_number_of_statements_does_not_grow_with_the_jobs(engine: Engine) -> None:
    with CaptureQueriesContext(engine.db.connection) as few:
        prometheus.render()
    for number in range(20):
        add.using(queue=f"q{number}").run_later(1)
    drain()
    with CaptureQueriesContext(engine.db.connection) as many:
        prometheus.render()
    assert len(many) <= len(few) + 2


@pytest.mark.postgresql_only
def test_a_thread_that_scrapes_leaves_no_connection(engine: Engine) -> None:
    left: list[bool] = []

    def scrape() -> None:
        with override_settings(DJJP={"db_name": engine.db.alias}):
            assert b"djjp_up 1.0" in prometheus.render()
        left.append(connections[engine.db.alias].connection is None)

    thread = threading.Thread(target=scrape)
    thread.start()
    thread.join()
    assert left == [True]


# The board and the rules

_NAME = re.compile(r"\bdjjp_\w+")


@pytest.fixture
def existing(engine: Engine) -> set[str]:
    add.run_later(1)
    drain()
    return set(values())


def expressions_of_board() -> list[str]:
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend(str(node[key]) for key in ("expr", "query") if key in node)
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(json.loads(BOARD.read_text()))
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_board_uses_only_metrics_that_exist(existing: set[str]) -> None:
    used = {name for text in expressions_of_board() for name in _NAME.findall(text)}
    assert len(used) >= 10
    assert used - existing == set()


def test_the_alert_rules_use_only_metrics_that_exist(existing: set[str]) -> None:
    used = {name for rule in rules() for name in _NAME.findall(rule["expr"])}
    assert len(used) >= 6
    assert used - existing == set()


def test_each_alert_has_a_severity_a_summary_and_a_remedy() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert "manage.py" in rule["annotations"]["description"]
    alerts = [rule["alert"] for rule in rules()]
    assert len(alerts) == len(set(alerts))


def test_the_panels_of_the_board_have_titles_and_ids_of_their_own() -> None:
    panels = json.loads(BOARD.read_text())["panels"]
    assert all(panel["title"] for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
