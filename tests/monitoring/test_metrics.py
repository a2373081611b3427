"""The families of metrics, and their text in the formats of Prometheus and OpenMetrics."""

from __future__ import annotations

import pytest

from djjp.monitoring import Figures, Histogram, metrics
from djjp.monitoring.metrics import NO_FACTS, OPEN_METRICS, OTHERS, TEXT, Facts, Series


def test_a_duration_is_in_the_bucket_of_its_power_of_two() -> None:
    found = metrics._buckets({}, [Histogram(7.5, {2: 1, 20: 2}), Histogram(1.5, {1: 1})])
    cumulative = {each.labels["le"]: each.value for each in found if each.suffix == "_bucket"}
    assert [each.value for each in found if each.suffix == "_sum"] == [9.0]
    assert [each.value for each in found if each.suffix == "_count"] == [4]
    assert [cumulative[each] for each in ("1.0", "2.0", "4.0", "524288.0", "+Inf")] == [
        0,
        1,
        2,
        2,
        4,
    ]


def test_labels_are_bounded_and_the_rest_is_added_up() -> None:
    series = Series(most=2)
    first = [Figures("a", "x", succeeded=5), Figures("a", "y", succeeded=1)]
    new = [*first, Figures("b", "z", succeeded=9), Figures("c", "z", succeeded=2)]
    assert set(series._totals(first)) == {("a", "x"), ("a", "y")}
    found = series._totals(new)
    assert set(found) == {("a", "x"), ("a", "y"), (OTHERS, OTHERS)}, "who has a series keeps it"
    assert sum(each.succeeded for each in found[OTHERS, OTHERS]) == 11


ODD = 'a"b\\n\\c\nd=\r{}\u2028é'


@pytest.mark.parametrize("media_type", [TEXT, OPEN_METRICS])
def test_the_text_is_what_was_written_for_the_parser_of_prometheus(media_type: str) -> None:
    pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    from prometheus_client.openmetrics import parser as openmetrics
    from prometheus_client.parser import text_string_to_metric_families as of_text

    ended = Figures(ODD, "n", succeeded=10**15, runs=Histogram(1e-9, {-10: 3}))
    facts = Facts([ended, Figures("q", ODD, late=2)], [], NO_FACTS.now)
    written = [*Series().families(facts)]
    parse = openmetrics.text_string_to_metric_families if media_type == OPEN_METRICS else of_text
    read = [*parse(metrics.exposition(written, media_type))]
    assert [(each.name, each.type, each.documentation) for each in read] == [
        (each.name, each.kind, each.help) for each in written
    ]
    assert [(of.name, of.labels, of.value) for each in read for of in each.samples] == [
        (each.name + of.suffix, of.labels, of.value) for each in written for of in each.samples
    ]
    assert metrics.exposition(written, media_type).endswith("# EOF\n") is (
        media_type == OPEN_METRICS
    )


def test_facts_that_are_left_out_have_no_metrics() -> None:
    names = {each.name for each in Series().families(Facts([], None, None))}
    assert {"djjp_up", "djjp_jobs_finished", "djjp_job_run_seconds"} < names
    assert names.isdisjoint({"djjp_ready", "djjp_consumers", "djjp_incidents", "djjp_outbox_up"})
    names |= {each.name for each in Series().families(Facts([], [], None))}
    assert "djjp_ready" in names
    assert "djjp_consumers" not in names
