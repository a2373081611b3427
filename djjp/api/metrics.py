"""Metrics over HTTP, in the text formats of Prometheus and OpenMetrics; they need none of their libraries."""

from __future__ import annotations

from django.http import HttpResponse

from djjp import tokens
from djjp.api.frame import Call, endpoint
from djjp.models import Token
from djjp.monitoring import metrics
from djjp.monitoring.metrics import Facts, Series

_series = Series()


@endpoint(
    "GET",
    "/v1/metrics",
    media_types=(metrics.TEXT, metrics.OPEN_METRICS),
    answers={200: "Metrics"},
)
def read_metrics(call: Call) -> HttpResponse:
    """Return the metrics of the queue; with a token for some jobs or queues, those of these only."""
    families = _series.families(_seen(metrics.facts(), call.token))
    text = metrics.exposition(families, call.media_type)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    return HttpResponse(text, content_type=call.media_type, headers=headers)


def _seen(facts: Facts, token: Token) -> Facts:
    """Return the facts that a token is for."""
    if tokens.is_for_all(token):
        return facts
    queues = None  # a queue has jobs of all names
    if facts.queues is not None and token.jobs == "*":
        queues = [each for each in facts.queues if tokens.matches(token.queues, each.name)]
    ended = [each for each in facts.ever if tokens.covers(token, each.name, each.queue)]
    return Facts(ended, queues, None)
