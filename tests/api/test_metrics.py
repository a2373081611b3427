"""Metrics over HTTP: those of the collector, in the format that is asked for, and of the token's jobs only."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from djjp.contrib import prometheus
from djjp.monitoring.metrics import OPEN_METRICS, TEXT
from tests.api import jobs
from tests.api.conftest import API
from tests.support.consumers import drain

#: The headers of Prometheus 2 and 3, and of clients that take anything or only one of both formats.
ACCEPTED = {
    "": TEXT,
    "*/*": TEXT,
    "text/plain": TEXT,
    "text/plain; charset=utf-8": TEXT,
    "text/*;q=0.5, application/json": TEXT,
    "application/openmetrics-text": OPEN_METRICS,
    "text/plain;q=0.2, application/openmetrics-text;q=0.3": OPEN_METRICS,
    "application/openmetrics-text;q=0, text/plain": TEXT,
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1": (
        OPEN_METRICS
    ),
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2": (
        OPEN_METRICS
    ),
}


def samples(text: str) -> dict[tuple[str, str], float]:
    """Return the figures of a scrape that stay the same until the next one."""
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "oldest_wait" not in sample.name
    }


def names(text: str, label: str) -> set[str]:
    return {
        sample.labels[label]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if label in sample.labels
    }


def test_a_scrape_has_what_the_collector_exposes(api: API) -> None:
    jobs.add.run_later(1)
    jobs.fail.using(queue="mail").run_later("x")
    drain()
    jobs.add.using(queue="later", run_after=3600).run_later(1)
    status, text, response = API("read")("GET", "/v1/metrics")
    assert status == 200
    assert response["Content-Type"] == TEXT == prometheus.CONTENT_TYPE
    assert response["Cache-Control"] == "no-store"
    collected = prometheus.render().decode()
    assert samples(text) == samples(collected)
    kinds = [
        [
            (each.name, each.type, each.documentation)
            for each in text_string_to_metric_families(each)
        ]
        for each in (text, collected)
    ]
    assert kinds[0] == kinds[1]
    assert 'djjp_jobs_finished_total{queue="mail",name="api.fail",state="failed"} 1.0' in text


@pytest.mark.one_database
@pytest.mark.parametrize("accept", ACCEPTED)
def test_the_format_is_the_one_that_the_client_prefers(api: API, accept: str) -> None:
    headers = {"Accept": accept} if accept else {}
    status, text, response = api("GET", "/v1/metrics", **headers)
    assert (status, response["Content-Type"]) == (200, ACCEPTED[accept])
    assert response["Vary"] == "Accept"
    parse: Any = text_string_to_metric_families
    if ACCEPTED[accept] == OPEN_METRICS:
        parse = openmetrics.text_string_to_metric_families
    assert "djjp_up" in [each.name for each in parse(text)]


@pytest.mark.one_database
@pytest.mark.parametrize("accept", ["text/html", "application/json", "text/plain;q=0"])
def test_another_format_is_a_problem(api: API, accept: str) -> None:
    status, document, _ = api("GET", "/v1/metrics", Accept=accept)
    assert (status, document["slug"]) == (406, "not-acceptable")


def test_a_token_for_some_jobs_or_queues_scrapes_these_only(api: API) -> None:
    jobs.add.run_later(1)
    jobs.add.using(queue="mail").run_later(1)
    jobs.fail.using(queue="mail").run_later("x")
    drain()
    jobs.add.using(queue="later", run_after=3600).run_later(1)
    _, text, _ = api("GET", "/v1/metrics")
    assert names(text, "queue") == {"default", "mail", "later"}
    _, text, _ = API("read", queues="ma*")("GET", "/v1/metrics")
    assert names(text, "queue") == {"mail"}
    assert names(text, "name") == {"api.add", "api.fail"}
    assert 'djjp_ready{queue="mail"} 0.0' in text
    _, text, _ = API("read", jobs="api.f*")("GET", "/v1/metrics")
    assert names(text, "name") == {"api.fail"}
    assert names(text, "queue") == {"mail"}
    assert "djjp_ready" not in text, "a queue has jobs of all names"
    _, text, _ = API("read", jobs="other.*")("GET", "/v1/metrics")
    assert names(text, "queue") == set()
    for whole in ("djjp_consumers", "djjp_incidents", "djjp_schedules_overdue", "djjp_outbox_up"):
        assert whole not in text, "this concerns the whole queue"
